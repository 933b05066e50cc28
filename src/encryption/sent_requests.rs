//! Requests to send messages to devices that were carried out: the same one again sends nothing
//! (client-server API, "Transaction identifiers"). The latest ones of a device are remembered, in
//! the store too.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::devices_in_use::DeviceName;

/// Requests remembered per device; up to twice as many until the older half goes.
pub const REQUESTS_KEPT: usize = 1000;
/// What a device and what a request cost in memory, bytes.
const DEVICE_BYTES: usize = 200;
const REQUEST_BYTES: usize = 48;

/// The requests of the devices that send. Clones share them.
#[derive(Clone)]
pub(super) struct SentRequests(Arc<Mutex<Known>>);

struct Known {
    devices: HashMap<DeviceName, Requests>,
    requests: usize,
    memory_bytes: usize,
}

#[derive(Default)]
struct Requests {
    hashes: HashSet<i64>,
    /// Those that are committed, with their positions, oldest first.
    committed: VecDeque<(i64, i64)>,
    /// Those on their way.
    pending: usize,
}

/// What a request is.
pub(super) enum Begun<T> {
    New(T),
    /// It was made before; that one may still be on its way.
    Repeated,
    /// The device's requests are not in memory.
    Unknown,
}

/// A request by its transaction and type, as it is remembered.
pub fn hash_request(transaction_id: &str, kind: &str) -> i64 {
    let mut hash = Sha256::new();
    hash.update(kind.as_bytes());
    hash.update([0]);
    hash.update(transaction_id.as_bytes());
    let digest = hash.finalize();
    i64::from_be_bytes(std::array::from_fn(|index| digest[index]))
}

impl SentRequests {
    pub fn new(memory_bytes: u64) -> Self {
        let devices = HashMap::new();
        Self(Arc::new(Mutex::new(Known {
            devices,
            requests: 0,
            memory_bytes: memory_bytes as usize,
        })))
    }

    pub fn is_known(&self, name: &DeviceName) -> bool {
        self.0.lock().devices.contains_key(name)
    }

    /// Takes over what the store has of a device: hashes with positions, newest first.
    pub fn admit(&self, name: &DeviceName, rows: Vec<(i64, i64)>) {
        let mut known = self.0.lock();
        if known.devices.contains_key(name) {
            return;
        }
        known.evict();
        known.requests += rows.len();
        let hashes = rows.iter().map(|(hash, _)| *hash).collect();
        let committed = rows.into_iter().rev().collect();
        known.devices.insert(name.clone(), Requests { hashes, committed, pending: 0 });
    }

    /// Notes a request and has `submit` put it into the writer's queue, so that none that repeats it
    /// gets there before it.
    pub fn begin<T>(&self, name: &DeviceName, hash: i64, submit: impl FnOnce() -> T) -> Begun<T> {
        let mut known = self.0.lock();
        let Some(requests) = known.devices.get_mut(name) else { return Begun::Unknown };
        if !requests.hashes.insert(hash) {
            return Begun::Repeated;
        }
        requests.pending += 1;
        known.requests += 1;
        Begun::New(submit())
    }

    /// Whether a request was carried out or is on its way.
    pub fn contains(&self, name: &DeviceName, hash: i64) -> bool {
        let known = self.0.lock();
        known.devices.get(name).is_some_and(|requests| requests.hashes.contains(&hash))
    }

    /// A request was committed (at a position) or has failed.
    pub fn finish(&self, name: &DeviceName, hash: i64, committed: Option<i64>) {
        let mut known = self.0.lock();
        let Some(requests) = known.devices.get_mut(name) else { return };
        requests.pending = requests.pending.saturating_sub(1);
        match committed {
            Some(position) => requests.committed.push_back((hash, position)),
            None => {
                requests.hashes.remove(&hash);
                known.requests -= 1;
            }
        }
    }

    /// Forgets the older half of a device's requests when there are too many; returns the position
    /// before which they go from the store as well.
    pub fn trim(&self, name: &DeviceName) -> Option<i64> {
        let mut known = self.0.lock();
        let requests = known.devices.get_mut(name)?;
        if requests.committed.len() < 2 * REQUESTS_KEPT {
            return None;
        }
        let old: Vec<_> = requests.committed.drain(..REQUESTS_KEPT).collect();
        for (hash, _) in &old {
            requests.hashes.remove(hash);
        }
        let before = requests.committed.front().map(|(_, position)| *position);
        known.requests -= old.len();
        before
    }

    pub fn forget(&self, name: &DeviceName) {
        let mut known = self.0.lock();
        if let Some(requests) = known.devices.remove(name) {
            known.requests -= requests.hashes.len();
        }
    }
}

impl Known {
    /// All of it can be read again but what is on its way.
    fn evict(&mut self) {
        let bytes = self.devices.len() * DEVICE_BYTES + self.requests * REQUEST_BYTES;
        if bytes > self.memory_bytes {
            self.devices.retain(|_, requests| requests.pending > 0);
            self.requests = self.devices.values().map(|requests| requests.hashes.len()).sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_request_is_recognised_until_it_is_forgotten() {
        let requests = SentRequests::new(1 << 20);
        let name = DeviceName::new("@a:b", "PHONE");
        assert!(matches!(requests.begin(&name, 0, || ()), Begun::Unknown));
        requests.admit(&name, vec![(7, 70)]);
        assert!(matches!(requests.begin(&name, 7, || ()), Begun::Repeated));
        for hash in 100..100 + 2 * REQUESTS_KEPT as i64 {
            assert!(matches!(requests.begin(&name, hash, || ()), Begun::New(())));
            requests.finish(&name, hash, Some(hash));
        }
        assert_eq!(requests.trim(&name), Some(100 + REQUESTS_KEPT as i64 - 1));
        assert!(!requests.contains(&name, 7));
        assert!(requests.contains(&name, 100 + 2 * REQUESTS_KEPT as i64 - 1));
    }

    #[test]
    fn failed_request_may_come_again() {
        let requests = SentRequests::new(1 << 20);
        let name = DeviceName::new("@a:b", "PHONE");
        requests.admit(&name, Vec::new());
        assert!(matches!(requests.begin(&name, 1, || ()), Begun::New(())));
        requests.finish(&name, 1, None);
        assert!(matches!(requests.begin(&name, 1, || ()), Begun::New(())));
    }
}
