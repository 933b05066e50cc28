//! The states that a replay of a room meets: those of the store, each read once and compared with what it
//! should hold, and new ones, which are written only when something needs them.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{
    super::{
        registry::Rooms,
        state::{State, StateMap},
    },
    findings::Findings,
};
use crate::storage::{
    EventNid, StateKeyNid, StateNid, StorageError,
    snapshots::{self, SnapshotRow},
};

/// States at hand, beside those that the room's line still builds upon.
const RECENT_STATES_MAX: usize = 512;

pub(super) struct Library {
    rooms: Rooms,
    /// States of the store that hold what they should; they share structure with the replay's own.
    kept: HashMap<StateNid, State>,
    recent: VecDeque<StateNid>,
    /// What takes the place of states that do not, by the number of these.
    replaced: HashMap<StateNid, State>,
    /// New states that are written.
    made: HashMap<StateNid, State>,
    /// Rows that were read ahead.
    rows: HashMap<StateNid, SnapshotRow>,
    /// Rows of new states that nothing needs yet.
    unsaved: HashMap<StateNid, SnapshotRow>,
}

impl Library {
    pub fn new(rooms: &Rooms) -> Self {
        Self {
            rooms: rooms.clone(),
            kept: HashMap::new(),
            recent: VecDeque::new(),
            replaced: HashMap::new(),
            made: HashMap::new(),
            rows: HashMap::new(),
            unsaved: HashMap::new(),
        }
    }

    /// Reads rows that will be asked for.
    pub async fn read_ahead(
        &mut self,
        nids: impl Iterator<Item = StateNid>,
    ) -> Result<(), StorageError> {
        let wanted: HashSet<StateNid> =
            nids.filter(|nid| *nid != StateNid::EMPTY && !self.kept.contains_key(nid)).collect();
        let wanted: Vec<StateNid> = wanted.into_iter().collect();
        let rows = snapshots::list(self.rooms.database(), &wanted).await?;
        self.rows = rows.into_iter().map(|row| (row.nid, row)).collect();
        Ok(())
    }

    /// What the store has under a number; None when it cannot be read.
    pub async fn find(&mut self, nid: StateNid) -> Result<Option<State>, StorageError> {
        if nid == StateNid::EMPTY {
            return Ok(Some(State::default()));
        }
        if let Some(state) = self.kept.get(&nid).or_else(|| self.made.get(&nid)) {
            return Ok(Some(state.clone()));
        }
        let found = match self.rows.remove(&nid) {
            Some(row) if row.parent == StateNid::EMPTY => State::default().with_row(row),
            Some(row) if self.kept.contains_key(&row.parent) => {
                self.kept[&row.parent].with_row(row)
            }
            _ => {
                let chain = snapshots::load_chain(self.rooms.database(), nid).await;
                chain.and_then(State::from_chain)
            }
        };
        match found {
            Ok(state) => Ok(Some(state)),
            Err(StorageError::Damaged(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The state under this number of the store, if it holds `expected`.
    pub async fn confirm(
        &mut self,
        nid: StateNid,
        expected: &StateMap,
    ) -> Result<Option<State>, StorageError> {
        let Some(state) = self.find(nid).await? else {
            return Ok(None);
        };
        if !state.holds(expected) {
            return Ok(None);
        }
        let state = state.with_map(expected.clone());
        self.keep(&state);
        Ok(Some(state))
    }

    /// Keeps a state of the store at hand.
    pub fn keep(&mut self, state: &State) {
        if state.nid() != StateNid::EMPTY && self.kept.insert(state.nid(), state.clone()).is_none()
        {
            self.recent.push_back(state.nid());
        }
    }

    /// Lets go of states that are neither recent nor below one of `living`.
    pub fn sweep<'a>(&mut self, living: impl Iterator<Item = &'a State>) {
        if self.kept.len() < RECENT_STATES_MAX * 4 {
            return;
        }
        let excess = self.recent.len().saturating_sub(RECENT_STATES_MAX);
        self.recent.drain(..excess);
        let mut needed: HashSet<StateNid> = self.recent.iter().copied().collect();
        living.for_each(|state| needed.extend(state.chain_nids()));
        self.kept.retain(|nid, _| needed.contains(nid));
    }

    /// The state after one change, not written before it is needed.
    pub fn change(
        &mut self,
        state: &State,
        change: (StateKeyNid, EventNid),
    ) -> Result<State, StorageError> {
        let (key, event) = change;
        let nid = self.rooms.0.next_state_nid();
        let (state, row) = state.with_changes(&[(key, Some(event))], nid)?;
        self.unsaved.insert(nid, row);
        Ok(state)
    }

    /// The state with this content, as changes of the closest of `bases`.
    pub fn make(&mut self, bases: &[&State], content: &StateMap) -> Result<State, StorageError> {
        let nid = self.rooms.0.next_state_nid();
        let (state, row) = State::near(bases, content, nid)?;
        self.unsaved.extend(row.map(|row| (nid, row)));
        Ok(state)
    }

    /// Has `state` stand where the store has `old`.
    pub fn replace(&mut self, old: StateNid, state: &State, findings: &mut Findings) {
        self.save(state, findings);
        self.replaced.insert(old, state.clone());
    }

    /// What already took the place of a state of the store, if it holds `expected`.
    pub fn replacement(&self, old: StateNid, expected: &StateMap) -> Option<State> {
        self.replaced.get(&old).filter(|state| state.holds(expected)).cloned()
    }

    /// Writes a state, with those below it.
    pub fn save(&mut self, state: &State, findings: &mut Findings) {
        let mut next = state.nid();
        while let Some(row) = self.unsaved.remove(&next) {
            snapshots::insert(&mut findings.tx, &row);
            next = row.parent;
            self.made.insert(state.nid(), state.clone());
        }
    }

    /// Forgets new states that can no longer be needed.
    pub fn drop_unsaved<'a>(&mut self, living: impl Iterator<Item = &'a State>) {
        if self.unsaved.len() < RECENT_STATES_MAX * 4 {
            return;
        }
        let needed: HashSet<StateNid> = living.flat_map(State::chain_nids).collect();
        self.unsaved.retain(|nid, _| needed.contains(nid));
    }
}
