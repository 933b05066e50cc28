//! Push rules: whether an event notifies a user, and how.
//!
//! Evaluated for every local member of a room, so what can be shared is: an event is prepared once
//! ([`PushEvent`]), a user's rules are compiled once ([`CompiledRules`]), and a user who has left the rules as
//! they come, and whom the event does not name, costs one look-up. Of other users, the rules that are as they
//! come are not kept but pointed at, and most of them are asked once for an event and not once for a user.
//!
//! Not for storing rules, nor for pushers. Source: client-server API, "Push Rules".

mod condition;
mod defaults;
mod glob;
mod names;
mod property;

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
};

use ruma::{
    UserId,
    push::{Action, AnyPushRuleRef, Ruleset, SoundTweakValue},
};
use serde_json::{Map, Value};

use self::condition::Condition;
use self::defaults::{EVERYBODY, is_by_name};
pub use self::{
    defaults::{Mentions, POLL_END, POLL_START, default_ruleset, is_poll, thread_rules},
    names::Names,
};
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
    /// Whether the default rules may single out more users, by their names in the text.
    names_in_text: bool,
    has_mentions: bool,
    defaults: &'a CompiledRules,
    /// Which of the default rules match whoever the user is, a bit for each.
    matching_defaults: u64,
    /// The default rule that applies to everybody whom the event does not name.
    default_rule: Option<usize>,
    is_in_thread: bool,
    /// Who follows the thread that the event is in.
    thread_followers: HashSet<String>,
}

/// The rules of one user, ready to be evaluated. Depends on nothing but the rules and the user.
pub struct CompiledRules {
    rules: Box<[RuleRef]>,
    mentions: Mentions,
    is_default: bool,
    asks_for_threads: bool,
}

/// A rule of one user.
enum RuleRef {
    /// As it comes, by its place among [`CompiledRules::server_default`].
    Default(u8),
    Own(Box<CompiledRule>),
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
    /// Whether it asks who the user is.
    is_personal: bool,
    /// Whether it looks for names in texts.
    is_by_name: bool,
}

impl<'a> PushEvent<'a> {
    /// Prepares `event`, sent into a room of `member_count` joined members. `defaults` are
    /// [`CompiledRules::server_default`].
    pub fn new(
        event: &'a Event,
        member_count: u64,
        power_levels: &'a PowerLevels,
        defaults: &'a CompiledRules,
    ) -> Self {
        let content: Map<String, Value> = event.content_as().unwrap_or_default();
        let mut named: HashSet<String> = list_mentions(&content).map(str::to_owned).collect();
        named.extend(event.state_key().map(str::to_owned));
        let has_mentions = content.contains_key(MENTIONS);
        let may_name = defaults.mentions == Mentions::ByName && !has_mentions;
        let names_in_text = may_name && content.get("body").is_some_and(Value::is_string);
        let mut prepared = Self {
            event,
            content,
            member_count,
            power_levels,
            lowercase_body: OnceCell::new(),
            named,
            names_in_text,
            has_mentions,
            defaults,
            matching_defaults: 0,
            default_rule: None,
            is_in_thread: false,
            thread_followers: HashSet::new(),
        };
        let relation = prepared.content.get("m.relates_to");
        prepared.is_in_thread = relation.is_some_and(|relation| relation["rel_type"] == "m.thread");
        for (index, rule) in defaults.own_rules().enumerate() {
            if !rule.is_personal && rule.matches(&prepared, None) {
                prepared.matching_defaults |= 1 << index;
            }
        }
        // A personal rule matches nobody who is not named, nor who has no name that the text has.
        let first = prepared.matching_defaults.trailing_zeros() as usize;
        prepared.default_rule = (prepared.matching_defaults != 0).then_some(first);
        prepared
    }

    /// Names those who follow the thread that the event is in (MSC4306); without, nobody does.
    #[must_use]
    pub fn followed_by(mut self, users: impl IntoIterator<Item = String>) -> Self {
        self.thread_followers.extend(users);
        self
    }

    /// What the default rules make of it for everybody whom it does not single out.
    pub fn default_outcome(&self) -> Option<Outcome<'_>> {
        self.default_at(self.default_rule?).map(CompiledRule::outcome)
    }

    /// The body in lower case, as words are looked for in it.
    fn lowercase_body(&self) -> Option<&str> {
        let body = || Some(self.content.get("body")?.as_str()?.to_lowercase());
        self.lowercase_body.get_or_init(body).as_deref()
    }
}

