//! Looking up state by event type and state key.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use super::event::Event;

/// The pair that names one entry of a room's state. Maps keyed by it can be asked with two string
/// slices, without building a key: `map.get(&("m.room.member", "@a:b") as &dyn StatePair)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StateKey {
    pub kind: Box<str>,
    pub state_key: Box<str>,
}

/// Something that names an entry of state.
pub trait StatePair {
    /// Event type and state key.
    fn pair(&self) -> (&str, &str);
}

/// A room's state, however it is kept.
pub trait StateLookup {
    /// The event that the state has for `kind` and `state_key`.
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>>;
}

impl StateKey {
    pub fn new(kind: &str, state_key: &str) -> Self {
        Self { kind: kind.into(), state_key: state_key.into() }
    }

    /// The entry that `event` occupies, if it is a state event.
    pub fn of_event(event: &Event) -> Option<Self> {
        Some(Self::new(event.kind(), event.state_key()?))
    }
}

impl StatePair for StateKey {
    fn pair(&self) -> (&str, &str) {
        (&self.kind, &self.state_key)
    }
}

impl StatePair for (&str, &str) {
    fn pair(&self) -> (&str, &str) {
        *self
    }
}

impl Hash for StateKey {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.pair().hash(hasher);
    }
}

impl<'a> Borrow<dyn StatePair + 'a> for StateKey {
    fn borrow(&self) -> &(dyn StatePair + 'a) {
        self
    }
}

impl Hash for dyn StatePair + '_ {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.pair().hash(hasher);
    }
}

impl PartialEq for dyn StatePair + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for dyn StatePair + '_ {}

impl PartialOrd for dyn StatePair + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn StatePair + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.pair().cmp(&other.pair())
    }
}

impl<S: BuildHasher> StateLookup for HashMap<StateKey, Arc<Event>, S> {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        self.get(&(kind, state_key) as &dyn StatePair).cloned()
    }
}

impl StateLookup for BTreeMap<StateKey, Arc<Event>> {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        self.get(&(kind, state_key) as &dyn StatePair).cloned()
    }
}

impl<T: StateLookup + ?Sized> StateLookup for &T {
    fn find(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        (**self).find(kind, state_key)
    }
}
