//! What a person reads of an event beside itself: who sent it, and where.

use ruma::UserId;
use serde_json::Value;

use super::{
    mailbox::{Subject, Tweaks},
    payload::Letter,
};
use crate::{
    protocol::event::Event,
    rooms::{Rooms, StoredEvent},
    storage::StorageError,
};

/// Names for one event.
#[derive(Debug, Default)]
pub struct Letterhead {
    pub sender_name: Option<String>,
    pub room_name: Option<String>,
    pub room_alias: Option<String>,
}

impl Letterhead {
    /// Reads the names of the moment. Of a room that this server is not in, those that came with the
    /// invitation.
    pub async fn load(rooms: &Rooms, subject: &Subject) -> Result<Self, StorageError> {
        let (room, event) = (&subject.room, &subject.event);
        if let Some(stripped) = rooms.find_stripped_state(event).await? {
            return Ok(Self::of_stripped(&stripped, event));
        }
        let head = room.head();
        let text = |kind: &str, key: &str| find_text(head.find_pinned(kind)?, key);
        let sender = rooms.find_member(room, event.event.sender()).await?;
        Ok(Self {
            sender_name: sender.and_then(|sender| find_text(&sender, "displayname")),
            room_name: text("m.room.name", "name"),
            room_alias: text("m.room.canonical_alias", "alias"),
        })
    }

    fn of_stripped(stripped: &[String], event: &StoredEvent) -> Self {
        let read = |text: &String| serde_json::from_str::<Value>(text).ok();
        let stripped: Vec<Value> = stripped.iter().filter_map(read).collect();
        let text = |kind: &str, state_key: &str, name: &str| {
            let is_it = |entry: &&Value| entry["type"] == kind && entry["state_key"] == state_key;
            let content = &stripped.iter().find(is_it)?["content"];
            content[name].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
        };
        Self {
            sender_name: text("m.room.member", event.event.sender().as_str(), "displayname"),
            room_name: text("m.room.name", "", "name"),
            room_alias: text("m.room.canonical_alias", "", "alias"),
        }
    }

    /// The event with these names, for one user.
    pub fn letter<'a>(&self, event: &'a Event, user: &UserId, tweaks: &'a Tweaks) -> Letter<'a> {
        Letter {
            event,
            sender_name: self.sender_name.clone(),
            room_name: self.room_name.clone(),
            room_alias: self.room_alias.clone(),
            user_is_target: event.kind() == "m.room.member"
                && event.state_key() == Some(user.as_str()),
            tweaks,
        }
    }
}

fn find_text(event: &StoredEvent, key: &str) -> Option<String> {
    let content: Value = event.event.content_as().ok()?;
    content[key].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned)
}
