//! The only way into a room's timeline: events are built upon the speculative head, authorised,
//! hashed, signed and queued under the room's lock, and applied to memory when they are durable.

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::Value;

use super::{
    attempt::{Attempt, AttemptError, Known, Missing},
    event_store::StoredEvent,
    registry::Rooms,
    room::{Head, Room},
    source::PolicyRefusal,
    summary,
    transactions::SentBy,
};
use crate::{
    protocol::{
        authorisation::{AuthRejection, auth_event_keys},
        event_builder::SealError,
        membership::MemberContent,
        room_version::RoomRules,
    },
    storage::{RoomNid, StorageError, WriteTx},
};

/// How often an append fetches what changed under its hands before it gives up.
pub(super) const ATTEMPTS_MAX: usize = 16;

/// An event as its sender wants it.
#[derive(Clone, Debug)]
pub struct EventRequest {
    pub sender: OwnedUserId,
    /// The event type.
    pub kind: String,
    pub state_key: Option<String>,
    /// A JSON object.
    pub content: Value,
    /// For `m.room.redaction`.
    pub redacts: Option<OwnedEventId>,
    /// Whether an administrator of this server asks, who may redact what its users have sent without
    /// the power for it (client-server API, "Redactions").
    pub by_administrator: bool,
    /// Milliseconds since the epoch, where an application service sets it.
    pub timestamp_ms: Option<u64>,
    /// The client's transaction, which makes the request idempotent.
    pub sent_by: Option<SentBy>,
    /// For how long every client is to get the event (MSC4354), milliseconds.
    pub sticky_ms: Option<u32>,
}

