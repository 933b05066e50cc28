//! Goes through all events of a room in the order in which they came about, and derives anew what the store
//! derived when they came: the state before each, what it replaced, forks, and where the room stands in the end.
//!
//! Facts, which nothing derives: the events, their places, verdicts and gaps, and what other servers told of
//! the state before an event whose previous events are missing.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use ruma::UserId;

use super::{
    super::{
        event_store::{StoredEvent, event_key},
        registry::Rooms,
        room::{Head, Room},
        state::{State, StateMap, differences},
    },
    findings::Findings,
    library::Library,
    line::Line,
};
use crate::{
    protocol::{event_format::PREV_EVENTS_MAX, membership::Membership, room_version::RoomVersion},
    storage::{
        EventNid, ORDERING_STEP, RoomNid, StateKeyNid, StateNid, StorageError,
        care::{self, EventFacts, MissingRow},
        events::flags,
        rooms::RoomRow,
    },
};

/// Events read at once.
pub(super) const EVENTS_STEP: usize = 500;
/// Events of which the state after them stays at hand.
const AFTERS_MAX: usize = 1024;

/// Hears how far the work has got: how many of how many events.
pub type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A room while it is gone through.
pub(super) struct Replay<'a> {
    pub rooms: &'a Rooms,
    /// Stands for the room where one is asked for; nobody else knows it.
    pub room: Arc<Room>,
    pub row: RoomRow,
    /// All events, by place and number; those of the stream only up to the room's latest position.
    pub facts: Vec<EventFacts>,
    pub index: HashMap<EventNid, usize>,
    pub by_key: HashMap<Vec<u8>, EventNid>,
    pub library: Library,
    pub line: Line,
    pub findings: Findings,
    /// Previous events that are missing.
    pub missing: HashSet<MissingRow>,
    /// Whether the room's members are missing.
    pub is_partial: bool,
    /// The position since which they are not; 0 where they never were.
    pub whole_since: i64,
    /// What the store has of forks and has not been confirmed yet.
    forks: HashMap<i64, StateNid>,
    changes: HashMap<(i64, StateKeyNid), EventNid>,
    afters: HashMap<EventNid, State>,
    after_order: VecDeque<EventNid>,
    visited: Vec<bool>,
}

impl<'a> Replay<'a> {
    /// Reads the facts of a room.
    pub async fn begin(rooms: &'a Rooms, row: RoomRow) -> Result<Self, StorageError> {
        let damaged = |what: &str| StorageError::Damaged(format!("room {}: {what}", row.room_id));
        let version = RoomVersion::parse(&row.version).ok_or_else(|| damaged("its version"))?;
        let room_id = ruma::RoomId::parse(&row.room_id).map_err(|_| damaged("its ID"))?;
        let room = Room::new(row.nid, room_id, version.rules(), Head::empty(), i64::MIN);
        let facts = read_facts(rooms, row.nid).await?;
        let database = rooms.database();
        let whole_since = rooms.0.partial.completed_position(row.nid);
        // What was noted while members were missing is not derived again.
        let is_derived = |place: &i64| whole_since == 0 || *place > whole_since * ORDERING_STEP;
        let forks = care::list_forks(database, row.nid).await?.into_iter();
        let changes = care::list_changes(database, row.nid).await?.into_iter();
        let changes = changes.filter(|(place, ..)| is_derived(place));
        Ok(Self {
            rooms,
            is_partial: rooms.0.partial.find(row.nid).is_some(),
            whole_since,
            room: Arc::new(room),
            row,
            index: facts.iter().enumerate().map(|(at, event)| (event.nid, at)).collect(),
            by_key: facts.iter().map(|event| (event.event_key.clone(), event.nid)).collect(),
            visited: vec![false; facts.len()],
            facts,
            library: Library::new(rooms),
            line: Line::default(),
            findings: Findings::default(),
            missing: HashSet::new(),
            forks: forks.filter(|(place, _)| is_derived(place)).collect(),
            changes: changes.map(|(place, key, event)| ((place, key), event)).collect(),
            afters: HashMap::new(),
            after_order: VecDeque::new(),
        })
    }

