//! Push rules: the default ones as a table, and all kinds compared with an independent implementation.

use std::sync::Arc;

use futures_util::FutureExt as _;
use hearth::protocol::{
    event::Event,
    power_levels::PowerLevels,
    push_rules::{CompiledRules, Mentions, PushEvent, default_ruleset},
    room_version::RoomVersion,
};
use ruma::{
    UserId,
    push::{PushConditionPowerLevelsCtx, PushConditionRoomCtx, RuleKind, Ruleset},
    serde::Raw,
};
use serde_json::{Value, json};

use crate::{
    graph::Dice,
    room::{ALICE, BOB, CAROL, Room},
};

fn user(id: &str) -> &UserId {
    id.try_into().unwrap()
}

/// A rule's name and whether it notifies and highlights.
type Expected = Option<(&'static str, bool, bool)>;

/// Sender, type, state key and content of an event, the members of its room, and what is expected.
type Case = (&'static str, &'static str, Option<&'static str>, Value, u64, Expected);

/// Evaluates for Bob, who has `rules`, an event of Alice in a room of `members`.
fn evaluate(
    rules: &CompiledRules,
    event: &Event,
    members: u64,
    power: &PowerLevels,
) -> Option<(String, bool, bool)> {
    let defaults = CompiledRules::server_default(Mentions::Intended);
    let event = PushEvent::new(event, members, power, &defaults);
    let outcome = rules.evaluate(&event, user(BOB), Some("Bob"))?;
    Some((outcome.rule_id.to_owned(), outcome.notify, outcome.highlight))
}

#[test]
fn default_rules_do_what_they_say() {
    let mut room = Room::public(RoomVersion::V11);
    room.power_of(&[(CAROL, 0)]);
    let text = |body: &str| json!({"msgtype": "m.text", "body": body});
    let mention = |users: &[&str]| json!({"body": "x", "m.mentions": {"user_ids": users}});
    let all = |room: Value| json!({"body": "x", "m.mentions": {"room": room}});
    let cases: Vec<Case> = vec![
        (ALICE, "m.room.message", None, text("hi"), 3, Some((".m.rule.message", true, false))),
        (
            ALICE,
            "m.room.message",
            None,
            text("hi"),
            2,
            Some((".m.rule.room_one_to_one", true, false)),
        ),
        (ALICE, "m.room.encrypted", None, json!({}), 3, Some((".m.rule.encrypted", true, false))),
        (
            ALICE,
            "m.room.encrypted",
            None,
            json!({}),
            2,
            Some((".m.rule.encrypted_room_one_to_one", true, false)),
        ),
        (
            ALICE,
            "m.room.message",
            None,
            json!({"msgtype": "m.notice", "body": ""}),
            3,
            Some((".m.rule.suppress_notices", false, false)),
        ),
        (
            ALICE,
            "m.room.message",
            None,
            mention(&[BOB]),
            3,
            Some((".m.rule.is_user_mention", true, true)),
        ),
        (
            ALICE,
            "m.room.message",
            None,
            mention(&[CAROL]),
            3,
            Some((".m.rule.message", true, false)),
        ),
        (
            ALICE,
            "m.room.message",
            None,
            all(json!(true)),
            3,
            Some((".m.rule.is_room_mention", true, true)),
        ),
        (
            ALICE,
            "m.room.message",
            None,
            all(json!("true")),
            3,
            Some((".m.rule.message", true, false)),
        ),
        (
            CAROL,
            "m.room.message",
            None,
            all(json!(true)),
            3,
            Some((".m.rule.message", true, false)),
        ),
        (
            ALICE,
            "m.room.member",
            Some(BOB),
            json!({"membership": "invite"}),
            3,
            Some((".m.rule.invite_for_me", true, false)),
        ),
        (
            ALICE,
            "m.room.member",
            Some(CAROL),
            json!({"membership": "invite"}),
            3,
            Some((".m.rule.member_event", false, false)),
        ),
        (
            ALICE,
            "m.room.tombstone",
            Some(""),
            json!({}),
            3,
            Some((".m.rule.tombstone", true, true)),
        ),
        (ALICE, "m.reaction", None, json!({}), 3, Some((".m.rule.reaction", false, false))),
        (
            ALICE,
            "m.room.message",
            None,
            json!({"m.relates_to": {"rel_type": "m.replace"}}),
            3,
            Some((".m.rule.suppress_edits", false, false)),
        ),
        (ALICE, "m.call.invite", None, json!({}), 3, Some((".m.rule.call", true, false))),
        (ALICE, "org.example.other", None, json!({}), 3, None),
    ];
    for (sender, kind, state_key, content, members, expected) in cases {
        let event = room.make(sender, kind, state_key, content);
        let power = power(&room);
        let shared = CompiledRules::compile(
            &default_ruleset(user(BOB), Mentions::Intended),
            user(BOB),
            Mentions::Intended,
        );
        assert!(shared.is_default());
        let mut ruleset = default_ruleset(user(BOB), Mentions::Intended);
        // A change that changes nothing, so that every rule is looked at.
        ruleset
            .set_actions(RuleKind::Override, ".m.rule.master", vec![ruma::push::Action::Notify])
            .unwrap();
        let own = CompiledRules::compile(&ruleset, user(BOB), Mentions::Intended);
        assert!(!own.is_default());
        let expected =
            expected.map(|(rule, notify, highlight)| (rule.to_owned(), notify, highlight));
        assert_eq!(evaluate(&shared, &event, members, &power), expected, "{kind}");
        assert_eq!(evaluate(&own, &event, members, &power), expected, "{kind}");
    }
}

#[test]
fn names_in_texts_mention_where_that_is_wanted() {
    let mut room = Room::public(RoomVersion::V11);
    room.power_of(&[(CAROL, 0)]);
    let text = |body: &str| json!({"msgtype": "m.text", "body": body});
    let intended = json!({"msgtype": "m.text", "body": "Builder @room bob", "m.mentions": {}});
    let notice = json!({"msgtype": "m.notice", "body": "bob"});
    let plain = (".m.rule.message", true, false);
    let by_name = (".m.rule.contains_display_name", true, true);
    let all = (".m.rule.roomnotif", true, true);
    let cases = [
        (ALICE, text("So, builder!"), by_name),
        (ALICE, text("rebuilder"), plain),
        (ALICE, text("Hello @bob:hearth.test!"), (".m.rule.contains_user_name", true, true)),
        (ALICE, text("hey @ROOM"), all),
        (CAROL, text("hey @room"), plain),
        (ALICE, text("@room, and the Builder"), by_name),
        (ALICE, intended, plain),
        (ALICE, notice, (".m.rule.suppress_notices", false, false)),
        (ALICE, text("\u{1}"), plain),
        (ALICE, json!({"msgtype": "m.text", "body": ["bob"]}), plain),
    ];
    for (sender, content, (rule, notify, highlight)) in cases {
        let event = room.make(sender, "m.room.message", None, content);
        let (power, bob) = (power(&room), user(BOB));
        let defaults = CompiledRules::server_default(Mentions::ByName);
        let prepared = PushEvent::new(&event, 3, &power, &defaults);
        let mut ruleset = default_ruleset(bob, Mentions::ByName);
        let shared = CompiledRules::compile(&ruleset, bob, Mentions::ByName);
        assert!(shared.is_default());
        ruleset
            .set_actions(RuleKind::Override, ".m.rule.master", vec![ruma::push::Action::Notify])
            .unwrap();
        let own = CompiledRules::compile(&ruleset, bob, Mentions::ByName);
        for rules in [&shared, &own] {
            let outcome = rules.evaluate(&prepared, bob, Some("Builder")).unwrap();
            let found = (outcome.rule_id, outcome.notify, outcome.highlight);
            assert_eq!(found, (rule, notify, highlight), "{}", event.content_json());
        }
        let for_all = prepared.default_outcome().unwrap();
        let is_personal = rule.contains("contains");
        let calls_all = event.content_json().contains("@room, and");
        assert_eq!(for_all.highlight, (highlight && !is_personal) || calls_all);
    }
}

#[test]
fn rules_for_names_stand_where_they_stood() {
    let order = |mentions: Mentions| {
        let rules = default_ruleset(user(BOB), mentions);
        let ids = |rule: ruma::push::AnyPushRuleRef<'_>| rule.rule_id().to_owned();
        rules.iter().map(ids).collect::<Vec<_>>()
    };
    let names = order(Mentions::ByName);
    let place = |id: &str| names.iter().position(|known| known == id).unwrap();
    for (first, second) in [
        (".m.rule.is_user_mention", ".m.rule.contains_display_name"),
        (".m.rule.contains_display_name", ".m.rule.is_room_mention"),
        (".m.rule.is_room_mention", ".m.rule.roomnotif"),
        (".m.rule.roomnotif", ".m.rule.tombstone"),
        (".m.rule.contains_user_name", ".m.rule.call"),
    ] {
        assert_eq!(place(first) + 1, place(second), "{names:?}");
    }
    let is_new = |id: &String| !id.contains("contains_") && !id.contains("roomnotif");
    let without: Vec<String> = names.iter().filter(|id| is_new(id)).cloned().collect();
    assert_eq!(without, order(Mentions::Intended));
}

fn power(room: &Room) -> PowerLevels {
    let find = |kind: &str| room.state.values().find(|event| event.kind() == kind).cloned();
    PowerLevels::from_events(
        find("m.room.create").as_deref(),
        find("m.room.power_levels").as_deref(),
        room.rules(),
    )
}

#[test]
fn own_events_notify_nobody() {
    let mut room = Room::public(RoomVersion::V12);
    let event = room.make(BOB, "m.room.message", None, json!({"body": "Bob"}));
    let rules = CompiledRules::compile(
        &default_ruleset(user(BOB), Mentions::Intended),
        user(BOB),
        Mentions::Intended,
    );
    assert_eq!(evaluate(&rules, &event, 2, &power(&room)), None);
}

#[test]
fn unknown_conditions_never_match() {
    let ruleset: Ruleset = serde_json::from_value(json!({"override": [{
        "rule_id": "x", "default": false, "enabled": true, "actions": ["notify"],
        "conditions": [{"kind": "org.example.moon_phase"}],
    }]}))
    .unwrap();
    let mut room = Room::public(RoomVersion::V12);
    let event = room.make(ALICE, "m.room.message", None, json!({"body": "x"}));
    let rules = CompiledRules::compile(&ruleset, user(BOB), Mentions::Intended);
    assert_eq!(evaluate(&rules, &event, 2, &power(&room)), None);
}

/// What the other implementation finds.
fn oracle(ruleset: &Ruleset, event: &Event, members: u64, power: &PowerLevels) -> Option<String> {
    let mut context = PushConditionRoomCtx::new(
        event.room_id().to_owned(),
        members.try_into().unwrap(),
        user(BOB).to_owned(),
        "Bob".to_owned(),
    );
    let content = power.content().cloned().unwrap_or_default();
    let users = content
        .users
        .iter()
        .map(|(user, level)| (UserId::parse(user).unwrap(), (*level as i32).into()));
    context.power_levels = Some(PushConditionPowerLevelsCtx::new(
        users.collect(),
        0.into(),
        ruma::power_levels::NotificationPowerLevels::new(),
        ruma::room_version_rules::RoomPowerLevelsRules::new(
            &ruma::room_version_rules::AuthorizationRules::V11,
            std::iter::empty(),
        ),
    ));
    let raw: Raw<Value> = Raw::from_json_string(event.json().to_owned()).unwrap();
    let found = ruleset.get_match(&raw, &context).now_or_never().unwrap();
    found.map(|rule| rule.rule_id().to_owned())
}

fn random_condition(dice: &mut Dice) -> Value {
    let keys =
        ["content.body", "type", "sender", "room_id", "state_key", "content.a\\.b", "content.n.m"];
    let patterns = ["*", "?", "", "bob", "Bob", "cake", "c?ke", "m.room.*", ALICE, "*a*e", "3"];
    let values = [json!("cake"), json!(3), json!(true), json!(null), json!(ALICE)];
    match dice.roll(6) {
        0 => json!({"kind": "contains_display_name"}),
        1 => {
            let is = dice.pick(&["2", "==3", "<3", ">2", ">=3", "<=1"]);
            json!({"kind": "room_member_count", "is": is})
        }
        2 => json!({"kind": "sender_notification_permission", "key": "room"}),
        3 => {
            let (key, value) = (dice.pick(&keys), dice.pick(&values));
            json!({"kind": "event_property_is", "key": key, "value": value})
        }
        4 => {
            let (key, value) = (dice.pick(&keys), dice.pick(&values));
            json!({"kind": "event_property_contains", "key": key, "value": value})
        }
        _ => {
            let (key, pattern) = (dice.pick(&keys), dice.pick(&patterns));
            json!({"kind": "event_match", "key": key, "pattern": pattern})
        }
    }
}

fn random_ruleset(dice: &mut Dice, room: &Room) -> Ruleset {
    let mut ruleset = serde_json::to_value(default_ruleset(user(BOB), Mentions::Intended)).unwrap();
    let rule = |id: String, dice: &mut Dice| json!({"rule_id": id, "default": false, "enabled": !dice.one_in(4), "actions": ["notify"]});
    for kind in ["override", "underride"] {
        for number in 0..dice.roll(4) {
            let mut rule = rule(format!("{kind}{number}"), dice);
            let conditions = (0..dice.roll(3)).map(|_| random_condition(dice));
            rule["conditions"] = conditions.collect();
            ruleset[kind].as_array_mut().unwrap().insert(1, rule);
        }
    }
    let mut pattern = rule("pattern".to_owned(), dice);
    pattern["pattern"] = json!(dice.pick(&["cake", "c*e", "?ob", "bob", "no such thing", "*"]));
    ruleset["content"] = json!([pattern]);
    if dice.one_in(4) {
        ruleset["room"] = json!([rule(room.room_id.to_string(), dice)]);
    }
    if dice.one_in(4) {
        ruleset["sender"] = json!([rule(ALICE.to_owned(), dice)]);
    }
    serde_json::from_value(ruleset).unwrap()
}

fn random_event(dice: &mut Dice, room: &mut Room) -> Arc<Event> {
    let kinds = ["m.room.message", "m.room.encrypted", "m.room.topic", "m.room.member"];
    let bodies = ["a cake for Bob", "pancake", "bobcat", "BOB!", "", "cake_cake cake", "ca ke"];
    let mut content = json!({"body": dice.pick(&bodies)});
    if dice.one_in(3) {
        content["a.b"] =
            dice.pick(&[json!("cake"), json!([3, "cake"]), json!({}), json!(true)]).clone();
    }
    if dice.one_in(3) {
        content["n"] = json!({"m": dice.pick(&[json!(3), json!(null), json!([null, true])])});
    }
    if dice.one_in(4) {
        content["m.mentions"] =
            json!({"room": dice.one_in(2), "user_ids": [dice.pick(&[BOB, CAROL])]});
    }
    let state_key = dice.pick(&[None, None, Some(""), Some(BOB)]);
    let (sender, kind): (&&str, &&str) = (dice.pick(&[ALICE, CAROL]), dice.pick(&kinds));
    room.make(sender, kind, *state_key, content)
}

#[test]
fn matching_rules_agree_with_ruma() {
    let mut dice = Dice(7);
    let mut room = Room::public(RoomVersion::V11);
    room.power_of(&[(CAROL, 40)]);
    let power = power(&room);
    for round in 0..2_000 {
        let ruleset = random_ruleset(&mut dice, &room);
        let event = random_event(&mut dice, &mut room);
        let members = 1 + dice.roll(3) as u64;
        let rules = CompiledRules::compile(&ruleset, user(BOB), Mentions::Intended);
        let ours = evaluate(&rules, &event, members, &power).map(|(rule, _, _)| rule);
        let theirs = oracle(&ruleset, &event, members, &power);
        assert_eq!(
            ours,
            theirs,
            "round {round} {} {}",
            event.json(),
            serde_json::to_string(&ruleset).unwrap()
        );
    }
}
