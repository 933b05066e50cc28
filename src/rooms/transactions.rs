//! Transactions of clients: the same request twice makes one event (client-server API,
//! "Transaction identifiers"). Their scope is the device, whatever its token.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, watch};

use crate::storage::{self, Database, EventNid, StorageError};

/// Transactions remembered per device; older ones are looked up in the database.
const DEVICE_TRANSACTIONS_MAX: usize = 4096;
/// Devices remembered.
const DEVICES_MAX: usize = 4096;

/// A transaction as its client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBy {
    pub user_id: ruma::OwnedUserId,
    pub device_id: String,
    pub transaction_id: String,
    /// Room and event type, since the same ID may serve another request.
    pub path: String,
}

impl SentBy {
    /// The device in the upper half, so that a device's transactions are one range of keys.
    pub fn hash(&self) -> i64 {
        let device = short_hash(&[self.user_id.as_str(), &self.device_id]);
        let transaction = short_hash(&[&self.transaction_id, &self.path]);
        (i64::from(device) << 32) | i64::from(transaction)
    }

    /// What the event keeps of it.
    pub fn to_bytes(&self) -> Box<[u8]> {
        format!("{}\0{}", self.device_id, self.transaction_id).into_bytes().into()
    }
}

/// 31 bits, so that the joined hash is positive.
fn short_hash(parts: &[&str]) -> u32 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest = hash.finalize();
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) >> 1
}

/// What became of an earlier request with the same transaction.
pub enum Earlier {
    Committed(EventNid),
    /// On its way; wait until it is committed (Some(true)) or has failed (Some(false)).
    Pending(EventNid, watch::Receiver<Option<bool>>),
}

/// The transactions of the devices that send.
#[derive(Default)]
pub struct Transactions {
    devices: Mutex<HashMap<i64, Arc<DeviceTransactions>>>,
}

#[derive(Default)]
pub struct DeviceTransactions {
    loaded: OnceCell<()>,
    known: Mutex<Known>,
}

/// Becomes known when the request is committed (true) or has failed.
type Outcome = watch::Receiver<Option<bool>>;

#[derive(Default)]
struct Known {
    /// By the whole hash; pending ones have a receiver.
    events: HashMap<i64, (EventNid, Option<Outcome>)>,
    /// Whether the database may hold more than `events`.
    incomplete: bool,
}

impl Transactions {
    /// The device's transactions, read from the database at its first request.
    pub async fn of_device(
        &self,
        database: &Database,
        sent_by: &SentBy,
    ) -> Result<Arc<DeviceTransactions>, StorageError> {
        let first = sent_by.hash() >> 32 << 32;
        let device = {
            let mut devices = self.devices.lock();
            if devices.len() >= DEVICES_MAX {
                // All of it can be read again.
                devices.retain(|_, device| Arc::strong_count(device) > 1);
            }
            Arc::clone(devices.entry(first).or_default())
        };
        let read = || async {
            let range = (first, first | 0xffff_ffff);
            let limit = DEVICE_TRANSACTIONS_MAX;
            let rows = storage::events::list_transactions(database, range, limit).await?;
            let mut known = device.known.lock();
            known.incomplete = rows.len() == limit;
            for (hash, event) in rows {
                known.events.entry(hash).or_insert((event, None));
            }
            Ok::<_, StorageError>(())
        };
        device.loaded.get_or_try_init(read).await?;
        Ok(device)
    }
}

impl DeviceTransactions {
    /// What became of an earlier request with this hash, as far as memory knows.
    pub fn find(&self, hash: i64) -> Option<Earlier> {
        let known = self.known.lock();
        let (event, pending) = known.events.get(&hash)?;
        Some(match pending {
            Some(pending) if *pending.borrow() != Some(true) => {
                Earlier::Pending(*event, pending.clone())
            }
            _ => Earlier::Committed(*event),
        })
    }

    /// Whether only the database can tell that there was no such request.
    pub fn is_incomplete(&self) -> bool {
        self.known.lock().incomplete
    }

    /// Notes a request; false when the same one is already on its way.
    pub fn begin(&self, hash: i64, event: EventNid, done: watch::Receiver<Option<bool>>) -> bool {
        let mut known = self.known.lock();
        if known.events.contains_key(&hash) {
            return false;
        }
        if known.events.len() >= DEVICE_TRANSACTIONS_MAX {
            let oldest = known.events.values().map(|(event, _)| event.0).min().unwrap_or(0);
            let newest = known.events.values().map(|(event, _)| event.0).max().unwrap_or(0);
            // The older half goes; the database keeps it.
            known.events.retain(|_, (event, _)| event.0 > oldest.midpoint(newest));
            known.incomplete = true;
        }
        known.events.insert(hash, (event, Some(done)));
        true
    }

    /// The request was committed.
    pub fn finish(&self, hash: i64) {
        if let Some((_, pending)) = self.known.lock().events.get_mut(&hash) {
            *pending = None;
        }
    }

    /// The request failed; it may come again.
    pub fn abandon(&self, hash: i64) {
        self.known.lock().events.remove(&hash);
    }
}
