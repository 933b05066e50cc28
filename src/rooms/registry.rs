//! All rooms: finds one in memory or reads it from the store, never twice at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedServerName, RoomId};
use tokio::sync::Semaphore;

use super::{
    acceptance::AcceptanceHook,
    aliases::AliasReservations,
    auth_edges::AuthEdges,
    closures::Closures,
    erasures::Erasures,
    event_store::{EventStore, StoredEvent},
    noted_weight::{NotedWeighter, reweigh},
    own_key::OwnKey,
    partial::PartialRooms,
    resolution::RememberedVerdicts,
    room::Room,
    snapshot::{SnapshotCache, SnapshotWeighter, undivided},
    source::EventSource,
    state::{State, StateMap},
    state_keys::StateKeys,
    sticky::StickyEvents,
    transactions::Transactions,
    user_rooms::AllUserRooms,
};
use crate::{
    cache_figures::CacheFigures,
    clock::Clock,
    hook::Hook,
    notifier::Notifier,
    protocol::signing::SigningKey,
    storage::{self, Database, EventNid, RoomNid, StateKeyNid, StateNid, StorageError, Writer},
};

/// Resolutions remembered: their results share structure with the states they come from.
const RESOLUTIONS_MAX: usize = 256;
/// State events of which is remembered where the state after them lies.
const STATES_AFTER_MAX: usize = 16 * 1024;
/// Resolutions that run at once; others wait, the async threads never do.
const RESOLVING_MAX: usize = 2;

/// How the room engine is set up.
#[derive(Clone, Debug)]
pub struct RoomSettings {
    /// The part of the memory budget for events, rooms and states, bytes.
    pub memory_bytes: u64,
    /// How long the original of a redacted event is kept; None for ever.
    pub redaction_retention_ms: Option<u64>,
}

/// The room engine. Clones share it.
#[derive(Clone)]
pub struct Rooms(pub(super) Arc<Engine>);

pub(super) struct Engine {
    pub database: Database,
    pub writer: Writer,
    pub clock: Clock,
    pub server_name: OwnedServerName,
    pub signing_key: OwnKey,
    pub notifier: Notifier,
    pub settings: RoomSettings,
    pub keys: StateKeys,
    pub events: EventStore,
    pub auth_edges: AuthEdges,
    pub users: AllUserRooms,
    pub transactions: Transactions,
    pub acceptance: Hook<dyn AcceptanceHook>,
    pub source: Hook<dyn EventSource>,
    pub aliases: AliasReservations,
    pub erasures: Erasures,
    pub closures: Closures,
    /// Rooms whose state is not whole, or was not.
    pub partial: PartialRooms,
    /// Events that clients get wherever they lie.
    pub sticky: StickyEvents,
    rooms: Registry,
    pub states: Cache<StateNid, Arc<State>, StateWeighter>,
    /// Rows of states: what states share is kept and read once.
    pub snapshots: SnapshotCache,
    /// Cloned by who holds states that nothing names for longer than a collection waits.
    pub long_holders: Arc<()>,
    /// What states resolved to, by their snapshots.
    pub resolutions: Cache<Vec<StateNid>, StateMap>,
    pub verdicts: RememberedVerdicts,
    /// The snapshots of the states after state events, as far as there are any.
    pub states_after: Cache<EventNid, StateNid>,
    /// Bounds how many resolutions run at once off the async threads.
    pub resolving: Semaphore,
    /// Held while a room becomes known.
    pub entering: tokio::sync::Mutex<()>,
    next_room: AtomicI64,
    next_event: AtomicI64,
    next_state: AtomicI64,
    /// When the latest room was created, milliseconds since the epoch.
    latest_create_ms: AtomicU64,
}

/// Rooms that are in memory: `strong` keeps the recently used, `known` finds every one alive.
struct Registry {
    strong: Cache<RoomNid, Arc<Room>, NotedWeighter>,
    known: Mutex<HashMap<RoomNid, Weak<Room>>>,
    nids: Cache<Box<str>, RoomNid>,
}

