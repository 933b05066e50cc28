//! Events being built upon a head, or placed there, under the room's lock: everything they need is
//! looked up beforehand, and what is missing is asked for by name. Not for waiting or reading.

mod redaction;

use std::{collections::HashMap, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    acceptance::Acceptance,
    append::{AppendError, EventRequest},
    commit::write_event,
    event_store::{NewStoredEvent, StoredEvent},
    fork::Forked,
    keep::DUMMY,
    registry::Engine,
    room::{Head, PINNED_KINDS, Room},
    state::{Difference, State, StateMap},
    state_keys::StateKey,
    summary,
    transactions::{DeviceTransactions, SentBy},
};
use crate::{
    protocol::{
        authorisation::{auth_event_keys, authorise},
        canonical_json::INTEGER_MAX,
        event::Event,
        event_builder::{EventDraft, OpaqueNames},
        event_format::PREV_EVENTS_MAX,
        event_hash::reference_hash,
        membership::{MemberContent, Membership},
        room_version::{EventIdFormat, RoomRules},
        state_key::StateLookup,
    },
    storage::{
        self, EventNid, RoomNid, StateNid, WriteTx,
        events::{Place, flags},
    },
};

/// Random letters of an event ID in rooms of version 1 and 2.
const OPAQUE_ID_LENGTH: usize = 18;

/// What the appends of one attempt know: read before the lock, looked up under it.
#[derive(Default)]
pub(super) struct Known {
    pub keys: HashMap<(String, String), Arc<StateKey>>,
    pub events: HashMap<EventNid, Arc<StoredEvent>>,
    pub targets: HashMap<OwnedEventId, Arc<StoredEvent>>,
    /// Events that the new ones relate to.
    pub related: Vec<EventNid>,
    pub transactions: Option<Arc<DeviceTransactions>>,
    pub acceptance: Option<Box<dyn Acceptance>>,
    /// What states resolve to, by their snapshots in rising order.
    pub resolved: HashMap<Vec<StateNid>, StateMap>,
    /// The event that is being placed, which states behind it hold and the store does not.
    pub placing: Option<Arc<StoredEvent>>,
}

/// Something an attempt needs that only the database has, or that takes long to compute.
pub(super) enum Missing {
    Key(String, String),
    Event(EventNid),
    Resolution(Vec<State>),
}

pub(super) enum AttemptError {
    Missing(Missing),
    Failed(AppendError),
}

impl<E: Into<AppendError>> From<E> for AttemptError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Events being built upon a head.
pub(super) struct Attempt<'a> {
    pub engine: &'a Arc<Engine>,
    pub rules: &'static RoomRules,
    pub room_nid: RoomNid,
    pub room_id: Option<OwnedRoomId>,
    pub head: Head,
    pub known: &'a Known,
    pub tx: WriteTx,
    pub events: Vec<Arc<StoredEvent>>,
    pub positions: Vec<u32>,
    /// Users, what they are now, by which membership event, changed by which of the events.
    pub memberships: Vec<(OwnedUserId, Membership, Arc<StoredEvent>, usize)>,
    pub joined: Vec<(OwnedUserId, usize)>,
    pub redacted: Vec<(Arc<StoredEvent>, usize)>,
    pub summary_changed: bool,
    /// Whether the head was not simply followed.
    pub forked: Option<Forked>,
    /// At which position the room's state became whole.
    pub completed: Option<u32>,
}

/// The state as authorisation asks for it: looked up beforehand.
pub(super) struct FoundState(pub Vec<((String, String), Arc<StoredEvent>)>);

impl StateLookup for FoundState {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        let found = self.0.iter().find(|((k, s), _)| k == kind && s == state_key);
        found.map(|(_, event)| Arc::clone(&event.event))
    }
}

/// An event on its way to its place behind the head.
pub(super) struct Admission<'a> {
    pub nid: EventNid,
    pub event: Arc<Event>,
    /// The state before it.
    pub state_nid: StateNid,
    pub replaces_nid: Option<EventNid>,
    pub flags: i64,
    /// Whether it has a row already.
    pub is_stored: bool,
    /// Why it was redacted before it was here.
    pub redacted_by: Option<Arc<StoredEvent>>,
    pub auth_events: &'a [EventNid],
    pub redacts: Option<&'a OwnedEventId>,
    pub sent_by: Option<&'a SentBy>,
}

