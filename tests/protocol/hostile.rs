//! Hostile input: whatever comes in, the answer is a value or an exact error, never a crash.

use std::{cell::Cell, collections::HashMap, sync::Arc};

use hearth::protocol::{
    authorisation::{authorise, list_auth_event_keys},
    canonical_json,
    event::Event,
    event_hash,
    event_signatures::list_required_signers,
    history_visibility::HistoryVisibility,
    membership::Membership,
    power_levels::PowerLevels,
    push_rules::{CompiledRules, Mentions, PushEvent, default_ruleset},
    redaction::redact_event,
    room_content::{CreateContent, GuestAccess, JoinRules},
    room_version::RoomVersion,
    state_key::StateKey,
    state_resolution::{
        EventSource, KnownEvent, StateMap, auth_difference, conflicted_subgraph, resolve_states,
    },
    third_party_invite::list_public_keys,
};
use proptest::prelude::*;
use ruma::{EventId, OwnedEventId, RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::room::{ALICE, BOB, Room};

/// Values with a liking for what the rules look at.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "",
        "join",
        "ban",
        "knock",
        "public",
        "restricted",
        "50",
        " +7 ",
        ALICE,
        BOB,
        "@",
        "$a:b",
        "!a:b",
        "\u{0}",
        "ed25519:x",
        "m.room.member",
        "12",
        "world_readable",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        // Few digits: `serde_json` reads longer ones one bit off unless asked to take its time.
        (-1_000_000i32..1_000_000).prop_map(|number| Value::from(f64::from(number) / 64.0)),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let keys = [
        "membership",
        "users",
        "events",
        "ban",
        "signed",
        "third_party_invite",
        "join_rule",
        "allow",
        "token",
        "mxid",
        "signatures",
        "body",
        "m.mentions",
        "user_ids",
        ALICE,
        "creator",
        "x",
        "join_authorised_via_users_server",
        "additional_creators",
        "public_keys",
        "sha256",
    ];
    let key =
        prop_oneof![proptest::sample::select(keys.to_vec()).prop_map(str::to_owned), ".{0,4}",];
    leaf.prop_recursive(4, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

fn any_version() -> impl Strategy<Value = RoomVersion> {
    proptest::sample::select(RoomVersion::ALL.to_vec())
}

const KINDS: [&str; 8] = [
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.third_party_invite",
    "m.room.redaction",
    "m.room.aliases",
    "m.room.history_visibility",
];

/// An event of `kind` as a server might send it, with the values of `fields` in place of its own.
fn forge(version: RoomVersion, kind: &str, fields: &[(&'static str, Value)]) -> String {
    let mut object: Map<String, Value> = json!({
        "type": kind, "sender": ALICE, "state_key": "", "content": {}, "depth": 7, "hashes": {},
        "origin_server_ts": 1, "signatures": {}, "prev_events": [], "auth_events": [],
    })
    .as_object()
    .unwrap()
    .clone();
    if version.rules().has_event_id_field() {
        object.insert("event_id".to_owned(), json!("$forged:a.example"));
    }
    if version < RoomVersion::V12 {
        object.insert("room_id".to_owned(), json!("!room:a.example"));
    } else if kind != "m.room.create" {
        object.insert("room_id".to_owned(), json!(format!("!{:_<43}", "")));
    }
    for (field, value) in fields {
        object.insert((*field).to_owned(), value.clone());
    }
    serde_json::to_string(&object).unwrap()
}

/// Asks everything of an event that can be asked.
fn use_event(version: RoomVersion, event: &Arc<Event>) {
    let rules = version.rules();
    let read = Event::parse(event.json(), rules).unwrap();
    assert_eq!(read.json(), event.json());
    assert_eq!(read.event_id(), event.event_id());
    assert_eq!(read.room_id(), event.room_id());
    let redacted = redact_event(event, rules);
    assert_eq!(Event::parse(redacted.json(), rules).unwrap().event_id(), event.event_id());
    event_hash::has_valid_content_hash(&event.to_object());
    list_required_signers(event, rules);
    list_auth_event_keys(rules, &**event);
    list_public_keys(event);
    event.redacts(rules);
    CreateContent::of_event(event, rules);
    Membership::of_event(event);
    JoinRules::of_state(Some(event));
    GuestAccess::of_state(Some(event));
    HistoryVisibility::of_state(Some(event));
    let power = PowerLevels::from_events(Some(event), Some(event), rules);
    let defaults = CompiledRules::server_default(Mentions::ByName);
    let prepared = PushEvent::new(event, 2, &power, &defaults);
    let bob = <&UserId>::try_from(BOB).unwrap();
    let rules = default_ruleset(bob, Mentions::ByName);
    let rules = CompiledRules::compile(&rules, bob, Mentions::ByName);
    rules.evaluate(&prepared, bob, Some("*"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}", version in any_version()) {
        let _ = Event::parse(&text, version.rules());
    }

    #[test]
    fn any_values_in_any_fields_are_read_or_refused(
        version in any_version(),
        kind in proptest::sample::select(KINDS.to_vec()),
        content in any_json(),
        field in proptest::sample::select(vec!["content", "state_key", "sender", "room_id", "depth",
            "hashes", "signatures", "prev_events", "auth_events", "redacts", "origin_server_ts", "x"]),
        value in any_json(),
    ) {
        let content = if content.is_object() { content } else { json!({ "x": content }) };
        let json = forge(version, kind, &[("content", content), (field, value)]);
        if let Ok(event) = Event::parse(&json, version.rules()) {
            use_event(version, &Arc::new(event));
        }
    }

    #[test]
    fn any_content_is_judged_without_a_crash(
        version in any_version(),
        kind in proptest::sample::select(KINDS.to_vec()),
        content in any_json(),
        others in proptest::collection::vec(any_json(), KINDS.len()),
        user in proptest::sample::select(vec![ALICE, BOB, "", "@"]),
    ) {
        let parse = |kind: &str, content: &Value, state_key: &str| {
            let content = if content.is_object() { content.clone() } else { json!({}) };
            let json = forge(version, kind, &[("content", content), ("state_key", json!(state_key))]);
            Event::parse(&json, version.rules()).ok().map(Arc::new)
        };
        let mut state: HashMap<StateKey, Arc<Event>> = HashMap::new();
        for (kind, content) in KINDS.iter().zip(&others) {
            for state_key in ["", ALICE] {
                if let Some(event) = parse(kind, content, state_key) {
                    state.insert(StateKey::of_event(&event).unwrap(), event);
                }
            }
        }
        if let Some(event) = parse(kind, &content, user) {
            let _ = authorise(&*event, version.rules(), &state);
        }
    }

    #[test]
    fn canonical_json_reads_back_as_itself(value in any_json()) {
        let text = canonical_json::encode(&value);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical_json::encode(&read), text);
        if canonical_json::check_strict(&value).is_ok() {
            prop_assert_eq!(read, value);
        }
    }
}

/// Events of a room of version 2, where IDs are chosen freely, that authorise each other in a circle.
fn circle(length: usize) -> HashMap<OwnedEventId, KnownEvent> {
    let version = RoomVersion::V2;
    let id =
        |number: usize| EventId::parse(format!("$event{}:a.example", number % length)).unwrap();
    let room_id = RoomId::parse("!room:a.example").unwrap();
    let make = |number: usize| {
        let (kind, state_key) = match number % 3 {
            0 => ("m.room.power_levels", ""),
            1 => ("m.room.join_rules", ""),
            _ => ("m.room.member", ALICE),
        };
        let links = json!([[id(number + 1), {"sha256": "x"}], [id(number + 2), {"sha256": "x"}]]);
        let fields = [
            ("event_id", json!(id(number))),
            ("state_key", json!(state_key)),
            ("content", json!({"membership": "ban", "join_rule": "public"})),
            ("auth_events", links),
        ];
        let json = forge(version, kind, &fields);
        let event = Event::from_stored(&json, &id(number), &room_id, version.rules()).unwrap();
        (id(number), KnownEvent { event: Arc::new(event), rejected: false })
    };
    (0..length).map(make).collect()
}

#[test]
fn events_that_authorise_each_other_in_a_circle_end_no_loop() {
    let events = circle(3_000);
    let state = |offset: usize| -> StateMap {
        (offset..offset + 3)
            .map(|number| {
                let id = EventId::parse(format!("$event{number}:a.example")).unwrap();
                (StateKey::of_event(&events[&id].event).unwrap(), id)
            })
            .collect()
    };
    let states = [state(0), state(300), state(1_500)];
    let states: Vec<&StateMap> = states.iter().collect();
    for version in [RoomVersion::V1, RoomVersion::V2] {
        let counted = Counted::new(&events);
        resolve_states(&states, version.rules(), &counted).unwrap();
        counted.check_bound();
    }
    let counted = Counted::new(&events);
    assert_eq!(auth_difference(&states, &counted).unwrap().len(), 0);
    counted.check_bound();
    let ends: Vec<OwnedEventId> = states.iter().flat_map(|state| state.values().cloned()).collect();
    let counted = Counted::new(&events);
    assert_eq!(conflicted_subgraph(&ends, &counted).unwrap().len(), events.len());
    counted.check_bound();
}

/// Events, counting how often they are asked for: a measure of time that no busy machine disturbs.
struct Counted<'a> {
    events: &'a HashMap<OwnedEventId, KnownEvent>,
    lookups: Cell<usize>,
}

/// How often each event there is may be asked for, on average.
const LOOKUPS_MAX: usize = 20;

impl<'a> Counted<'a> {
    fn new(events: &'a HashMap<OwnedEventId, KnownEvent>) -> Self {
        Self { events, lookups: Cell::new(0) }
    }

    fn check_bound(&self) {
        let (lookups, events) = (self.lookups.get(), self.events.len());
        assert!(lookups <= LOOKUPS_MAX * events, "{lookups} lookups in {events} events");
    }
}

impl EventSource for Counted<'_> {
    fn find(&self, id: &EventId) -> Option<KnownEvent> {
        self.lookups.set(self.lookups.get() + 1);
        self.events.find(id)
    }
}

/// Each state is a different history of thousands of events, and all of them are in conflict.
#[test]
fn large_conflicts_are_resolved_in_time_that_grows_with_their_events() {
    for version in [RoomVersion::V2, RoomVersion::V11, RoomVersion::V12] {
        let mut room = Room::public(version);
        let mut states: Vec<StateMap> = Vec::new();
        for branch in 0..20 {
            for number in 0..100 {
                let content = json!({ "branch": branch });
                let key = format!("key{number}");
                room.send(ALICE, "org.example.widget", Some(&key), content).unwrap();
            }
            room.power_of(&[(BOB, branch)]);
            let entries = room.state.iter();
            states.push(
                entries.map(|(key, event)| (key.clone(), event.event_id().to_owned())).collect(),
            );
        }
        let known = |event: &Arc<Event>| KnownEvent { event: Arc::clone(event), rejected: false };
        let events: HashMap<OwnedEventId, KnownEvent> =
            room.events.iter().map(|(id, event)| (id.clone(), known(event))).collect();
        let counted = Counted::new(&events);
        let references: Vec<&StateMap> = states.iter().collect();
        let resolved = resolve_states(&references, room.rules(), &counted).unwrap();
        counted.check_bound();
        assert_eq!(&resolved, references[19], "{version}: the last word counts");
    }
}

#[test]
fn long_chains_of_power_levels_need_no_stack() {
    let mut room = Room::joined(RoomVersion::V11);
    for level in 0..3_000 {
        room.power(ALICE, json!({"users": {ALICE: 100}, "ban": level % 100})).unwrap();
    }
    let known = |event: &Arc<Event>| KnownEvent { event: Arc::clone(event), rejected: false };
    let events: HashMap<OwnedEventId, KnownEvent> =
        room.events.iter().map(|(id, event)| (id.clone(), known(event))).collect();
    let now: StateMap =
        room.state.iter().map(|(key, event)| (key.clone(), event.event_id().to_owned())).collect();
    let mut before = now.clone();
    let key = StateKey::new("m.room.power_levels", "");
    let first = events.values().filter(|known| known.event.kind() == "m.room.power_levels");
    let first = first.min_by_key(|known| known.event.depth()).unwrap();
    before.insert(key, first.event.event_id().to_owned());
    let counted = Counted::new(&events);
    assert_eq!(resolve_states(&[&before, &now], room.rules(), &counted).unwrap(), now);
    counted.check_bound();
}
