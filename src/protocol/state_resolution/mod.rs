//! State resolution: what the state of a room is where its history forks. Versions 1, 2 and 2.1.
//!
//! Pure: events are asked for by ID, and what is not at hand comes back as [`Needs`]; load it and ask
//! again. No step recurses, and cycles (possible where event IDs are not hashes) end it, too. Memory
//! grows with the full conflicted set and with the power levels its events cite, not with the room.
//!
//! Not for finding the states of a fork, nor for rejecting events. Source: specification, content/rooms/,
//! "State resolution" of versions 1, 2 and 12. Where its text and all known implementations differ, the
//! implementations count, since the point is to agree; each such place says so.

mod auth_chain;
mod iterative;
mod ordering;
mod sha1;
mod split;
mod v1;
mod v2;
mod verdicts;

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

pub use self::{
    auth_chain::{auth_difference, auth_difference_beyond, conflicted_subgraph},
    split::{Holders, SharedSplit, split, split_shared},
    verdicts::{Case, NoVerdicts, Verdicts},
};
use super::{
    event::Event,
    room_version::{RoomRules, StateResolutionVersion},
    state_key::{StateKey, StatePair},
};

/// A room's state by event ID.
pub type StateMap = HashMap<StateKey, OwnedEventId>;

/// An event, and whether it was rejected when it was received.
#[derive(Clone, Debug)]
pub struct KnownEvent {
    pub event: Arc<Event>,
    pub rejected: bool,
}

/// Where resolution gets its events. Asked often, also for the same events: keep them in memory.
pub trait EventSource {
    fn find(&self, id: &EventId) -> Option<KnownEvent>;
}

/// The entries on which all states agree.
pub trait UnconflictedState {
    fn find(&self, kind: &str, state_key: &str) -> Option<OwnedEventId>;
}

/// States to resolve, already taken apart.
pub struct Conflict<'a> {
    pub unconflicted: &'a dyn UnconflictedState,
    /// The conflicted state set: the events on which the states do not agree.
    pub conflicted: Vec<OwnedEventId>,
    /// The auth difference; unused in version 1.
    pub auth_difference: Vec<OwnedEventId>,
    /// The conflicted state subgraph; used in version 2.1 only.
    pub conflicted_subgraph: Vec<OwnedEventId>,
    /// Unused in version 1.
    pub verdicts: &'a dyn Verdicts,
}

/// Events that resolution cannot do without. Not all that it will ever ask for: load them and ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} events are needed to resolve the state", .0.len())]
pub struct Needs(pub BTreeSet<OwnedEventId>);

/// Resolves whole states. For small rooms and tests; a caller that knows where its states differ, and keeps
/// authorisation chains, calls [`resolve`], whose cost follows the conflict.
pub fn resolve_states(
    states: &[&StateMap],
    rules: &RoomRules,
    source: &dyn EventSource,
) -> Result<StateMap, Needs> {
    let (mut unconflicted, conflicted) = split(states, rules);
    if conflicted.is_empty() {
        return Ok(unconflicted);
    }
    let differ = |states: &[&StateMap]| auth_difference(states, source);
    let (auth_difference, conflicted_subgraph) = match rules.state_resolution {
        StateResolutionVersion::V1 => (Vec::new(), Vec::new()),
        StateResolutionVersion::V2 => (differ(states)?, Vec::new()),
        StateResolutionVersion::V2_1 => {
            (differ(states)?, conflicted_subgraph(&conflicted, source)?)
        }
    };
    let conflict = Conflict {
        unconflicted: &unconflicted,
        conflicted,
        auth_difference,
        conflicted_subgraph,
        verdicts: &NoVerdicts,
    };
    let resolved = resolve(&conflict, rules, source)?;
    unconflicted.extend(resolved);
    Ok(unconflicted)
}

/// Resolves a conflict. The result has the entries that are not unconflicted; a key that is neither here
/// nor there has no entry in the resolved state.
pub fn resolve(
    conflict: &Conflict<'_>,
    rules: &RoomRules,
    source: &dyn EventSource,
) -> Result<StateMap, Needs> {
    let events = Events { source, missing: RefCell::default() };
    match rules.state_resolution {
        StateResolutionVersion::V1 => v1::resolve(conflict, rules, &events),
        StateResolutionVersion::V2 | StateResolutionVersion::V2_1 => {
            v2::resolve(conflict, rules, &events)
        }
    }
}

impl UnconflictedState for StateMap {
    fn find(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        self.get(&(kind, state_key) as &dyn StatePair).cloned()
    }
}

impl EventSource for HashMap<OwnedEventId, KnownEvent> {
    fn find(&self, id: &EventId) -> Option<KnownEvent> {
        self.get(id).cloned()
    }
}

/// A source of events that remembers what it was asked for in vain.
struct Events<'a> {
    source: &'a dyn EventSource,
    missing: RefCell<BTreeSet<OwnedEventId>>,
}

impl Events<'_> {
    fn find(&self, id: &EventId) -> Option<KnownEvent> {
        let found = self.source.find(id);
        if found.is_none() {
            self.missing.borrow_mut().insert(id.to_owned());
        }
        found
    }

    /// Ends a step: an error if it lacked anything.
    fn check_complete(&self) -> Result<(), Needs> {
        let missing = self.missing.take();
        if missing.is_empty() { Ok(()) } else { Err(Needs(missing)) }
    }

    /// The event among those that `event` names for its authorisation that has `kind` and an empty state
    /// key. Events at hand are looked through first, so that nothing is missed in vain.
    fn find_auth_event(&self, event: &Event, kind: &str) -> Option<KnownEvent> {
        let fits = |known: &KnownEvent| known.event.is_state_of(kind, "");
        let at_hand = event.auth_events().filter_map(|id| self.source.find(id)).find(fits);
        at_hand.or_else(|| event.auth_events().filter_map(|id| self.find(id)).find(fits))
    }

    /// The create event of the room of `event`, named or (version 12) implied.
    fn find_create(&self, event: &Event, rules: &RoomRules) -> Option<KnownEvent> {
        if event.kind() == "m.room.create" {
            return self.find(event.event_id());
        }
        if !rules.room_id_is_create_hash {
            return self.find_auth_event(event, "m.room.create");
        }
        let create_id = format!("${}", &event.room_id().as_str()[1..]);
        self.find(<&EventId>::try_from(create_id.as_str()).ok()?)
    }
}