impl<'a> Attempt<'a> {
    pub fn new(engine: &'a Arc<Engine>, room: &Room, head: Head, known: &'a Known) -> Self {
        let (nid, room_id) = (room.nid, Some(room.room_id.clone()));
        Self::start(engine, room.rules, (nid, room_id), head, known)
    }

    pub fn new_room(
        engine: &'a Arc<Engine>,
        rules: &'static RoomRules,
        room_id: Option<OwnedRoomId>,
        known: &'a Known,
    ) -> Self {
        let room = (engine.next_room_nid(), room_id);
        Self::start(engine, rules, room, Head::empty(), known)
    }

    fn start(
        engine: &'a Arc<Engine>,
        rules: &'static RoomRules,
        (room_nid, room_id): (RoomNid, Option<OwnedRoomId>),
        head: Head,
        known: &'a Known,
    ) -> Self {
        Self {
            engine,
            rules,
            room_nid,
            room_id,
            head,
            known,
            tx: WriteTx::new(),
            events: Vec::new(),
            positions: Vec::new(),
            memberships: Vec::new(),
            joined: Vec::new(),
            redacted: Vec::new(),
            summary_changed: false,
            forked: None,
            completed: None,
        }
    }

    pub fn add_all(&mut self, requests: &[EventRequest]) -> Result<(), AttemptError> {
        requests.iter().try_for_each(|request| self.add(request, None))
    }

    /// Builds an event, or takes one that was made of the request before.
    pub fn add(
        &mut self,
        request: &EventRequest,
        made: Option<&Arc<Event>>,
    ) -> Result<(), AttemptError> {
        let (draft, state, auth_events) = self.draft_allowed(request)?;
        let engine = self.engine;
        let event = match made {
            Some(event) if !event.prev_events().eq(draft.prev_events.iter().map(|id| &**id)) => {
                return Err(AppendError::Overtaken.into());
            }
            Some(event) => Arc::clone(event),
            None => {
                let key = engine.signing_key.current();
                Arc::new(draft.seal(self.rules, &engine.server_name, &key)?)
            }
        };
        if self.room_id.is_none() {
            self.room_id = Some(event.room_id().to_owned());
        }
        let nid = self.engine.next_event_nid();
        self.begin_transaction(request, nid)?;
        if let Some(target) = &request.redacts {
            self.check_redaction(target, (&event, request.by_administrator), &state)?;
        }
        let auth_events: Vec<_> = auth_events.iter().map(|event| event.nid).collect();
        let sent = (&*auth_events, request.redacts.as_ref(), request.sent_by.as_ref());
        let stored = self.admit_next(event, nid, sent)?;
        self.follow(&stored);
        Ok(())
    }

    /// Queues an event that the current state allows, and moves the state on; the extremities are left
    /// to the caller. With its authorisation events, what it redacts, and who sent it.
    pub fn admit_next(
        &mut self,
        event: Arc<Event>,
        nid: EventNid,
        (auth_events, redacts, sent_by): (&[EventNid], Option<&OwnedEventId>, Option<&SentBy>),
    ) -> Result<Arc<StoredEvent>, AttemptError> {
        let key = match event.state_key() {
            Some(state_key) => Some(self.find_key(event.kind(), state_key)?),
            None => None,
        };
        let replaces_nid = key.as_ref().and_then(|key| self.head.state.get(key.nid));
        let admission = Admission {
            nid,
            state_nid: self.head.state.nid(),
            replaces_nid,
            flags: 0,
            is_stored: false,
            redacted_by: None,
            auth_events,
            redacts,
            sent_by,
            event,
        };
        let (stored, position) = self.admit(admission)?;
        if let Some(key) = key {
            let difference = Difference { key: key.nid, old: replaces_nid, new: Some(nid) };
            let state_nid = self.engine.next_state_nid();
            self.head.state = self.head.state.with((key.nid, nid), state_nid, &mut self.tx)?;
            self.apply_difference(difference, self.events.len() - 1, position)?;
        }
        Ok(stored)
    }