    /// Goes through all events of the graph.
    pub async fn run(&mut self, progress: Progress<'_>) -> Result<(), StorageError> {
        let total = self.facts.len() as u64;
        let (mut live, mut others) = (Vec::new(), Vec::new());
        for (at, event) in self.facts.iter().enumerate() {
            match event.position {
                Some(_) => live.push(at),
                None if event.flags & flags::OUTLIER == 0 => others.push(at),
                None => {}
            }
        }
        live.sort_by_key(|at| self.facts[*at].position);
        let mut done = 0;
        for step in live.chunks(EVENTS_STEP).chain(others.chunks(EVENTS_STEP)) {
            let nids: Vec<EventNid> = step.iter().map(|at| self.facts[*at].nid).collect();
            self.rooms.events().load(self.room.facts(), &nids).await?;
            let states = step.iter().map(|at| self.facts[*at].state);
            self.library.read_ahead(states).await?;
            for at in step {
                self.visit(*at).await?;
            }
            done += step.len() as u64;
            progress(done, total);
        }
        // That the room became whole is no event, but has a place in the stream.
        self.line.latest_position = self.line.latest_position.max(self.whole_since);
        self.note_unconfirmed_forks();
        Ok(())
    }

    /// Takes an event, and before it those of its ancestors that are in no sync and were not taken yet.
    async fn visit(&mut self, start: usize) -> Result<(), StorageError> {
        let mut stack = vec![start];
        let mut entered = HashSet::new();
        while let Some(&at) = stack.last() {
            if self.visited[at] {
                stack.pop();
                continue;
            }
            let nid = self.facts[at].nid;
            let event = self.rooms.events().load_one(self.room.facts(), nid).await?;
            let prevs = self.prevs_in_graph(&event);
            if entered.insert(at) {
                let is_open = |prev: &usize| {
                    !self.visited[*prev]
                        && self.facts[*prev].position.is_none()
                        && !entered.contains(prev)
                };
                let open: Vec<usize> =
                    prevs.iter().map(|nid| self.index[nid]).filter(is_open).collect();
                if !open.is_empty() {
                    stack.extend(open);
                    continue;
                }
            }
            stack.pop();
            self.visited[at] = true;
            self.take(at, &event, &prevs).await?;
        }
        Ok(())
    }

    /// The previous events of an event that are in the graph; the others are noted as missing.
    pub fn prevs_in_graph(&mut self, event: &StoredEvent) -> Vec<EventNid> {
        let mut prevs = Vec::new();
        for id in event.event.prev_events() {
            let key = event_key(id);
            let known = self.by_key.get(&key).copied();
            let is_in_graph =
                |nid: &EventNid| self.facts[self.index[nid]].flags & flags::OUTLIER == 0;
            match known.filter(is_in_graph) {
                Some(nid) if !prevs.contains(&nid) => prevs.push(nid),
                Some(_) => {}
                None => {
                    let place = self.facts[self.index[&event.nid]].ordering;
                    self.missing.insert((key, event.nid, place));
                }
            }
        }
        prevs
    }

    async fn take(
        &mut self,
        at: usize,
        event: &Arc<StoredEvent>,
        prevs: &[EventNid],
    ) -> Result<(), StorageError> {
        let enters = self.enters(at, event, prevs);
        let (expected, states) = self.derive_before(at, event, prevs, enters).await?;
        let before = self.confirm_before(at, event, expected, &states).await?;
        let facts = &self.facts[at];
        let key = facts.key.filter(|_| facts.flags & flags::REJECTED == 0);
        let after = match key {
            Some(key) => self.library.change(&before, (key, event.nid))?,
            None => before.clone(),
        };
        let replaces = facts.key.and_then(|key| before.get(key));
        if replaces != facts.replaces {
            let id = event.event.event_id();
            self.findings.note(format!("what {id} replaced is another event than noted"));
            self.facts[at].replaces = replaces;
            care::correct_event(&mut self.findings.tx, &self.facts[at]);
        }
        self.remember_after(event.nid, &after);
        if self.facts[at].position.is_some() {
            self.count(at, event);
            // What turned out to be forbidden when the room became whole keeps its place in the stream.
            if self.facts[at].flags & flags::REJECTED == 0 {
                self.extend_line(at, event, (&before, &after), (prevs, enters)).await?;
            }
        }
        self.library.sweep(self.line.living().chain([&before, &after]));
        self.library.drop_unsaved(self.line.living().chain(self.afters.values()));
        Ok(())
    }

