//! State resolution, compared with an independent implementation on generated rooms.

use std::collections::{BTreeSet, HashMap};

use hearth::protocol::{
    authorisation::{AuthRejection, authorise},
    room_version::RoomVersion,
    state_key::StateKey,
    state_resolution::{
        Holders, StateMap, auth_difference, auth_difference_beyond, resolve_states, split,
        split_shared,
    },
};

use ruma::{EventId, OwnedEventId};

use crate::{
    graph::{Dice, Graph, View},
    oracle,
};

/// Rooms per version in an ordinary run; `HEARTH_TEST_ROOMS` asks for more.
const ROOMS: u64 = 20;

const STEPS: usize = 40;

fn rooms() -> u64 {
    std::env::var("HEARTH_TEST_ROOMS").ok().and_then(|rooms| rooms.parse().ok()).unwrap_or(ROOMS)
}

fn each_room(versions: &[RoomVersion], check: impl Fn(RoomVersion, u64, Graph, Dice)) {
    for &version in versions {
        for seed in 0..rooms() {
            let mut dice = Dice(seed);
            let graph = Graph::new(version, &mut dice);
            check(version, seed, graph, dice);
        }
    }
}

#[test]
fn resolution_and_verdicts_agree_with_ruma() {
    each_room(&RoomVersion::ALL[1..], |version, seed, mut graph, mut dice| {
        for step in 0..STEPS {
            let place = format!("version {version} seed {seed} step {step}");
            let step = graph.step(&mut dice);
            let resolved = oracle::resolve(version, &step.states, &graph.events);
            assert_eq!(step.state, resolved, "{place}");
            let compare = |ours: &Result<(), AuthRejection>, theirs: Result<(), String>| {
                let event = step.event.json();
                assert_eq!(ours.is_ok(), theirs.is_ok(), "{place}: {ours:?} {theirs:?} {event}");
            };
            let event = &step.event;
            compare(&step.receipt, oracle::check_receipt(version, event, &graph.events));
            let judge = |state| oracle::authorise(version, event, state, &graph.events);
            compare(&step.verdict, judge(&step.state));
            compare(&step.cited, judge(&step.cited_state));
        }
        let ends: Vec<StateMap> = graph.ends.iter().map(|id| graph.states[id].clone()).collect();
        let references: Vec<&StateMap> = ends.iter().collect();
        let ours = resolve_states(&references, graph.rules(), &graph.events).unwrap();
        assert_eq!(ours, oracle::resolve(version, &ends, &graph.events), "seed {seed}");
    });
}

#[test]
fn order_of_states_does_not_matter() {
    each_room(&RoomVersion::ALL, |_, _, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        let mut states: Vec<&StateMap> = graph.ends.iter().map(|id| &graph.states[id]).collect();
        let resolved = resolve_states(&states, graph.rules(), &graph.events).unwrap();
        for _ in 0..4 {
            let (left, right) = (dice.roll(states.len()), dice.roll(states.len()));
            states.swap(left, right);
            let again = resolve_states(&states, graph.rules(), &graph.events).unwrap();
            assert_eq!(resolved, again);
        }
    });
}

#[test]
fn missing_events_are_asked_for_until_the_result_is_the_same() {
    each_room(&RoomVersion::ALL, |_, _, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        let states: Vec<&StateMap> = graph.ends.iter().map(|id| &graph.states[id]).collect();
        let expected = resolve_states(&states, graph.rules(), &graph.events).unwrap();
        let mut known = oracle::Events::new();
        let resolved = loop {
            match resolve_states(&states, graph.rules(), &known) {
                Ok(resolved) => break resolved,
                Err(needs) => {
                    assert!(!needs.0.is_empty());
                    for id in needs.0 {
                        assert!(!known.contains_key(&id), "asked again for {id}");
                        known.insert(id.clone(), graph.events[&id].clone());
                    }
                }
            }
        };
        assert_eq!(resolved, expected);
    });
}

#[test]
fn rejected_authorisation_events_are_passed_over_as_ruma_does() {
    each_room(&RoomVersion::ALL[1..], |version, seed, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        for id in &graph.order.clone()[2..] {
            let known = graph.events.get_mut(id).unwrap();
            // Without join rules a room is for the invited: the specification leaves it open, Synapse
            // decides so, and the oracle refuses every join instead.
            let decisive = ["m.room.create", "m.room.join_rules"].contains(&known.event.kind());
            known.rejected = dice.one_in(10) && !decisive;
        }
        let states: Vec<StateMap> = graph.ends.iter().map(|id| graph.states[id].clone()).collect();
        let references: Vec<&StateMap> = states.iter().collect();
        let ours = resolve_states(&references, graph.rules(), &graph.events).unwrap();
        assert_eq!(ours, oracle::resolve(version, &states, &graph.events), "seed {seed}");
    });
}

