//! State resolution over any graph: the input is a list of events in few bytes each, with links that may
//! lead in circles or nowhere, followed by the states to resolve.

use std::{collections::HashMap, sync::Arc};

use hearth::protocol::{
    event::Event,
    room_version::RoomVersion,
    state_key::StateKey,
    state_resolution::{KnownEvent, StateMap, resolve_states, split},
};
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::{Value, json};

use crate::room::{ALICE, BOB, CAROL};

/// Bytes that describe an event.
const EVENT_BYTES: usize = 6;
const EVENTS_MAX: usize = 64;
const USERS: [&str; 3] = [ALICE, BOB, CAROL];
const STATES: usize = 3;

pub fn run(input: &[u8]) -> String {
    let Some((first, rest)) = input.split_first() else { return "empty".to_owned() };
    let version = RoomVersion::ALL[usize::from(*first) % RoomVersion::ALL.len()];
    let (chunks, tail) = rest.as_chunks::<EVENT_BYTES>();
    let chunks = &chunks[..chunks.len().min(EVENTS_MAX)];
    let events: Vec<Arc<Event>> = chunks
        .iter()
        .enumerate()
        .filter_map(|(number, bytes)| forge(version, number, *bytes))
        .map(Arc::new)
        .collect();
    let states = list_states(&events, chunks, tail);
    let mut references: Vec<&StateMap> = states.iter().collect();
    let known: HashMap<OwnedEventId, KnownEvent> = events
        .iter()
        .map(|event| {
            let rejected = event.depth() % 5 == 4;
            (event.event_id().to_owned(), KnownEvent { event: Arc::clone(event), rejected })
        })
        .collect();
    let resolved = resolve_states(&references, version.rules(), &known);
    references.reverse();
    assert_eq!(resolved, resolve_states(&references, version.rules(), &known));
    let (unconflicted, conflicted) = split(&references, version.rules());
    let Ok(resolved) = resolved else { return "needs events".to_owned() };
    for (key, id) in &unconflicted {
        assert_eq!(resolved.get(key), Some(id), "an entry without conflict has changed");
    }
    format!("{version} {} of {}", resolved.len(), conflicted.len())
}

/// Kind, sender, target, content, and two links each with few bits.
fn forge(version: RoomVersion, number: usize, bytes: [u8; EVENT_BYTES]) -> Option<Event> {
    let [kind, people, choice, first, second, depth] = bytes.map(usize::from);
    let (sender, target) = (USERS[people % 3], USERS[people / 3 % 3]);
    let memberships = ["join", "leave", "ban", "invite", "knock"];
    let rules = ["public", "invite", "knock", "restricted"];
    let level = [0, 50, 100, -1][choice % 4];
    let (kind, state_key, content) = match kind % 6 {
        0 => ("m.room.create", "", json!({ "creator": ALICE, "room_version": version.as_str() })),
        1 => ("m.room.member", target, json!({ "membership": memberships[choice % 5] })),
        2 => ("m.room.power_levels", "", json!({ "users": { target: level, ALICE: 100 } })),
        3 => ("m.room.join_rules", "", json!({ "join_rule": rules[choice % 4] })),
        4 => ("m.room.topic", "", json!({ "topic": choice })),
        _ => ("x.state", target, json!({})),
    };
    let links: Vec<Value> =
        [first, second].iter().map(|to| link(version, to % EVENTS_MAX)).collect();
    let json = json!({
        "type": kind, "state_key": state_key, "sender": sender, "content": content,
        "depth": depth, "origin_server_ts": choice, "hashes": {}, "signatures": {},
        "room_id": "!room:a.example", "prev_events": [], "auth_events": links,
    });
    let room_id = RoomId::parse("!room:a.example").unwrap();
    Event::from_stored(&json.to_string(), &event_id(number), &room_id, version.rules()).ok()
}

fn link(version: RoomVersion, to: usize) -> Value {
    let id = event_id(to);
    if version.rules().has_event_id_field() { json!([id, { "sha256": "x" }]) } else { json!(id) }
}

fn event_id(number: usize) -> OwnedEventId {
    EventId::parse(format!("$event{number}:a.example")).unwrap()
}

/// States of a fork: each takes events in turn, and the input's last bytes leave some out.
fn list_states(events: &[Arc<Event>], chunks: &[[u8; EVENT_BYTES]], tail: &[u8]) -> Vec<StateMap> {
    let mask = tail.iter().fold(0b1010_0110_u8, |mask, byte| mask.rotate_left(3) ^ byte);
    let takes = |state: usize, number: usize| {
        let byte = chunks.get(number).map_or(0, |chunk| chunk[5] ^ chunk[0] ^ mask);
        byte >> state & 1 == 1 || number < 4
    };
    let make = |state: usize| {
        let taken = events.iter().enumerate().filter(|(number, _)| takes(state, *number));
        taken
            .filter_map(|(_, event)| {
                Some((StateKey::of_event(event)?, event.event_id().to_owned()))
            })
            .collect()
    };
    (0..STATES).map(make).collect()
}

/// A room with a create event, its creator, power levels and rules, and a fork of bans and joins.
pub fn seeds() -> Vec<Vec<u8>> {
    let room: [[u8; EVENT_BYTES]; 10] = [
        [0, 0, 0, 63, 63, 0],
        [1, 0, 0, 0, 0, 1],
        [2, 0, 2, 0, 1, 2],
        [3, 0, 0, 1, 2, 3],
        [1, 4, 0, 2, 3, 5],
        [2, 3, 1, 2, 1, 6],
        [1, 3, 2, 5, 1, 7],
        [4, 1, 9, 5, 4, 8],
        [3, 0, 1, 5, 1, 10],
        [5, 1, 9, 2, 4, 11],
    ];
    (0..RoomVersion::ALL.len() as u8)
        .map(|version| {
            let mut seed = vec![version];
            seed.extend(room.iter().flatten());
            seed.push(0x5a);
            seed
        })
        .collect()
}
