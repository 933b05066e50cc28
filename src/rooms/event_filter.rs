//! Filters for events (client-server API, "Filtering"): parsed once, applied to any number of
//! events. Not for a whole `/sync` filter, which names several of them.

use ruma::{OwnedRoomId, OwnedUserId, RoomId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::summary::relation_of;
use crate::protocol::event::Event;

/// `EventFilter`: for account data and presence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_senders: Vec<OwnedUserId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_types: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub senders: Option<Vec<OwnedUserId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
}

/// `RoomEventFilter`: for timelines, states, ephemeral events and room account data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomEventFilter {
    #[serde(flatten)]
    pub events: EventFilter,
    pub unread_thread_notifications: bool,
    pub lazy_load_members: bool,
    pub include_redundant_members: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_rooms: Vec<OwnedRoomId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<OwnedRoomId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contains_url: Option<bool>,
    /// Types of relations that pass; an event without one has none of them (MSC3874).
    #[serde(rename = "org.matrix.msc3874.rel_types", alias = "rel_types")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rel_types: Option<Vec<String>>,
    #[serde(rename = "org.matrix.msc3874.not_rel_types", alias = "not_rel_types")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_rel_types: Vec<String>,
}

impl EventFilter {
    /// Whether an event of this type passes, `*` in a pattern being any text.
    pub fn takes_type(&self, kind: &str) -> bool {
        let matches = |pattern: &String| matches_wildcard(pattern, kind);
        !self.not_types.iter().any(matches)
            && self.types.as_ref().is_none_or(|types| types.iter().any(matches))
    }

    /// Whether an event of this sender passes.
    pub fn takes_sender(&self, sender: &str) -> bool {
        !self.not_senders.iter().any(|id| id == sender)
            && self.senders.as_ref().is_none_or(|senders| senders.iter().any(|id| id == sender))
    }

    /// Whether every event passes.
    pub fn takes_all(&self) -> bool {
        self.not_senders.is_empty()
            && self.not_types.is_empty()
            && self.senders.is_none()
            && self.types.is_none()
    }
}

impl RoomEventFilter {
    /// Whether anything of this room passes.
    pub fn takes_room(&self, room: &RoomId) -> bool {
        takes_room(&self.rooms, &self.not_rooms, room)
    }

    /// Whether the event passes; its room is not looked at.
    pub fn takes(&self, event: &Event) -> bool {
        (self.events.takes_all()
            || self.events.takes_type(event.kind())
                && self.events.takes_sender(event.sender().as_str()))
            && self.contains_url.is_none_or(|wanted| contains_url(event) == wanted)
            && self.takes_relation(event)
    }

    fn takes_relation(&self, event: &Event) -> bool {
        if self.rel_types.is_none() && self.not_rel_types.is_empty() {
            return true;
        }
        let rel_type = relation_of(event).map(|(rel_type, _)| rel_type);
        let is_in = |types: &Vec<String>| rel_type.as_ref().is_some_and(|one| types.contains(one));
        self.rel_types.as_ref().is_none_or(is_in) && !is_in(&self.not_rel_types)
    }

    /// Whether every event passes; rooms are not looked at.
    pub fn takes_all(&self) -> bool {
        self.events.takes_all()
            && self.contains_url.is_none()
            && self.rel_types.is_none()
            && self.not_rel_types.is_empty()
    }
}

/// Whether lists of rooms let a room pass.
pub fn takes_room(
    rooms: &Option<Vec<OwnedRoomId>>,
    not_rooms: &[OwnedRoomId],
    room: &RoomId,
) -> bool {
    !not_rooms.iter().any(|id| id == room)
        && rooms.as_ref().is_none_or(|rooms| rooms.iter().any(|id| id == room))
}

fn contains_url(event: &Event) -> bool {
    event.content_json().contains("\"url\"")
        && event
            .content_as::<Value>()
            .is_ok_and(|content| content.get("url").is_some_and(Value::is_string))
}

/// Whether `text` matches a pattern in which `*` is any text: greedy, without recursion.
fn matches_wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_any_text() {
        for (pattern, text, expect) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.message", "m.room.messages", false),
            ("m.room.*", "m.room.message", true),
            ("*", "", true),
            ("*.message", "m.room.message", true),
            ("m.*.m*e", "m.room.message", true),
            ("m.*.x*e", "m.room.message", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_wildcard(pattern, text), expect, "{pattern} against {text}");
        }
    }
}