    /// A local event names all forward extremities, as far as an event may, and becomes the only one.
    fn follow(&mut self, stored: &Arc<StoredEvent>) {
        let kept = self.head.extremities.len().saturating_sub(PREV_EVENTS_MAX);
        self.head.extremities.truncate(kept);
        self.head.extremities.push(Arc::clone(stored));
        self.head.depth = stored.event.depth();
        if kept == 0 {
            self.head.forks.clear();
        } else {
            self.head.forks.truncate(kept);
            self.head.forks.push(self.head.state.clone());
        }
    }

    /// The event as it would follow the head, if the rules allow it, the state that judged it, and
    /// what it names for its authorisation.
    pub fn draft_allowed(
        &self,
        request: &EventRequest,
    ) -> Result<(EventDraft, FoundState, Vec<Arc<StoredEvent>>), AttemptError> {
        let keys = auth_event_keys(
            self.rules,
            &request.kind,
            &request.sender,
            request.state_key.as_deref(),
            || MemberContent::deserialize(&request.content).ok(),
        );
        let (state, auth_events) = self.find_auth_state(keys)?;
        let draft = self.draft(request, &auth_events);
        authorise(&draft, self.rules, &state)?;
        Ok((draft, state, auth_events))
    }

    /// The current state as far as these keys go and with the create event, and the events of the keys.
    pub fn find_auth_state(
        &self,
        keys: Vec<(String, String)>,
    ) -> Result<(FoundState, Vec<Arc<StoredEvent>>), AttemptError> {
        let mut found = Vec::with_capacity(keys.len() + 1);
        for (kind, state_key) in keys {
            if let Some(event) = self.find_state(&kind, &state_key)? {
                found.push(((kind, state_key), event));
            }
        }
        let auth_events: Vec<_> = found.iter().map(|(_, event)| Arc::clone(event)).collect();
        // From version 12 on, the create event is not named but still judges.
        let create = ("m.room.create".to_owned(), String::new());
        if !found.iter().any(|(key, _)| *key == create)
            && let Some(event) = self.find_state("m.room.create", "")?
        {
            found.push((create, event));
        }
        Ok((FoundState(found), auth_events))
    }

    fn draft(&self, request: &EventRequest, auth_events: &[Arc<StoredEvent>]) -> EventDraft {
        let now_ms = match request.timestamp_ms {
            Some(timestamp_ms) => timestamp_ms,
            None if request.kind == "m.room.create" => self.engine.next_create_ms(),
            None => self.engine.clock.now_ms(),
        };
        let prev_events = self.prev_events();
        EventDraft {
            room_id: self.room_id.clone(),
            sender: request.sender.clone(),
            kind: request.kind.clone(),
            state_key: request.state_key.clone(),
            content: request.content.clone(),
            prev_events: prev_events.iter().map(|e| e.event.event_id().to_owned()).collect(),
            auth_events: auth_events.iter().map(|e| e.event.event_id().to_owned()).collect(),
            // Peers choose depths; none may keep us from speaking.
            depth: (self.head.depth + 1).min(INTEGER_MAX),
            origin_server_ts: now_ms.cast_signed(),
            redacts: request.redacts.clone(),
            sticky_ms: request.sticky_ms,
            opaque_names: self.opaque_names(prev_events, auth_events),
        }
    }

    /// The latest forward extremities, as many as an event may name.
    fn prev_events(&self) -> &[Arc<StoredEvent>] {
        let extremities = &self.head.extremities;
        &extremities[extremities.len().saturating_sub(PREV_EVENTS_MAX)..]
    }

    fn opaque_names(
        &self,
        prev_events: &[Arc<StoredEvent>],
        auth_events: &[Arc<StoredEvent>],
    ) -> Option<OpaqueNames> {
        if self.rules.event_id_format != EventIdFormat::Opaque {
            return None;
        }
        let hash = |event: &Arc<StoredEvent>| {
            let hash = reference_hash(self.rules, &event.event.to_object());
            (event.event.event_id().to_owned(), BASE64_STANDARD_NO_PAD.encode(hash))
        };
        Some(OpaqueNames {
            opaque_id: self.engine.clock.random_text(OPAQUE_ID_LENGTH),
            reference_hashes: prev_events.iter().chain(auth_events).map(hash).collect(),
        })
    }

