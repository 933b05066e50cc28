//! Events with what the store knows of them, cached by weight. Not for deciding anything.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering},
    },
};

use quick_cache::{Weighter, sync::Cache};
use ruma::{EventId, OwnedEventId, RoomId};

pub(super) use super::event_key::event_id_of_key;
pub use super::event_key::event_key;
use crate::{
    cache_figures::CacheFigures,
    protocol::{event::Event, room_version::RoomRules},
    storage::{
        self, Database, EventNid, RoomNid, StateKeyNid, StateNid, StorageError,
        events::{EventRow, flags},
    },
};

/// Events looked up by one query.
const LOOKUP_STEP: usize = 500;
/// What a cached event costs beside its text, bytes.
const ENTRY_BYTES: usize = 320;

/// An event and what the store knows of it.
pub struct StoredEvent {
    pub nid: EventNid,
    pub room_nid: RoomNid,
    /// The state before the event.
    pub state_nid: StateNid,
    pub state_key_nid: Option<StateKeyNid>,
    /// The state event that it replaced.
    pub replaces_nid: Option<EventNid>,
    /// Bits of [`flags`].
    pub flags: i64,
    /// How many events of the room notify by default, up to and with this one.
    pub notify_ordinal: i64,
    /// `device NUL transaction` of the client that sent it.
    pub sent_by: Option<Box<[u8]>>,
    pub event: Arc<Event>,
    /// The redaction, when it was redacted.
    pub redacted_by: Option<Arc<StoredEvent>>,
    /// 0 until committed, or when no sync carries it.
    position: AtomicI64,
    ordering: AtomicI64,
    /// Whether other events relate to it, as far as known: [`UNKNOWN`], [`NONE`] or [`SOME`].
    relations: AtomicU8,
}

const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const SOME: u8 = 2;

/// What a new event needs to become a [`StoredEvent`].
pub struct NewStoredEvent {
    pub nid: EventNid,
    pub room_nid: RoomNid,
    pub state_nid: StateNid,
    pub state_key_nid: Option<StateKeyNid>,
    /// The state event that it replaced.
    pub replaces_nid: Option<EventNid>,
    pub flags: i64,
    pub notify_ordinal: i64,
    pub sent_by: Option<Box<[u8]>>,
    pub event: Arc<Event>,
    /// The redaction, when it came before the event.
    pub redacted_by: Option<Arc<StoredEvent>>,
}

impl std::fmt::Debug for StoredEvent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.event.event_id(), self.event.kind())
    }
}

impl StoredEvent {
    /// An event on its way into the store.
    pub fn new(new: NewStoredEvent) -> Self {
        Self {
            nid: new.nid,
            room_nid: new.room_nid,
            state_nid: new.state_nid,
            state_key_nid: new.state_key_nid,
            replaces_nid: new.replaces_nid,
            flags: new.flags,
            notify_ordinal: new.notify_ordinal,
            sent_by: new.sent_by,
            event: new.event,
            redacted_by: new.redacted_by,
            position: AtomicI64::new(0),
            ordering: AtomicI64::new(0),
            // Nobody can relate to what nobody has seen.
            relations: AtomicU8::new(NONE),
        }
    }

    /// Its place in the stream; 0 when it has none (yet).
    pub fn position(&self) -> i64 {
        self.position.load(Ordering::Acquire)
    }

    /// Its place in the room; 0 when it has none yet.
    pub fn ordering(&self) -> i64 {
        self.ordering.load(Ordering::Acquire)
    }

    /// Whether a child of this event may build upon the state behind it: it is in the graph.
    pub fn is_in_graph(&self) -> bool {
        self.flags & flags::OUTLIER == 0
    }

    pub fn is_rejected(&self) -> bool {
        self.flags & flags::REJECTED != 0
    }

    /// Whether clients never get it in a timeline.
    pub fn is_hidden(&self) -> bool {
        self.flags & flags::HIDDEN != 0
    }

    /// Whether it cannot be judged before others arrive.
    pub fn is_waiting(&self) -> bool {
        self.flags & flags::WAITING != 0
    }

