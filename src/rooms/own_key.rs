//! The key with which this server signs now, and those before it. Not for where the current one is
//! kept, nor for the keys of other servers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::{
    protocol::signing::SigningKey,
    storage::{
        Database, StorageError, WriteTx, Writer,
        own_keys::{self, OldKeyRow},
    },
};

/// A key that can be replaced while the server runs. Clones share it.
#[derive(Clone)]
pub struct OwnKey(Arc<Inner>);

struct Inner {
    current: ArcSwap<SigningKey>,
    old: Mutex<Vec<OldKeyRow>>,
}

impl OwnKey {
    /// The current key, and what the store knows of those before it.
    pub async fn load(database: &Database, current: SigningKey) -> Result<Self, StorageError> {
        let old = Mutex::new(own_keys::list(database).await?);
        Ok(Self(Arc::new(Inner { current: ArcSwap::from_pointee(current), old })))
    }

    /// The key to sign with.
    pub fn current(&self) -> Arc<SigningKey> {
        self.0.current.load_full()
    }

    /// The keys that this server signs with no more.
    pub fn list_old(&self) -> Vec<OldKeyRow> {
        let current = self.current();
        let is_old = |row: &&OldKeyRow| row.key_id != current.key_id();
        self.0.old.lock().iter().filter(is_old).cloned().collect()
    }

    /// Notes that the current key signs nothing from `expired_ts` on (milliseconds since the epoch),
    /// before [`OwnKey::replace`]. A crash in between leaves it in use, and of this nothing follows.
    pub async fn expire(&self, writer: &Writer, expired_ts: u64) -> Result<(), StorageError> {
        let current = self.current();
        let row = OldKeyRow {
            key_id: current.key_id().to_owned(),
            public_key: current.public_key_base64(),
            expired_ts: expired_ts.cast_signed(),
        };
        let mut tx = WriteTx::new();
        own_keys::save(&mut tx, &row);
        writer.commit(tx).await?;
        let mut old = self.0.old.lock();
        old.retain(|known| known.key_id != row.key_id);
        old.push(row);
        Ok(())
    }

    /// Has everything signed with another key from now on.
    pub fn replace(&self, key: SigningKey) {
        self.0.current.store(Arc::new(key));
    }
}
