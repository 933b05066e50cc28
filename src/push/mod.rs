//! Whom an event notifies: judged once, at its acceptance; read as unread counts and as the list
//! of notifications. Not for the rules themselves (`accounts`), nor for who has read what.

mod audience;
mod counts;
mod judge;
mod notifications;
mod tally;
mod threads;
mod wishes;

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId, UserId};

use self::audience::Audiences;
pub use self::{
    counts::Counts,
    notifications::{Notification, NotificationPage},
    tally::{Count, MAIN, UnreadCounts},
    threads::find_thread,
};
use crate::{cache_figures::CacheFigures, protocol::push_rules::CompiledRules, storage::Database};

/// Clones share everything. It holds no [`Rooms`](crate::rooms::Rooms), which hold it.
#[derive(Clone)]
pub struct Push(Arc<PushParts>);

struct PushParts {
    counts: Counts,
    audiences: Audiences,
    defaults: CompiledRules,
    /// A user whom no rule singles out.
    nobody: OwnedUserId,
    server_name: OwnedServerName,
}

impl Push {
    /// `memory_bytes` bounds all its caches.
    pub fn new(database: Database, server_name: OwnedServerName, memory_bytes: u64) -> Self {
        let nobody = <&UserId>::try_from("@\u{1}:nobody").expect("it is a user ID by its form");
        Self(Arc::new(PushParts {
            counts: Counts::new(database, memory_bytes / 2),
            audiences: Audiences::new(memory_bytes / 2),
            defaults: CompiledRules::server_default(),
            nobody: nobody.to_owned(),
            server_name,
        }))
    }

    /// Unread counts.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// How well the caches of counts and audiences do.
    pub fn cache_figures(&self) -> [CacheFigures; 3] {
        let [rooms, users] = self.0.counts.cache_figures();
        [rooms, users, self.0.audiences.cache_figures()]
    }

    /// A user's own data have changed, maybe their rules.
    pub fn recheck(&self, user: &UserId) {
        self.0.audiences.recheck(user);
    }
}
