//! A bounded cache of one thing per user, read from the database on demand. What is read while it
//! changes is not kept.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};

use crate::cache_figures::CacheFigures;

/// Holds an `Arc<T>` per user.
pub struct UserCache<T> {
    entries: Cache<OwnedUserId, Arc<T>>,
    /// Rises with every change.
    epoch: AtomicU64,
}

impl<T> UserCache<T> {
    pub fn new(users_max: usize) -> Self {
        Self { entries: Cache::new(users_max), epoch: AtomicU64::new(0) }
    }

    pub fn get(&self, user_id: &UserId) -> Option<Arc<T>> {
        self.entries.get(user_id)
    }

    /// How well it does, under a name.
    pub fn figures(&self, name: &'static str) -> CacheFigures {
        CacheFigures::of(name, &self.entries)
    }

    /// To be read before the database is.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Keeps what was read, unless something changed since `epoch`.
    pub fn insert(&self, user_id: &UserId, value: Arc<T>, epoch: u64) {
        self.entries.insert(user_id.to_owned(), value);
        if self.epoch() != epoch {
            self.entries.remove(user_id);
        }
    }

    /// To be called after a change has committed.
    pub fn forget(&self, user_id: &UserId) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.entries.remove(user_id);
    }
}