impl CompiledRules {
    /// Compiles the rules of `user`, of whom the predefined ones are those of `mentions`. Disabled rules are
    /// left out.
    pub fn compile(ruleset: &Ruleset, user: &UserId, mentions: Mentions) -> Self {
        let defaults = default_ruleset(user, mentions);
        let enabled = defaults.iter().filter(|rule| rule.enabled()).enumerate();
        let known: HashMap<String, usize> =
            enabled.map(|(index, rule)| (rule_json(rule), index)).collect();
        let rule = |rule: AnyPushRuleRef<'_>| match known.get(&rule_json(rule)) {
            Some(index) => RuleRef::Default(*index as u8),
            None => RuleRef::Own(Box::new(CompiledRule::compile(rule))),
        };
        let enabled = ruleset.iter().filter(|rule| rule.enabled());
        let rules: Box<[RuleRef]> = enabled.map(rule).collect();
        let asks_for_threads = rules.iter().any(RuleRef::asks_for_threads);
        let is_default = as_json(ruleset) == as_json(&defaults);
        Self { rules, mentions, is_default, asks_for_threads }
    }

    /// The rules as they come, for nobody in particular: what [`PushEvent::new`] needs. Make it once.
    pub fn server_default(mentions: Mentions) -> Self {
        // No user can have this name, so no rule singles it out.
        let nobody = <&UserId>::try_from(NOBODY).expect("it is a user ID by its form");
        let ruleset = default_ruleset(nobody, mentions);
        let enabled = ruleset.iter().filter(|rule| rule.enabled());
        let rules = enabled.map(|rule| RuleRef::Own(Box::new(CompiledRule::compile_default(rule))));
        let rules: Box<[RuleRef]> = rules.collect();
        assert!(rules.len() <= 64, "each default rule has a bit");
        Self { rules, mentions, is_default: true, asks_for_threads: false }
    }

    /// What a user's own rules take in memory beside this, bytes, roughly.
    pub fn weight_bytes(&self) -> u64 {
        const OWN_BYTES: u64 = 600;
        let places = size_of_val(&*self.rules) as u64;
        places + OWN_BYTES * self.own_rules().count() as u64
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
    pub fn evaluate<'e>(
        &'e self,
        event: &'e PushEvent<'_>,
        user: &UserId,
        display_name: Option<&str>,
    ) -> Option<Outcome<'e>> {
        if event.event.sender() == user {
            return None;
        }
        let may_be_named = event.names_in_text || event.named.contains(user.as_str());
        if self.is_default && !may_be_named {
            return event.default_outcome();
        }
        let me = Me { user_id: user.as_str(), display_name };
        let matching = self.rules.iter().find_map(|rule| match rule {
            RuleRef::Own(rule) => rule.matches(event, Some(me)).then_some(&**rule),
            RuleRef::Default(index) => {
                let rule = event.default_at((*index).into())?;
                let matches = match rule.is_personal {
                    true => rule.matches(event, Some(me)),
                    false => event.matching_defaults & (1 << *index) != 0,
                };
                matches.then_some(rule)
            }
        });
        matching.map(CompiledRule::outcome)
    }

    fn own_rules(&self) -> impl Iterator<Item = &CompiledRule> {
        self.rules.iter().filter_map(|rule| match rule {
            RuleRef::Own(rule) => Some(&**rule),
            RuleRef::Default(_) => None,
        })
    }
}

impl RuleRef {
    /// No default rule asks for threads.
    fn asks_for_threads(&self) -> bool {
        match self {
            Self::Own(rule) => rule.conditions.iter().any(Condition::asks_for_threads),
            Self::Default(_) => false,
        }
    }
}

impl PushEvent<'_> {
    fn default_at(&self, index: usize) -> Option<&CompiledRule> {
        match self.defaults.rules.get(index)? {
            RuleRef::Own(rule) => Some(rule),
            RuleRef::Default(_) => None,
        }
    }
}

/// For whom rules are evaluated.
#[derive(Clone, Copy)]
struct Me<'a> {
    user_id: &'a str,
    display_name: Option<&'a str>,
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
            is_personal: false,
            is_by_name: rule.is_server_default() && is_by_name(rule.rule_id()),
            actions,
        }
    }

    /// A default rule, which is the same for all users: what names the user asks for them.
    fn compile_default(rule: AnyPushRuleRef<'_>) -> Self {
        let mut rule = Self::compile(rule);
        for condition in &mut rule.conditions {
            condition.ask_for_me(NOBODY);
        }
        rule.is_personal = rule.conditions.iter().any(Condition::is_personal);
        rule
    }

    fn matches(&self, event: &PushEvent<'_>, me: Option<Me<'_>>) -> bool {
        let is_asked = !(self.is_by_name && event.has_mentions);
        is_asked && self.conditions.iter().all(|condition| condition.holds(event, me))
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

/// Whom an event mentions (client-server API, "User and room mentions").
const MENTIONS: &str = "m.mentions";
/// No user can have this name, so no rule singles it out.
const NOBODY: &str = "@\u{1}:nobody";

/// A rule with its kind, to be compared.
fn rule_json(rule: AnyPushRuleRef<'_>) -> String {
    let json = match rule {
        AnyPushRuleRef::Override(rule) => {
            serde_json::to_string(rule).map(|json| format!("o{json}"))
        }
        AnyPushRuleRef::Underride(rule) => {
            serde_json::to_string(rule).map(|json| format!("u{json}"))
        }
        AnyPushRuleRef::Content(rule) => serde_json::to_string(rule).map(|json| format!("c{json}")),
        AnyPushRuleRef::Room(rule) => serde_json::to_string(rule).map(|json| format!("r{json}")),
        AnyPushRuleRef::Sender(rule) => serde_json::to_string(rule).map(|json| format!("s{json}")),
        _ => Ok(String::new()),
    };
    json.unwrap_or_default()
}

fn as_json(ruleset: &Ruleset) -> Option<Value> {
    serde_json::to_value(ruleset).ok()
}

/// Whether a text without `m.mentions` may call everybody ([`Mentions::ByName`]).
pub fn calls_everybody(content: &Map<String, Value>) -> bool {
    let body = content.get("body").and_then(Value::as_str);
    !content.contains_key(MENTIONS)
        && body.is_some_and(|body| body.to_lowercase().contains(EVERYBODY))
}

/// The users in `m.mentions`.
fn list_mentions(content: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let mentions = content.get(MENTIONS).and_then(|mentions| mentions.get("user_ids"));
    mentions.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}
