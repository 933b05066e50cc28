//! Resolving the states of a fork: what the pure core needs is gathered from the store, so that the
//! cost follows what differs, and long resolutions run off the async threads.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use quick_cache::sync::Cache;
use ruma::{EventId, OwnedEventId};

use super::{
    descent::Descent,
    event_store::StoredEvent,
    registry::Rooms,
    room::Room,
    state::{State, StateMap},
};
use crate::{
    protocol::{
        room_version::{RoomRules, StateResolutionVersion},
        state_key::{StateKey, StatePair},
        state_resolution::{
            Case, Conflict, Holders, KnownEvent, Needs, SharedSplit, UnconflictedState, Verdicts,
            auth_difference_beyond, conflicted_subgraph, resolve, split_shared,
        },
    },
    storage::{EventNid, StateKeyNid, StorageError},
};

/// Rounds of asking for what resolution lacks. Each loads at least one event.
const ROUNDS_MAX: usize = 10_000;
/// From this many events on a resolution leaves the async threads.
const INLINE_EVENTS_MAX: usize = 64;
/// Verdicts upon events that are remembered, of half a KiB each.
const VERDICTS_MAX: usize = 4096;
/// Further children of one event that are looked at in one step.
const CHILDREN_STEP: usize = 256;
/// Events whose children are looked at together.
const LEVEL_MAX: usize = 256;
/// The latest children that are looked at of each; of what is shared, one of these mostly says so.
const CHILDREN_TOLD: usize = 16;

/// All that is known about one conflict; grows until resolution succeeds.
#[derive(Default)]
struct Gathered {
    events: HashMap<OwnedEventId, KnownEvent>,
    nids: HashMap<OwnedEventId, (EventNid, Option<StateKeyNid>)>,
    ids: HashMap<EventNid, OwnedEventId>,
    /// Numbers of state keys; None where no event ever had the key.
    keys: HashMap<StateKey, Option<StateKeyNid>>,
    /// What all states agree on.
    unconflicted: StateMap,
    /// The conflicted events, each with the states that hold it.
    conflicted: BTreeMap<EventNid, Holders>,
    /// Events that are unconflicted or in the chain of one that is.
    shared: HashSet<OwnedEventId>,
    auth_difference: Vec<OwnedEventId>,
    subgraph: Vec<OwnedEventId>,
}

/// What a resolution lacked.
#[derive(Default)]
struct Lacking {
    events: BTreeSet<OwnedEventId>,
    nids: BTreeSet<EventNid>,
    keys: Vec<StateKey>,
}

/// What resolutions remember of each other.
pub(super) struct RememberedVerdicts(Cache<Case, bool>);