    /// Whether events directly before it are missing here.
    pub fn has_gap(&self) -> bool {
        self.flags & flags::GAP != 0
    }

    /// Whether the room's current state on one side of it is not that of the event itself.
    pub fn is_forked(&self) -> bool {
        self.flags & flags::FORKED != 0
    }

    pub fn is_redacted(&self) -> bool {
        self.flags & flags::REDACTED != 0
    }

    /// Whether the event notifies by default.
    pub fn notifies(&self) -> bool {
        self.flags & flags::NOTIFIES != 0
    }

    /// The transaction ID, if this device of this sender sent it.
    pub fn transaction_id(&self, device: &str) -> Option<&str> {
        let sent_by = self.sent_by.as_deref()?;
        let rest = sent_by.strip_prefix(device.as_bytes())?.strip_prefix(b"\0")?;
        std::str::from_utf8(rest).ok()
    }

    /// False when it is certain that no event relates to this one, so that aggregating them
    /// needs no look into the database.
    pub fn may_have_relations(&self) -> bool {
        self.relations.load(Ordering::Acquire) != NONE
    }

    /// Notes that the database has no relation to the event, unless one came meanwhile.
    pub fn note_no_relations(&self) {
        let (acquire, relaxed) = (Ordering::AcqRel, Ordering::Relaxed);
        // Failing means that more is known already.
        let _ = self.relations.compare_exchange(UNKNOWN, NONE, acquire, relaxed);
    }

    pub(super) fn note_relation(&self) {
        self.relations.store(SOME, Ordering::Release);
    }

    /// Notes its places, known since the commit.
    pub(super) fn set_committed(&self, position: i64) {
        self.position.store(position, Ordering::Release);
        self.ordering.store(position * storage::ORDERING_STEP, Ordering::Release);
    }

    /// Notes the place of an event that no sync carries.
    pub(super) fn set_late(&self, ordering: i64) {
        self.ordering.store(ordering, Ordering::Release);
    }

    /// The same event with its content redacted.
    pub(super) fn redacted(&self, event: Arc<Event>, by: Arc<StoredEvent>) -> Self {
        Self {
            event,
            redacted_by: Some(by),
            flags: self.flags | flags::REDACTED,
            sent_by: self.sent_by.clone(),
            position: AtomicI64::new(self.position()),
            ordering: AtomicI64::new(self.ordering()),
            relations: AtomicU8::new(self.relations.load(Ordering::Acquire)),
            ..*self
        }
    }

    /// The same event upon another state.
    pub(super) fn rebased(
        &self,
        state_nid: StateNid,
        replaces_nid: Option<EventNid>,
        flags: i64,
    ) -> Self {
        Self {
            state_nid,
            replaces_nid,
            flags,
            event: Arc::clone(&self.event),
            redacted_by: self.redacted_by.clone(),
            sent_by: self.sent_by.clone(),
            position: AtomicI64::new(self.position()),
            ordering: AtomicI64::new(self.ordering()),
            relations: AtomicU8::new(self.relations.load(Ordering::Acquire)),
            ..*self
        }
    }

    /// The event at the place of another one.
    pub(super) fn placed_as(mut self, other: &Self) -> Self {
        self.position = AtomicI64::new(other.position());
        self.ordering = AtomicI64::new(other.ordering());
        self.relations = AtomicU8::new(other.relations.load(Ordering::Acquire));
        self
    }

    fn weight_bytes(&self) -> u64 {
        (ENTRY_BYTES + self.event.weight_bytes()) as u64
    }
}

#[derive(Clone)]
struct EventWeighter;

impl Weighter<EventNid, Arc<StoredEvent>> for EventWeighter {
    fn weight(&self, _: &EventNid, event: &Arc<StoredEvent>) -> u64 {
        event.weight_bytes()
    }
}

/// Reads events, through a cache. Clones share it.
#[derive(Clone)]
pub struct EventStore {
    database: Database,
    cache: Arc<Cache<EventNid, Arc<StoredEvent>, EventWeighter>>,
    nids: Arc<Cache<OwnedEventId, EventNid>>,
}

