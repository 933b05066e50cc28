//! The filter of a whole sync (client-server API, "Filtering", schema `Filter`).

use ruma::{OwnedRoomId, RoomId};
use serde::{Deserialize, Serialize};

use crate::rooms::{EventFilter, RoomEventFilter, takes_room};

/// `Filter`. What is absent passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyncFilter {
    pub account_data: EventFilter,
    pub presence: EventFilter,
    pub room: RoomFilter,
    /// Accepted; more fields than these may be sent, so all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_fields: Option<Vec<String>>,
    pub event_format: EventFormat,
}

/// `RoomFilter`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    pub not_rooms: Vec<OwnedRoomId>,
    pub rooms: Option<Vec<OwnedRoomId>>,
    pub include_leave: bool,
    pub account_data: RoomEventFilter,
    pub ephemeral: RoomEventFilter,
    pub state: RoomEventFilter,
    pub timeline: RoomEventFilter,
}

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    #[default]
    Client,
    Federation,
}

impl RoomFilter {
    /// Whether anything of this room passes.
    pub fn takes_room(&self, room: &RoomId) -> bool {
        takes_room(&self.rooms, &self.not_rooms, room)
    }
}
