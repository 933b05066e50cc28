//! What another server may see of a room's events: what any of its users might ("Room History
//! Visibility"); the rest it gets redacted, so that its graph stays whole.

use std::{collections::HashSet, sync::Arc};

use ruma::{OwnedServerName, ServerName, UserId};

use super::{event_store::StoredEvent, registry::Rooms, room::Room};
use crate::{
    protocol::{
        event::Event, history_visibility::HistoryVisibility, membership::Membership,
        redaction::redact_event,
    },
    storage::{self, StateKeyNid, StorageError},
};

/// One server's view of one room.
pub(super) struct ServerView<'a> {
    rooms: &'a Rooms,
    room: &'a Arc<Room>,
    server: OwnedServerName,
    /// The users of the server that ever were anything to the room; read when first needed.
    users: Option<HashSet<StateKeyNid>>,
}

impl<'a> ServerView<'a> {
    pub fn new(rooms: &'a Rooms, room: &'a Arc<Room>, server: &ServerName) -> Self {
        Self { rooms, room, server: server.to_owned(), users: None }
    }

    /// The event as the server gets it.
    pub async fn show(&mut self, event: &StoredEvent) -> Result<Arc<Event>, StorageError> {
        match self.sees(event).await? && !self.is_erased(event).await? {
            true => Ok(Arc::clone(&event.event)),
            false => Ok(Arc::new(redact_event(&event.event, self.room.rules))),
        }
    }

    /// Whether any user of the server may see the event.
    pub async fn sees(&mut self, event: &StoredEvent) -> Result<bool, StorageError> {
        // Outliers are state that the server is given whole in every answer about state.
        if event.event.sender().server_name() == self.server || !event.is_in_graph() {
            return Ok(true);
        }
        let kind = "m.room.history_visibility";
        let before = self.rooms.find_before(self.room, event, (kind, "")).await?;
        let before = HistoryVisibility::of_state(before.as_ref().map(|stored| &*stored.event));
        let after = match event.event.is_state_of(kind, "") {
            true => HistoryVisibility::of_state(Some(&event.event)),
            false => before,
        };
        let is_open = |visibility| {
            matches!(visibility, HistoryVisibility::WorldReadable | HistoryVisibility::Shared)
        };
        if is_open(before) || is_open(after) {
            return Ok(true);
        }
        let invited_see =
            before == HistoryVisibility::Invited || after == HistoryVisibility::Invited;
        let suffices = |event: &Event| match Membership::of_event(event) {
            Some(Membership::Join) => true,
            Some(Membership::Invite) => invited_see,
            _ => false,
        };
        let users = self.load_users().await?;
        if event.state_key_nid.is_some_and(|key| users.contains(&key)) && suffices(&event.event) {
            return Ok(true);
        }
        let state = self.rooms.load_state(event.state_nid).await?;
        let nids: Vec<_> = users.iter().filter_map(|user| state.get(*user)).collect();
        for nid in nids {
            let member = self.rooms.events().load_one(self.room.facts(), nid).await?;
            if suffices(&member.event) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the sender was erased before any user of the server joined the room (client-server API,
    /// "Account deactivation", `erase`). State that still holds belongs to the room.
    async fn is_erased(&mut self, event: &StoredEvent) -> Result<bool, StorageError> {
        let Some(position) = self.rooms.0.erasures.find(event.event.sender()) else {
            return Ok(false);
        };
        let state = self.room.head().state.clone();
        if event.state_key_nid.is_some_and(|key| state.get(key) == Some(event.nid)) {
            return Ok(false);
        }
        for user in self.load_users().await? {
            let mut current = state.get(user);
            while let Some(nid) = current {
                let member = self.rooms.events().load_one(self.room.facts(), nid).await?;
                let is_join = Membership::of_event(&member.event) == Some(Membership::Join);
                if is_join && member.position() <= position {
                    return Ok(false);
                }
                current = member.replaces_nid;
            }
        }
        Ok(true)
    }

    async fn load_users(&mut self) -> Result<HashSet<StateKeyNid>, StorageError> {
        if let Some(users) = &self.users {
            return Ok(users.clone());
        }
        let members = storage::graph::list_members(self.rooms.database(), self.room.nid).await?;
        let is_theirs = |user: &[u8]| {
            let user = std::str::from_utf8(user).ok().and_then(|u| <&UserId>::try_from(u).ok());
            user.is_some_and(|user| user.server_name() == self.server)
        };
        let users: HashSet<_> =
            members.iter().filter(|(_, user, _)| is_theirs(user)).map(|(key, ..)| *key).collect();
        Ok(self.users.insert(users).clone())
    }
}
