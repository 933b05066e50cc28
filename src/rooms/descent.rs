//! The search from events of authorisation chains to those that name them, for many at a time: which of them
//! are shared by all states of a conflict, because they are unconflicted or in the chain of an event that is.
//! Not for reading the store, which is done between its steps (see `resolution`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::storage::{EventNid, StateKeyNid, graph::AuthEdge};

/// What is known so far. Events are asked about, then looked at level by level, then concluded.
#[derive(Default)]
pub(super) struct Descent {
    shared: HashSet<EventNid>,
    /// From these no way leads to a shared one.
    barren: HashSet<EventNid>,
    asked: HashSet<EventNid>,
    frontier: BTreeSet<EventNid>,
    looked_at: HashSet<EventNid>,
    /// By child, the events it names, as far as they were met.
    names: HashMap<EventNid, Vec<EventNid>>,
    /// Those of whose children only the latest were told, with the earliest of these.
    broad: BTreeMap<EventNid, EventNid>,
}

impl Descent {
    pub fn is_shared(&self, event: EventNid) -> bool {
        self.shared.contains(&event)
    }

    /// Asks about an event.
    pub fn ask(&mut self, event: EventNid) {
        if !self.shared.contains(&event) && !self.barren.contains(&event) {
            self.asked.insert(event);
            self.frontier.insert(event);
        }
    }

    /// Notes that an event is shared, and so is all that it names.
    pub fn mark(&mut self, event: EventNid) {
        let mut marked = vec![event];
        while let Some(event) = marked.pop() {
            if self.shared.insert(event) {
                marked.extend(self.names.get(&event).into_iter().flatten());
            }
        }
    }

    /// At most `limit` events whose children are to be told next; none when the search is over.
    pub fn next_level(&mut self, limit: usize) -> Vec<EventNid> {
        let mut level = Vec::new();
        while level.len() < limit {
            let Some(event) = self.frontier.pop_first() else { break };
            if self.matters(event) && self.looked_at.insert(event) {
                level.push(event);
            }
        }
        level
    }

    /// Takes children that were told, of whole events: at most `most` of each, where there may be more if it
    /// has so many.
    pub fn take(
        &mut self,
        edges: &[AuthEdge],
        most: usize,
        is_unconflicted: impl Fn(EventNid, StateKeyNid) -> bool,
    ) {
        let mut told: HashMap<EventNid, (usize, EventNid)> = HashMap::new();
        for AuthEdge { parent, child, child_key } in edges {
            let (count, earliest) = told.entry(*parent).or_insert((0, *child));
            (*count, *earliest) = (*count + 1, *child.min(earliest));
            if is_unconflicted(*child, *child_key) || self.shared.contains(child) {
                self.mark(*parent);
            } else if !self.barren.contains(child) {
                self.names.entry(*child).or_default().push(*parent);
                if !self.looked_at.contains(child) {
                    self.frontier.insert(*child);
                }
            }
        }
        let broad = told.into_iter().filter(|(_, (count, _))| *count >= most);
        self.broad.extend(broad.map(|(event, (_, earliest))| (event, earliest)));
    }

    /// One of the events of which not all children were told and that may be shared for another's sake, with
    /// the child before which the others are to be told next.
    pub fn next_broad(&mut self) -> Option<(EventNid, EventNid)> {
        let shared = &self.shared;
        std::iter::from_fn(|| self.broad.pop_first()).find(|(event, _)| !shared.contains(event))
    }

    /// Ends the search: what was looked at and is not shared is barren.
    pub fn conclude(&mut self) {
        let shared = &self.shared;
        self.barren.extend(self.looked_at.drain().filter(|event| !shared.contains(event)));
        self.asked.clear();
        self.names.clear();
        self.broad.clear();
    }

    /// Whether it makes a difference to an event that was asked about.
    fn matters(&self, event: EventNid) -> bool {
        let is_open = |event: &EventNid| !self.shared.contains(event);
        let mut parents = self.names.get(&event).into_iter().flatten();
        is_open(&event) && (self.asked.contains(&event) || parents.any(is_open))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many children are told at once.
    const MOST: usize = 3;

    /// The events of `edges` (parent before child) from which a way leads to an unconflicted one.
    fn find_shared(edges: &[(i64, i64)], unconflicted: &HashSet<i64>) -> HashSet<i64> {
        let mut shared = unconflicted.clone();
        loop {
            let more: Vec<i64> = edges
                .iter()
                .filter(|(parent, child)| shared.contains(child) && !shared.contains(parent))
                .map(|(parent, _)| *parent)
                .collect();
            if more.is_empty() {
                return shared;
            }
            shared.extend(more);
        }
    }

    /// The latest children of an event before one, as the store tells them.
    fn tell(edges: &[(i64, i64)], parent: EventNid, before: i64) -> Vec<AuthEdge> {
        let children = edges.iter().filter(|(from, child)| *from == parent.0 && *child < before);
        let mut children: Vec<i64> = children.map(|(_, child)| *child).collect();
        children.sort_unstable_by(|a, b| b.cmp(a));
        children.truncate(MOST);
        let edge =
            |child| AuthEdge { parent, child: EventNid(child), child_key: StateKeyNid(child) };
        children.into_iter().map(edge).collect()
    }

    fn search(
        descent: &mut Descent,
        asked: &[i64],
        edges: &[(i64, i64)],
        unconflicted: &HashSet<i64>,
    ) {
        for event in asked {
            match unconflicted.contains(event) {
                true => descent.mark(EventNid(*event)),
                false => descent.ask(EventNid(*event)),
            }
        }
        loop {
            let level = descent.next_level(2);
            let asked = match level.is_empty() {
                false => level.into_iter().map(|event| (event, i64::MAX)).collect(),
                true => {
                    Vec::from_iter(descent.next_broad().map(|(event, before)| (event, before.0)))
                }
            };
            if asked.is_empty() {
                break;
            }
            let told: Vec<AuthEdge> = asked
                .into_iter()
                .flat_map(|(parent, before)| tell(edges, parent, before))
                .collect();
            descent.take(&told, MOST, |child, _| unconflicted.contains(&child.0));
        }
        descent.conclude();
    }

    proptest! {
        #[test]
        fn search_finds_what_is_shared_and_nothing_else(
            pairs in prop::collection::hash_set((0_i64..30, 1_i64..8), 0..90),
            unconflicted in prop::collection::hash_set(0_i64..38, 0..5),
            asked in prop::collection::vec(prop::collection::vec(0_i64..30, 1..6), 1..4),
        ) {
            let edges: Vec<(i64, i64)> = pairs.into_iter().map(|(from, by)| (from, from + by)).collect();
            let shared = find_shared(&edges, &unconflicted);
            let mut descent = Descent::default();
            for asked in &asked {
                search(&mut descent, asked, &edges, &unconflicted);
                for event in asked {
                    prop_assert_eq!(descent.is_shared(EventNid(*event)), shared.contains(event));
                    prop_assert_eq!(descent.barren.contains(&EventNid(*event)), !shared.contains(event));
                }
            }
        }
    }
}
