//! Who may see which event (client-server API, "Room history visibility").

use std::sync::Arc;

use ruma::UserId;

use super::{
    event_store::StoredEvent,
    registry::Rooms,
    room::{Head, Room},
    state::State,
    state_keys::MEMBER,
};
use crate::{
    protocol::{
        history_visibility::{HistoryVisibility, Moment, may_see, may_see_change},
        membership::Membership,
    },
    storage::{EventNid, StateKeyNid, StorageError},
};

/// One user's view of one room, for any number of its events.
pub struct Viewer {
    rooms: Rooms,
    room: Arc<Room>,
    head: Arc<Head>,
    user_key: Option<StateKeyNid>,
    visibility_key: Option<StateKeyNid>,
    /// Now.
    pub membership: Membership,
    member_event: Option<Arc<StoredEvent>>,
    now: Moment,
    /// Above this place in the room nothing that decides has changed.
    unchanged_above: i64,
    /// Whether they see everything, whatever they are to the room.
    oversees: bool,
}

impl Rooms {
    /// An administrator's view of a room: they see everything that a member could ever have seen.
    pub async fn overseer(&self, room: &Arc<Room>, user: &UserId) -> Result<Viewer, StorageError> {
        let viewer = self.viewer(room, user).await?;
        Ok(Viewer { oversees: true, membership: Membership::Join, ..viewer })
    }

    /// A user's view of a room as it is now.
    pub async fn viewer(&self, room: &Arc<Room>, user: &UserId) -> Result<Viewer, StorageError> {
        let head = room.head();
        let user_key = self.0.keys.find_user(user.as_str()).await?;
        let visibility = head.find_pinned("m.room.history_visibility").cloned();
        let member_nid = user_key.and_then(|key| head.state.get(key));
        let member_event = match member_nid {
            Some(nid) => Some(self.0.events.load_one(room.facts(), nid).await?),
            None => None,
        };
        let membership = Membership::of_state(member_event.as_ref().map(|event| &*event.event));
        let now = Moment {
            visibility: HistoryVisibility::of_state(visibility.as_ref().map(|e| &*e.event)),
            membership,
        };
        let changes = [&visibility, &member_event];
        let changed_at = changes.into_iter().flatten().map(|event| event.ordering()).max();
        let visibility_key = self.0.keys.find("m.room.history_visibility", "").await?;
        Ok(Viewer {
            rooms: self.clone(),
            room: Arc::clone(room),
            head,
            user_key,
            visibility_key: visibility_key.map(|key| key.nid),
            membership,
            member_event,
            now,
            // A fork may bring old events back.
            unchanged_above: changed_at.unwrap_or(0).max(room.latest_fork()),
            oversees: false,
        })
    }

    /// The user's current membership event in a room.
    pub async fn find_member(
        &self,
        room: &Room,
        user: &UserId,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        self.find_state_event(room, MEMBER, user.as_str()).await
    }

    /// The user's current membership of a room.
    pub async fn membership_of(
        &self,
        room: &Room,
        user: &UserId,
    ) -> Result<Membership, StorageError> {
        let event = self.find_member(room, user).await?;
        Ok(Membership::of_state(event.as_ref().map(|event| &*event.event)))
    }

    /// An event of the current state.
    pub async fn find_state_event(
        &self,
        room: &Room,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        self.find_in_state(room, &room.head().state, kind, state_key).await
    }

