//! Rooms with a policy server (server-server API, "Policy Servers"): its signature is asked for before an
//! event of ours is sent or somebody is let in, so that what it refuses is never part of the room. Not for
//! events that other servers send, which fail softly without it (`gap`).

use std::sync::Arc;

use super::{
    append::{AppendError, EventRequest, ExtraRows},
    attempt::{Attempt, AttemptError, Known},
    event_store::StoredEvent,
    registry::Rooms,
    room::{Head, Room},
    source::{PolicyRefusal, Question},
};
use crate::{
    protocol::{event::Event, policy_server::PolicyServer},
    storage::StorageError,
};

/// How often a signature is asked for because the room has moved on meanwhile.
pub(super) const ROUNDS_MAX: usize = 5;
/// How often what an attempt lacks is fetched.
const FETCHES_MAX: usize = 16;

impl Rooms {
    /// The policy server that the room uses: named by its current state, with a joined user.
    pub(super) async fn find_policy_server(
        &self,
        room: &Arc<Room>,
    ) -> Result<Option<PolicyServer>, StorageError> {
        let head = room.head();
        let policy = head.find_pinned("m.room.policy");
        let Some(policy) = policy.and_then(|policy| PolicyServer::of_state(&policy.event)) else {
            return Ok(None);
        };
        let takes_part = self.is_server_in_room(room, &policy.via).await?;
        Ok(takes_part.then_some(policy))
    }

    /// As [`Rooms::append`], with the signatures of a policy server. The events are made as they would
    /// follow the head and signed by it; when another event was faster, they are made anew.
    pub(super) async fn append_recommended(
        &self,
        room: &Arc<Room>,
        requests: &[EventRequest],
        (mut known, policy): (Known, PolicyServer),
        extra: Option<ExtraRows<'_>>,
    ) -> Result<Vec<Arc<StoredEvent>>, AppendError> {
        // So that events of this server do not overtake each other.
        let _alone = room.asking.lock().await;
        for _ in 0..ROUNDS_MAX {
            let signed = self.make_signed(room, requests, &mut known, &policy).await?;
            let placed = self
                .attempt(room, &mut known, extra, |attempt| attempt.add_made(requests, &signed))
                .await;
            match placed {
                Err(AppendError::Overtaken) => {}
                placed => return placed,
            }
        }
        Err(AppendError::Contended)
    }

    /// The events as they would follow the head now, signed by the policy server and appended to nothing.
    pub(super) async fn make_signed(
        &self,
        room: &Arc<Room>,
        requests: &[EventRequest],
        known: &mut Known,
        policy: &PolicyServer,
    ) -> Result<Vec<Arc<Event>>, AppendError> {
        let mut signed = Vec::with_capacity(requests.len());
        for event in self.draft_all(room, requests, known).await? {
            signed.push(self.ask_for_signature(room, policy, event).await?);
        }
        Ok(signed)
    }

    /// The events as they would follow the head now, appended to nothing.
    async fn draft_all(
        &self,
        room: &Arc<Room>,
        requests: &[EventRequest],
        known: &mut Known,
    ) -> Result<Vec<Arc<Event>>, AppendError> {
        // Whose transactions they are matters when they are appended.
        let unsent = |request: &EventRequest| EventRequest { sent_by: None, ..request.clone() };
        let requests: Vec<EventRequest> = requests.iter().map(unsent).collect();
        for _ in 0..FETCHES_MAX {
            let made = {
                let head = Head::clone(&room.speculative.lock());
                let mut attempt = Attempt::new(&self.0, room, head, known);
                let made = attempt.add_all(&requests);
                made.map(|()| attempt.events.iter().map(|new| Arc::clone(&new.event)).collect())
            };
            match made {
                Ok(events) => return Ok(events),
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Missing(missing)) => self.fetch(room, missing, known).await?,
            }
        }
        Err(AppendError::Contended)
    }

    /// The signed membership of somebody who comes or goes through this server, with the signature of the
    /// room's policy server, if it has one.
    pub(super) async fn recommend(
        &self,
        room: &Arc<Room>,
        event: Arc<Event>,
    ) -> Result<Arc<Event>, AppendError> {
        match self.find_policy_server(room).await? {
            Some(policy) => self.ask_for_signature(room, &policy, event).await,
            None => Ok(event),
        }
    }

    async fn ask_for_signature(
        &self,
        room: &Arc<Room>,
        policy: &PolicyServer,
        event: Arc<Event>,
    ) -> Result<Arc<Event>, AppendError> {
        if policy.check(&event, room.rules).is_ok() {
            return Ok(event);
        }
        let Some(source) = self.0.source.get() else {
            let reason = "other servers are not talked with".to_owned();
            return Err(PolicyRefusal::NoAnswer(reason).into());
        };
        let question = Question {
            room_id: &room.room_id,
            rules: room.rules,
            origin: self.server_name(),
            others: &[],
        };
        Ok(source.ask_policy_server(question, policy, &event).await?)
    }
}

impl Attempt<'_> {
    /// As `add_all`, with events that were made of the requests before.
    pub(super) fn add_made(
        &mut self,
        requests: &[EventRequest],
        made: &[Arc<Event>],
    ) -> Result<(), AttemptError> {
        let mut pairs = requests.iter().zip(made);
        pairs.try_for_each(|(request, event)| self.add(request, Some(event)))
    }
}
