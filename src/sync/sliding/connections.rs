//! All connections: finding them in memory or in the store, saving them a moment after they
//! changed, and letting go of those that nobody uses.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, ConnectionKey};
use crate::{
    clock::Clock,
    storage::{
        Database, StorageError, WriteTx, Writer,
        sliding::{self, ConnectionName},
    },
};

/// How long changes of connections are gathered before they are saved together. What was not
/// saved when the server is killed is lost: its clients are told to begin anew.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
/// How often abandoned connections are looked for.
const SWEEP_PAUSE: Duration = Duration::from_secs(3600);
/// Connections unused for longer are deleted.
const UNUSED_MS_MAX: u64 = 30 * DAY_MS;
/// How exactly the store knows when a connection was last used.
const USED_MS_EXACT: u64 = DAY_MS;
const DAY_MS: u64 = 24 * 3600 * 1000;
/// Connections that a device may have.
const PER_DEVICE_MAX: usize = 16;
/// Connections written in one job.
const SAVED_AT_ONCE_MAX: usize = 64;
/// Connections that begin in one millisecond before their numbers run ahead of the clock.
const NIDS_PER_MS: u64 = 256;

/// The connections of everybody.
pub struct Connections {
    database: Database,
    writer: Writer,
    clock: Clock,
    memory_bytes: usize,
    known: Mutex<HashMap<ConnectionKey, Arc<Connection>>>,
    changed: Mutex<HashMap<i64, Arc<Connection>>>,
    /// Rung when the first one has changed.
    has_changed: Notify,
    next_nid: AtomicI64,
}

impl Connections {
    pub fn new(database: Database, writer: Writer, clock: Clock, memory_bytes: u64) -> Self {
        // Over restarts, too, no number is given out twice.
        let next_nid = (clock.now_ms() * NIDS_PER_MS).cast_signed();
        Self {
            database,
            writer,
            clock,
            memory_bytes: memory_bytes as usize,
            known: Mutex::default(),
            changed: Mutex::default(),
            has_changed: Notify::new(),
            next_nid: next_nid.into(),
        }
    }

    /// Begins a connection in the place of one with the same name.
    pub fn begin(&self, key: ConnectionKey) -> Arc<Connection> {
        let nid = self.next_nid.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(key.clone(), nid, self.clock.now_ms()));
        let mut known = self.known.lock();
        let of_device = |other: &&ConnectionKey| {
            other.user_id == key.user_id && other.device_id == key.device_id && **other != key
        };
        let of_device: Vec<_> = known.keys().filter(of_device).cloned().collect();
        if of_device.len() >= PER_DEVICE_MAX {
            let oldest = of_device.iter().min_by_key(|key| known.get(key).map(|c| c.used_ms()));
            oldest.map(|oldest| known.remove(oldest));
        }
        if let Some(replaced) = known.insert(key, Arc::clone(&connection)) {
            replaced.supersede();
        }
        connection
    }

    /// The connection of this name, if it has this number.
    pub async fn find(
        &self,
        key: &ConnectionKey,
        nid: i64,
    ) -> Result<Option<Arc<Connection>>, StorageError> {
        if let Some(known) = self.find_known(key) {
            return Ok(Some(known).filter(|known| known.nid == nid));
        }
        let ConnectionKey { user_id, device_id, conn_id } = key;
        let name = ConnectionName { user_id, device_id, conn_id };
        let Some(stored) = sliding::find_connection(&self.database, name).await? else {
            return Ok(None);
        };
        if stored.nid != nid {
            return Ok(None);
        }
        let rooms = sliding::list_rooms(&self.database, nid).await?;
        let connection = match Connection::from_rows(key.clone(), stored, rooms) {
            Ok(connection) => Arc::new(connection),
            Err(error) => {
                tracing::warn!(%error, "a connection of sliding sync cannot be read and begins anew");
                return Ok(None);
            }
        };
        let mut known = self.known.lock();
        let kept = known.entry(key.clone()).or_insert(connection);
        Ok(Some(Arc::clone(kept)).filter(|kept| kept.nid == nid))
    }

    /// Has what a connection was told saved in a moment.
    pub fn note_changed(&self, connection: &Arc<Connection>) {
        let mut changed = self.changed.lock();
        changed.insert(connection.nid, Arc::clone(connection));
        if changed.len() == 1 {
            self.has_changed.notify_one();
        }
    }

    /// Saves all that has changed.
    pub async fn save_changed(&self) -> Result<(), StorageError> {
        loop {
            let changed: Vec<_> = {
                let mut changed = self.changed.lock();
                let nids: Vec<i64> = changed.keys().take(SAVED_AT_ONCE_MAX).copied().collect();
                nids.iter().filter_map(|nid| changed.remove(nid)).collect()
            };
            let mut tx = WriteTx::new();
            let known = |connection: &&Arc<Connection>| {
                let known = self.find_known(&connection.key);
                known.is_none_or(|known| known.nid == connection.nid)
            };
            // One that was replaced meanwhile would take its successor's place.
            for connection in changed.iter().filter(known) {
                connection.save(&mut tx);
            }
            if changed.is_empty() {
                return Ok(());
            }
            self.writer.commit(tx).await?;
        }
    }

    /// Saves what changes, and lets go of what is unused, until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut sweep = tokio::time::interval(SWEEP_PAUSE);
        loop {
            tokio::select! {
                () = self.has_changed.notified() => {
                    let pause = tokio::time::sleep(SAVE_PAUSE);
                    if shutdown.run_until_cancelled(pause).await.is_none() {
                        return;
                    }
                    if let Err(error) = self.save_changed().await {
                        tracing::error!(%error, "connections of sliding sync were not saved");
                    }
                    self.forget_oldest();
                }
                _ = sweep.tick() => {
                    if let Err(error) = self.delete_abandoned().await {
                        tracing::error!(%error, "abandoned connections were not deleted");
                    }
                }
                () = shutdown.cancelled() => return,
            }
        }
    }

    fn find_known(&self, key: &ConnectionKey) -> Option<Arc<Connection>> {
        self.known.lock().get(key).cloned()
    }

    /// Brings memory down to its budget. The store has what is forgotten.
    fn forget_oldest(&self) {
        let mut connections: Vec<Arc<Connection>> = self.known.lock().values().cloned().collect();
        let weigh = |connection: &Arc<Connection>| connection.weight_bytes();
        let mut weight_bytes: usize = connections.iter().map(weigh).sum();
        if weight_bytes <= self.memory_bytes {
            return;
        }
        connections.sort_by_cached_key(|connection| connection.used_ms());
        for connection in connections {
            if weight_bytes <= self.memory_bytes {
                return;
            }
            let is_changed = self.changed.lock().contains_key(&connection.nid);
            if !is_changed && !connection.must_save(u64::MAX / 2) {
                self.known.lock().remove(&connection.key);
                weight_bytes -= weigh(&connection).min(weight_bytes);
            }
        }
    }

    async fn delete_abandoned(&self) -> Result<(), StorageError> {
        let used_before_ms = self.clock.now_ms().saturating_sub(UNUSED_MS_MAX);
        {
            let mut known = self.known.lock();
            known.retain(|_, connection| connection.used_ms() >= used_before_ms);
            let stale = known.values().filter(|connection| connection.must_save(USED_MS_EXACT));
            let mut changed = self.changed.lock();
            changed.extend(stale.map(|connection| (connection.nid, Arc::clone(connection))));
        }
        self.save_changed().await?;
        let deleted: Result<(), StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(sliding::delete_abandoned(tx, used_before_ms, PER_DEVICE_MAX))
            })
            .await;
        deleted
    }
}