/// The rules and ID of a room, which reading its events needs; with those of another room an event would
/// be misread, and be kept so in memory for all who read it.
#[derive(Clone, Copy)]
pub struct RoomFacts<'a> {
    pub nid: RoomNid,
    pub room_id: &'a RoomId,
    pub rules: &'static RoomRules,
}

impl EventStore {
    /// `memory_bytes` bounds the cache.
    pub fn new(database: Database, memory_bytes: u64) -> Self {
        let estimate = (memory_bytes / 1500).max(64) as usize;
        let cache = Arc::new(Cache::with_weighter(estimate, memory_bytes, EventWeighter));
        Self { database, cache, nids: Arc::new(Cache::new(estimate)) }
    }

    pub(super) fn cache_figures(&self) -> [CacheFigures; 2] {
        [CacheFigures::of("events", &self.cache), CacheFigures::of("event_ids", &self.nids)]
    }

    /// The event, if it lies in memory.
    pub fn find_cached(&self, nid: EventNid) -> Option<Arc<StoredEvent>> {
        self.cache.get(&nid)
    }

    /// Keeps an event in memory.
    pub fn remember(&self, event: &Arc<StoredEvent>) {
        self.cache.insert(event.nid, Arc::clone(event));
    }

    /// Notes the number of an event that is committed: those that follow it name it.
    pub fn note_id(&self, event: &StoredEvent) {
        self.nids.insert(event.event.event_id().to_owned(), event.nid);
    }

    /// Lets go of an event that was not committed.
    pub fn forget(&self, nid: EventNid) {
        self.cache.remove(&nid);
    }

    /// Lets go of everything.
    pub fn forget_all(&self) {
        self.cache.clear();
        self.nids.clear();
    }

    /// The number of an event, in whichever room.
    pub async fn find_nid(&self, id: &EventId) -> Result<Option<EventNid>, StorageError> {
        if let Some(nid) = self.nids.get(id) {
            return Ok(Some(nid));
        }
        let found = storage::events::find_nid(&self.database, &event_key(id)).await?;
        if let Some(nid) = found {
            self.nids.insert(id.to_owned(), nid);
        }
        Ok(found)
    }

    /// The numbers of those events that are here, in whichever room.
    pub async fn find_nids(
        &self,
        ids: impl IntoIterator<Item = &EventId>,
    ) -> Result<HashMap<OwnedEventId, EventNid>, StorageError> {
        let mut found = HashMap::new();
        let mut wanted: HashMap<Vec<u8>, OwnedEventId> = HashMap::new();
        for id in ids {
            match self.nids.get(id) {
                Some(nid) => {
                    found.insert(id.to_owned(), nid);
                }
                None => {
                    wanted.insert(event_key(id), id.to_owned());
                }
            }
        }
        let keys: Vec<Vec<u8>> = wanted.keys().cloned().collect();
        for chunk in keys.chunks(LOOKUP_STEP) {
            for (key, nid) in storage::events::list_nids(&self.database, chunk).await? {
                if let Some(id) = wanted.remove(&key) {
                    self.nids.insert(id.clone(), nid);
                    found.insert(id, nid);
                }
            }
        }
        Ok(found)
    }

    /// The events of one room with these numbers, in this order. All must be there.
    pub async fn load(
        &self,
        room: RoomFacts<'_>,
        nids: &[EventNid],
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let events = self.load_own(room, nids).await?;
        match events.len() == nids.len() {
            true => Ok(events),
            false => {
                let reason = format!("events of room {} are missing, or not its own", room.nid.0);
                Err(StorageError::Damaged(reason))
            }
        }
    }