#[derive(Clone)]
pub(super) struct StateWeighter;

impl Weighter<StateNid, Arc<State>> for StateWeighter {
    fn weight(&self, _: &StateNid, state: &Arc<State>) -> u64 {
        state.weight_bytes()
    }
}

impl Rooms {
    pub async fn load(
        (database, writer): (Database, Writer),
        clock: Clock,
        (server_name, signing_key): (OwnedServerName, SigningKey),
        notifier: Notifier,
        settings: RoomSettings,
    ) -> Result<Self, StorageError> {
        let share = |part: u64| settings.memory_bytes / 100 * part;
        let next = |newest: i64| AtomicI64::new(newest + 1);
        let newest_event = storage::events::load_newest(&database).await?;
        Ok(Self(Arc::new(Engine {
            keys: StateKeys::load(database.clone(), share(10)).await?,
            events: EventStore::new(database.clone(), share(46)),
            auth_edges: AuthEdges::new(database.clone(), EventNid(newest_event.0 + 1)),
            users: AllUserRooms::new(share(10)),
            transactions: Transactions::default(),
            acceptance: Hook::default(),
            source: Hook::default(),
            aliases: AliasReservations::default(),
            erasures: Erasures::load(&database).await?,
            closures: Closures::load(&database).await?,
            partial: PartialRooms::load(&database).await?,
            sticky: StickyEvents::load(&database, clock.now_ms()).await?,
            signing_key: OwnKey::load(&database, signing_key).await?,
            rooms: Registry {
                strong: undivided(1024, share(20), NotedWeighter),
                known: Mutex::default(),
                nids: Cache::new(16 * 1024),
            },
            states: undivided(256, share(10), StateWeighter),
            snapshots: undivided(1024, share(4), SnapshotWeighter),
            long_holders: Arc::default(),
            resolutions: Cache::new(RESOLUTIONS_MAX),
            verdicts: RememberedVerdicts::new(),
            states_after: Cache::new(STATES_AFTER_MAX),
            resolving: Semaphore::new(RESOLVING_MAX),
            entering: tokio::sync::Mutex::default(),
            next_room: next(storage::rooms::load_newest(&database).await?.0),
            next_event: next(newest_event.0),
            next_state: next(storage::snapshots::load_newest(&database).await?.0),
            latest_create_ms: AtomicU64::new(0),
            database,
            writer,
            clock,
            server_name,
            notifier,
            settings,
        })))
    }

    /// Has `hook` take part in every append from now on. Only the first call counts.
    pub fn set_acceptance(&self, hook: Arc<dyn AcceptanceHook>) {
        let _ = self.0.acceptance.set(hook);
    }

    /// How well the caches of rooms, events and states do.
    pub fn cache_figures(&self) -> Vec<CacheFigures> {
        let engine = &self.0;
        let own = [
            CacheFigures::of("rooms", &engine.rooms.strong),
            CacheFigures::of("room_ids", &engine.rooms.nids),
            CacheFigures::of("states", &engine.states),
            CacheFigures::of("states_after", &engine.states_after),
            CacheFigures::of("resolutions", &engine.resolutions),
            engine.keys.cache_figures(),
            engine.users.cache_figures(),
        ];
        own.into_iter().chain(engine.events.cache_figures()).collect()
    }

    /// Lets go of what was registered from above, when the server ends.
    pub fn release_hooks(&self) {
        self.0.acceptance.release();
        self.0.source.release();
    }

