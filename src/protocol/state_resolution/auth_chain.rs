//! Walks over the graph of authorisation events: the difference of chains, and the paths between
//! conflicted events.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{EventSource, Holders, Needs, StateMap};
use crate::protocol::event::Event;

/// The events that are in the full authorisation chain of some state but not of every one.
///
/// A state's chain counts the state's own events in, as all known implementations have it: an event on
/// which all states agree is no difference, even if only some states have an event that cites it.
pub fn auth_difference(
    states: &[&StateMap],
    source: &dyn EventSource,
) -> Result<Vec<OwnedEventId>, Needs> {
    let mut held: HashMap<&EventId, Holders> = HashMap::new();
    for (index, state) in states.iter().enumerate() {
        for id in state.values() {
            held.entry(id).or_default().insert(index);
        }
    }
    let held = held.into_iter().map(|(id, holders)| (id.to_owned(), holders)).collect::<Vec<_>>();
    auth_difference_beyond(&held, states.len(), &|_| false, source)
}

/// As [`auth_difference`], for a caller that can tell which events the states share, so that the cost is
/// that of the difference: `conflicted` is the conflicted state set of `states` states, each event with
/// those that hold it, and `is_shared` says whether an event is unconflicted, or in the chain of one that is.
pub fn auth_difference_beyond(
    conflicted: &[(OwnedEventId, Holders)],
    states: usize,
    is_shared: &dyn Fn(&EventId) -> bool,
    source: &dyn EventSource,
) -> Result<Vec<OwnedEventId>, Needs> {
    let words = states.div_ceil(64).max(1);
    let mut graph = Graph::new(source, is_shared);
    // For each event, one bit for every state whose chain it is in.
    let mut marks: Vec<u64> = Vec::new();
    let mut work = Vec::new();
    for (id, holders) in conflicted.iter().filter(|(id, _)| !is_shared(id)) {
        let node = graph.node(id);
        marks.resize(graph.len() * words, 0);
        let own = &mut marks[node as usize * words..][..words];
        own.iter_mut().zip(holders.words()).for_each(|(own, held)| *own |= held);
        work.push(node);
    }
    while let Some(node) = work.pop() {
        graph.walk(node);
        marks.resize(graph.len() * words, 0);
        let from = node as usize * words;
        for &parent in graph.parents(node) {
            let to = parent as usize * words;
            let mut grown = false;
            for word in 0..words {
                let before = marks[to + word];
                marks[to + word] |= marks[from + word];
                grown |= marks[to + word] != before;
            }
            if grown {
                work.push(parent);
            }
        }
    }
    graph.check_complete()?;
    let in_every_chain = |node: u32| {
        let own = &marks[node as usize * words..][..words];
        own.iter().map(|word| word.count_ones() as usize).sum::<usize>() == states
    };
    Ok(graph.into_ids(|node| !in_every_chain(node)))
}

/// The events on all paths along authorisation events from one conflicted event to another, with both
/// ends (version 2.1).
pub fn conflicted_subgraph(
    conflicted: &[OwnedEventId],
    source: &dyn EventSource,
) -> Result<Vec<OwnedEventId>, Needs> {
    let mut graph = Graph::new(source, &|_| false);
    let ends: Vec<u32> = conflicted.iter().map(|id| graph.node(id)).collect();
    // Everything that conflicted events lead to, with the edges backwards.
    let mut children: Vec<Vec<u32>> = Vec::new();
    let mut work = ends.clone();
    while let Some(node) = work.pop() {
        if !graph.walk(node) {
            continue;
        }
        children.resize(graph.len(), Vec::new());
        for &parent in graph.parents(node) {
            children[parent as usize].push(node);
            work.push(parent);
        }
    }
    graph.check_complete()?;
    // Of it, everything that leads to a conflicted event.
    children.resize(graph.len(), Vec::new());
    let mut on_path = vec![false; graph.len()];
    let mut work = ends;
    while let Some(node) = work.pop() {
        if !std::mem::replace(&mut on_path[node as usize], true) {
            work.extend(&children[node as usize]);
        }
    }
    Ok(graph.into_ids(|node| on_path[node as usize]))
}

/// The part of the graph that was walked over, its events numbered from 0 on.
struct Graph<'a> {
    source: &'a dyn EventSource,
    is_left_out: &'a dyn Fn(&EventId) -> bool,
    numbers: HashMap<OwnedEventId, u32>,
    nodes: Vec<Node>,
    missing: BTreeSet<OwnedEventId>,
}

enum Node {
    Found(Arc<Event>),
    /// The authorisation events, but those to be left out.
    Walked(Box<[u32]>),
    Missing,
}

impl<'a> Graph<'a> {
    fn new(source: &'a dyn EventSource, is_left_out: &'a dyn Fn(&EventId) -> bool) -> Self {
        let (numbers, missing) = (HashMap::new(), BTreeSet::new());
        Self { source, is_left_out, numbers, nodes: Vec::new(), missing }
    }

    fn len(&self) -> usize {
        self.nodes.len()
    }

    fn node(&mut self, id: &EventId) -> u32 {
        if let Some(node) = self.numbers.get(id) {
            return *node;
        }
        let node = self.nodes.len() as u32;
        self.numbers.insert(id.to_owned(), node);
        self.nodes.push(match self.source.find(id) {
            Some(known) => Node::Found(known.event),
            None => {
                self.missing.insert(id.to_owned());
                Node::Missing
            }
        });
        node
    }

    /// Finds out what `node` leads to. False if that is known already.
    fn walk(&mut self, node: u32) -> bool {
        let Node::Found(event) = &self.nodes[node as usize] else {
            return false;
        };
        let event = Arc::clone(event);
        let kept = event.auth_events().filter(|id| !(self.is_left_out)(id));
        let parents = kept.map(|id| self.node(id)).collect();
        self.nodes[node as usize] = Node::Walked(parents);
        true
    }

    fn parents(&self, node: u32) -> &[u32] {
        match &self.nodes[node as usize] {
            Node::Walked(parents) => parents,
            Node::Found(_) | Node::Missing => &[],
        }
    }

    fn check_complete(&mut self) -> Result<(), Needs> {
        let missing = std::mem::take(&mut self.missing);
        if missing.is_empty() { Ok(()) } else { Err(Needs(missing)) }
    }

    fn into_ids(self, is_chosen: impl Fn(u32) -> bool) -> Vec<OwnedEventId> {
        let chosen = self.numbers.into_iter().filter(|(_, node)| is_chosen(*node));
        chosen.map(|(id, _)| id).collect()
    }
}
