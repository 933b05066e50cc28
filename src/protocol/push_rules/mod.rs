//! Push rules: whether an event notifies a user, and how.
//!
//! Evaluated for every local member of a room, so what can be shared is: an event is prepared once
//! ([`PushEvent`]), a user's rules are compiled once ([`CompiledRules`]), and a user who has left the rules as
//! they come, and whom the event does not name, costs one look-up.
//!
//! Not for storing rules, nor for pushers. Source: client-server API, "Push Rules".

mod condition;
mod defaults;
mod glob;
mod property;

use std::{cell::OnceCell, collections::HashSet};

use ruma::{
    UserId,
    push::{Action, AnyPushRuleRef, Ruleset, SoundTweakValue},
};
use serde_json::{Map, Value};

use self::condition::Condition;
pub use self::defaults::{POLL_END, POLL_START, default_ruleset, thread_rules};
use super::{event::Event, power_levels::PowerLevels};

/// An event with everything about it that rules ask for.
pub struct PushEvent<'a> {
    event: &'a Event,
    content: Map<String, Value>,
    /// Joined members of the room, the sender included.
    member_count: u64,
    power_levels: &'a PowerLevels,
    lowercase_body: OnceCell<Option<String>>,
    /// The users whom the default rules single out: those mentioned, and the target of state.
    named: HashSet<String>,
    /// The default rule that applies to everybody else.
    default_rule: Option<usize>,
    is_in_thread: bool,
    /// Who follows the thread that the event is in.
    thread_followers: HashSet<String>,
}

/// The rules of one user, ready to be evaluated. Depends on nothing but the rules and the user.
pub struct CompiledRules {
    rules: Vec<CompiledRule>,
    is_default: bool,
    asks_for_threads: bool,
}

/// What a rule makes of an event.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub rule_id: &'a str,
    /// Whether to notify at all; the rest matters only then.
    pub notify: bool,
    pub highlight: bool,
    /// All actions of the rule.
    pub actions: &'a [Action],
}

struct CompiledRule {
    rule_id: String,
    conditions: Vec<Condition>,
    actions: Vec<Action>,
    notify: bool,
    highlight: bool,
}

impl<'a> PushEvent<'a> {
    /// Prepares `event`, sent into a room of `member_count` joined members. `defaults` are
    /// [`CompiledRules::server_default`].
    pub fn new(
        event: &'a Event,
        member_count: u64,
        power_levels: &'a PowerLevels,
        defaults: &CompiledRules,
    ) -> Self {
        let content: Map<String, Value> = event.content_as().unwrap_or_default();
        let mut named: HashSet<String> = list_mentions(&content).map(str::to_owned).collect();
        named.extend(event.state_key().map(str::to_owned));
        let mut prepared = Self {
            event,
            content,
            member_count,
            power_levels,
            lowercase_body: OnceCell::new(),
            named,
            default_rule: None,
            is_in_thread: false,
            thread_followers: HashSet::new(),
        };
        let relation = prepared.content.get("m.relates_to");
        prepared.is_in_thread = relation.is_some_and(|relation| relation["rel_type"] == "m.thread");
        prepared.default_rule = defaults.find_match(&prepared, None, None);
        prepared
    }

    /// Names those who follow the thread that the event is in (MSC4306); without, nobody does.
    #[must_use]
    pub fn followed_by(mut self, users: impl IntoIterator<Item = String>) -> Self {
        self.thread_followers.extend(users);
        self
    }

    /// The body in lower case, as words are looked for in it.
    fn lowercase_body(&self) -> Option<&str> {
        let body = || Some(self.content.get("body")?.as_str()?.to_lowercase());
        self.lowercase_body.get_or_init(body).as_deref()
    }
}

