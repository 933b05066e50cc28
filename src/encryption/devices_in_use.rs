//! Keys and inboxes of the devices in use, in memory. What is decided here is submitted to the
//! writer in the same order, so that many claims and uploads share one flush of the disk and still
//! none sees what another one took. Not for rules about keys (`one_time_keys`).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use serde_json::value::RawValue;

use super::{
    KeyCounts,
    one_time_keys::{Batch, FallbackKey, OneTimeKey, Pool},
};
use crate::storage::{
    CommitTicket, Database, StorageError, WriteTx, Writer,
    device_keys::{self, StoredPiece},
};

/// What a device costs in memory beside its keys, bytes.
const DEVICE_BYTES: usize = 400;
/// Devices that are read at once for all who wait for some.
const DEVICES_READ_MAX: usize = 200;

/// A device by its user and its ID.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceName {
    pub user: Box<str>,
    pub device: Box<str>,
}

/// What is known of a device.
#[derive(Default)]
pub(super) struct Device {
    pub inbox: Inbox,
    pub counts: KeyCounts,
    /// The position of the latest claim of its keys since it is in memory; 0 when there was none.
    pub claimed_at: i64,
    /// None when they were forgotten for want of memory: a sync does not need them.
    keys: Option<Keys>,
    /// Writes on their way that the database does not have yet.
    pending: Arc<AtomicU32>,
    used: u64,
    weight: usize,
}

/// The keys of a device.
#[derive(Default)]
pub(super) struct Keys {
    /// Identity keys as JSON.
    pub identity: Option<Box<str>>,
    /// By algorithm.
    pub one_time: BTreeMap<Box<str>, Pool>,
    pub fallback: BTreeMap<Box<str>, FallbackKey>,
}

/// Where the messages that wait for a device lie in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inbox {
    /// The oldest one that was not deleted; 0 when there is none.
    pub first: i64,
    /// The newest one.
    pub last: i64,
}

/// All devices in use. Clones share them.
#[derive(Clone)]
pub(super) struct DevicesInUse(Arc<Shared>);

struct Shared {
    database: Database,
    writer: Writer,
    memory_bytes: usize,
    known: Mutex<Known>,
    /// Held while devices are read, so that none is read twice at once, and what is asked for
    /// meanwhile is read together.
    reading: tokio::sync::Mutex<()>,
    /// Rises when a write failed: what was decided upon it is refused, and read again.
    epoch: Arc<AtomicU64>,
}

#[derive(Default)]
struct Known {
    devices: HashMap<DeviceName, Device>,
    /// Devices being read; true when something was committed for one meanwhile.
    reading: HashMap<DeviceName, bool>,
    /// Devices that somebody waits for, to be read by whoever reads next.
    wanted: HashSet<DeviceName>,
    weight: usize,
    tick: u64,
}

/// The devices of one change, all in memory.
pub(super) struct Loaded<'a>(&'a mut Known);

impl DeviceName {
    pub fn new(user: impl AsRef<str>, device: impl AsRef<str>) -> Self {
        Self { user: user.as_ref().into(), device: device.as_ref().into() }
    }

    /// As the statements take it.
    pub fn pair(&self) -> (&str, &str) {
        (&self.user, &self.device)
    }
}

impl Inbox {
    /// Notes a message.
    pub fn note(&mut self, position: i64) {
        self.first = if self.first == 0 { position } else { self.first.min(position) };
        self.last = self.last.max(position);
    }

    /// Notes that all messages up to a position are gone; true when there were any.
    pub fn note_deleted(&mut self, upto: i64) -> bool {
        let were_any = self.first > 0 && self.first <= upto;
        if were_any {
            self.first = if self.last > upto { upto + 1 } else { 0 };
        }
        were_any
    }
}

impl Device {
    /// Counts and weighs it anew after its keys changed.
    fn settle(&mut self) {
        let keys_weight = self.keys.as_ref().map_or(0, Keys::weigh_bytes);
        if let Some(keys) = &self.keys {
            self.counts = KeyCounts::of(keys);
        }
        self.weight = DEVICE_BYTES + keys_weight;
    }

    fn is_idle(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }
}