    /// An event of some state of the room.
    pub async fn find_in_state(
        &self,
        room: &Room,
        state: &State,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(key) = self.0.keys.find(kind, state_key).await? else {
            return Ok(None);
        };
        match state.get(key.nid) {
            Some(nid) => self.0.events.load_one(room.facts(), nid).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Rooms {
    /// The event that holds a key in the state before another event, found without the rest of that state.
    pub async fn find_key_before(
        &self,
        event: &StoredEvent,
        key: StateKeyNid,
    ) -> Result<Option<EventNid>, StorageError> {
        Ok(self.0.find_in_stored(event.state_nid, &[key]).await?.pop().flatten())
    }

    /// An event of the state before another one, read without the rest of that state.
    pub(super) async fn find_before(
        &self,
        room: &Room,
        event: &StoredEvent,
        (kind, state_key): (&str, &str),
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(key) = self.0.keys.find(kind, state_key).await? else {
            return Ok(None);
        };
        match self.find_key_before(event, key.nid).await? {
            Some(nid) => self.0.events.load_one(room.facts(), nid).await.map(Some),
            None => Ok(None),
        }
    }
}

impl Viewer {
    /// The room's head when the view began.
    pub fn head(&self) -> &Arc<Head> {
        &self.head
    }

    pub(super) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// The user's current membership event.
    pub fn member_event(&self) -> Option<&Arc<StoredEvent>> {
        self.member_event.as_ref()
    }

    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// The event that a state event replaced.
    pub async fn find_replaced(
        &self,
        event: &StoredEvent,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        match event.replaces_nid {
            Some(nid) => self.load(nid).await.map(Some),
            None => Ok(None),
        }
    }

    /// Whether the user is in the room or ever was.
    pub async fn was_joined(&self) -> Result<bool, StorageError> {
        self.joined_above(i64::MIN).await
    }

    /// Whether the user sees every event from some place on, and which place.
    pub fn sees_all_above(&self) -> Option<i64> {
        if self.oversees {
            return Some(i64::MIN);
        }
        let joined = self.membership == Membership::Join;
        may_see(self.now.visibility, self.membership, joined).then_some(self.unchanged_above)
    }

    /// Whether the user may see the event.
    pub async fn sees(&self, event: &StoredEvent) -> Result<bool, StorageError> {
        if self.oversees {
            return Ok(true);
        }
        let joined_now = self.membership == Membership::Join;
        if event.ordering() > self.unchanged_above {
            return Ok(may_see(self.now.visibility, self.membership, joined_now));
        }
        // The most frequent case of all: shared history before and after, and a member now.
        let before = self.moment_before(event).await?;
        let joined_since = joined_now
            || self.member_event.as_ref().is_some_and(|member| {
                self.membership != Membership::Invite && member.ordering() > event.ordering()
            }) && self.joined_above(event.ordering()).await?;
        let after = self.moment_after(event, before);
        // What ends one's own invitation or knock is one's own affair, whatever the room shows.
        let is_own = event.state_key_nid.is_some() && event.state_key_nid == self.user_key;
        if is_own && matches!(before.membership, Membership::Invite | Membership::Knock) {
            return Ok(true);
        }
        Ok(may_see_change(before, after, joined_since))
    }

    /// Those of the events that the user may see, in the same order.
    pub async fn retain_visible(
        &self,
        events: Vec<Arc<StoredEvent>>,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let mut visible = Vec::with_capacity(events.len());
        for event in events {
            if self.sees(&event).await? {
                visible.push(event);
            }
        }
        Ok(visible)
    }

    async fn moment_before(&self, event: &StoredEvent) -> Result<Moment, StorageError> {
        let load = async |key: Option<StateKeyNid>| -> Result<_, StorageError> {
            let Some(key) = key else { return Ok(None) };
            match self.rooms.find_key_before(event, key).await? {
                Some(nid) => self.load(nid).await.map(Some),
                None => Ok(None),
            }
        };
        let visibility = load(self.visibility_key).await?;
        let member = load(self.user_key).await?;
        Ok(Moment {
            visibility: HistoryVisibility::of_state(visibility.as_ref().map(|e| &*e.event)),
            membership: Membership::of_state(member.as_ref().map(|e| &*e.event)),
        })
    }

    fn moment_after(&self, event: &StoredEvent, before: Moment) -> Moment {
        let mut after = before;
        if event.state_key_nid.is_some() && event.state_key_nid == self.visibility_key {
            after.visibility = HistoryVisibility::of_state(Some(&event.event));
        }
        if event.state_key_nid.is_some() && event.state_key_nid == self.user_key {
            after.membership = Membership::of_state(Some(&event.event));
        }
        after
    }

    /// Whether the user joined at any place above this one: follows their membership events back.
    async fn joined_above(&self, ordering: i64) -> Result<bool, StorageError> {
        let mut current = self.member_event.clone();
        while let Some(member) = current.filter(|member| member.ordering() > ordering) {
            if Membership::of_event(&member.event) == Some(Membership::Join) {
                return Ok(true);
            }
            current = self.find_replaced(&member).await?;
        }
        Ok(false)
    }

    async fn load(&self, nid: EventNid) -> Result<Arc<StoredEvent>, StorageError> {
        self.rooms.events().load_one(self.room.facts(), nid).await
    }
}