impl EventRequest {
    /// A state event.
    pub fn state(
        sender: impl Into<OwnedUserId>,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> Self {
        Self {
            sender: sender.into(),
            kind: kind.to_owned(),
            state_key: Some(state_key.to_owned()),
            content,
            redacts: None,
            by_administrator: false,
            timestamp_ms: None,
            sent_by: None,
            sticky_ms: None,
        }
    }

    /// A message event (no state).
    pub fn message(sender: impl Into<OwnedUserId>, kind: &str, content: Value) -> Self {
        Self { state_key: None, ..Self::state(sender, kind, "", content) }
    }
}

/// Why events were not appended. Nothing of them is stored.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Rejected(#[from] AuthRejection),
    #[error(transparent)]
    Unsealable(#[from] SealError),
    #[error("the event to redact is not in this room")]
    RedactionTargetUnknown,
    #[error("you may redact your own events only, unless your power level suffices")]
    RedactionForbidden,
    #[error("the room changed too often meanwhile; try again")]
    Contended,
    /// The same transaction is on its way already.
    #[error("the same transaction is being sent already")]
    Repeated,
    /// An event was made before, and the room has moved on meanwhile.
    #[error("the room has moved on meanwhile; try again")]
    Overtaken,
    /// "The event the client was attempting to send SHOULD be discarded".
    #[error(transparent)]
    NotRecommended(#[from] PolicyRefusal),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Additional rows for the same commit.
pub type ExtraRows<'a> = &'a (dyn Fn(&mut WriteTx, RoomNid) + Send + Sync);

impl Rooms {
    /// Appends the events one after another as one commit; returns when they are durable.
    pub async fn append(
        &self,
        room: &Arc<Room>,
        requests: &[EventRequest],
        extra: Option<ExtraRows<'_>>,
    ) -> Result<Vec<Arc<StoredEvent>>, AppendError> {
        let mut known = self.prepare(Some(room), requests, room.rules).await?;
        for request in requests {
            if let Some(target) = &request.redacts {
                let event = self.find_redaction_target(room, target).await?;
                known.targets.extend(event.map(|event| (target.clone(), event)));
            }
        }
        match self.find_policy_server(room).await? {
            Some(policy) => self.append_recommended(room, requests, (known, policy), extra).await,
            None => {
                self.attempt(room, &mut known, extra, |attempt| attempt.add_all(requests)).await
            }
        }
    }

    /// Has `build` add to the room's speculative head, again whenever something that it needs had to
    /// be fetched first; returns the new events when they are durable. The lock is held for `build`
    /// alone.
    pub(super) async fn attempt(
        &self,
        room: &Arc<Room>,
        known: &mut Known,
        extra: Option<ExtraRows<'_>>,
        build: impl Fn(&mut Attempt<'_>) -> Result<(), AttemptError> + Send + Sync,
    ) -> Result<Vec<Arc<StoredEvent>>, AppendError> {
        let engine = &self.0;
        for _ in 0..ATTEMPTS_MAX {
            let permit = engine.writer.reserve().await?;
            let queued = {
                let mut speculative = room.speculative.lock();
                let mut attempt = Attempt::new(engine, room, Head::clone(&speculative), known);
                match build(&mut attempt) {
                    Ok(()) => {
                        let (head, events, tx) = attempt.finish(room, extra);
                        *speculative = head;
                        Ok((permit.submit(tx), events))
                    }
                    Err(error) => Err(error),
                }
            };
            match queued {
                Ok((ticket, events)) => {
                    ticket.committed().await?;
                    return Ok(events);
                }
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Missing(missing)) => {
                    self.fetch(room, missing, known).await?;
                }
            }
        }
        Err(AppendError::Contended)
    }

    /// Appends the first events of a new room, of which the first is `m.room.create`; returns
    /// when they are durable. `room_id` is None where the create event implies it (version 12).
    pub async fn append_new_room(
        &self,
        rules: &'static RoomRules,
        room_id: Option<OwnedRoomId>,
        requests: &[EventRequest],
        extra: Option<ExtraRows<'_>>,
    ) -> Result<Arc<Room>, AppendError> {
        let engine = &self.0;
        let mut known = self.prepare(None, requests, rules).await?;
        for _ in 0..ATTEMPTS_MAX {
            let permit = engine.writer.reserve().await?;
            let mut attempt = Attempt::new_room(engine, rules, room_id.clone(), &known);
            match attempt.add_all(requests) {
                Ok(()) => {
                    let room = attempt.begin_room().ok_or(AppendError::Contended)?;
                    let tx = attempt.finish_new(&room, extra);
                    permit.submit(tx).committed().await?;
                    return Ok(room);
                }
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Missing(missing)) => {
                    self.fetch_for_new(missing, &mut known).await?;
                }
            }
        }
        Err(AppendError::Contended)
    }

    /// Looks up, without a lock, what the first attempt will need.
    pub(super) async fn prepare(
        &self,
        room: Option<&Arc<Room>>,
        requests: &[EventRequest],
        rules: &RoomRules,
    ) -> Result<Known, AppendError> {
        let mut known = Known::default();
        for request in requests {
            for (kind, state_key) in keys_of(request, rules) {
                if self.0.keys.find_cached(&kind, &state_key).is_none() {
                    self.fetch_key(kind, state_key, &mut known).await?;
                }
            }
            if let Some((_, target)) = summary::relation_of_content(&request.content)
                && let Some(nid) = self.0.events.find_nid(&target).await?
            {
                known.related.push(nid);
            }
            if let Some(sent_by) = &request.sent_by {
                let transactions = &self.0.transactions;
                let device = transactions.of_device(&self.0.database, sent_by).await?;
                known.transactions = Some(device);
            }
        }
        if let Some(hook) = self.0.acceptance.get() {
            known.acceptance = Some(hook.prepare(self, room, requests).await?);
        }
        Ok(known)
    }

    pub(super) async fn fetch(
        &self,
        room: &Arc<Room>,
        missing: Missing,
        known: &mut Known,
    ) -> Result<(), AppendError> {
        match missing {
            Missing::Key(kind, state_key) => self.fetch_key(kind, state_key, known).await,
            Missing::Resolution(states) => {
                let key = states.iter().map(|state| state.nid()).collect();
                let placing = known.placing.as_deref();
                let resolved = self.resolve_states(room, &states, placing).await?;
                known.resolved.insert(key, resolved);
                Ok(())
            }
            Missing::Event(nid) => {
                let event = self.0.events.load_one(room.facts(), nid).await?;
                known.events.insert(nid, event);
                Ok(())
            }
        }
    }

    /// As [`Rooms::fetch`], for a new room, which has no state but what an attempt itself made.
    pub(super) async fn fetch_for_new(
        &self,
        missing: Missing,
        known: &mut Known,
    ) -> Result<(), AppendError> {
        match missing {
            Missing::Key(kind, state_key) => self.fetch_key(kind, state_key, known).await,
            Missing::Event(_) | Missing::Resolution(_) => Err(AppendError::Contended),
        }
    }

    async fn fetch_key(
        &self,
        kind: String,
        state_key: String,
        known: &mut Known,
    ) -> Result<(), AppendError> {
        let key = self.0.keys.intern(&kind, &state_key).await?;
        known.keys.insert((kind, state_key), key);
        Ok(())
    }

    async fn find_redaction_target(
        &self,
        room: &Room,
        target: &OwnedEventId,
    ) -> Result<Option<Arc<StoredEvent>>, StorageError> {
        let Some(nid) = self.0.events.find_nid(target).await? else {
            return Ok(None);
        };
        self.load_of_room(room, nid).await
    }
}

/// The state keys that an event's authorisation looks at, and its own.
fn keys_of(request: &EventRequest, rules: &RoomRules) -> Vec<(String, String)> {
    let sender = &request.sender;
    let state_key = request.state_key.as_deref();
    let content = || MemberContent::deserialize(&request.content).ok();
    let mut keys = auth_event_keys(rules, &request.kind, sender, state_key, content);
    // Not always among them, but always looked at.
    keys.push(("m.room.create".to_owned(), String::new()));
    keys.extend(state_key.map(|state_key| (request.kind.clone(), state_key.to_owned())));
    keys
}
