//! Users who were deactivated with the wish to be erased (client-server API, "Account deactivation",
//! `erase`): whoever joins a room later is shown their events as if they were redacted. Nothing is
//! deleted here, and who was in the room before sees what they saw.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use arc_swap::ArcSwap;
use ruma::{OwnedUserId, UserId};

use super::{
    event_store::{NewStoredEvent, StoredEvent},
    registry::Rooms,
    visibility::Viewer,
};
use crate::{
    protocol::{membership::Membership, redaction::redact_event},
    storage::{self, Database, StorageError},
};

/// Erased users, and since which position of the stream. Few, so all of them are in memory.
pub(super) struct Erasures(ArcSwap<HashMap<OwnedUserId, i64>>);

impl Erasures {
    pub async fn load(database: &Database) -> Result<Self, StorageError> {
        let rows = storage::erasures::list(database).await?;
        let parse = |(user_id, position)| Some((UserId::parse(user_id).ok()?, position));
        Ok(Self(ArcSwap::from_pointee(rows.into_iter().filter_map(parse).collect())))
    }

    fn is_empty(&self) -> bool {
        self.0.load().is_empty()
    }

    pub fn find(&self, user: &UserId) -> Option<i64> {
        self.0.load().get(user).copied()
    }
}

impl Rooms {
    /// Takes notice of a user who was erased after the start, if this one was.
    pub async fn note_erasure(&self, user: &UserId) -> Result<(), StorageError> {
        if let Some(position) = storage::erasures::find(self.database(), user.as_str()).await? {
            self.0.erasures.0.rcu(|known| {
                let mut known = HashMap::clone(known);
                known.insert(user.to_owned(), position);
                known
            });
        }
        Ok(())
    }
}

impl Viewer {
    /// The events as the user is shown them: those of erased users redacted, unless the user was in the
    /// room before the erasure. State that still holds is shown: it belongs to the room.
    pub(super) async fn shown<'a>(
        &self,
        events: &'a [Arc<StoredEvent>],
    ) -> Result<Cow<'a, [Arc<StoredEvent>]>, StorageError> {
        let erasures = &self.rooms().0.erasures;
        if erasures.is_empty() {
            return Ok(Cow::Borrowed(events));
        }
        let mut shown = events.to_vec();
        for event in &mut shown {
            let Some(position) = erasures.find(event.event.sender()) else { continue };
            let holds = event.state_key_nid.is_some_and(|key| {
                self.head().state.get(key).is_some_and(|current| current == event.nid)
            });
            if !holds && !self.was_joined_at(position).await? {
                *event = Arc::new(self.erase(event));
            }
        }
        Ok(Cow::Owned(shown))
    }

    /// Whether the user had joined the room by a position of the stream.
    async fn was_joined_at(&self, position: i64) -> Result<bool, StorageError> {
        let mut current = self.member_event().cloned();
        while let Some(member) = current {
            let is_join = Membership::of_event(&member.event) == Some(Membership::Join);
            if is_join && member.position() <= position {
                return Ok(true);
            }
            current = self.find_replaced(&member).await?;
        }
        Ok(false)
    }

    /// The event as if it were redacted, which for others it is not.
    pub(super) fn erase(&self, stored: &StoredEvent) -> StoredEvent {
        StoredEvent::new(NewStoredEvent {
            nid: stored.nid,
            room_nid: stored.room_nid,
            state_nid: stored.state_nid,
            state_key_nid: stored.state_key_nid,
            replaces_nid: None,
            flags: stored.flags,
            notify_ordinal: stored.notify_ordinal,
            sent_by: None,
            redacted_by: None,
            event: Arc::new(redact_event(&stored.event, self.room().rules)),
        })
        .placed_as(stored)
    }
}
