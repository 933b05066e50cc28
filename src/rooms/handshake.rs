//! The resident's side of joins, leaves, knocks and invitations by other servers' users: templates
//! of events, and taking the signed ones (server-server API, "Joining Rooms", "Leaving Rooms",
//! "Knocking upon a room", "Inviting to a room").

use std::sync::Arc;

use ruma::{OwnedEventId, ServerName};
use serde_json::{Map, Value};

use super::{
    append::{ATTEMPTS_MAX, AppendError, EventRequest},
    attempt::{Attempt, AttemptError},
    placement::Judged,
    receive::{Advice, ReceiveError, Verdict},
    registry::Rooms,
    room::{Head, Room},
    state::State,
};
use crate::protocol::{event::Event, event_builder::EventDraft};

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
        room: &Arc<Room>,
        request: &EventRequest,
    ) -> Result<Map<String, Value>, AppendError> {
        let draft = self.draft_at_head(room, request).await?;
        Ok(draft.into_template(room.rules, self.server_name())?)
    }

    /// The event as it would be appended where the room stands, hashed and signed by this server but
    /// not appended: an invitation that the invited user's server shall sign as well. Hand the one
    /// with both signatures to [`Rooms::take_signed`].
    pub async fn make_event(
        &self,
        room: &Arc<Room>,
        request: &EventRequest,
    ) -> Result<Arc<Event>, AppendError> {
        let draft = self.draft_at_head(room, request).await?;
        let event = draft.seal(room.rules, self.server_name(), &self.own_key().current())?;
        Ok(Arc::new(event))
    }

    /// Takes a signed membership event (`send_join`, `send_leave`, `send_knock`, our own invitation
    /// after its second signature): as [`Rooms::receive`], but what would be rejected, soft-failed or
    /// kept waiting is refused and not kept. Idempotent. Verified and countersigned by the caller.
    pub async fn take_signed(
        &self,
        origin: &ServerName,
        room: &Arc<Room>,
        event: Arc<Event>,
    ) -> Result<Taken, ReceiveError> {
        tracing::debug!(room.id = %room.room_id, event.id = %event.event_id(), %origin, "signed");
        if event.room_id() != room.room_id
            || !self.find_foreign(room, [event.event_id()].into_iter()).await?.is_empty()
        {
            return Err(ReceiveError::OtherRoom);
        }
        if !self.is_server_in_room(room, self.server_name()).await? {
            return Err(ReceiveError::NotInRoom);
        }
        let event = self.recommend(room, event).await?;
        let alone = room.receiving.lock().await;
        let state_before = match self.judge(room, &event, Advice::default()).await? {
            Judged::Known(stored) if stored.is_hidden() => {
                return Err(ReceiveError::NotTaken(Verdict::Known));
            }
            Judged::Known(stored) => State::clone(&*self.load_state(stored.state_nid).await?),
            Judged::Lacking(lacking) => {
                return Err(ReceiveError::NotTaken(Verdict::Waiting(lacking.all())));
            }
            Judged::Rejected(_, rejection) => return Err(ReceiveError::Forbidden(rejection)),
            Judged::Allowed(placed) => {
                self.place_live(room, &placed).await?;
                self.free_waiting(room, &event).await?;
                placed.before
            }
        };
        drop(alone);
        self.join_extremities(room).await;
        Ok(Taken { event, state_before })
    }

    /// The IDs of the room's forward extremities.
    pub fn forward_extremities(&self, room: &Room) -> Vec<OwnedEventId> {
        room.head().extremities.iter().map(|event| event.event.event_id().to_owned()).collect()
    }

    async fn draft_at_head(
        &self,
        room: &Arc<Room>,
        request: &EventRequest,
    ) -> Result<EventDraft, AppendError> {
        let mut known = self.prepare(None, std::slice::from_ref(request), room.rules).await?;
        let head = room.head();
        for _ in 0..ATTEMPTS_MAX {
            let attempt = Attempt::new(&self.0, room, Head::clone(&head), &known);
            match attempt.draft_allowed(request) {
                Ok((draft, ..)) => return Ok(draft),
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Missing(missing)) => {
                    self.fetch(room, missing, &mut known).await?;
                }
            }
        }
        Err(AppendError::Contended)
    }
}