    /// The number of a state key, looked up before or now.
    pub fn find_key(&self, kind: &str, state_key: &str) -> Result<Arc<StateKey>, AttemptError> {
        if let Some(key) = self.engine.keys.find_cached(kind, state_key) {
            return Ok(key);
        }
        let pair = (kind.to_owned(), state_key.to_owned());
        match self.known.keys.get(&pair) {
            Some(key) => Ok(Arc::clone(key)),
            None => Err(AttemptError::Missing(Missing::Key(pair.0, pair.1))),
        }
    }

    pub fn find_state(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, AttemptError> {
        if state_key.is_empty() && PINNED_KINDS.contains(&kind) {
            return Ok(self.head.find_pinned(kind).cloned());
        }
        let key = self.find_key(kind, state_key)?;
        match self.head.state.get(key.nid) {
            Some(nid) => self.find_event(nid).map(Some),
            None => Ok(None),
        }
    }

    pub fn find_event(&self, nid: EventNid) -> Result<Arc<StoredEvent>, AttemptError> {
        let own = || self.events.iter().rev().find(|event| event.nid == nid).cloned();
        let cached = || self.engine.events.find_cached(nid);
        let event = own().or_else(cached).or_else(|| self.known.events.get(&nid).cloned());
        event.ok_or(AttemptError::Missing(Missing::Event(nid)))
    }

    /// Queues the rows of an event next in the stream, with what follows from it alone.
    pub fn admit(
        &mut self,
        admission: Admission<'_>,
    ) -> Result<(Arc<StoredEvent>, u32), AttemptError> {
        let position = self.tx.next_position();
        let event = admission.event;
        let notifies = admission.redacted_by.is_none() && summary::notifies_by_default(&event);
        self.head.notify_ordinal += i64::from(notifies);
        let state_key = match event.state_key() {
            Some(state_key) => {
                let key = self.find_key(event.kind(), state_key)?;
                key.store(&mut self.tx);
                let parents = admission.auth_events.iter().copied();
                self.engine.auth_edges.insert(&mut self.tx, parents, (admission.nid, key.nid));
                Some(key)
            }
            None => None,
        };
        let redacted = if admission.redacted_by.is_some() { flags::REDACTED } else { 0 };
        // It joins extremities and says nothing to anybody.
        let dummy = if event.kind() == DUMMY { flags::SOFT_FAILED } else { 0 };
        let stored = Arc::new(StoredEvent::new(NewStoredEvent {
            nid: admission.nid,
            room_nid: self.room_nid,
            state_nid: admission.state_nid,
            state_key_nid: state_key.as_ref().map(|key| key.nid),
            replaces_nid: admission.replaces_nid,
            flags: admission.flags | redacted | dummy | if notifies { flags::NOTIFIES } else { 0 },
            notify_ordinal: self.head.notify_ordinal,
            sent_by: admission.sent_by.map(SentBy::to_bytes),
            redacted_by: admission.redacted_by,
            event,
        }));
        write_event(&mut self.tx, &stored, Place::Live(position), admission.is_stored);
        self.engine.stick(&mut self.tx, (self.room_nid, stored.nid), &stored.event, Some(position));
        if self.head.partial.is_some() {
            storage::partial_rooms::insert_event(&mut self.tx, self.room_nid, stored.nid, position);
        }
        if let Some(target) = admission.redacts {
            self.redact(target, &stored);
        }
        summary::insert_relation(&mut self.tx, &stored);
        self.events.push(Arc::clone(&stored));
        self.positions.push(position);
        Ok((stored, position))
    }

    fn begin_transaction(
        &mut self,
        request: &EventRequest,
        nid: EventNid,
    ) -> Result<(), AttemptError> {
        let (Some(sent_by), Some(device)) = (&request.sent_by, &self.known.transactions) else {
            return Ok(());
        };
        let hash = sent_by.hash();
        let (done, pending) = watch::channel(None);
        if !device.begin(hash, nid, pending) {
            return Err(AppendError::Repeated.into());
        }
        storage::events::insert_transaction(&mut self.tx, hash, nid);
        let (committed, failed) = (Arc::clone(device), Arc::clone(device));
        let done = Arc::new(done);
        let done_failed = Arc::clone(&done);
        self.tx.after_publish(move |_| {
            committed.finish(hash);
            done.send_replace(Some(true));
        });
        self.tx.after_failure(move || {
            failed.abandon(hash);
            done_failed.send_replace(Some(false));
        });
        Ok(())
    }
}