impl Keys {
    fn weigh_bytes(&self) -> usize {
        let pools: usize = self.one_time.values().map(Pool::weigh_bytes).sum();
        let fallback: usize = self.fallback.values().map(|key| key.key.key.len() + 100).sum();
        pools + fallback + self.identity.as_ref().map_or(0, |keys| keys.len())
    }

    fn admit_batch(
        &mut self,
        algorithm: String,
        (number, taken): (i64, i64),
        keys: &str,
    ) -> Result<(), StorageError> {
        let damaged = |error| StorageError::Damaged(format!("one-time keys: {error}"));
        let pairs: Vec<(Box<str>, Box<RawValue>)> = serde_json::from_str(keys).map_err(damaged)?;
        let key = |(key_id, key): (_, Box<RawValue>)| OneTimeKey { key_id, key: key.get().into() };
        let keys: Vec<_> = pairs.into_iter().map(key).collect();
        let taken = usize::try_from(taken).unwrap_or(0).min(keys.len());
        let pool = self.one_time.entry(algorithm.into()).or_default();
        pool.admit(Batch { number, keys, taken });
        Ok(())
    }
}

impl Loaded<'_> {
    /// The keys of one of the devices that the change was begun for.
    pub fn keys(&mut self, name: &DeviceName) -> &mut Keys {
        let device = self.0.devices.get_mut(name);
        let keys = device.and_then(|device| device.keys.as_mut());
        keys.expect("the devices of a change were read into memory")
    }
}

impl DevicesInUse {
    pub fn new(database: Database, writer: Writer, memory_bytes: u64) -> Self {
        Self(Arc::new(Shared {
            database,
            writer,
            memory_bytes: memory_bytes as usize,
            known: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            epoch: Arc::default(),
        }))
    }

