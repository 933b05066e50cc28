//! The authorisation rules over any state: the input's lines are events, the last one is judged by the
//! state that the others make.

use std::{collections::HashMap, sync::Arc};

use hearth::protocol::{
    authorisation::{authorise, list_auth_event_keys},
    event::Event,
    room_version::RoomVersion,
    state_key::StateKey,
};
use serde_json::json;

use super::{events::furnished, kind_of_error, split_version, with_version};
use crate::room::{ALICE, BOB, CAROL};

/// Lines that are read.
const EVENTS_MAX: usize = 40;

pub fn run(input: &[u8]) -> String {
    let Some((version, text)) = split_version(input) else { return "not a text".to_owned() };
    let rules = version.rules();
    let mut lines = text.lines().rev().take(EVENTS_MAX);
    let event = match Event::parse(lines.next().unwrap_or_default(), rules) {
        Ok(event) => event,
        Err(error) => return kind_of_error(&error),
    };
    let mut state: HashMap<StateKey, Arc<Event>> = HashMap::new();
    for line in lines {
        if let Ok(event) = Event::parse(line, rules)
            && let Some(key) = StateKey::of_event(&event)
        {
            state.insert(key, Arc::new(event));
        }
    }
    let verdict = authorise(&event, rules, &state);
    // What the event names as its authorisation is all that the rules may look at.
    let keys = list_auth_event_keys(rules, &event);
    let is_named = |key: &StateKey| {
        let key = (key.kind.to_string(), key.state_key.to_string());
        key.0 == "m.room.create" || keys.contains(&key)
    };
    state.retain(|key, _| is_named(key));
    assert_eq!(verdict, authorise(&event, rules, &state), "{}", event.json());
    verdict.map_or_else(|error| kind_of_error(&error), |()| format!("allowed {}", event.kind()))
}

/// Rooms, each followed by an event that is allowed or nearly so.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for version in RoomVersion::ALL {
        let mut room = furnished(version);
        let state: Vec<String> = room.state.values().map(|event| event.json().to_owned()).collect();
        let member = |membership: &str| json!({ "membership": membership });
        let candidates = [
            (ALICE, "m.room.message", None, json!({ "body": "x" })),
            (BOB, "m.room.member", Some(BOB), member("leave")),
            (BOB, "m.room.member", Some(CAROL), member("invite")),
            (CAROL, "m.room.member", Some(CAROL), member("join")),
            (CAROL, "m.room.member", Some(CAROL), member("knock")),
            (ALICE, "m.room.member", Some(BOB), member("ban")),
            (BOB, "m.room.power_levels", Some(""), json!({ "users": { BOB: 50 }, "kick": 60 })),
            (BOB, "m.room.redaction", None, json!({ "redacts": "$event:a.example" })),
            (ALICE, "m.room.create", Some(""), json!({ "creator": ALICE })),
        ];
        for (sender, kind, state_key, content) in candidates {
            let event = room.make(sender, kind, state_key, content);
            let text = format!("{}\n{}", state.join("\n"), event.json());
            seeds.push(with_version(version, &text));
        }
    }
    seeds
}
