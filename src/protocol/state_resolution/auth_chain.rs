//! Walks over the graph of authorisation events: the difference of chains, and the paths between
//! conflicted events.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{EventSource, Needs, StateMap};
use crate::protocol::event::Event;

/// The events that are in the full authorisation chain of some state but not of every one.
///
/// A state's chain counts the state's own events in, as all known implementations have it: an event on
/// which all states agree is no difference, even if only some states have an event that cites it.
pub fn auth_difference(
    states: &[&StateMap],
    source: &dyn EventSource,
) -> Result<Vec<OwnedEventId>, Needs> {
    let chains: Vec<Vec<OwnedEventId>> =
        states.iter().map(|state| state.values().cloned().collect()).collect();
    auth_difference_beyond(&chains, &|_| false, source)
}

/// As [`auth_difference`], for a caller that can tell which events the states share, so that the cost is
/// that of the difference: `conflicted` are the events that each state has of the conflicted state set, and
/// `is_shared` says whether an event is unconflicted, or in the chain of one that is.
pub fn auth_difference_beyond(
    conflicted: &[Vec<OwnedEventId>],
    is_shared: &dyn Fn(&EventId) -> bool,
    source: &dyn EventSource,
) -> Result<Vec<OwnedEventId>, Needs> {
    let words = conflicted.len().div_ceil(64).max(1);
    let mut graph = Graph::new(source);
    // For each event, one bit for every state whose chain it is in.
    let mut marks: Vec<u64> = Vec::new();
    let mut work = Vec::new();
    for (index, ids) in conflicted.iter().enumerate() {
        for id in ids.iter().filter(|id| !is_shared(id)) {
            let node = graph.node(id);
            marks.resize(graph.ids.len() * words, 0);
            marks[node * words + index / 64] |= 1 << (index % 64);
            work.push(node);
        }
    }
    while let Some(node) = work.pop() {
        // The chain of a shared event is shared too, and need not be walked.
        for parent in graph.parents(node, is_shared) {
            marks.resize(graph.ids.len() * words, 0);
            let mut grown = false;
            for word in 0..words {
                let before = marks[parent * words + word];
                marks[parent * words + word] |= marks[node * words + word];
                grown |= marks[parent * words + word] != before;
            }
            if grown {
                work.push(parent);
            }
        }
    }
    graph.check_complete()?;
    let in_every_chain = |node: usize| {
        let marked: u32 = marks[node * words..][..words].iter().map(|word| word.count_ones()).sum();
        marked as usize == conflicted.len()
    };
    let ids = graph.ids.into_iter().enumerate();
    Ok(ids.filter(|(node, _)| !in_every_chain(*node)).map(|(_, id)| id).collect())
}

/// The events on all paths along authorisation events from one conflicted event to another, with both
/// ends (version 2.1).
pub fn conflicted_subgraph(
    conflicted: &[OwnedEventId],
    source: &dyn EventSource,
) -> Result<Vec<OwnedEventId>, Needs> {
    let mut graph = Graph::new(source);
    let mut work: Vec<usize> = conflicted.iter().map(|id| graph.node(id)).collect();
    let ends = work.clone();
    // Everything that conflicted events lead to, with the edges backwards.
    let mut children: Vec<Vec<usize>> = Vec::new();
    let mut visited = Vec::new();
    while let Some(node) = work.pop() {
        visited.resize(graph.ids.len(), false);
        if std::mem::replace(&mut visited[node], true) {
            continue;
        }
        for parent in graph.parents(node, &|_| false) {
            children.resize(graph.ids.len(), Vec::new());
            children[parent].push(node);
            work.push(parent);
        }
    }
    graph.check_complete()?;
    // Of it, everything that leads to a conflicted event.
    children.resize(graph.ids.len(), Vec::new());
    let mut on_path = vec![false; graph.ids.len()];
    let mut work = ends;
    while let Some(node) = work.pop() {
        if !std::mem::replace(&mut on_path[node], true) {
            work.extend(&children[node]);
        }
    }
    let ids = graph.ids.into_iter().zip(on_path);
    Ok(ids.filter(|(_, on_path)| *on_path).map(|(id, _)| id).collect())
}

/// The part of the graph that was walked over, its events numbered.
struct Graph<'a> {
    source: &'a dyn EventSource,
    numbers: HashMap<OwnedEventId, usize>,
    ids: Vec<OwnedEventId>,
    events: Vec<Option<Arc<Event>>>,
    missing: BTreeSet<OwnedEventId>,
}

impl<'a> Graph<'a> {
    fn new(source: &'a dyn EventSource) -> Self {
        Self {
            source,
            numbers: HashMap::new(),
            ids: Vec::new(),
            events: Vec::new(),
            missing: BTreeSet::new(),
        }
    }

    fn node(&mut self, id: &EventId) -> usize {
        if let Some(node) = self.numbers.get(id) {
            return *node;
        }
        let found = self.source.find(id).map(|known| known.event);
        if found.is_none() {
            self.missing.insert(id.to_owned());
        }
        self.numbers.insert(id.to_owned(), self.ids.len());
        self.ids.push(id.to_owned());
        self.events.push(found);
        self.ids.len() - 1
    }

    /// The authorisation events of `node`, but those to be left out.
    fn parents(&mut self, node: usize, is_left_out: &dyn Fn(&EventId) -> bool) -> Vec<usize> {
        let Some(event) = self.events[node].clone() else {
            return Vec::new();
        };
        let kept = event.auth_events().filter(|id| !is_left_out(id));
        kept.map(|id| self.node(id)).collect()
    }

    fn check_complete(&mut self) -> Result<(), Needs> {
        let missing = std::mem::take(&mut self.missing);
        if missing.is_empty() { Ok(()) } else { Err(Needs(missing)) }
    }
}