    /// Has `decide` change devices and add the rows that say so, and submits these in the order of
    /// such decisions. A `decide` that fails must have changed nothing. None for the ticket when
    /// there was nothing to write.
    pub async fn change<R, E: From<StorageError>>(
        &self,
        names: &[DeviceName],
        decide: impl FnOnce(&mut Loaded<'_>, &mut WriteTx) -> Result<R, E>,
    ) -> Result<(R, Option<CommitTicket>), E> {
        loop {
            self.read(names, true).await?;
            let permit = self.0.writer.reserve().await?;
            let mut known = self.0.known.lock();
            if !known.list_missing(names, true).is_empty() {
                continue;
            }
            let mut tx = WriteTx::new();
            let value = decide(&mut Loaded(&mut known), &mut tx)?;
            if tx.is_empty() {
                return Ok((value, None));
            }
            let pending = names.iter().map(|name| known.begin_write(name)).collect::<Vec<_>>();
            let epoch = self.0.epoch.load(Ordering::Acquire);
            tx.guard(Arc::clone(&self.0.epoch), epoch);
            tx.after_commit(move |_| {
                for count in &pending {
                    count.fetch_sub(1, Ordering::AcqRel);
                }
            });
            let shared = Arc::clone(&self.0);
            tx.after_failure(move || shared.discard(epoch));
            return Ok((value, Some(permit.submit(tx))));
        }
    }

    /// Looks at what a sync needs of a device, read into memory if need be.
    pub async fn look<R>(
        &self,
        name: &DeviceName,
        look: impl FnOnce(&mut Device) -> R,
    ) -> Result<R, StorageError> {
        loop {
            {
                let mut known = self.0.known.lock();
                known.tick += 1;
                let tick = known.tick;
                if let Some(device) = known.devices.get_mut(name) {
                    device.used = tick;
                    return Ok(look(device));
                }
            }
            self.read(std::slice::from_ref(name), false).await?;
        }
    }

    /// The identity keys of a device.
    pub async fn find_identity(&self, name: &DeviceName) -> Result<Option<Box<str>>, StorageError> {
        loop {
            self.read(std::slice::from_ref(name), true).await?;
            let known = self.0.known.lock();
            if let Some(keys) = known.devices.get(name).and_then(|device| device.keys.as_ref()) {
                return Ok(keys.identity.clone());
            }
        }
    }

    /// Notes that a message for each of the devices was committed.
    pub fn note_messages(&self, names: &[DeviceName], position: i64) {
        let mut known = self.0.known.lock();
        for name in names {
            if let Some(device) = known.devices.get_mut(name) {
                device.inbox.note(position);
            } else {
                known.note_outdated(name);
            }
        }
    }

    /// Notes that keys of the devices were claimed, with the commit.
    pub fn note_claims(&self, names: &[DeviceName], position: i64) {
        let mut known = self.0.known.lock();
        for name in names {
            if let Some(device) = known.devices.get_mut(name) {
                device.claimed_at = position;
            }
        }
    }

    /// Notes that a device's messages up to a position were deleted.
    pub fn note_deleted(&self, name: &DeviceName, upto: i64) {
        let mut known = self.0.known.lock();
        if let Some(device) = known.devices.get_mut(name) {
            device.inbox.note_deleted(upto);
        } else {
            known.note_outdated(name);
        }
    }

    /// Forgets a device whose rows were changed by somebody else. Call it with the commit.
    pub fn forget(&self, name: &DeviceName) {
        let mut known = self.0.known.lock();
        known.remove(name);
        known.note_outdated(name);
    }

    /// Forgets everything after somebody else changed the rows of all; what was decided before and is
    /// not committed yet is refused. Call it with the commit.
    pub fn forget_all(&self) {
        self.0.discard(self.0.epoch.load(Ordering::Acquire));
    }

    /// Notes a device that was just made, which has neither keys nor messages: it need not be read. Call
    /// it with the commit. What is known of it was an earlier device's of this ID, of which the last
    /// request may have come after its end.
    pub fn note_created(&self, name: DeviceName) {
        let mut known = self.0.known.lock();
        known.note_outdated(&name);
        known.remove(&name);
        known.admit(name, Device { keys: Some(Keys::default()), ..Device::default() });
        known.evict(self.0.memory_bytes, &[]);
    }

    /// Reads devices into memory, with their keys if `with_keys` says so; and those along that others
    /// wait for.
    async fn read(&self, names: &[DeviceName], with_keys: bool) -> Result<(), StorageError> {
        {
            let mut known = self.0.known.lock();
            let missing = known.list_missing(names, with_keys);
            if missing.is_empty() {
                return Ok(());
            }
            known.wanted.extend(missing);
        }
        let _reading = self.0.reading.lock().await;
        loop {
            let missing = {
                let mut known = self.0.known.lock();
                let missing = known.list_missing(names, with_keys);
                if missing.is_empty() {
                    return Ok(());
                }
                let missing = known.with_wanted(missing);
                known.reading = missing.iter().map(|name| (name.clone(), false)).collect();
                missing
            };
            let devices = read_devices(&self.0.database, &missing).await?;
            let mut known = self.0.known.lock();
            let reading = std::mem::take(&mut known.reading);
            for (name, device) in devices {
                if reading.get(&name) == Some(&false) {
                    known.admit(name, device);
                }
            }
            known.evict(self.0.memory_bytes, &missing);
        }
    }
}

impl Shared {
    /// After a failed write memory is ahead of the database, so all of it goes.
    fn discard(&self, epoch: u64) {
        let next = epoch + 1;
        let (release, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        if self.epoch.compare_exchange(epoch, next, release, relaxed).is_err() {
            return;
        }
        let mut known = self.known.lock();
        known.devices.clear();
        known.weight = 0;
        known.reading.values_mut().for_each(|is_outdated| *is_outdated = true);
    }
}

impl Known {
    fn list_missing(&self, names: &[DeviceName], with_keys: bool) -> Vec<DeviceName> {
        let is_there = |name: &DeviceName| {
            let device = self.devices.get(name);
            device.is_some_and(|device| !with_keys || device.keys.is_some())
        };
        names.iter().filter(|name| !is_there(name)).cloned().collect()
    }

    /// Adds devices that others wait for to those that are about to be read.
    fn with_wanted(&mut self, mut names: Vec<DeviceName>) -> Vec<DeviceName> {
        names.iter().for_each(|name| {
            self.wanted.remove(name);
        });
        let room = DEVICES_READ_MAX.saturating_sub(names.len());
        let further: Vec<_> = self.wanted.iter().take(room).cloned().collect();
        further.iter().for_each(|name| {
            self.wanted.remove(name);
        });
        // Some may have been read since they were asked for.
        names.extend(self.list_missing(&further, true));
        names
    }

