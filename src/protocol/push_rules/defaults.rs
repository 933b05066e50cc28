//! The rules that every user has before they change any: those of the specification, and those of
//! proposals that clients use. Not for evaluating them.

use ruma::{
    UserId,
    push::{ConditionalPushRule, PatternedPushRule, PredefinedOverrideRuleId, Ruleset},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The type of an event that opens a poll, while MSC3381 is no part of the specification.
pub const POLL_START: &str = "org.matrix.msc3381.poll.start";
/// The type of an event that ends a poll (MSC3381).
pub const POLL_END: &str = "org.matrix.msc3381.poll.end";
const POLL_RESPONSE: &str = "org.matrix.msc3381.poll.response";

/// What mentions somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mentions {
    /// `m.mentions` alone.
    #[default]
    Intended,
    /// Their name in the text too, where an event has no `m.mentions`: what version 1.16 of the
    /// specification had, and version 1.17 removed.
    ByName,
}

/// The rules of [`Mentions::ByName`].
const BY_NAME: [&str; 3] = [CONTAINS_DISPLAY_NAME, CONTAINS_USER_NAME, ROOMNOTIF];
const CONTAINS_DISPLAY_NAME: &str = ".m.rule.contains_display_name";
const CONTAINS_USER_NAME: &str = ".m.rule.contains_user_name";
const ROOMNOTIF: &str = ".m.rule.roomnotif";
/// What [`ROOMNOTIF`] looks for in a text, in lower case.
pub const EVERYBODY: &str = "@room";

/// The predefined rules of a user (client-server API, "Predefined Rules"), with those for polls
/// (MSC3930). The rules for threads are not among them: see [`thread_rules`].
pub fn default_ruleset(user: &UserId, mentions: Mentions) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    rules.postcontent.clear();
    if mentions == Mentions::ByName {
        add_rules_by_name(&mut rules, user);
    }
    rules.override_.insert(rule("poll_response", &[of_kind(POLL_RESPONSE)], json!([])));
    let direct = json!({ "kind": "room_member_count", "is": "2" });
    let sound = json!(["notify", { "set_tweak": "sound", "value": "default" }]);
    for (name, kind) in [("poll_start", POLL_START), ("poll_end", POLL_END)] {
        let conditions = [direct.clone(), of_kind(kind)];
        let of_two = rule(&format!("{name}_one_to_one"), &conditions, sound.clone());
        rules.underride.insert(of_two);
        rules.underride.insert(rule(name, &[of_kind(kind)], json!(["notify"])));
    }
    rules
}

/// Whether a rule looks for names in texts, which says nothing of an event that has `m.mentions`.
pub(super) fn is_by_name(rule_id: &str) -> bool {
    BY_NAME.contains(&rule_id)
}

/// Whether an event of this type is the beginning or the end of a poll.
pub fn is_poll(kind: &str) -> bool {
    matches!(kind, POLL_START | POLL_END)
}

/// The rules by which threads that a user follows notify, and others do not (MSC4306). Only who
/// has followed a thread once has them: for everybody else, whose clients follow none, threads
/// would fall silent.
pub fn thread_rules() -> impl IntoIterator<Item = ConditionalPushRule> {
    [ConditionalPushRule::unsubscribed_thread(), ConditionalPushRule::subscribed_thread()]
}

/// Adds what version 1.16 had, in the places that it had there.
fn add_rules_by_name(rules: &mut Ruleset, user: &UserId) {
    let loud = json!([
        "notify", { "set_tweak": "sound", "value": "default" }, { "set_tweak": "highlight" },
    ]);
    let name = json!({
        "rule_id": CONTAINS_DISPLAY_NAME,
        "conditions": [{ "kind": "contains_display_name" }],
        "actions": loud.clone(),
    });
    let everybody = json!({
        "rule_id": ROOMNOTIF,
        "conditions": [
            { "kind": "event_match", "key": "content.body", "pattern": EVERYBODY },
            { "kind": "sender_notification_permission", "key": "room" },
        ],
        "actions": ["notify", { "set_tweak": "highlight" }],
    });
    for (rule, before) in [
        (name, PredefinedOverrideRuleId::IsUserMention),
        (everybody, PredefinedOverrideRuleId::IsRoomMention),
    ] {
        let place = rules.override_.get_index_of(before.as_str()).map_or(0, |place| place + 1);
        rules.override_.shift_insert(place, predefined::<ConditionalPushRule>(rule));
    }
    let user_name = json!({
        "rule_id": CONTAINS_USER_NAME,
        "pattern": user.localpart(),
        "actions": loud,
    });
    rules.content.insert(predefined::<PatternedPushRule>(user_name));
}

fn of_kind(kind: &str) -> Value {
    json!({ "kind": "event_match", "key": "type", "pattern": kind })
}

fn rule(name: &str, conditions: &[Value], actions: Value) -> ConditionalPushRule {
    predefined(json!({
        "rule_id": format!(".org.matrix.msc3930.rule.{name}"),
        "conditions": conditions,
        "actions": actions,
    }))
}

fn predefined<T: DeserializeOwned>(mut rule: Value) -> T {
    rule["default"] = true.into();
    rule["enabled"] = true.into();
    serde_json::from_value(rule).expect("it is written as rules are")
}