    /// Whether the server entered the room by this event, through another server: one of its users joins while
    /// none is in the room, and nobody here is making the room.
    fn enters(&self, at: usize, event: &StoredEvent, prevs: &[EventNid]) -> bool {
        let user = event.event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
        self.facts[at].position.is_some()
            && self.line.ours == 0
            && user.is_some_and(|user| user.server_name() == self.rooms.server_name())
            && Membership::of_event(&event.event) == Some(Membership::Join)
            && (self.line.extremities.is_empty()
                || !self.line.members.is_empty()
                || !self.line.is_followed_by(prevs))
    }

    /// What the state before an event has to be, where its previous events say so, and the states after these.
    async fn derive_before(
        &mut self,
        at: usize,
        event: &StoredEvent,
        prevs: &[EventNid],
        enters: bool,
    ) -> Result<(Option<StateMap>, Vec<State>), StorageError> {
        if event.event.prev_events().next().is_none() {
            return Ok((Some(StateMap::new()), Vec::new()));
        }
        let mut states = Vec::with_capacity(prevs.len());
        for prev in prevs {
            if !self.visited[self.index[prev]] {
                return Ok((None, states));
            }
            states.push(self.state_after(*prev).await?);
        }
        let is_ours = event.event.sender().server_name() == self.rooms.server_name();
        // Events of our own may follow more extremities than they can name.
        let names_some = is_ours && event.event.prev_events().count() >= PREV_EVENTS_MAX;
        let follows_gap = self.facts[at].flags & flags::GAP != 0;
        if enters || names_some || states.is_empty() || follows_gap || self.is_told(at) {
            return Ok((None, states));
        }
        match self.rooms.resolve_states(&self.room, &states, None).await {
            Ok(resolved) => Ok((Some(resolved), states)),
            Err(StorageError::Damaged(reason)) => {
                let id = event.event.event_id();
                self.findings.note(format!("the state before {id} cannot be resolved: {reason}"));
                Ok((None, states))
            }
            Err(error) => Err(error),
        }
    }

    /// The state before an event: what the store has, if that is right, or what takes its place.
    async fn confirm_before(
        &mut self,
        at: usize,
        event: &StoredEvent,
        expected: Option<StateMap>,
        states: &[State],
    ) -> Result<State, StorageError> {
        let old = self.facts[at].state;
        let expected = match expected {
            Some(expected) => expected,
            // A fact: what another server told.
            None => match self.library.find(old).await? {
                Some(told) => {
                    self.library.keep(&told);
                    return Ok(told);
                }
                None => match states {
                    [first, ..] => first.map().clone(),
                    [] => self.line.current.map().clone(),
                },
            },
        };
        if let Some(state) = self.library.confirm(old, &expected).await? {
            return Ok(state);
        }
        if let Some(state) = self.find_learnt(old, &expected, event).await? {
            return Ok(state);
        }
        let state = match self.library.replacement(old, &expected) {
            Some(state) => state,
            None => {
                let id = event.event.event_id();
                self.findings.note(format!(
                    "the state before {id} is not what the events before it make of it"
                ));
                let bases: Vec<&State> = states.iter().chain([&self.line.current]).collect();
                let state = self.library.make(&bases, &expected)?;
                self.library.replace(old, &state, &mut self.findings);
                state
            }
        };
        self.facts[at].state = state.nid();
        care::correct_event(&mut self.findings.tx, &self.facts[at]);
        Ok(state)
    }

    /// The state after an event that was taken.
    async fn state_after(&mut self, event: EventNid) -> Result<State, StorageError> {
        if let Some(state) = self.afters.get(&event) {
            return Ok(state.clone());
        }
        if let Some((_, state)) = self.line.extremities.iter().find(|(nid, _)| *nid == event) {
            return Ok(state.clone());
        }
        let facts = self.facts[self.index[&event]].clone();
        let lost = || StorageError::Damaged(format!("state snapshot {}", facts.state.0));
        let before = self.library.find(facts.state).await?.ok_or_else(lost)?;
        match facts.key.filter(|_| facts.flags & flags::REJECTED == 0) {
            Some(key) => self.library.change(&before, (key, event)),
            None => Ok(before),
        }
    }

    fn remember_after(&mut self, event: EventNid, after: &State) {
        self.afters.insert(event, after.clone());
        self.after_order.push_back(event);
        if self.after_order.len() > AFTERS_MAX
            && let Some(oldest) = self.after_order.pop_front()
        {
            self.afters.remove(&oldest);
        }
    }