    fn note_outdated(&mut self, name: &DeviceName) {
        if let Some(is_outdated) = self.reading.get_mut(name) {
            *is_outdated = true;
        }
    }

    /// Takes over what was read. What is in memory of the inbox is newer, and no claim is stored.
    fn admit(&mut self, name: DeviceName, mut device: Device) {
        if let Some(known) = self.devices.get(&name) {
            (device.inbox, device.claimed_at) = (known.inbox, known.claimed_at);
        }
        self.remove(&name);
        self.tick += 1;
        device.used = self.tick;
        device.settle();
        self.weight += device.weight;
        self.devices.insert(name, device);
    }

    fn remove(&mut self, name: &DeviceName) {
        if let Some(device) = self.devices.remove(name) {
            self.weight -= device.weight;
        }
    }

    /// Keeps the device in memory until the write is committed, and weighs it anew.
    fn begin_write(&mut self, name: &DeviceName) -> Arc<AtomicU32> {
        self.tick += 1;
        let tick = self.tick;
        let device = self.devices.get_mut(name).expect("the device was read into memory");
        let before = device.weight;
        device.used = tick;
        device.settle();
        device.pending.fetch_add(1, Ordering::AcqRel);
        self.weight = self.weight + device.weight - before;
        Arc::clone(&device.pending)
    }

    /// Forgets keys of the devices that were used longest ago, and then the devices, down to three
    /// quarters of the limit.
    fn evict(&mut self, memory_bytes: usize, kept: &[DeviceName]) {
        if self.weight <= memory_bytes {
            return;
        }
        let mut idle: Vec<(u64, DeviceName)> = self
            .devices
            .iter()
            .filter(|(name, device)| device.is_idle() && !kept.contains(name))
            .map(|(name, device)| (device.used, name.clone()))
            .collect();
        idle.sort_unstable();
        let aim = memory_bytes / 4 * 3;
        for (_, name) in &idle {
            if self.weight > aim
                && let Some(device) = self.devices.get_mut(name)
            {
                self.weight = self.weight + DEVICE_BYTES - device.weight;
                device.weight = DEVICE_BYTES;
                device.keys = None;
            }
        }
        for (_, name) in &idle {
            if self.weight > aim {
                self.remove(name);
            }
        }
    }
}

async fn read_devices(
    database: &Database,
    names: &[DeviceName],
) -> Result<HashMap<DeviceName, Device>, StorageError> {
    let pairs: Vec<_> = names.iter().map(DeviceName::pair).collect();
    let read = |name: &DeviceName| {
        (name.clone(), Device { keys: Some(Keys::default()), ..Device::default() })
    };
    let mut devices: HashMap<DeviceName, Device> = names.iter().map(read).collect();
    for ((user, name), piece) in device_keys::load_pieces(database, &pairs).await? {
        let Some(device) = devices.get_mut(&DeviceName::new(user, name)) else { continue };
        let keys = device.keys.get_or_insert_default();
        match piece {
            StoredPiece::Identity(identity) => keys.identity = Some(identity.into()),
            StoredPiece::Batch { algorithm, number, keys: batch, taken } => {
                keys.admit_batch(algorithm, (number, taken), &batch)?;
            }
            StoredPiece::Fallback { algorithm, key_id, key, used } => {
                let key = OneTimeKey { key_id: key_id.into(), key: key.into() };
                keys.fallback.insert(algorithm.into(), FallbackKey { key, used });
            }
            StoredPiece::Inbox { first, last } => device.inbox = Inbox { first, last },
        }
    }
    Ok(devices)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wait_for_is_read_along() {
        let mut known = Known::default();
        let name = |device: &str| DeviceName::new("@a:b", device);
        known.wanted.extend(["PHONE", "LAPTOP", "TABLET"].map(name));
        known.admit(name("TABLET"), Device { keys: Some(Keys::default()), ..Device::default() });
        let mut read = known.with_wanted(vec![name("PHONE")]);
        read.sort();
        assert_eq!(read, ["LAPTOP", "PHONE"].map(name), "the tablet is there already");
        assert!(known.wanted.is_empty());
    }
}