    /// The room with this ID, if this server knows it.
    pub async fn find(&self, room_id: &RoomId) -> Result<Option<Arc<Room>>, StorageError> {
        let registry = &self.0.rooms;
        if let Some(nid) = registry.nids.get(room_id.as_str())
            && let Some(room) = self.0.find_in_memory(nid)
        {
            return Ok(Some(room));
        }
        match storage::rooms::find_by_id(&self.0.database, room_id.as_str()).await? {
            Some(row) => self.0.admit(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// The rooms with these numbers, in this order; all must be there.
    pub async fn load_all(&self, nids: &[RoomNid]) -> Result<Vec<Arc<Room>>, StorageError> {
        let mut found: HashMap<RoomNid, Arc<Room>> =
            nids.iter().filter_map(|&nid| Some((nid, self.0.find_in_memory(nid)?))).collect();
        let missing: Vec<_> = nids.iter().copied().filter(|nid| !found.contains_key(nid)).collect();
        let read = self.0.read_rooms(&missing).await?;
        found.extend(read.into_iter().map(|room| (room.nid, room)));
        let missing = |nid: &RoomNid| StorageError::Damaged(format!("room {} is missing", nid.0));
        nids.iter().map(|nid| found.get(nid).cloned().ok_or_else(|| missing(nid))).collect()
    }

    /// The state that a snapshot holds.
    pub async fn load_state(&self, nid: StateNid) -> Result<Arc<State>, StorageError> {
        self.0.load_state(nid).await
    }

    /// The events that hold these keys in the state of a snapshot, in their order. The state is not put together
    /// for it.
    pub async fn find_holders(
        &self,
        nid: StateNid,
        keys: &[StateKeyNid],
    ) -> Result<Vec<Option<EventNid>>, StorageError> {
        self.0.find_in_stored(nid, keys).await
    }

    /// The key with which this server signs.
    pub fn own_key(&self) -> &OwnKey {
        &self.0.signing_key
    }

    /// The state that a snapshot holds; None when it is not there any more, since nothing names it.
    pub async fn find_state(&self, nid: StateNid) -> Result<Option<Arc<State>>, StorageError> {
        match self.0.load_state(nid).await {
            Ok(state) => Ok(Some(state)),
            Err(StorageError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads events.
    pub fn events(&self) -> &EventStore {
        &self.0.events
    }

    /// Numbers of state keys and users.
    pub fn keys(&self) -> &StateKeys {
        &self.0.keys
    }

    pub fn writer(&self) -> &Writer {
        &self.0.writer
    }

    pub fn database(&self) -> &Database {
        &self.0.database
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub fn notifier(&self) -> &Notifier {
        &self.0.notifier
    }

    pub fn server_name(&self) -> &ruma::ServerName {
        &self.0.server_name
    }
}

impl Engine {
    pub fn next_event_nid(&self) -> EventNid {
        EventNid(self.next_event.fetch_add(1, Ordering::Relaxed))
    }

    pub fn next_state_nid(&self) -> StateNid {
        StateNid(self.next_state.fetch_add(1, Ordering::Relaxed))
    }

    /// Has new states get higher numbers than this one.
    pub fn skip_state_nids(&self, upto: StateNid) {
        self.next_state.fetch_max(upto.0 + 1, Ordering::Relaxed);
    }

    pub fn next_room_nid(&self) -> RoomNid {
        RoomNid(self.next_room.fetch_add(1, Ordering::Relaxed))
    }

    /// The time for a create event: no two are of the same moment, since from version 12 on the
    /// ID of a room is the hash of its create event, and two of one user may not differ otherwise.
    pub fn next_create_ms(&self) -> u64 {
        let now_ms = self.clock.now_ms();
        let later = |latest: u64| Some(now_ms.max(latest + 1));
        let (release, acquire) = (Ordering::AcqRel, Ordering::Acquire);
        let latest = self.latest_create_ms.fetch_update(release, acquire, later);
        now_ms.max(latest.map_or(0, |latest| latest + 1))
    }

    pub fn find_in_memory(&self, nid: RoomNid) -> Option<Arc<Room>> {
        if let Some(room) = self.rooms.strong.get(&nid) {
            return Some(room);
        }
        let room = self.rooms.known.lock().get(&nid).and_then(Weak::upgrade)?;
        self.rooms.strong.insert(nid, Arc::clone(&room));
        Some(room)
    }

    /// Has the cache learn what a room weighs now.
    pub fn reweigh(&self, room: &Room) {
        reweigh(&self.rooms.strong, &room.nid);
    }

    /// Makes a new room known, once its first events are committed.
    pub fn register(&self, room: &Arc<Room>) {
        let mut known = self.rooms.known.lock();
        // Swept now and then of rooms that nobody uses any more.
        if known.len().is_power_of_two() {
            known.retain(|_, room| room.strong_count() > 0);
        }
        known.insert(room.nid, Arc::downgrade(room));
        drop(known);
        self.rooms.nids.insert(room.room_id.as_str().into(), room.nid);
        self.rooms.strong.insert(room.nid, Arc::clone(room));
    }

    /// Lets go of a room that is gone.
    pub fn forget_room(&self, room: &Room) {
        self.rooms.nids.remove(room.room_id.as_str());
        self.rooms.strong.remove(&room.nid);
        self.rooms.known.lock().remove(&room.nid);
        self.partial.forget(room.nid);
        self.sticky.forget_room(room.nid);
    }

    /// Makes a room known that was read, unless it is: what was read may be older than what a living room knows.
    pub fn settle(&self, room: Arc<Room>) -> Arc<Room> {
        let mut known = self.rooms.known.lock();
        if let Some(living) = known.get(&room.nid).and_then(Weak::upgrade) {
            return living;
        }
        known.insert(room.nid, Arc::downgrade(&room));
        drop(known);
        self.rooms.nids.insert(room.room_id.as_str().into(), room.nid);
        self.rooms.strong.insert(room.nid, Arc::clone(&room));
        room
    }

    /// Forgets a room that nobody can have built upon, so that it is read anew.
    pub fn unregister(&self, room: &Room) {
        self.rooms.known.lock().remove(&room.nid);
        self.rooms.strong.remove(&room.nid);
    }

    /// Forgets a room that was written behind its back, with everything that may be of it.
    pub fn forget_all_of(&self, nid: RoomNid) {
        if let Some(room) = self.find_in_memory(nid) {
            self.forget_room(&room);
        }
        self.states.clear();
        self.snapshots.clear();
        self.resolutions.clear();
        self.verdicts.clear();
        self.states_after.clear();
        self.events.forget_all();
    }

    /// Keeps a redacted event in memory, in the place of the original. What is redacted may be judged otherwise.
    pub fn remember_redacted(&self, event: &Arc<StoredEvent>) {
        self.events.remember(event);
        if event.event.is_state() {
            self.verdicts.clear();
        }
    }

    /// Keeps a state in memory under its snapshot.
    pub fn remember_state(&self, state: &State) {
        if self.states.peek(&state.nid()).is_none() {
            self.states.insert(state.nid(), Arc::new(state.clone()));
        }
    }

    pub async fn load_state(&self, nid: StateNid) -> Result<Arc<State>, StorageError> {
        if let Some(state) = self.states.get(&nid) {
            return Ok(state);
        }
        let snapshots = self.load_snapshots(nid).await?;
        // Upon the closest ancestor in memory: whoever goes through states in their order then pays for
        // what differs, and not for a whole state each time.
        let ancestor = snapshots
            .iter()
            .enumerate()
            .rev()
            .find_map(|(at, snapshot)| Some((at, self.states.get(&snapshot.nid)?)));
        let state = match ancestor {
            Some((at, ancestor)) => ancestor.with_snapshots(&snapshots[at + 1..])?,
            None => State::of_snapshots(snapshots)?,
        };
        let state = Arc::new(state);
        self.states.insert(nid, Arc::clone(&state));
        Ok(state)
    }
}