/// States that no history leads to, as a hostile server may claim them.
#[test]
fn states_out_of_thin_air_are_resolved_as_ruma_does() {
    each_room(&RoomVersion::ALL[1..], |version, seed, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        for round in 0..10 {
            let states: Vec<StateMap> = (0..2 + dice.roll(3))
                .map(|_| {
                    let mut state = StateMap::new();
                    for _ in 0..3 + dice.roll(10) {
                        let id = dice.pick(&graph.order).clone();
                        if let Some(key) = StateKey::of_event(&graph.events[&id].event) {
                            state.insert(key, id);
                        }
                    }
                    let create = graph.order[0].clone();
                    state.insert(StateKey::new("m.room.create", ""), create);
                    state
                })
                .collect();
            let references: Vec<&StateMap> = states.iter().collect();
            let ours = resolve_states(&references, graph.rules(), &graph.events).unwrap();
            let theirs = oracle::resolve(version, &states, &graph.events);
            assert_eq!(ours, theirs, "version {version} seed {seed} round {round}");
        }
    });
}

#[test]
fn auth_difference_beyond_what_is_shared_is_the_whole_one() {
    each_room(&RoomVersion::ALL[1..], |version, seed, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        let states: Vec<&StateMap> = graph.ends.iter().map(|id| &graph.states[id]).collect();
        let (unconflicted, _) = split(&states, graph.rules());
        let shared = oracle::auth_chain(unconflicted.values(), &graph.events);
        let mut held: HashMap<&OwnedEventId, Holders> = HashMap::new();
        for (index, state) in states.iter().enumerate() {
            for (_, id) in state.iter().filter(|(key, _)| !unconflicted.contains_key(*key)) {
                held.entry(id).or_default().insert(index);
            }
        }
        let held: Vec<_> = held.into_iter().map(|(id, holders)| (id.clone(), holders)).collect();
        let is_shared = |id: &EventId| shared.contains(id);
        let mut beyond =
            auth_difference_beyond(&held, states.len(), &is_shared, &graph.events).unwrap();
        let mut whole = auth_difference(&states, &graph.events).unwrap();
        beyond.sort();
        whole.sort();
        assert_eq!(beyond, whole, "version {version} seed {seed}");
    });
}

/// The way of the store, where states are persistent maps, against the way of whole states.
#[test]
fn states_that_share_structure_are_taken_apart_alike() {
    each_room(&RoomVersion::ALL, |version, seed, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        let states: Vec<&StateMap> = graph.ends.iter().map(|id| &graph.states[id]).collect();
        let persistent: Vec<imbl::OrdMap<StateKey, OwnedEventId>> = states
            .iter()
            .map(|state| state.iter().map(|(key, id)| (key.clone(), id.clone())).collect())
            .collect();
        let references: Vec<_> = persistent.iter().collect();
        let apart = split_shared(&references, graph.rules());
        let (unconflicted, conflicted) = split(&states, graph.rules());
        assert_eq!(apart.unconflicted.into_iter().collect::<StateMap>(), unconflicted);
        let conflicted: BTreeSet<OwnedEventId> = conflicted.into_iter().collect();
        let place = format!("version {version} seed {seed}");
        assert_eq!(
            apart.conflicted.keys().cloned().collect::<BTreeSet<_>>(),
            conflicted,
            "{place}"
        );
        for (id, holders) in &apart.conflicted {
            for (index, state) in states.iter().enumerate() {
                let holds = state.values().any(|held| held == id);
                assert_eq!(holders.contains(index), holds, "{place}: {id} in {index}");
            }
        }
    });
}

/// A server that learns of the same events in another order comes to the same states and verdicts.
#[test]
fn any_order_of_arrival_gives_the_same_states() {
    each_room(&RoomVersion::ALL, |version, seed, mut graph, mut dice| {
        for _ in 0..STEPS {
            graph.step(&mut dice);
        }
        let mut waiting = graph.order.clone();
        let mut known = oracle::Events::new();
        let mut reached: HashMap<OwnedEventId, StateMap> = HashMap::new();
        while !waiting.is_empty() {
            let id = waiting.swap_remove(dice.roll(waiting.len()));
            let event = &graph.events[&id];
            let mut before: Vec<OwnedEventId> =
                event.event.prev_events().map(ToOwned::to_owned).collect();
            let links = event.event.prev_events().chain(event.event.auth_events());
            if links.into_iter().any(|link| !known.contains_key(link)) {
                waiting.push(id);
                continue;
            }
            dice.shuffle(&mut before);
            let states: Vec<&StateMap> = before.iter().map(|prev| &reached[prev]).collect();
            let mut state = resolve_states(&states, graph.rules(), &known).unwrap();
            let view = View { state: &state, events: &known };
            let place = format!("version {version} seed {seed} {id}");
            assert_eq!(authorise(&*event.event, graph.rules(), &view), Ok(()), "{place}");
            if let Some(key) = StateKey::of_event(&event.event) {
                state.insert(key, id.clone());
            }
            assert_eq!(state, graph.states[&id], "{place}");
            known.insert(id.clone(), event.clone());
            reached.insert(id, state);
        }
    });
}
