//! The only way into a room's timeline: events are built upon the speculative head, authorised,
//! hashed, signed and queued under the room's lock, and applied to memory when they are durable.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;

use super::{
    acceptance::{Acceptance, Accepted},
    event_store::{NewStoredEvent, StoredEvent, event_key},
    registry::{Engine, Rooms},
    room::{Head, PINNED_KINDS, Room},
    state::State,
    state_keys::{MEMBER, StateKey},
    summary,
    transactions::{DeviceTransactions, SentBy},
    user_rooms::UserRoom,
};
use crate::{
    protocol::{
        authorisation::{AuthRejection, auth_event_keys, authorise},
        event::Event,
        event_builder::{EventDraft, OpaqueNames, SealError},
        event_hash::reference_hash,
        membership::{MemberContent, Membership},
        power_levels::PowerLevels,
        redaction::redact_event,
        room_version::{EventIdFormat, RoomRules},
        state_key::StateLookup,
    },
    storage::{
        self, Committed, EventNid, RoomNid, StorageError, WriteTx,
        events::{NewEvent, flags},
        rooms::RoomRow,
    },
};

/// How often an append fetches what changed under its hands before it gives up.
const ATTEMPTS_MAX: usize = 16;
/// A room is weighed again at every such depth.
const WEIGHED_EVERY: i64 = 32;
/// Random letters of an event ID in rooms of version 1 and 2.
const OPAQUE_ID_LENGTH: usize = 18;

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
    /// Milliseconds since the epoch, where an application service sets it.
    pub timestamp_ms: Option<u64>,
    /// The client's transaction, which makes the request idempotent.
    pub sent_by: Option<SentBy>,
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
            timestamp_ms: None,
            sent_by: None,
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
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Additional rows for the same commit.
pub type ExtraRows<'a> = &'a (dyn Fn(&mut WriteTx, RoomNid) + Send + Sync);

/// What the appends of one attempt know: read before the lock, looked up under it.
#[derive(Default)]
struct Known {
    keys: HashMap<(String, String), Arc<StateKey>>,
    events: HashMap<EventNid, Arc<StoredEvent>>,
    targets: HashMap<OwnedEventId, Arc<StoredEvent>>,
    /// Events that the new ones relate to.
    related: Vec<EventNid>,
    transactions: Option<Arc<DeviceTransactions>>,
    acceptance: Option<Box<dyn Acceptance>>,
}

/// Something an attempt needs that only the database has.
enum Missing {
    Key(String, String),
    Event(EventNid),
}

enum AttemptError {
    Missing(Missing),
    Failed(AppendError),
}

impl<E: Into<AppendError>> From<E> for AttemptError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Rooms {
    /// Appends the events one after another as one commit; returns when they are durable.
    pub async fn append(
        &self,
        room: &Arc<Room>,
        requests: &[EventRequest],
        extra: Option<ExtraRows<'_>>,
    ) -> Result<Vec<Arc<StoredEvent>>, AppendError> {
        let engine = &self.0;
        let mut known = self.prepare(Some(room), requests, room.rules).await?;
        for request in requests {
            if let Some(target) = &request.redacts {
                let event = self.load_redaction_target(room, target).await?;
                known.targets.insert(target.clone(), event);
            }
        }
        for _ in 0..ATTEMPTS_MAX {
            let permit = engine.writer.reserve().await?;
            let queued = {
                let mut speculative = room.speculative.lock();
                let mut attempt = Attempt::new(engine, room, Head::clone(&speculative), &known);
                match attempt.add_all(requests) {
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
                    self.fetch(room, missing, &mut known).await?;
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
                    let room_id = attempt.room_id.clone().ok_or(AppendError::Contended)?;
                    let head = Head::empty();
                    let room = Arc::new(Room::new(attempt.room_nid, room_id, rules, head, 0));
                    let (head, _, mut tx) = attempt.finish(&room, extra);
                    *room.speculative.lock() = head;
                    let (registered, shared) = (Arc::clone(&room), Arc::clone(engine));
                    tx.after_commit(move |_| shared.register(&registered));
                    permit.submit(tx).committed().await?;
                    return Ok(room);
                }
                Err(AttemptError::Failed(error)) => return Err(error),
                Err(AttemptError::Missing(Missing::Key(kind, state_key))) => {
                    self.fetch_key(kind, state_key, &mut known).await?;
                }
                // A new room has no state but what this attempt itself made.
                Err(AttemptError::Missing(Missing::Event(_))) => {
                    return Err(AppendError::Contended);
                }
            }
        }
        Err(AppendError::Contended)
    }

