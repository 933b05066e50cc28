//! Whom an event notifies: judged once, at its acceptance; read as unread counts and as the list
//! of notifications. Not for the rules themselves (`accounts`), nor for who has read what.

mod audience;
mod counts;
pub mod delivery;
mod judge;
mod notifications;
mod recount;
mod tally;
mod threads;
mod wishes;

use std::sync::Arc;

use ruma::{OwnedServerName, UserId};

use self::{audience::Audiences, delivery::intake::Intake};
pub use self::{
    counts::Counts,
    notifications::{Notification, NotificationPage},
    recount::IgnoreChange,
    tally::{Count, MAIN, UnreadCounts},
    threads::{find_thread, leads_to},
};
use crate::{
    cache_figures::CacheFigures,
    protocol::push_rules::{CompiledRules, Mentions},
    rooms::Rooms,
    storage::{Database, StorageError},
};

/// Clones share everything. It holds no [`Rooms`](crate::rooms::Rooms), which hold it.
#[derive(Clone)]
pub struct Push(Arc<PushParts>);

struct PushParts {
    counts: Counts,
    /// What was judged and nobody was told of yet.
    intake: Arc<Intake>,
    audiences: Audiences,
    defaults: CompiledRules,
    mentions: Mentions,
    server_name: OwnedServerName,
}

impl Push {
    /// `memory_bytes` bounds all its caches.
    pub fn new(
        database: Database,
        server_name: OwnedServerName,
        mentions: Mentions,
        memory_bytes: u64,
    ) -> Self {
        let intake = Arc::new(Intake::default());
        Self(Arc::new(PushParts {
            counts: Counts::new(database, Arc::clone(&intake), memory_bytes / 2),
            intake,
            audiences: Audiences::new(mentions, memory_bytes / 2),
            defaults: CompiledRules::server_default(mentions),
            mentions,
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

    /// Unread notifications of a user in all rooms they are a member of: what a device shows as its
    /// badge.
    pub async fn count_unread(&self, rooms: &Rooms, user: &UserId) -> Result<i64, StorageError> {
        let joined = rooms.rooms_of(user).await?.list_joined();
        let nids: Vec<_> = joined.iter().map(|place| place.room.nid).collect();
        self.counts().preload(&nids).await?;
        let mut unread = 0;
        for place in &joined {
            let (count, _) = self.counts().unread(user, &place.room).await?.split(false);
            unread += count.notifications;
        }
        Ok(unread)
    }

    /// Somebody has registered, whose rules need not be looked up.
    pub fn note_new_user(&self, user: &UserId) {
        self.0.audiences.note_new(user);
    }

    /// A user's own data have changed, maybe their rules.
    pub fn recheck(&self, user: &UserId) {
        self.0.audiences.recheck(user);
    }
}
