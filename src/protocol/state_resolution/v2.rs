//! State resolution of room versions 2 to 11 (version 2), and of 12 (version 2.1, MSC4297).

use std::collections::{HashMap, HashSet};

use ruma::{EventId, OwnedEventId};

use super::{
    Conflict, Events, KnownEvent, Needs, StateMap,
    iterative::PartialState,
    ordering::{sort_by_mainline, sort_by_power},
};
use crate::protocol::{
    event::Event,
    membership::Membership,
    room_version::{RoomRules, StateResolutionVersion},
};

pub(super) fn resolve(
    conflict: &Conflict<'_>,
    rules: &RoomRules,
    events: &Events<'_>,
) -> Result<StateMap, Needs> {
    let is_2_1 = rules.state_resolution == StateResolutionVersion::V2_1;
    let full = load_full_conflicted_set(conflict, is_2_1, events)?;

    // Step 1: the power events and what of their authorisation chains is in the full conflicted set.
    let edges = find_edges(&full);
    let power_nodes = select_power_events(&full, &edges);
    let sorted = sort_by_power(&full, &power_nodes, &edges, rules, events)?;

    // Step 2: check them, from the unconflicted state map (version 2) or an empty one (version 2.1).
    let base = (!is_2_1).then_some(conflict.unconflicted);
    let mut state = PartialState::new(events, rules, (base, conflict.verdicts));
    state.apply(sorted.into_iter().map(|node| full[node].clone()))?;

    // Step 3: order the others by the mainline of the power levels resolved so far.
    let others = (0..full.len()).filter(|node| !power_nodes[*node]);
    let power = state.find("m.room.power_levels", "");
    let sorted = sort_by_mainline(&full, others, power, events)?;

    // Step 4: check those.
    state.apply(sorted.into_iter().map(|node| full[node].clone()))?;

    // Step 5: what is unconflicted stays as it is.
    let resolved = state.resolved.into_iter();
    let kept =
        resolved.filter(|(key, _)| conflict.unconflicted.find(&key.kind, &key.state_key).is_none());
    Ok(kept.map(|(key, known)| (key, known.event.event_id().to_owned())).collect())
}

/// The conflicted state set, the auth difference and (version 2.1) the conflicted state subgraph.
fn load_full_conflicted_set(
    conflict: &Conflict<'_>,
    is_2_1: bool,
    events: &Events<'_>,
) -> Result<Vec<KnownEvent>, Needs> {
    let subgraph: &[OwnedEventId] = if is_2_1 { &conflict.conflicted_subgraph } else { &[] };
    let ids = conflict.conflicted.iter().chain(&conflict.auth_difference).chain(subgraph);
    let mut seen: HashSet<&EventId> = HashSet::new();
    let full = ids.filter(|id| seen.insert(id)).filter_map(|id| events.find(id)).collect();
    events.check_complete()?;
    Ok(full)
}

/// For each event the positions of those of its authorisation events that are in the set.
fn find_edges(full: &[KnownEvent]) -> Vec<Vec<usize>> {
    let positions: HashMap<&EventId, usize> =
        full.iter().enumerate().map(|(node, known)| (known.event.event_id(), node)).collect();
    let edges_of = |known: &KnownEvent| {
        let mut edges: Vec<usize> =
            known.event.auth_events().filter_map(|id| positions.get(id).copied()).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    };
    full.iter().map(edges_of).collect()
}

/// The power events, and what they lead to: for each event whether it is one.
fn select_power_events(full: &[KnownEvent], edges: &[Vec<usize>]) -> Vec<bool> {
    let mut selected = vec![false; full.len()];
    let mut work: Vec<usize> =
        (0..full.len()).filter(|node| is_power_event(&full[*node].event)).collect();
    while let Some(node) = work.pop() {
        if !std::mem::replace(&mut selected[node], true) {
            work.extend(&edges[node]);
        }
    }
    selected
}

/// Whether the event might take away someone's ability to do something. (As in all known
/// implementations, the create event counts, and power levels and join rules only with an empty state key.)
fn is_power_event(event: &Event) -> bool {
    match (event.kind(), event.state_key()) {
        ("m.room.power_levels" | "m.room.join_rules" | "m.room.create", Some("")) => true,
        ("m.room.member", Some(target)) => {
            event.sender() != target
                && matches!(Membership::of_event(event), Some(Membership::Leave | Membership::Ban))
        }
        _ => false,
    }
}
