//! What can be judged: an event, or a draft of one before it is signed.

use ruma::{EventId, OwnedEventId, RoomId, ServerName, UserId};
use serde::de::DeserializeOwned;

use crate::protocol::{event::Event, event_builder::EventDraft, room_version::RoomRules};

/// The parts of an event that the authorisation rules look at.
pub trait Candidate {
    fn kind(&self) -> &str;

    fn sender(&self) -> &UserId;

    fn state_key(&self) -> Option<&str>;

    /// `None` where the event implies its room: the create event of version 12.
    fn room_id(&self) -> Option<&RoomId>;

    /// Reads the content, or `None` if it is not of the shape of `T`.
    fn read_content<T: DeserializeOwned>(&self) -> Option<T>;

    fn has_prev_events(&self) -> bool;

    /// Whether `id` is the only previous event.
    fn follows_only(&self, id: &EventId) -> bool;

    /// The event that a redaction names.
    fn redacts(&self, rules: &RoomRules) -> Option<OwnedEventId>;

    /// The server in the event's ID (versions 1 and 2).
    fn event_id_server(&self) -> Option<&ServerName>;
}

impl Candidate for Event {
    fn kind(&self) -> &str {
        self.kind()
    }

    fn sender(&self) -> &UserId {
        self.sender()
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key()
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.states_room_id().then(|| self.room_id())
    }

    fn read_content<T: DeserializeOwned>(&self) -> Option<T> {
        self.content_as().ok()
    }

    fn has_prev_events(&self) -> bool {
        self.prev_events().len() > 0
    }

    fn follows_only(&self, id: &EventId) -> bool {
        self.prev_events().eq([id])
    }

    fn redacts(&self, rules: &RoomRules) -> Option<OwnedEventId> {
        self.redacts(rules)
    }

    fn event_id_server(&self) -> Option<&ServerName> {
        self.event_id().server_name()
    }
}

impl Candidate for EventDraft {
    fn kind(&self) -> &str {
        &self.kind
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }

    fn read_content<T: DeserializeOwned>(&self) -> Option<T> {
        serde::Deserialize::deserialize(&self.content).ok()
    }

    fn has_prev_events(&self) -> bool {
        !self.prev_events.is_empty()
    }

    fn follows_only(&self, id: &EventId) -> bool {
        self.prev_events.iter().eq([id])
    }

    fn redacts(&self, _rules: &RoomRules) -> Option<OwnedEventId> {
        self.redacts.clone()
    }

    /// A draft is sealed by the server of its sender.
    fn event_id_server(&self) -> Option<&ServerName> {
        Some(self.sender.server_name())
    }
}
