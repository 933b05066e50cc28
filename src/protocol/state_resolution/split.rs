//! Taking states apart: the entries on which they agree, and the events on which they do not.
//!
//! Not for authorisation chains (`auth_chain`).

use std::collections::{BTreeMap, HashMap, HashSet};

use imbl::{OrdMap, ordmap::DiffItem};
use ruma::OwnedEventId;

use super::StateMap;
use crate::protocol::{
    room_version::{RoomRules, StateResolutionVersion},
    state_key::StateKey,
};

/// Which of the states of a fork hold something: a bit for each, in words of 64.
#[derive(Clone, Debug, Default)]
pub struct Holders(Vec<u64>);

/// Persistent states, taken apart.
pub struct SharedSplit<K, E> {
    pub unconflicted: OrdMap<K, E>,
    /// The conflicted state set, each event with the states that hold it.
    pub conflicted: BTreeMap<E, Holders>,
}

/// Takes states apart. In version 1 a key that only some states have is no conflict; from version 2 on it
/// is one.
pub fn split(states: &[&StateMap], rules: &RoomRules) -> (StateMap, Vec<OwnedEventId>) {
    let absent_agrees = rules.state_resolution == StateResolutionVersion::V1;
    let mut values: HashMap<&StateKey, (HashSet<&OwnedEventId>, usize)> = HashMap::new();
    for (key, id) in states.iter().copied().flatten() {
        let (ids, count) = values.entry(key).or_default();
        ids.insert(id);
        *count += 1;
    }
    let mut unconflicted = StateMap::new();
    let mut conflicted = Vec::new();
    for (key, (ids, count)) in values {
        let everywhere = absent_agrees || count == states.len();
        match ids.iter().next() {
            Some(id) if ids.len() == 1 && everywhere => {
                unconflicted.insert(key.clone(), (*id).clone());
            }
            _ => conflicted.extend(ids.into_iter().cloned()),
        }
    }
    (unconflicted, conflicted)
}

/// As [`split`], for maps that share structure: the cost is that of what differs from the first state. No
/// states at all agree on everything.
pub fn split_shared<K: Clone + Ord, E: Clone + Ord>(
    states: &[&OrdMap<K, E>],
    rules: &RoomRules,
) -> SharedSplit<K, E> {
    let absent_agrees = rules.state_resolution == StateResolutionVersion::V1;
    let Some((first, others)) = states.split_first() else {
        return SharedSplit { unconflicted: OrdMap::new(), conflicted: BTreeMap::new() };
    };
    let mut unconflicted = (*first).clone();
    let mut conflicted: BTreeMap<E, Holders> = BTreeMap::new();
    for (key, changes) in list_changes(first, others) {
        let mut held: BTreeMap<&E, Holders> = BTreeMap::new();
        let mut unchanged = Holders::all(states.len());
        for (state, event) in changes {
            unchanged.remove(state);
            if let Some(event) = event {
                held.entry(event).or_default().insert(state);
            }
        }
        if let Some(event) = first.get(key) {
            held.insert(event, unchanged);
        }
        match held.first_key_value() {
            Some((only, _)) if absent_agrees && held.len() == 1 => {
                unconflicted.insert(key.clone(), (*only).clone());
            }
            _ => {
                unconflicted.remove(key);
                conflicted.extend(held.into_iter().map(|(event, by)| (event.clone(), by)));
            }
        }
    }
    SharedSplit { unconflicted, conflicted }
}

/// The keys for which some state has something else than the first one: which state, and what it has.
fn list_changes<'a, K: Clone + Ord, E: Clone + Ord>(
    first: &'a OrdMap<K, E>,
    others: &[&'a OrdMap<K, E>],
) -> BTreeMap<&'a K, Vec<(usize, Option<&'a E>)>> {
    let mut changes: BTreeMap<&K, Vec<(usize, Option<&E>)>> = BTreeMap::new();
    for (index, other) in others.iter().enumerate() {
        for item in first.diff(other) {
            let (key, event) = match item {
                DiffItem::Add(key, event) => (key, Some(event)),
                DiffItem::Update { new: (key, event), .. } => (key, Some(event)),
                DiffItem::Remove(key, _) => (key, None),
            };
            changes.entry(key).or_default().push((index + 1, event));
        }
    }
    changes
}

impl Holders {
    /// The first `count` states.
    pub fn all(count: usize) -> Self {
        let mut holders = Self(vec![u64::MAX; count.div_ceil(64)]);
        if let Some(last) = holders.0.last_mut()
            && !count.is_multiple_of(64)
        {
            *last = (1 << (count % 64)) - 1;
        }
        holders
    }

    pub fn insert(&mut self, state: usize) {
        if self.0.len() <= state / 64 {
            self.0.resize(state / 64 + 1, 0);
        }
        self.0[state / 64] |= 1 << (state % 64);
    }

    pub fn remove(&mut self, state: usize) {
        if let Some(word) = self.0.get_mut(state / 64) {
            *word &= !(1 << (state % 64));
        }
    }

    pub fn contains(&self, state: usize) -> bool {
        self.0.get(state / 64).is_some_and(|word| word >> (state % 64) & 1 == 1)
    }

    /// How many states these are.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The words, lowest states first.
    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Holders, split_shared};
    use crate::protocol::room_version::RoomVersion;

    fn map(entries: &[(u32, u32)]) -> imbl::OrdMap<u32, u32> {
        entries.iter().copied().collect()
    }

    #[test]
    fn what_only_some_states_have_is_a_conflict_from_version_2_on() {
        let states = [map(&[(1, 10), (2, 20)]), map(&[(1, 10), (3, 30)]), map(&[(1, 10), (2, 21)])];
        let states: Vec<_> = states.iter().collect();
        let old = split_shared(&states, RoomVersion::V1.rules());
        assert_eq!(old.unconflicted, map(&[(1, 10), (3, 30)]));
        let ids: Vec<u32> = old.conflicted.keys().copied().collect();
        assert_eq!(ids, [20, 21]);
        let new = split_shared(&states, RoomVersion::V2.rules());
        assert_eq!(new.unconflicted, map(&[(1, 10)]));
        let by = |holders: &Holders| (0..3).find(|state| holders.contains(*state));
        let conflicted: Vec<_> = new.conflicted.iter().map(|(id, held)| (*id, by(held))).collect();
        assert_eq!(conflicted, [(20, Some(0)), (21, Some(2)), (30, Some(1))]);
        assert!(new.conflicted.values().all(|holders| holders.count() == 1));
    }

    #[test]
    fn holders_of_many_states_are_counted() {
        for count in [0, 1, 63, 64, 65, 128, 200] {
            let mut all = Holders::all(count);
            assert_eq!(all.count(), count);
            assert!(!all.contains(count));
            if count > 0 {
                all.remove(count - 1);
                assert_eq!(all.count(), count - 1);
            }
        }
    }
}
