//! What lists filter rooms by, in memory as long as nothing of it changes.

use std::{collections::HashSet, sync::Arc};

use quick_cache::sync::Cache;
use serde_json::Value;

use crate::{
    protocol::room_content::CreateContent,
    rooms::{Head, Room, Rooms, StoredEvent},
    storage::{EventNid, RoomNid, StateKeyNid, StateNid, StorageError, events},
};

/// Rooms, and spaces, of which this much is in memory; 300 bytes each, spaces with their children.
const ROOMS_MAX: usize = 20_000;
const SPACES_MAX: usize = 500;
/// Ends of memberships that are remembered; 32 bytes each.
const DEPARTURES_MAX: usize = 100_000;

type Pinned = Arc<Vec<(StateKeyNid, Arc<StoredEvent>)>>;

/// What a room is.
pub struct RoomTraits {
    /// The state that the rest was read from.
    pinned: Pinned,
    pub room_type: Option<String>,
    pub is_encrypted: bool,
    pub name: Option<String>,
    /// A URL of a picture.
    pub avatar: Option<String>,
}

/// How a membership ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// By somebody else.
    pub was_removed: bool,
    /// From the room, not from an invitation.
    pub was_joined: bool,
}

/// The rooms that somebody looked at.
pub struct KnownTraits {
    rooms: Cache<RoomNid, Arc<RoomTraits>>,
    children: Cache<RoomNid, (StateNid, Arc<HashSet<Box<str>>>)>,
    departures: Cache<EventNid, Departure>,
}

impl KnownTraits {
    pub fn new() -> Self {
        Self {
            rooms: Cache::new(ROOMS_MAX),
            children: Cache::new(SPACES_MAX),
            departures: Cache::new(DEPARTURES_MAX),
        }
    }

    pub fn of(&self, room: &Room, head: &Head) -> Arc<RoomTraits> {
        if let Some(known) = self.rooms.get(&room.nid)
            && Arc::ptr_eq(&known.pinned, &head.pinned)
        {
            return known;
        }
        let create = head.find_pinned("m.room.create");
        let create = create.map(|create| CreateContent::of_event(&create.event, room.rules));
        let traits = Arc::new(RoomTraits {
            pinned: Arc::clone(&head.pinned),
            room_type: create.and_then(|create| create.room_type),
            is_encrypted: head.find_pinned("m.room.encryption").is_some(),
            name: find_text(head, "m.room.name", "name"),
            avatar: find_text(head, "m.room.avatar", "url"),
        });
        self.rooms.insert(room.nid, Arc::clone(&traits));
        traits
    }

    /// The rooms that a space lists as its own (client-server API, "m.space.child").
    pub async fn children(
        &self,
        rooms: &Rooms,
        space: &Room,
    ) -> Result<Arc<HashSet<Box<str>>>, StorageError> {
        let head = space.head();
        let state_nid = head.state.nid();
        if let Some((known_nid, known)) = self.children.get(&space.nid)
            && known_nid == state_nid
        {
            return Ok(known);
        }
        let nids = head.state.iter().filter(|(key, _)| !key.is_membership());
        let nids: Vec<EventNid> = nids.map(|(_, event)| event).collect();
        let children = rooms.events().load(space.facts(), &nids).await?;
        let is_child = |event: &Arc<StoredEvent>| {
            let via = || event.event.content_as::<Value>().ok()?["via"].as_array().cloned();
            event.event.kind() == "m.space.child" && via().is_some_and(|via| !via.is_empty())
        };
        let children = children.into_iter().filter(is_child);
        let ids = children.filter_map(|child| child.event.state_key().map(Box::from));
        let ids: Arc<HashSet<Box<str>>> = Arc::new(ids.collect());
        self.children.insert(space.nid, (state_nid, Arc::clone(&ids)));
        Ok(ids)
    }

    /// How the memberships that these events ended had ended, in the same order.
    pub async fn departures(
        &self,
        rooms: &Rooms,
        leaves: &[EventNid],
    ) -> Result<Vec<Departure>, StorageError> {
        let is_unknown = |nid: &EventNid| self.departures.peek(nid).is_none();
        let missing: Vec<EventNid> = leaves.iter().copied().filter(is_unknown).collect();
        let mut read = std::collections::HashMap::new();
        if !missing.is_empty() {
            let rows = events::list(rooms.database(), &missing).await?;
            let replaced: Vec<_> = rows.iter().filter_map(|row| row.replaces_nid).collect();
            let replaced = events::list(rooms.database(), &replaced).await?;
            let joins = replaced.into_iter().filter(|row| membership_of(&row.json).0 == "join");
            let joins: HashSet<EventNid> = joins.map(|row| row.nid).collect();
            for row in rows {
                let departure = Departure {
                    was_removed: membership_of(&row.json).1,
                    was_joined: row.replaces_nid.is_some_and(|nid| joins.contains(&nid)),
                };
                self.departures.insert(row.nid, departure);
                read.insert(row.nid, departure);
            }
        }
        let unknown = Departure { was_removed: false, was_joined: false };
        let find = |nid: &EventNid| read.get(nid).copied().or_else(|| self.departures.get(nid));
        Ok(leaves.iter().map(|nid| find(nid).unwrap_or(unknown)).collect())
    }
}

/// A text in the content of a pinned event, unless it is empty.
fn find_text(head: &Head, kind: &str, property: &str) -> Option<String> {
    let content: Value = head.find_pinned(kind)?.event.content_as().ok()?;
    Some(content.get(property)?.as_str()?.to_owned()).filter(|text| !text.is_empty())
}

/// What a membership event says, and whether about somebody else.
fn membership_of(json: &str) -> (String, bool) {
    let event: Value = serde_json::from_str(json).unwrap_or_default();
    let membership = event["content"]["membership"].as_str().unwrap_or_default().to_owned();
    (membership, event["sender"] != event["state_key"])
}