    /// Looks up, without a lock, what the first attempt will need.
    async fn prepare(
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

    async fn fetch(
        &self,
        room: &Room,
        missing: Missing,
        known: &mut Known,
    ) -> Result<(), AppendError> {
        match missing {
            Missing::Key(kind, state_key) => self.fetch_key(kind, state_key, known).await,
            Missing::Event(nid) => {
                let event = self.0.events.load_one(room.facts(), nid).await?;
                known.events.insert(nid, event);
                Ok(())
            }
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

    async fn load_redaction_target(
        &self,
        room: &Room,
        target: &OwnedEventId,
    ) -> Result<Arc<StoredEvent>, AppendError> {
        let nid = self.0.events.find_nid(target).await?;
        let nid = nid.ok_or(AppendError::RedactionTargetUnknown)?;
        let event = self.0.events.load_one(room.facts(), nid).await?;
        match event.room_nid == room.nid {
            true => Ok(event),
            false => Err(AppendError::RedactionTargetUnknown),
        }
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

/// Events being built upon a head.
struct Attempt<'a> {
    engine: &'a Arc<Engine>,
    rules: &'static RoomRules,
    room_nid: RoomNid,
    room_id: Option<OwnedRoomId>,
    head: Head,
    known: &'a Known,
    tx: WriteTx,
    events: Vec<Arc<StoredEvent>>,
    positions: Vec<u32>,
    memberships: Vec<(OwnedUserId, Membership, usize)>,
    joined: Vec<(OwnedUserId, usize)>,
    redacted: Vec<(Arc<StoredEvent>, usize)>,
    summary_changed: bool,
}

/// The state as authorisation asks for it: looked up beforehand.
struct FoundState(Vec<((String, String), Arc<StoredEvent>)>);

impl StateLookup for FoundState {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        let found = self.0.iter().find(|((k, s), _)| k == kind && s == state_key);
        found.map(|(_, event)| Arc::clone(&event.event))
    }
}

impl<'a> Attempt<'a> {
    fn new(engine: &'a Arc<Engine>, room: &Room, head: Head, known: &'a Known) -> Self {
        let (nid, room_id) = (room.nid, Some(room.room_id.clone()));
        Self::start(engine, room.rules, (nid, room_id), head, known)
    }

    fn new_room(
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
        }
    }

    fn add_all(&mut self, requests: &[EventRequest]) -> Result<(), AttemptError> {
        requests.iter().try_for_each(|request| self.add(request))
    }

    fn add(&mut self, request: &EventRequest) -> Result<(), AttemptError> {
        let auth_keys = auth_event_keys(
            self.rules,
            &request.kind,
            &request.sender,
            request.state_key.as_deref(),
            || MemberContent::deserialize(&request.content).ok(),
        );
        let mut found = Vec::with_capacity(auth_keys.len() + 1);
        for (kind, state_key) in auth_keys {
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
        let state = FoundState(found);
        let draft = self.draft(request, &auth_events);
        authorise(&draft, self.rules, &state)?;
        let engine = self.engine;
        let event = draft.seal(self.rules, &engine.server_name, &engine.signing_key)?;
        if self.room_id.is_none() {
            self.room_id = Some(event.room_id().to_owned());
        }
        self.admit(request, Arc::new(event), &state)
    }

    fn draft(&self, request: &EventRequest, auth_events: &[Arc<StoredEvent>]) -> EventDraft {
        let ids = |events: &[Arc<StoredEvent>]| {
            events.iter().map(|event| event.event.event_id().to_owned()).collect()
        };
        let now_ms = match request.timestamp_ms {
            Some(timestamp_ms) => timestamp_ms,
            None if request.kind == "m.room.create" => self.engine.next_create_ms(),
            None => self.engine.clock.now_ms(),
        };
        EventDraft {
            room_id: self.room_id.clone(),
            sender: request.sender.clone(),
            kind: request.kind.clone(),
            state_key: request.state_key.clone(),
            content: request.content.clone(),
            prev_events: ids(&self.head.extremities),
            auth_events: ids(auth_events),
            depth: self.head.depth + 1,
            origin_server_ts: now_ms.cast_signed(),
            redacts: request.redacts.clone(),
            opaque_names: self.opaque_names(auth_events),
        }
    }

    fn opaque_names(&self, auth_events: &[Arc<StoredEvent>]) -> Option<OpaqueNames> {
        if self.rules.event_id_format != EventIdFormat::Opaque {
            return None;
        }
        let linked = self.head.extremities.iter().chain(auth_events);
        let hash = |event: &Arc<StoredEvent>| {
            let hash = reference_hash(self.rules, &event.event.to_object());
            (event.event.event_id().to_owned(), BASE64_STANDARD_NO_PAD.encode(hash))
        };
        Some(OpaqueNames {
            opaque_id: self.engine.clock.random_text(OPAQUE_ID_LENGTH),
            reference_hashes: linked.map(hash).collect(),
        })
    }

    /// The number of a state key, looked up before or now.
    fn find_key(&self, kind: &str, state_key: &str) -> Result<Arc<StateKey>, AttemptError> {
        if let Some(key) = self.engine.keys.find_cached(kind, state_key) {
            return Ok(key);
        }
        let pair = (kind.to_owned(), state_key.to_owned());
        match self.known.keys.get(&pair) {
            Some(key) => Ok(Arc::clone(key)),
            None => Err(AttemptError::Missing(Missing::Key(pair.0, pair.1))),
        }
    }

    fn find_state(
        &self,
        kind: &str,
        state_key: &str,
    ) -> Result<Option<Arc<StoredEvent>>, AttemptError> {
        if state_key.is_empty() && PINNED_KINDS.contains(&kind) {
            return Ok(self.head.find_pinned(kind).cloned());
        }
        let key = self.find_key(kind, state_key)?;
        let Some(nid) = self.head.state.get(key.nid) else {
            return Ok(None);
        };
        let own = || self.events.iter().rev().find(|event| event.nid == nid).cloned();
        let cached = || self.engine.events.find_cached(nid);
        let event = own().or_else(cached).or_else(|| self.known.events.get(&nid).cloned());
        event.map(Some).ok_or(AttemptError::Missing(Missing::Event(nid)))
    }

    /// Queues the rows of an authorised event and moves the head.
    fn admit(
        &mut self,
        request: &EventRequest,
        event: Arc<Event>,
        state: &FoundState,
    ) -> Result<(), AttemptError> {
        let nid = self.engine.next_event_nid();
        self.begin_transaction(request, nid)?;
        let position = self.tx.next_position();
        let notifies = summary::notifies_by_default(&event);
        self.head.notify_ordinal += i64::from(notifies);
        let state_key = match event.state_key() {
            Some(state_key) => {
                let key = self.find_key(event.kind(), state_key)?;
                key.store(&mut self.tx);
                Some(key)
            }
            None => None,
        };
        let stored = Arc::new(StoredEvent::new(NewStoredEvent {
            nid,
            room_nid: self.room_nid,
            state_nid: self.head.state.nid(),
            state_key_nid: state_key.as_ref().map(|key| key.nid),
            replaces_nid: state_key.as_ref().and_then(|key| self.head.state.get(key.nid)),
            flags: if notifies { flags::NOTIFIES } else { 0 },
            notify_ordinal: self.head.notify_ordinal,
            sent_by: request.sent_by.as_ref().map(SentBy::to_bytes),
            event,
        }));
        self.insert(&stored, position);
        if let Some(target) = &request.redacts {
            self.redact(target, &stored, state)?;
        }
        summary::insert_relation(&mut self.tx, &stored);
        if let Some(key) = state_key {
            self.change_state(&key, &stored, position)?;
        }
        self.head.extremities = vec![Arc::clone(&stored)];
        self.head.depth += 1;
        self.events.push(stored);
        self.positions.push(position);
        Ok(())
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

    fn insert(&mut self, stored: &StoredEvent, position: u32) {
        storage::events::insert(
            &mut self.tx,
            &NewEvent {
                nid: stored.nid,
                room_nid: stored.room_nid,
                position,
                state_nid: stored.state_nid,
                state_key_nid: stored.state_key_nid,
                replaces_nid: stored.replaces_nid,
                flags: stored.flags,
                notify_ordinal: stored.notify_ordinal,
                origin_server_ts: stored.event.origin_server_ts(),
                event_key: &event_key(stored.event.event_id()),
                sent_by: stored.sent_by.as_deref(),
                json: stored.event.json(),
            },
        );
    }

    fn change_state(
        &mut self,
        key: &StateKey,
        stored: &Arc<StoredEvent>,
        position: u32,
    ) -> Result<(), AttemptError> {
        let kind = stored.event.kind();
        if kind == MEMBER {
            self.change_membership(key, stored, position)?;
        }
        let nid = self.engine.next_state_nid();
        self.head.state = self.head.state.with((key.nid, stored.nid), nid, &mut self.tx)?;
        if key.state_key.is_empty() && PINNED_KINDS.contains(&kind) {
            let mut pinned = Vec::clone(&self.head.pinned);
            pinned.retain(|(known, _)| *known != key.nid);
            pinned.push((key.nid, Arc::clone(stored)));
            self.head.pinned = Arc::new(pinned);
            self.summary_changed = true;
        }
        Ok(())
    }

    fn change_membership(
        &mut self,
        key: &StateKey,
        stored: &Arc<StoredEvent>,
        position: u32,
    ) -> Result<(), AttemptError> {
        let before = self.find_state(MEMBER, &key.state_key)?;
        let before = before.and_then(|event| Membership::of_event(&event.event));
        let after = Membership::of_event(&stored.event).unwrap_or(Membership::Leave);
        let counts = [
            (Membership::Join, &mut self.head.joined_count),
            (Membership::Invite, &mut self.head.invited_count),
        ];
        for (membership, count) in counts {
            *count += i64::from(after == membership) - i64::from(before == Some(membership));
        }
        let place = (key.nid, self.room_nid);
        let number = membership_number(after);
        storage::memberships::save(&mut self.tx, place, number, stored.nid, position);
        if let Ok(user) = OwnedUserId::try_from(&*key.state_key) {
            if after == Membership::Join && before != Some(Membership::Join) {
                self.joined.push((user.clone(), self.events.len()));
            }
            self.memberships.push((user, after, self.events.len()));
        }
        Ok(())
    }

    /// Replaces the redacted event's bytes in the same commit (client-server API, "Redactions").
    fn redact(
        &mut self,
        target: &OwnedEventId,
        redaction: &Arc<StoredEvent>,
        state: &FoundState,
    ) -> Result<(), AttemptError> {
        let target = self.known.targets.get(target).ok_or(AppendError::RedactionTargetUnknown)?;
        let sender = redaction.event.sender();
        if target.event.sender() != sender {
            let (create, power) =
                (state.find("m.room.create", ""), state.find("m.room.power_levels", ""));
            let levels = PowerLevels::from_events(create.as_deref(), power.as_deref(), self.rules);
            if levels.user(sender) < levels.redact() {
                return Err(AppendError::RedactionForbidden.into());
            }
        }
        if target.is_redacted() {
            return Ok(());
        }
        let event = redact_event(&target.event, self.rules);
        storage::events::redact(&mut self.tx, target.nid, event.json());
        let retention = self.engine.settings.redaction_retention_ms;
        let keeps = retention != Some(0);
        let expires =
            retention.map_or(i64::MAX.cast_unsigned(), |ms| self.engine.clock.now_ms() + ms);
        let original = keeps.then(|| target.event.json());
        storage::redactions::insert(&mut self.tx, target.nid, redaction.nid, original, expires);
        summary::delete_relation(&mut self.tx, target);
        let redacted = target.redacted(Arc::new(event), Arc::clone(redaction));
        self.redacted.push((Arc::new(redacted), self.events.len()));
        Ok(())
    }

    /// Queues what depends on the whole, and says what happens after the commit.
    fn finish(
        mut self,
        room: &Arc<Room>,
        extra: Option<ExtraRows<'_>>,
    ) -> (Arc<Head>, Vec<Arc<StoredEvent>>, WriteTx) {
        let last = self.positions.last().copied().unwrap_or(0);
        let extremities: Vec<i64> = self.head.extremities.iter().map(|event| event.nid.0).collect();
        let row = RoomRow {
            nid: self.room_nid,
            room_id: room.room_id.to_string(),
            version: self.rules.version.as_str().to_owned(),
            extremities: format!("{extremities:?}"),
            state_nid: self.head.state.nid(),
            depth: self.head.depth,
            notify_ordinal: self.head.notify_ordinal,
            latest_position: 0,
            joined_count: self.head.joined_count,
            invited_count: self.head.invited_count,
        };
        storage::rooms::save(&mut self.tx, &row, last);
        if self.summary_changed {
            let summary = summary::of_head(&self.head, self.rules);
            storage::rooms::save_summary(&mut self.tx, self.room_nid, &summary);
        }
        if let Some(extra) = extra {
            extra(&mut self.tx, self.room_nid);
        }
        if let Some(acceptance) = &self.known.acceptance {
            let accepted = Accepted {
                room,
                head: &self.head,
                events: &self.events,
                positions: &self.positions,
                joined: &self.joined,
                redacted: &self.redacted,
            };
            acceptance.accept(&accepted, &mut self.tx);
        }
        let head = Arc::new(self.head.clone());
        let applied = Applied {
            engine: Arc::clone(self.engine),
            room: Arc::clone(room),
            head: self.head,
            events: self.events.clone(),
            positions: self.positions,
            memberships: self.memberships,
            redacted: self.redacted,
            related: self.known.related.clone(),
        };
        let mut tx = self.tx;
        tx.guard(Arc::clone(&room.epoch), room.epoch.load(Ordering::Acquire));
        for event in &self.events {
            self.engine.events.remember(event);
        }
        let (failed_room, failed_events) = (Arc::clone(room), self.events.clone());
        let engine = Arc::clone(self.engine);
        tx.after_failure(move || engine.take_back(&failed_room, &failed_events));
        let woken: Vec<_> = applied.memberships.iter().map(|(user, ..)| user.clone()).collect();
        tx.after_commit(move |committed| applied.apply(committed));
        let (engine, room) = (Arc::clone(self.engine), Arc::clone(room));
        tx.after_publish(move |_| {
            room.wake_listeners();
            woken.iter().for_each(|user| engine.notifier.wake(user));
        });
        (head, self.events, tx)
    }
}

/// What memory learns from a commit.
struct Applied {
    engine: Arc<Engine>,
    room: Arc<Room>,
    head: Head,
    events: Vec<Arc<StoredEvent>>,
    positions: Vec<u32>,
    memberships: Vec<(OwnedUserId, Membership, usize)>,
    redacted: Vec<(Arc<StoredEvent>, usize)>,
    related: Vec<EventNid>,
}

impl Applied {
    fn apply(mut self, committed: Committed) {
        for (event, offset) in self.events.iter().zip(&self.positions) {
            event.set_committed(committed.position(*offset));
            self.head.latest_position = committed.position(*offset);
        }
        for (event, _) in &self.redacted {
            self.engine.events.remember(event);
            self.room.replace_recent(event);
        }
        for target in self.related.iter().filter_map(|nid| self.engine.events.find_cached(*nid)) {
            target.note_relation();
        }
        // The next reader of a state before one of these events finds it in memory.
        self.engine.remember_state(&self.head.state);
        let is_due = self.head.depth % WEIGHED_EVERY == 0;
        self.room.apply(self.head, &self.events);
        if is_due {
            self.engine.reweigh(&self.room);
        }
        for (user, membership, index) in self.memberships {
            let event = &self.events[index];
            let place = UserRoom {
                room: Arc::clone(&self.room),
                membership,
                event: event.nid,
                position: event.position(),
                forgotten: false,
            };
            self.engine.users.apply(&user, place);
        }
    }
}

impl Engine {
    /// Undoes in memory what could not be committed: successors are refused, and the room goes
    /// on from where it is committed.
    fn take_back(&self, room: &Room, events: &[Arc<StoredEvent>]) {
        // Under the lock, so that nothing is built upon the lost head with the new epoch.
        let mut speculative = room.speculative.lock();
        room.epoch.fetch_add(1, Ordering::AcqRel);
        *speculative = room.head();
        drop(speculative);
        events.iter().for_each(|event| self.events.forget(event.nid));
    }
}

impl Head {
    /// The head of a room without events.
    pub(super) fn empty() -> Self {
        Self {
            extremities: Vec::new(),
            depth: 0,
            state: State::default(),
            pinned: Arc::default(),
            notify_ordinal: 0,
            latest_position: 0,
            joined_count: 0,
            invited_count: 0,
        }
    }
}

/// How the store counts memberships.
pub(super) fn membership_number(membership: Membership) -> i64 {
    match membership {
        Membership::Join => 1,
        Membership::Invite => 2,
        Membership::Knock => 3,
        Membership::Leave => 4,
        Membership::Ban => 5,
    }
}

/// The other way round.
pub(super) fn membership_of_number(number: i64) -> Membership {
    match number {
        1 => Membership::Join,
        2 => Membership::Invite,
        3 => Membership::Knock,
        5 => Membership::Ban,
        _ => Membership::Leave,
    }
}