impl RememberedVerdicts {
    pub fn new() -> Self {
        Self(Cache::new(VERDICTS_MAX))
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl Verdicts for RememberedVerdicts {
    fn find(&self, case: &Case) -> Option<bool> {
        self.0.get(case)
    }

    fn keep(&self, case: Case, is_allowed: bool) {
        self.0.insert(case, is_allowed);
    }
}

impl Rooms {
    /// What states of a room resolve to (the algorithm of the room's version). `placing` is an event that
    /// they may hold and that is not stored yet.
    pub(super) async fn resolve_states(
        &self,
        room: &Arc<Room>,
        states: &[State],
        placing: Option<&StoredEvent>,
    ) -> Result<StateMap, StorageError> {
        let mut distinct = states.to_vec();
        distinct.sort_by_key(State::nid);
        distinct.dedup_by_key(|state| state.nid());
        let [first, ..] = distinct.as_slice() else {
            return Ok(StateMap::new());
        };
        if distinct.iter().all(|state| state.is_same(first)) {
            return Ok(first.map().clone());
        }
        let key: Vec<_> = distinct.iter().map(State::nid).collect();
        if let Some(known) = self.0.resolutions.get(&key) {
            return Ok(known);
        }
        let mut gathered = split(&distinct, room.rules);
        placing.into_iter().for_each(|event| gathered.add(event));
        self.gather(room, distinct.len(), &mut gathered).await?;
        let resolved = self.resolve_gathered(room, gathered).await?;
        self.0.resolutions.insert(key, resolved.clone());
        Ok(resolved)
    }

    /// Loads the conflicted events, and for version 2 what differs between authorisation chains.
    async fn gather(
        &self,
        room: &Arc<Room>,
        states: usize,
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        let conflicted: Vec<EventNid> = gathered.conflicted.keys().copied().collect();
        self.load_nids(room, &conflicted, gathered).await?;
        if room.rules.state_resolution == StateResolutionVersion::V1 {
            return Ok(());
        }
        let held: Vec<(OwnedEventId, Holders)> = gathered
            .conflicted
            .iter()
            .map(|(nid, holders)| (gathered.ids[nid].clone(), holders.clone()))
            .collect();
        let ends: Vec<OwnedEventId> = held.iter().map(|(id, _)| id.clone()).collect();
        self.walk_difference(room, &ends, gathered).await?;
        let is_shared = |id: &EventId| gathered.shared.contains(id);
        let difference = auth_difference_beyond(&held, states, &is_shared, &gathered.events);
        gathered.auth_difference = difference.map_err(|needs| absent(&needs))?;
        if room.rules.state_resolution == StateResolutionVersion::V2_1 {
            self.walk_chain(room, &ends, gathered).await?;
            let subgraph = conflicted_subgraph(&ends, &gathered.events);
            gathered.subgraph = subgraph.map_err(|needs| absent(&needs))?;
        }
        Ok(())
    }

    /// Loads the authorisation chains of the conflicted events down to what is shared.
    async fn walk_difference(
        &self,
        room: &Arc<Room>,
        ends: &[OwnedEventId],
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        let mut level: Vec<OwnedEventId> = ends.to_vec();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut descent = Descent::default();
        while !level.is_empty() {
            self.load_ids(room, level.iter().cloned(), gathered).await?;
            level.retain(|id| seen.insert(id.clone()));
            let number =
                |id: &OwnedEventId| gathered.nids.get(id).copied().ok_or_else(|| unknown(id));
            let numbers: Vec<_> = level.iter().map(number).collect::<Result<_, _>>()?;
            self.decide_shared(&numbers, gathered, &mut descent).await?;
            let mut next = Vec::new();
            for (id, (nid, _)) in level.into_iter().zip(numbers) {
                if descent.is_shared(nid) {
                    gathered.shared.insert(id);
                } else if let Some(known) = gathered.events.get(&id) {
                    next.extend(known.event.auth_events().map(ToOwned::to_owned));
                }
            }
            level = next;
        }
        Ok(())
    }

    /// Finds out which events are unconflicted, or in the authorisation chain of an event that is. Goes from
    /// the events to those that name them: of what is shared, most is found at the first step.
    async fn decide_shared(
        &self,
        events: &[(EventNid, Option<StateKeyNid>)],
        gathered: &Gathered,
        descent: &mut Descent,
    ) -> Result<(), StorageError> {
        let holds = |nid: EventNid, key: StateKeyNid| gathered.unconflicted.get(&key) == Some(&nid);
        for (nid, key) in events {
            match key.is_some_and(|key| holds(*nid, key)) {
                true => descent.mark(*nid),
                false => descent.ask(*nid),
            }
        }
        let edges = &self.0.auth_edges;
        loop {
            let level = descent.next_level(LEVEL_MAX);
            if !level.is_empty() {
                let latest = edges.list_latest(&level, CHILDREN_TOLD).await?;
                descent.take(&latest, CHILDREN_TOLD, holds);
            } else if let Some((event, before)) = descent.next_broad() {
                let further = edges.list_before(event, before, CHILDREN_STEP).await?;
                descent.take(&further, CHILDREN_STEP, holds);
            } else {
                break;
            }
        }
        descent.conclude();
        Ok(())
    }

    /// Loads whole authorisation chains.
    async fn walk_chain(
        &self,
        room: &Arc<Room>,
        ends: &[OwnedEventId],
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        let mut level: Vec<OwnedEventId> = ends.to_vec();
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        while !level.is_empty() {
            self.load_ids(room, level.iter().cloned(), gathered).await?;
            let fresh: Vec<_> = level.into_iter().filter(|id| seen.insert(id.clone())).collect();
            let parents = fresh.iter().filter_map(|id| gathered.events.get(id));
            level = parents
                .flat_map(|known| known.event.auth_events().map(ToOwned::to_owned))
                .filter(|id| !seen.contains(id))
                .collect();
        }
        Ok(())
    }

    /// Resolves, and loads what that lacks, until it lacks nothing.
    async fn resolve_gathered(
        &self,
        room: &Arc<Room>,
        mut gathered: Gathered,
    ) -> Result<StateMap, StorageError> {
        for _ in 0..ROUNDS_MAX {
            let size = gathered.conflicted.len() + gathered.auth_difference.len();
            let (back, result) = if size <= INLINE_EVENTS_MAX {
                run(gathered, room.rules, &self.0.verdicts)
            } else {
                let _permit = self.0.resolving.acquire().await.map_err(|_| StorageError::Closed)?;
                let (rules, engine) = (room.rules, Arc::clone(&self.0));
                let task =
                    tokio::task::spawn_blocking(move || run(gathered, rules, &engine.verdicts));
                task.await.map_err(|_| StorageError::Closed)?
            };
            gathered = back;
            match result {
                Ok(resolved) => return gathered.to_state(resolved),
                Err(lacking) => self.load_lacking(room, lacking, &mut gathered).await?,
            }
        }
        Err(StorageError::Damaged(format!("the state of {} cannot be resolved", room.room_id)))
    }

    async fn load_lacking(
        &self,
        room: &Arc<Room>,
        lacking: Lacking,
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        for key in lacking.keys {
            let found = self.0.keys.find(&key.kind, &key.state_key).await?;
            gathered.keys.insert(key, found.map(|found| found.nid));
        }
        let nids: Vec<EventNid> = lacking.nids.into_iter().collect();
        self.load_nids(room, &nids, gathered).await?;
        let wanted: Vec<OwnedEventId> = lacking.events.into_iter().collect();
        self.load_ids(room, wanted.iter().cloned(), gathered).await?;
        if let Some(absent) = wanted.iter().find(|id| !gathered.events.contains_key(*id)) {
            return Err(unknown(absent));
        }
        // A mainline is walked along power levels: bring all of it at once.
        let is_power =
            |id: &&OwnedEventId| gathered.events[*id].event.is_state_of("m.room.power_levels", "");
        let power: Vec<OwnedEventId> = wanted.iter().filter(is_power).cloned().collect();
        self.walk_power(room, power, gathered).await
    }

    async fn walk_power(
        &self,
        room: &Arc<Room>,
        mut level: Vec<OwnedEventId>,
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        while !level.is_empty() {
            let parents: Vec<OwnedEventId> = level
                .iter()
                .filter_map(|id| gathered.events.get(id))
                .flat_map(|known| known.event.auth_events().map(ToOwned::to_owned))
                .filter(|id| !gathered.events.contains_key(id))
                .collect();
            self.load_ids(room, parents.iter().cloned(), gathered).await?;
            level = parents;
            level.retain(|id| {
                let known = gathered.events.get(id);
                known.is_some_and(|known| known.event.kind() == "m.room.power_levels")
            });
        }
        Ok(())
    }

    async fn load_ids(
        &self,
        room: &Arc<Room>,
        ids: impl Iterator<Item = OwnedEventId>,
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        let wanted: HashSet<OwnedEventId> =
            ids.filter(|id| !gathered.events.contains_key(id)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let found = self.0.events.find_nids(wanted.iter().map(|id| &**id)).await?;
        let nids: Vec<EventNid> = found.into_values().collect();
        self.load_nids(room, &nids, gathered).await
    }

    async fn load_nids(
        &self,
        room: &Arc<Room>,
        nids: &[EventNid],
        gathered: &mut Gathered,
    ) -> Result<(), StorageError> {
        let unknown: Vec<EventNid> =
            nids.iter().copied().filter(|nid| !gathered.ids.contains_key(nid)).collect();
        for event in self.0.events.load(room.facts(), &unknown).await? {
            gathered.add(&event);
        }
        Ok(())
    }
}

impl Gathered {
    fn add(&mut self, stored: &StoredEvent) {
        let id = stored.event.event_id().to_owned();
        let known = KnownEvent { event: Arc::clone(&stored.event), rejected: stored.is_rejected() };
        self.ids.insert(stored.nid, id.clone());
        self.nids.insert(id.clone(), (stored.nid, stored.state_key_nid));
        self.events.insert(id, known);
    }

    /// The whole resolved state.
    fn to_state(
        &self,
        resolved: HashMap<StateKey, OwnedEventId>,
    ) -> Result<StateMap, StorageError> {
        let mut state = self.unconflicted.clone();
        for id in resolved.into_values() {
            let (nid, key) = self.nids.get(&id).ok_or_else(|| unknown(&id))?;
            if let Some(key) = key {
                state.insert(*key, *nid);
            }
        }
        Ok(state)
    }
}

/// The unconflicted state as resolution asks for it; notes what it was asked in vain.
struct Unconflicted<'a> {
    gathered: &'a Gathered,
    lacking: RefCell<Lacking>,
}

impl UnconflictedState for Unconflicted<'_> {
    fn find(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        let pair = &(kind, state_key) as &dyn StatePair;
        let Some(key) = self.gathered.keys.get(pair) else {
            self.lacking.borrow_mut().keys.push(StateKey::new(kind, state_key));
            return None;
        };
        let nid = self.gathered.unconflicted.get(&(*key)?)?;
        let id = self.gathered.ids.get(nid);
        if id.is_none() {
            self.lacking.borrow_mut().nids.insert(*nid);
        }
        id.cloned()
    }
}

type Resolved = Result<HashMap<StateKey, OwnedEventId>, Lacking>;

/// One attempt with what is at hand.
fn run(
    mut gathered: Gathered,
    rules: &'static RoomRules,
    verdicts: &RememberedVerdicts,
) -> (Gathered, Resolved) {
    let conflicted = gathered.conflicted.keys().map(|nid| gathered.ids[nid].clone()).collect();
    let auth_difference = std::mem::take(&mut gathered.auth_difference);
    let conflicted_subgraph = std::mem::take(&mut gathered.subgraph);
    let unconflicted = Unconflicted { gathered: &gathered, lacking: RefCell::default() };
    let conflict = Conflict {
        unconflicted: &unconflicted,
        conflicted,
        auth_difference,
        conflicted_subgraph,
        verdicts,
    };
    let result = resolve(&conflict, rules, &gathered.events);
    let (auth_difference, subgraph) = (conflict.auth_difference, conflict.conflicted_subgraph);
    let mut lacking = unconflicted.lacking.into_inner();
    gathered.auth_difference = auth_difference;
    gathered.subgraph = subgraph;
    let is_complete = lacking.keys.is_empty() && lacking.nids.is_empty();
    match result {
        Ok(resolved) if is_complete => (gathered, Ok(resolved)),
        Ok(_) => (gathered, Err(lacking)),
        Err(Needs(events)) => {
            lacking.events = events;
            (gathered, Err(lacking))
        }
    }
}

/// Takes states apart by their numbers.
fn split(states: &[State], rules: &RoomRules) -> Gathered {
    let maps: Vec<&StateMap> = states.iter().map(State::map).collect();
    let SharedSplit { unconflicted, conflicted } = split_shared(&maps, rules);
    Gathered { unconflicted, conflicted, ..Gathered::default() }
}

fn absent(needs: &Needs) -> StorageError {
    let first = needs.0.first().map(ToString::to_string).unwrap_or_default();
    StorageError::Damaged(format!("authorisation event {first} is missing"))
}

fn unknown(id: &EventId) -> StorageError {
    StorageError::Damaged(format!("authorisation event {id} is missing"))
}
