//! Which state events name an event for their authorisation: all of it lies in the store, and the latest of it
//! in memory as well, since the branches of a fork mostly differ by what has just been said. Not for the events
//! themselves (see `event_store`), nor for the search along the edges (see `descent`).

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::storage::{
    Database, EventNid, StateKeyNid, StorageError, WriteTx,
    graph::{self, AuthEdge},
};

/// Edges in memory; about a megabyte.
const EDGES_MAX: usize = 32 * 1024;

/// The edges of all rooms.
pub(super) struct AuthEdges {
    database: Database,
    latest: Arc<Mutex<Latest>>,
}

struct Latest {
    /// Parent, child, the child's key.
    edges: BTreeSet<(EventNid, EventNid, StateKeyNid)>,
    /// All children of parents from this number on are here.
    whole_from: EventNid,
    most: usize,
}

impl AuthEdges {
    /// `next` is the number of the next event that will be stored: those that name it are still to come.
    pub fn new(database: Database, next: EventNid) -> Self {
        let latest = Latest { edges: BTreeSet::new(), whole_from: next, most: EDGES_MAX };
        Self { database, latest: Arc::new(Mutex::new(latest)) }
    }

    /// Notes, when `tx` is committed, that the state event `child` names these for its authorisation.
    pub fn insert(
        &self,
        tx: &mut WriteTx,
        parents: impl Iterator<Item = EventNid>,
        child: (EventNid, StateKeyNid),
    ) {
        let parents: Vec<EventNid> = parents.collect();
        parents.iter().for_each(|parent| graph::insert_auth_edge(tx, *parent, child));
        let latest = Arc::clone(&self.latest);
        tx.after_commit(move |_| latest.lock().note(&parents, child));
    }

    /// Of each of `parents` the latest state events that name it, at most `most`.
    pub async fn list_latest(
        &self,
        parents: &[EventNid],
        most: usize,
    ) -> Result<Vec<AuthEdge>, StorageError> {
        let (mut edges, mut unknown) = (Vec::new(), Vec::new());
        {
            let latest = self.latest.lock();
            for parent in parents {
                match latest.find_children(*parent, EventNid(i64::MAX)) {
                    Some(children) => edges.extend(children.take(most)),
                    None => unknown.push(*parent),
                }
            }
        }
        if !unknown.is_empty() {
            edges.extend(graph::list_latest_auth_children(&self.database, &unknown, most).await?);
        }
        Ok(edges)
    }

    /// The state events that name `parent`, the latest first, from those below `before` on.
    pub async fn list_before(
        &self,
        parent: EventNid,
        before: EventNid,
        limit: usize,
    ) -> Result<Vec<AuthEdge>, StorageError> {
        let known = {
            let latest = self.latest.lock();
            latest.find_children(parent, before).map(|children| children.take(limit).collect())
        };
        match known {
            Some(children) => Ok(children),
            None => graph::list_auth_children(&self.database, parent, before, limit).await,
        }
    }
}

impl Latest {
    fn note(&mut self, parents: &[EventNid], (child, child_key): (EventNid, StateKeyNid)) {
        let known = parents.iter().filter(|parent| **parent >= self.whole_from);
        self.edges.extend(known.map(|parent| (*parent, child, child_key)));
        // The oldest parents make room, each with all of its children.
        while let Some((parent, ..)) = self.edges.first().copied()
            && (self.edges.len() > self.most || parent < self.whole_from)
        {
            self.whole_from = EventNid(parent.0 + 1);
            self.edges.pop_first();
        }
    }

    /// The children of `parent` below `before`, the latest first; None where not all are known.
    fn find_children(
        &self,
        parent: EventNid,
        before: EventNid,
    ) -> Option<impl Iterator<Item = AuthEdge>> {
        let least = StateKeyNid(i64::MIN);
        let range = (parent, EventNid(i64::MIN), least)..(parent, before, least);
        let edge = |(parent, child, child_key): &(EventNid, EventNid, StateKeyNid)| AuthEdge {
            parent: *parent,
            child: *child,
            child_key: *child_key,
        };
        (parent >= self.whole_from).then(|| self.edges.range(range).rev().map(edge))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn list(latest: &Latest, parent: i64, before: i64) -> Option<Vec<i64>> {
        let children = latest.find_children(EventNid(parent), EventNid(before))?;
        Some(children.map(|edge| edge.child.0).collect())
    }

    proptest! {
        /// What is said to be known is all that there is, with little room as well as with much.
        #[test]
        fn children_are_told_whole_or_not_at_all(
            edges in prop::collection::vec((0..20_i64, 1..20_i64), 0..60),
            most in 1..40_usize,
        ) {
            let mut latest =
                Latest { edges: BTreeSet::new(), whole_from: EventNid(5), most };
            let mut all: HashSet<(i64, i64)> = HashSet::new();
            for (parent, distance) in edges {
                let child = parent + distance;
                all.insert((parent, child));
                latest.note(&[EventNid(parent)], (EventNid(child), StateKeyNid(child)));
            }
            prop_assert!(latest.edges.len() <= most);
            for parent in 0..20 {
                for before in [10, 25, i64::MAX] {
                    let mut children: Vec<i64> = all
                        .iter()
                        .filter(|(of, child)| *of == parent && *child < before)
                        .map(|(_, child)| *child)
                        .collect();
                    children.sort_unstable_by(|a, b| b.cmp(a));
                    let told = list(&latest, parent, before);
                    prop_assert!(told.is_none_or(|told| told == children));
                }
            }
        }
    }

    #[test]
    fn children_of_the_latest_events_are_known() {
        let mut latest = Latest { edges: BTreeSet::new(), whole_from: EventNid(5), most: 4 };
        for child in 6..20 {
            latest.note(&[EventNid(1), EventNid(child - 1)], (EventNid(child), StateKeyNid(0)));
        }
        assert_eq!(list(&latest, 1, i64::MAX), None);
        assert_eq!(list(&latest, 5, i64::MAX), None);
        assert_eq!(list(&latest, 18, i64::MAX), Some(vec![19]));
        assert_eq!(list(&latest, 19, i64::MAX), Some(vec![]));
    }
}
