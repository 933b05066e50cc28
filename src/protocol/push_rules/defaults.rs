//! The rules that every user has before they change any: those of the specification, and those of
//! proposals that clients use. Not for evaluating them.

use ruma::{
    UserId,
    push::{ConditionalPushRule, Ruleset},
};
use serde_json::{Value, json};

/// The type of an event that opens a poll, while MSC3381 is no part of the specification.
pub const POLL_START: &str = "org.matrix.msc3381.poll.start";
/// The type of an event that ends a poll (MSC3381).
pub const POLL_END: &str = "org.matrix.msc3381.poll.end";
const POLL_RESPONSE: &str = "org.matrix.msc3381.poll.response";

/// The predefined rules of a user (client-server API, "Predefined Rules"), with those for polls
/// (MSC3930). The rules for threads are not among them: see [`thread_rules`].
pub fn default_ruleset(user: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    rules.postcontent.clear();
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

fn of_kind(kind: &str) -> Value {
    json!({ "kind": "event_match", "key": "type", "pattern": kind })
}

fn rule(name: &str, conditions: &[Value], actions: Value) -> ConditionalPushRule {
    let rule = json!({
        "rule_id": format!(".org.matrix.msc3930.rule.{name}"),
        "default": true,
        "enabled": true,
        "conditions": conditions,
        "actions": actions,
    });
    serde_json::from_value(rule).expect("it is written as rules are")
}