impl CompiledRules {
    /// Compiles the rules of `user`. Disabled rules are left out.
    pub fn compile(ruleset: &Ruleset, user: &UserId) -> Self {
        let enabled = ruleset.iter().filter(|rule| rule.enabled());
        let rules: Vec<CompiledRule> = enabled.map(CompiledRule::compile).collect();
        let asks_for_threads =
            rules.iter().flat_map(|rule| &rule.conditions).any(Condition::asks_for_threads);
        Self { rules, is_default: is_server_default(ruleset, user), asks_for_threads }
    }

    /// The rules as they come, for nobody in particular: what [`PushEvent::new`] needs. Make it once.
    pub fn server_default() -> Self {
        // No user can have this name, so no rule singles it out.
        let nobody = <&UserId>::try_from("@\u{1}:nobody").expect("it is a user ID by its form");
        Self::compile(&default_ruleset(nobody), nobody)
    }

    /// Whether the user has left the rules as they come. The outcome is then the same for all such users
    /// whom the event does not name.
    pub fn is_default(&self) -> bool {
        self.is_default
    }

    /// Whether it matters which threads the user follows.
    pub fn asks_for_threads(&self) -> bool {
        self.asks_for_threads
    }

    /// What the rules make of `event` for `user`, who has `display_name` in the room. `None` if no rule
    /// matches, and for the user's own events.
    pub fn evaluate(
        &self,
        event: &PushEvent<'_>,
        user: &UserId,
        display_name: Option<&str>,
    ) -> Option<Outcome<'_>> {
        if event.event.sender() == user {
            return None;
        }
        let index = if self.is_default && !event.named.contains(user.as_str()) {
            event.default_rule
        } else {
            self.find_match(event, Some(user), display_name)
        };
        self.rules.get(index?).map(CompiledRule::outcome)
    }

    fn find_match(
        &self,
        event: &PushEvent<'_>,
        user: Option<&UserId>,
        display_name: Option<&str>,
    ) -> Option<usize> {
        self.rules.iter().position(|rule| {
            rule.conditions.iter().all(|condition| condition.holds(event, user, display_name))
        })
    }
}

impl Outcome<'_> {
    /// The sound to play, if the rule names one.
    pub fn sound(&self) -> Option<&SoundTweakValue> {
        self.actions.iter().find_map(Action::sound)
    }
}

impl CompiledRule {
    fn compile(rule: AnyPushRuleRef<'_>) -> Self {
        let conditions = match rule {
            AnyPushRuleRef::Override(rule)
            | AnyPushRuleRef::PostContent(rule)
            | AnyPushRuleRef::Underride(rule) => {
                rule.conditions.iter().map(Condition::compile).collect()
            }
            AnyPushRuleRef::Content(rule) => vec![Condition::body_contains(&rule.pattern)],
            AnyPushRuleRef::Room(rule) => vec![Condition::property_is("room_id", &rule.rule_id)],
            AnyPushRuleRef::Sender(rule) => vec![Condition::property_is("sender", &rule.rule_id)],
            // A kind that this server does not know never matches.
            _ => vec![Condition::Never],
        };
        let actions = rule.actions().to_vec();
        Self {
            rule_id: rule.rule_id().to_owned(),
            conditions,
            notify: actions.iter().any(Action::should_notify),
            highlight: actions.iter().any(Action::is_highlight),
            actions,
        }
    }

    fn outcome(&self) -> Outcome<'_> {
        Outcome {
            rule_id: &self.rule_id,
            notify: self.notify,
            highlight: self.highlight,
            actions: &self.actions,
        }
    }
}

/// Whether `ruleset` is what every new user gets.
fn is_server_default(ruleset: &Ruleset, user: &UserId) -> bool {
    let as_json = |ruleset: &Ruleset| serde_json::to_value(ruleset).ok();
    as_json(ruleset) == as_json(&default_ruleset(user))
}

/// The users in `m.mentions`.
fn list_mentions(content: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let mentions = content.get("m.mentions").and_then(|mentions| mentions.get("user_ids"));
    mentions.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