    /// As [`EventStore::load`], without those that are of other rooms: what an event names may be anywhere.
    pub async fn load_own(
        &self,
        room: RoomFacts<'_>,
        nids: &[EventNid],
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let mut events: Vec<Option<Arc<StoredEvent>>> =
            nids.iter().map(|nid| self.cache.get(nid)).collect();
        let missing = nids.iter().zip(&events).filter(|(_, event)| event.is_none());
        let missing: Vec<EventNid> = missing.map(|(nid, _)| *nid).collect();
        let mut read: HashMap<EventNid, Arc<StoredEvent>> = HashMap::new();
        for chunk in missing.chunks(LOOKUP_STEP) {
            let mut rows = storage::events::list(&self.database, chunk).await?;
            rows.retain(|row| row.room_nid == room.nid);
            let chunk = self.read_rows(room, rows).await?;
            read.extend(chunk.into_iter().map(|event| (event.nid, event)));
        }
        if !read.is_empty() {
            let gaps = nids.iter().zip(&mut events).filter(|(_, event)| event.is_none());
            gaps.for_each(|(nid, event)| *event = read.get(nid).cloned());
        }
        Ok(events.into_iter().flatten().filter(|event| event.room_nid == room.nid).collect())
    }

    pub async fn load_one(
        &self,
        room: RoomFacts<'_>,
        nid: EventNid,
    ) -> Result<Arc<StoredEvent>, StorageError> {
        let mut events = self.load(room, &[nid]).await?;
        events.pop().ok_or_else(|| StorageError::Damaged(format!("event {} is missing", nid.0)))
    }

    /// Makes events of rows of one room, and keeps them in memory.
    pub async fn read_rows(
        &self,
        room: RoomFacts<'_>,
        rows: Vec<EventRow>,
    ) -> Result<Vec<Arc<StoredEvent>>, StorageError> {
        let redacted: Vec<EventNid> =
            rows.iter().filter(|row| row.flags & flags::REDACTED != 0).map(|row| row.nid).collect();
        let mut redactions = self.load_redactions(room, &redacted).await?;
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(event) = self.cache.get(&row.nid) {
                events.push(event);
                continue;
            }
            let redacted_by = redactions.remove(&row.nid);
            let event = Arc::new(read_row(room, row, redacted_by)?);
            // What was put there meanwhile is newer than the row.
            let event = match self.cache.get(&event.nid) {
                Some(newer) => newer,
                None => {
                    self.remember(&event);
                    event
                }
            };
            events.push(event);
        }
        Ok(events)
    }

    async fn load_redactions(
        &self,
        room: RoomFacts<'_>,
        redacted: &[EventNid],
    ) -> Result<HashMap<EventNid, Arc<StoredEvent>>, StorageError> {
        if redacted.is_empty() {
            return Ok(HashMap::new());
        }
        let pairs = storage::redactions::list(&self.database, redacted).await?;
        let nids: Vec<EventNid> = pairs.iter().map(|(_, by)| *by).collect();
        let mut redactions = HashMap::new();
        for row in storage::events::list(&self.database, &nids).await? {
            // A redaction that was itself redacted keeps no redaction of its own here.
            let event = match self.cache.get(&row.nid) {
                Some(event) => event,
                None => Arc::new(read_row(room, row, None)?),
            };
            redactions.insert(event.nid, event);
        }
        let by_target = pairs.into_iter();
        Ok(by_target
            .filter_map(|(target, by)| Some((target, redactions.get(&by)?.clone())))
            .collect())
    }
}

fn read_row(
    room: RoomFacts<'_>,
    row: EventRow,
    redacted_by: Option<Arc<StoredEvent>>,
) -> Result<StoredEvent, StorageError> {
    let damaged = |error: String| StorageError::Damaged(format!("event {}: {error}", row.nid.0));
    let event_id = event_id_of_key(&row.event_key, room.rules).map_err(damaged)?;
    let event = Event::from_stored(&row.json, &event_id, room.room_id, room.rules)
        .map_err(|error| damaged(error.to_string()))?;
    Ok(StoredEvent {
        nid: row.nid,
        room_nid: row.room_nid,
        state_nid: row.state_nid,
        state_key_nid: row.state_key_nid,
        replaces_nid: row.replaces_nid,
        flags: row.flags,
        notify_ordinal: row.notify_ordinal,
        sent_by: row.sent_by.map(Into::into),
        event: Arc::new(event),
        redacted_by,
        position: AtomicI64::new(row.position.unwrap_or(0)),
        ordering: AtomicI64::new(row.ordering),
        relations: AtomicU8::new(UNKNOWN),
    })
}
