//! The state of a room that a user may read: the current one for members and, where anybody may
//! read, for everybody; the one when they left for those who were members (client-server API,
//! `/state`, `/members`).

use std::sync::Arc;

use super::{
    event_store::StoredEvent, registry::Rooms, room::Room, state::State, token::PageToken,
    visibility::Viewer,
};
use crate::{
    protocol::{history_visibility::HistoryVisibility, membership::Membership},
    storage::{EventNid, StateKeyNid, StorageError},
};

/// The state at one point of a room.
pub struct ReadableState {
    pub room: Arc<Room>,
    state: Arc<State>,
    /// What the last event before the point changed.
    changed: Option<(StateKeyNid, EventNid)>,
}

/// Which events of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    All,
    Members,
    AllButMembers,
}

impl Kinds {
    fn takes(self, key: StateKeyNid) -> bool {
        match self {
            Self::All => true,
            Self::Members => key.is_membership(),
            Self::AllButMembers => !key.is_membership(),
        }
    }
}

/// What a user is to a room's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything up to now.
    Current,
    /// What was there until they left.
    UntilLeft,
    /// Some events since the invitation, but no state.
    Invited,
    None,
}

impl Viewer {
    /// What the viewer is to the room's history.
    pub async fn access(&self) -> Result<Access, StorageError> {
        let head = self.head();
        let visibility = head.find_pinned("m.room.history_visibility").map(|e| &*e.event);
        let visibility = HistoryVisibility::of_state(visibility);
        Ok(match self.membership {
            Membership::Join => Access::Current,
            Membership::Leave | Membership::Ban if self.was_member().await? => Access::UntilLeft,
            _ if visibility == HistoryVisibility::WorldReadable => Access::Current,
            Membership::Invite if visibility == HistoryVisibility::Invited => Access::Invited,
            _ => Access::None,
        })
    }

    /// Whether the viewer, who is no member now, has ever been one.
    async fn was_member(&self) -> Result<bool, StorageError> {
        let mut current = self.member_event().cloned();
        while let Some(member) = current {
            if Membership::of_event(&member.event) == Some(Membership::Join) {
                return Ok(true);
            }
            current = self.find_replaced(&member).await?;
        }
        Ok(false)
    }
}

impl Rooms {
    /// The state that the viewer may read; None when there is none.
    pub async fn load_readable_state(
        &self,
        viewer: &Viewer,
    ) -> Result<Option<ReadableState>, StorageError> {
        let room = Arc::clone(viewer.room());
        match (viewer.access().await?, viewer.member_event()) {
            (Access::Current, _) => {
                let state = Arc::new(viewer.head().state.clone());
                Ok(Some(ReadableState { room, state, changed: None }))
            }
            (Access::UntilLeft, Some(left)) => {
                let state = self.load_state(left.state_nid).await?;
                Ok(Some(ReadableState { room, state, changed: change_of(left) }))
            }
            _ => Ok(None),
        }
    }

    /// The state at a place that lies in what the viewer may read.
    pub async fn load_readable_state_at(
        &self,
        viewer: &Viewer,
        place: PageToken,
    ) -> Result<Option<ReadableState>, StorageError> {
        let Some(latest) = self.load_readable_state(viewer).await? else {
            return Ok(None);
        };
        if place.ordering() >= viewer.horizon() {
            return Ok(Some(latest));
        }
        let (state, last) = self.load_state_at(viewer.room(), place).await?;
        let changed = last.and_then(|last| change_of(&last));
        Ok(Some(ReadableState { changed, state, ..latest }))
    }

    /// One event of a state.
    pub async fn find_in_readable_state(
        &self,
        state: &ReadableState,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(key) = self.keys().find(kind, state_key).await? else {
            return Ok(None);
        };
        match state.get(key.nid) {
            Some(nid) => self.events().load_one(state.room.facts(), nid).await.map(Some),
            None => Ok(None),
        }
    }
}

impl ReadableState {
    pub fn get(&self, key: StateKeyNid) -> Option<EventNid> {
        match self.changed {
            Some((changed, event)) if changed == key => Some(event),
            _ => self.state.get(key),
        }
    }

    /// The events of some kinds.
    pub fn list(&self, kinds: Kinds) -> Vec<EventNid> {
        let is_older = |key: StateKeyNid| self.changed.is_none_or(|(changed, _)| changed != key);
        let events = self.state.iter().filter(|(key, _)| is_older(*key)).chain(self.changed);
        events.filter(|(key, _)| kinds.takes(*key)).map(|(_, event)| event).collect()
    }
}

fn change_of(event: &StoredEvent) -> Option<(StateKeyNid, EventNid)> {
    event.state_key_nid.map(|key| (key, event.nid))
}
