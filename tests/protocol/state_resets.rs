//! Forks whose outcome is known by name: who wins, and the published resets of state that led to version 2.1
//! (MSC4297, problems A and B).

use std::{collections::HashMap, sync::Arc};

use hearth::protocol::{
    event::Event,
    room_version::RoomVersion,
    state_key::StateKey,
    state_resolution::{KnownEvent, StateMap, resolve_states},
};
use ruma::OwnedEventId;
use serde_json::json;

use crate::room::{ALICE, BOB, CAROL, Room, State};

const DORA: &str = "@dora:d.example";

fn map(state: &State) -> StateMap {
    state.iter().map(|(key, event)| (key.clone(), event.event_id().to_owned())).collect()
}

/// What happens on one side of a fork; the room itself stays where it was.
fn branch(room: &mut Room, act: impl FnOnce(&mut Room)) -> StateMap {
    let (state, head) = (room.state.clone(), room.head.clone());
    act(room);
    let reached = map(&room.state);
    (room.state, room.head) = (state, head);
    reached
}

fn resolve(room: &Room, states: &[&StateMap]) -> StateMap {
    let known = |event: &Arc<Event>| KnownEvent { event: Arc::clone(event), rejected: false };
    let events: HashMap<OwnedEventId, KnownEvent> =
        room.events.iter().map(|(id, event)| (id.clone(), known(event))).collect();
    resolve_states(states, room.rules(), &events).unwrap()
}

/// Both orders of two branches give one state.
fn join(room: &Room, left: &StateMap, right: &StateMap) -> StateMap {
    let resolved = resolve(room, &[left, right]);
    assert_eq!(resolved, resolve(room, &[right, left]));
    resolved
}

fn entry<'a>(state: &'a StateMap, kind: &str, state_key: &str) -> Option<&'a OwnedEventId> {
    state.get(&StateKey::new(kind, state_key))
}

fn each_room(check: impl Fn(Room)) {
    for version in &RoomVersion::ALL[1..] {
        let mut room = Room::public(*version);
        room.member(CAROL, CAROL, "join").unwrap();
        room.power_of(&[(BOB, 50)]);
        check(room);
    }
}

#[test]
fn ban_beats_what_the_banned_user_does_meanwhile() {
    each_room(|mut room| {
        let banned = branch(&mut room, |room| drop(room.member(ALICE, BOB, "ban").unwrap()));
        let acted = branch(&mut room, |room| {
            let topic = json!({"topic": "still here"});
            room.send(BOB, "m.room.topic", Some(""), topic).unwrap();
            let levels = json!({"users": {BOB: 50, CAROL: 50}});
            let levels = crate::authorisation::alice_and(room.version, levels);
            room.power(BOB, levels).unwrap();
        });
        let resolved = join(&room, &banned, &acted);
        assert_eq!(entry(&resolved, "m.room.member", BOB), entry(&banned, "m.room.member", BOB));
        assert_eq!(entry(&resolved, "m.room.topic", ""), None);
        let levels = entry(&resolved, "m.room.power_levels", "");
        assert_eq!(levels, entry(&banned, "m.room.power_levels", ""));
    });
}

#[test]
fn demotion_beats_what_the_demoted_user_does_meanwhile() {
    each_room(|mut room| {
        let demoted = branch(&mut room, |room| room.power_of(&[(BOB, 0)]));
        let acted = branch(&mut room, |room| {
            room.send(BOB, "m.room.topic", Some(""), json!({"topic": "mine"})).unwrap();
        });
        let resolved = join(&room, &demoted, &acted);
        assert_eq!(entry(&resolved, "m.room.topic", ""), None);
    });
}

#[test]
fn closing_the_room_beats_a_concurrent_join() {
    each_room(|mut room| {
        let closed = branch(&mut room, |room| room.join_rule("invite"));
        let joined = branch(&mut room, |room| drop(room.member(DORA, DORA, "join").unwrap()));
        let resolved = join(&room, &closed, &joined);
        assert_eq!(entry(&resolved, "m.room.member", DORA), None);
    });
}

