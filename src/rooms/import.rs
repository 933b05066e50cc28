//! Rooms that this server enters through another one (server-server API, "Joining Rooms"), and what
//! reaches it of rooms that it is not in: invitations and knocks.

use std::sync::Arc;

use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use serde_json::Value;

use super::{event_store::StoredEvent, receive::ReceiveError, registry::Rooms, room::Room};
use crate::protocol::{event::Event, room_version::RoomVersion};

/// The answer of `send_join`, verified: signatures and hashes of all events.
pub struct JoinedRoom {
    pub room_id: OwnedRoomId,
    pub version: RoomVersion,
    /// The resident server.
    pub origin: OwnedServerName,
    /// The join event of this server's user, with all its signatures.
    pub join: Arc<Event>,
    /// The state before the join, in any order.
    pub state: Vec<Arc<Event>>,
    /// The authorisation chains of the state and of the join, in any order.
    pub auth_chain: Vec<Arc<Event>>,
}

/// A membership event that came without the room: an invitation, a knock of our user, their
/// retraction, or the rejection of an invitation.
pub struct OutlierMember {
    pub room_id: OwnedRoomId,
    pub version: RoomVersion,
    /// Verified, and with all its signatures.
    pub event: Arc<Event>,
    /// `invite_room_state` or `knock_room_state`, checked ([`check_stripped_state`]) or reduced to
    /// stripped state by the caller.
    pub stripped_state: Vec<Value>,
}

/// Why the state that came with an invitation or knock is not good (MSC4311).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrippedStateError {
    #[error("there is no m.room.create event in it")]
    CreateMissing,
    #[error("an event of it is not in the format of the room version: {0}")]
    Malformed(String),
    #[error("an event of it is of another room")]
    OtherRoom,
}

impl Rooms {
    /// Enters a room through another server, also one that this server knew and left. Every event
    /// of the answer is judged by its own authorisation events, the join by the state. Returns when
    /// all is durable and the join is published to syncs.
    pub async fn import_joined_room(&self, _joined: JoinedRoom) -> Result<Arc<Room>, ReceiveError> {
        Err(ReceiveError::NotInRoom)
    }

    /// Keeps a membership of a user of this server in a room that the server is not in, and tells
    /// the user's syncs. The room becomes known (`find`) but has no state.
    pub async fn store_outlier_member(
        &self,
        _member: OutlierMember,
    ) -> Result<Arc<StoredEvent>, ReceiveError> {
        Err(ReceiveError::NotInRoom)
    }
}

/// Checks the state that came with an invitation or knock (server-server API, `invite` and
/// `send_knock`; MSC4311): every entry a full event of the room, one of them `m.room.create`, whose
/// hash from version 12 on is the room's ID. Hands over the events, whose signatures the caller
/// verifies.
pub fn check_stripped_state(
    _entries: &[Value],
    _room_id: &RoomId,
    _version: RoomVersion,
) -> Result<Vec<Arc<Event>>, StrippedStateError> {
    Err(StrippedStateError::CreateMissing)
}
