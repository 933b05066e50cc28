//! A room's latest events without a gap, and what changed of its state where they did not simply follow one
//! another: what most syncs are made of. Not for anything that is not committed.

use std::{collections::VecDeque, sync::Arc};

use super::event_store::StoredEvent;
use crate::storage::{EventNid, StateKeyNid};

/// The latest events that a room keeps at hand for syncs.
pub const RECENT_EVENTS_MAX: usize = 64;
/// Changes of the state at one fork that are kept at hand. More come where long separate branches meet.
const FORK_CHANGES_MAX: usize = 64;

/// A change of the current state; [`NO_EVENT`] where the key has gone.
pub type StateChange = (StateKeyNid, EventNid);
pub(super) const NO_EVENT: EventNid = EventNid(0);

/// All that changed of the current state at one place of a room, where an event did not simply follow the head.
#[derive(Clone, Debug)]
pub(super) struct ForkChanges {
    pub ordering: i64,
    pub changes: Vec<StateChange>,
}

pub(super) struct Recent {
    events: VecDeque<Arc<StoredEvent>>,
    /// No event above this place in the room is missing in `events`; the least number when none at all
    /// is.
    complete_above: i64,
    forks: VecDeque<ForkChanges>,
    /// The same of `forks`.
    forks_complete_above: i64,
    /// Rises when events were put in between.
    generation: u64,
}

impl Recent {
    /// Nothing is at hand of what lies at or below a place.
    pub fn new(complete_above: i64) -> Self {
        Self {
            events: VecDeque::new(),
            complete_above,
            forks: VecDeque::new(),
            forks_complete_above: complete_above,
            generation: 0,
        }
    }

    /// The events above a place, oldest first, if all of them are at hand.
    pub fn events_above(&self, ordering: i64) -> Option<Vec<Arc<StoredEvent>>> {
        if self.complete_above > ordering {
            return None;
        }
        let newest_first = self.events.iter().rev();
        let mut events: Vec<_> =
            newest_first.take_while(|event| event.ordering() > ordering).cloned().collect();
        events.reverse();
        Some(events)
    }

    /// The event directly before a place, if it is at hand.
    pub fn event_before(&self, ordering: i64) -> Option<Arc<StoredEvent>> {
        self.events.iter().rev().find(|event| event.ordering() < ordering).cloned()
    }

    /// The latest `limit` events, oldest first, if they are at hand; fewer when the room has
    /// no more. The flag says whether there are older ones.
    pub fn latest(&self, limit: usize) -> Option<(Vec<Arc<StoredEvent>>, bool)> {
        let complete = self.complete_above == i64::MIN;
        if self.events.len() < limit && !complete {
            return None;
        }
        let skipped = self.events.len().saturating_sub(limit);
        Some((self.events.iter().skip(skipped).cloned().collect(), skipped > 0 || !complete))
    }

    /// Changes of the current state with `after < ordering < before`, oldest first, if all of them are at hand.
    /// `latest_fork` is the place of the room's latest fork.
    pub fn changes_between(
        &self,
        (after, before): (i64, i64),
        latest_fork: i64,
    ) -> Option<Vec<StateChange>> {
        if self.complete_above > after || self.forks_complete_above > after && latest_fork > after {
            return None;
        }
        let is_between = |ordering: i64| ordering > after && ordering < before;
        let mut forks = self.forks.iter().filter(|fork| is_between(fork.ordering)).peekable();
        let mut changes = Vec::new();
        for event in self.events.iter().filter(|event| is_between(event.ordering())) {
            while let Some(fork) = forks.next_if(|fork| fork.ordering <= event.ordering()) {
                changes.extend_from_slice(&fork.changes);
            }
            if !event.is_forked() {
                changes.extend(event.state_key_nid.map(|key| (key, event.nid)));
            }
        }
        forks.for_each(|fork| changes.extend_from_slice(&fork.changes));
        Some(changes)
    }

    /// Adds older events, newest first and directly below what is at hand; `reached_start` when there are none
    /// below them. `generation` is that of before they were read.
    pub fn extend(&mut self, older: &[Arc<StoredEvent>], reached_start: bool, generation: u64) {
        if self.generation != generation {
            return;
        }
        for event in older {
            let expected = self.events.front().map_or(i64::MAX, |front| front.ordering());
            if event.ordering() < expected
                && event.ordering() <= self.complete_above
                && self.events.len() < RECENT_EVENTS_MAX
            {
                self.complete_above = event.ordering() - 1;
                self.events.push_front(Arc::clone(event));
            }
        }
        let has_all = older.last().is_none_or(|last| last.ordering() > self.complete_above);
        if reached_start && has_all {
            self.complete_above = i64::MIN;
        }
    }

    /// Lets go of everything, since events were put between or below those at hand. `latest` is the place of the
    /// room's latest event.
    pub fn forget(&mut self, latest: i64) {
        self.generation += 1;
        let newest = self.events.back().map_or(self.complete_above, |event| event.ordering());
        self.complete_above = newest.max(latest);
        self.events.clear();
        self.forks_complete_above = self.complete_above;
        self.forks.clear();
    }

    /// Where the events at hand begin: all above this place are there. And their generation.
    pub fn complete_above(&self) -> (i64, u64) {
        (self.complete_above, self.generation)
    }

    /// Adds new events, and what changed where the last of them did not follow the head.
    pub fn append(&mut self, events: &[Arc<StoredEvent>], fork: Option<ForkChanges>) {
        for event in events.iter().filter(|event| !event.is_hidden()) {
            self.events.push_back(Arc::clone(event));
            if self.events.len() > RECENT_EVENTS_MAX
                && let Some(oldest) = self.events.pop_front()
            {
                self.complete_above = oldest.ordering();
            }
        }
        if let Some(fork) = fork {
            match fork.changes.len() <= FORK_CHANGES_MAX {
                true => self.forks.push_back(fork),
                false => {
                    self.forks.clear();
                    self.forks_complete_above = fork.ordering;
                }
            }
        }
        while let Some(oldest) =
            self.forks.pop_front_if(|oldest| oldest.ordering <= self.complete_above)
        {
            self.forks_complete_above = oldest.ordering;
        }
    }

    /// Puts a redacted event in the place of the original.
    pub fn replace(&mut self, event: &Arc<StoredEvent>) {
        if let Some(place) = self.events.iter_mut().find(|known| known.nid == event.nid) {
            *place = Arc::clone(event);
        }
    }

    pub fn weight_bytes(&self) -> u64 {
        let events: usize = self.events.iter().map(|event| event.event.weight_bytes() + 320).sum();
        let forks: usize = self.forks.iter().map(|fork| fork.changes.len() * 16 + 32).sum();
        (events + forks) as u64
    }
}