#[test]
fn concurrent_joins_and_changes_of_different_things_all_last() {
    each_room(|mut room| {
        let left = branch(&mut room, |room| {
            room.member(DORA, DORA, "join").unwrap();
            room.send(BOB, "m.room.topic", Some(""), json!({"topic": "x"})).unwrap();
        });
        let right = branch(&mut room, |room| {
            room.member("@eve:e.example", "@eve:e.example", "join").unwrap();
            room.send(ALICE, "m.room.name", Some(""), json!({"name": "x"})).unwrap();
        });
        let resolved = join(&room, &left, &right);
        let mut both = left.clone();
        both.extend(right);
        assert_eq!(resolved, both);
    });
}

#[test]
fn later_topic_wins_between_equals() {
    each_room(|mut room| {
        let topic = |room: &mut Room, sender| {
            room.send(sender, "m.room.topic", Some(""), json!({"topic": sender})).unwrap();
        };
        let earlier = branch(&mut room, |room| topic(room, BOB));
        let later = branch(&mut room, |room| topic(room, ALICE));
        let resolved = join(&room, &earlier, &later);
        assert_eq!(resolved, later);
    });
}

/// MSC4297, problem A: the creator has left, and a server presents a state with old join rules. Version 2
/// checks both join rules by a state in which nobody may set them, and loses them.
#[test]
fn join_rules_survive_the_departure_of_their_author_from_version_12_on() {
    for (version, survive) in [(RoomVersion::V11, false), (RoomVersion::V12, true)] {
        let mut room = Room::joined(version);
        room.power_of(&[]);
        let set = |room: &mut Room, rule: &str| {
            let content = json!({ "join_rule": rule });
            room.send(ALICE, "m.room.join_rules", Some(""), content).unwrap()
        };
        let rename = |room: &mut Room, user: &str| {
            let content = json!({"membership": "join", "displayname": "new"});
            room.send(user, "m.room.member", Some(user), content).unwrap()
        };
        let old_rule = set(&mut room, "public");
        let old_bob = room.member(BOB, BOB, "join").unwrap();
        let old_carol = room.member(CAROL, CAROL, "join").unwrap();
        let new_rule = set(&mut room, "invite");
        room.member(ALICE, ALICE, "leave").unwrap();
        rename(&mut room, BOB);
        rename(&mut room, CAROL);

        let with = |old: &[&Arc<Event>]| {
            let mut state = map(&room.state);
            for event in old {
                state.insert(StateKey::of_event(event).unwrap(), event.event_id().to_owned());
            }
            state
        };
        let resolved = join(&room, &with(&[&old_carol]), &with(&[&old_rule, &old_bob]));
        let expected = survive.then(|| new_rule.event_id().to_owned());
        assert_eq!(entry(&resolved, "m.room.join_rules", ""), expected.as_ref());
        if survive {
            assert_eq!(resolved, map(&room.state));
        }
    }
}

/// MSC4297, problem B: a server presents a state with the first power levels. Version 2 does not look at the
/// levels between those and the last ones, and goes back to the first.
#[test]
fn power_levels_do_not_go_back_to_the_first_ones_from_version_12_on() {
    for (version, survive) in [(RoomVersion::V11, false), (RoomVersion::V12, true)] {
        let mut room = Room::joined(version);
        room.power_of(&[]);
        let key = StateKey::new("m.room.power_levels", "");
        let first = room.state[&key].event_id().to_owned();
        room.join_rule("public");
        room.member(BOB, BOB, "join").unwrap();
        room.member(CAROL, CAROL, "join").unwrap();
        room.power_of(&[(BOB, 50)]);
        let levels = json!({"users": {BOB: 50, CAROL: 50}});
        room.power(BOB, crate::authorisation::alice_and(version, levels)).unwrap();
        let last = room.state[&key].event_id().to_owned();
        let known = branch(&mut room, |room| drop(room.member(DORA, DORA, "join").unwrap()));
        let mut claimed = branch(&mut room, |room| {
            let eve = "@eve:e.example";
            room.member(eve, eve, "join").unwrap();
            let content = json!({"membership": "join", "displayname": "new"});
            room.send(eve, "m.room.member", Some(eve), content).unwrap();
        });
        claimed.insert(key.clone(), first.clone());
        let resolved = join(&room, &known, &claimed);
        assert_eq!(resolved.get(&key), Some(if survive { &last } else { &first }));
    }
}
