//! Where a room stands while its events are gone through in the order of the stream: extremities, current state,
//! memberships and counts, by the same rules by which they came about.

use std::collections::HashMap;

use super::super::{fork::EXTREMITIES_MAX, state::State};
use crate::storage::{EventNid, StateKeyNid, care::MemberRow};

/// The end of the room's graph, as far as it was gone through.
#[derive(Default)]
pub(super) struct Line {
    /// The forward extremities, the oldest first, with the state after each.
    pub extremities: Vec<(EventNid, State)>,
    pub current: State,
    pub depth: i64,
    pub notify_ordinal: i64,
    pub latest_position: i64,
    pub joined: i64,
    pub invited: i64,
    /// Joined users of this server.
    pub ours: i64,
    pub members: HashMap<StateKeyNid, MemberRow>,
}

impl Line {
    /// Has an event follow those of `prevs`. `enters` when it begins the line anew, as another server told it.
    pub fn follow(&mut self, event: EventNid, after: &State, prevs: &[EventNid], enters: bool) {
        match enters {
            true => self.extremities.clear(),
            false => self.extremities.retain(|(nid, _)| !prevs.contains(nid)),
        }
        let excess = (self.extremities.len() + 1).saturating_sub(EXTREMITIES_MAX);
        self.extremities.drain(..excess);
        self.extremities.push((event, after.clone()));
    }

    /// The states after the extremities.
    pub fn states(&self) -> Vec<State> {
        self.extremities.iter().map(|(_, state)| state.clone()).collect()
    }

    /// All states that what comes next may build upon.
    pub fn living(&self) -> impl Iterator<Item = &State> {
        self.extremities.iter().map(|(_, state)| state).chain([&self.current])
    }

    /// Whether all extremities are among these.
    pub fn is_followed_by(&self, prevs: &[EventNid]) -> bool {
        self.extremities.iter().all(|(nid, _)| prevs.contains(nid))
    }
}