    /// Counts an event of the stream.
    fn count(&mut self, at: usize, event: &StoredEvent) {
        let facts = &mut self.facts[at];
        self.line.notify_ordinal += i64::from(facts.flags & flags::NOTIFIES != 0);
        if facts.notify_ordinal != self.line.notify_ordinal {
            let id = event.event.event_id();
            self.findings.note(format!("{id} is not counted among the events that notify"));
            facts.notify_ordinal = self.line.notify_ordinal;
            care::correct_event(&mut self.findings.tx, facts);
        }
        self.line.depth = self.line.depth.max(event.event.depth());
        self.line.latest_position = facts.position.unwrap_or_default();
    }

    /// Has the room stand behind an event.
    async fn extend_line(
        &mut self,
        at: usize,
        event: &StoredEvent,
        (before, after): (&State, &State),
        (prevs, enters): (&[EventNid], bool),
    ) -> Result<(), StorageError> {
        let previous = std::mem::take(&mut self.line.current);
        match self.is_told(at) {
            true => {
                let followed = self.list_followed(prevs).await?;
                self.line.follow(event.nid, after, &followed, enters);
            }
            false => self.line.follow(event.nid, after, prevs, enters),
        }
        let states = self.line.states();
        let is_ours = event.event.sender().server_name() == self.rooms.server_name();
        let names_some = is_ours && prevs.len() >= PREV_EVENTS_MAX;
        let current = match states.iter().all(|state| state.nid() == after.nid()) || names_some {
            true => after.clone(),
            false => {
                let resolved = self.rooms.resolve_states(&self.room, &states, None).await?;
                self.library.make(&[&previous, after], &resolved)?
            }
        };
        // Who enters a room stands where the other server says before the join.
        let stood = if enters { before } else { &previous };
        let is_forked = !stood.is_same(before) || !current.is_same(after);
        if !self.is_told(at) {
            self.check_fork(at, event, is_forked, (stood, &current)).await?;
        }
        let position = self.facts[at].position.unwrap_or_default();
        self.change_members(&previous, &current, position).await?;
        self.line.current = current;
        Ok(())
    }

    /// Compares what is noted of an event that did not simply follow the head.
    async fn check_fork(
        &mut self,
        at: usize,
        event: &StoredEvent,
        is_forked: bool,
        (previous, current): (&State, &State),
    ) -> Result<(), StorageError> {
        let place = self.facts[at].ordering;
        let mut is_wrong = is_forked != (self.facts[at].flags & flags::FORKED != 0);
        if is_wrong {
            self.facts[at].flags ^= flags::FORKED;
            care::correct_event(&mut self.findings.tx, &self.facts[at]);
        }
        if is_forked {
            let noted = self.forks.remove(&place);
            let noted = match noted {
                Some(nid) => self.library.confirm(nid, current.map()).await?,
                None => None,
            };
            if noted.is_none() {
                is_wrong = true;
                self.library.save(current, &mut self.findings);
                let fork = (place, current.nid());
                care::correct_fork(&mut self.findings.tx, self.row.nid, fork);
            }
            for change in differences(previous.map(), current.map()) {
                let new = change.new.unwrap_or(EventNid(0));
                if self.changes.remove(&(place, change.key)) != Some(new) {
                    is_wrong = true;
                    let change = (place, change.key, new);
                    care::correct_change(&mut self.findings.tx, self.row.nid, change);
                }
            }
        }
        if is_wrong {
            let id = event.event.event_id();
            self.findings.note(format!("what {id} did to the room's fork is noted wrongly"));
        }
        Ok(())
    }

    fn note_unconfirmed_forks(&mut self) {
        let room = self.row.nid;
        for (place, _) in std::mem::take(&mut self.forks) {
            self.findings.note(format!("a fork is noted at the place {place}, where none is"));
            care::delete_fork(&mut self.findings.tx, room, place);
        }
        for ((place, key), event) in std::mem::take(&mut self.changes) {
            self.findings.note(format!("a change is noted at the place {place}, where none is"));
            care::delete_change(&mut self.findings.tx, room, (place, key, event));
        }
    }
}

async fn read_facts(rooms: &Rooms, room: RoomNid) -> Result<Vec<EventFacts>, StorageError> {
    let mut facts: Vec<EventFacts> = Vec::new();
    loop {
        let last = facts.last().map_or((i64::MIN, EventNid(0)), |e| (e.ordering, e.nid));
        let step = care::list_events(rooms.database(), room, last, EVENTS_STEP).await?;
        let is_all = step.len() < EVENTS_STEP;
        facts.extend(step);
        if is_all {
            return Ok(facts);
        }
    }
}
