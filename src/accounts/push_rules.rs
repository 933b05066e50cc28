//! A user's push rules (Client-Server API, "Push Rules"): the predefined ones and the user's own,
//! kept as the account data `m.push_rules`. Not for applying them to events.

use std::sync::Arc;

use ruma::{
    UserId,
    push::{Action, InsertPushRuleError, NewPushRule, RemovePushRuleError, RuleKind, Ruleset},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Accounts;
use crate::{
    protocol::push_rules::{Mentions, default_ruleset, thread_rules},
    storage::{StorageError, account_data},
};

/// The type of the account data.
pub const PUSH_RULES_KIND: &str = "m.push_rules";
/// Rules of all kinds that a user may have.
const RULES_MAX: usize = 2_000;
/// The kinds of rules, in their order of priority.
const KINDS: [&str; 5] = ["override", "content", "room", "sender", "underride"];

/// A user's rules, complete with the predefined ones.
#[derive(Clone, Debug)]
pub struct PushRules {
    pub global: Ruleset,
}

/// Why rules were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangePushRulesError {
    #[error("there is no such rule")]
    NotFound,
    #[error("a predefined rule cannot be replaced or removed")]
    Predefined,
    #[error("a rule ID contains no slashes and does not begin with a dot")]
    InvalidId,
    #[error("`before` and `after` must name rules of the user that exist, in their order")]
    InvalidPlace,
    #[error("this account has as many rules as it may have")]
    TooMany,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A change of a user's rules.
#[derive(Clone, Debug)]
pub enum PushRuleChange {
    Insert { rule: NewPushRule, before: Option<String>, after: Option<String> },
    Remove { kind: RuleKind, rule_id: String },
    Enable { kind: RuleKind, rule_id: String, enabled: bool },
    SetActions { kind: RuleKind, rule_id: String, actions: Vec<Action> },
}

#[derive(Deserialize)]
struct StoredRules {
    global: Ruleset,
}

impl PushRules {
    /// The predefined rules of a user.
    pub fn predefined(user_id: &UserId, mentions: Mentions) -> Self {
        Self { global: default_ruleset(user_id, mentions) }
    }

    /// The content of the account data, with every kind of rules, even those without any.
    pub fn to_content(&self) -> String {
        json!({ "global": self.to_global() }).to_string()
    }

    /// The rules by kind.
    pub fn to_global(&self) -> Value {
        let mut global = serde_json::to_value(&self.global).unwrap_or_default();
        for kind in KINDS {
            if global.get(kind).is_none() {
                global[kind] = json!([]);
            }
        }
        global
    }

    /// Adds the rules for threads, once; false when they are there.
    pub fn add_thread_rules(&mut self) -> bool {
        let before = self.global.postcontent.len();
        self.global.postcontent.extend(thread_rules());
        self.global.postcontent.len() > before
    }

    /// Reads the content of the account data; what a user has who has none are the predefined rules.
    pub fn parse_or_predefined(
        content: Option<&str>,
        user_id: &UserId,
        mentions: Mentions,
    ) -> Result<Self, StorageError> {
        match content {
            Some(content) => Self::parse(content, user_id, mentions),
            None => Ok(Self::predefined(user_id, mentions)),
        }
    }

    /// Reads the content of the account data. Predefined rules that there are no more go.
    pub fn parse(
        content: &str,
        user_id: &UserId,
        mentions: Mentions,
    ) -> Result<Self, StorageError> {
        let stored: StoredRules = serde_json::from_str(content)
            .map_err(|error| StorageError::Damaged(format!("push rules: {error}")))?;
        let mut rules = Self { global: stored.global };
        // Rules that were predefined since then; the user's switches and actions stay.
        rules.global.update_with_server_default(default_ruleset(user_id, mentions));
        Ok(rules)
    }
}

impl Accounts {
    /// A user's rules, from memory when warm.
    pub async fn load_push_rules(&self, user_id: &UserId) -> Result<Arc<PushRules>, StorageError> {
        if let Some(rules) = self.push_rule_cache.get(user_id) {
            return Ok(rules);
        }
        let epoch = self.push_rule_cache.epoch();
        let stored =
            account_data::find(&self.database, user_id.as_str(), "", PUSH_RULES_KIND).await?;
        let mentions = self.config.push.mentions();
        let rules = PushRules::parse_or_predefined(stored.as_deref(), user_id, mentions)?;
        let rules = Arc::new(rules);
        self.push_rule_cache.insert(user_id, rules.clone(), epoch);
        Ok(rules)
    }

    /// Changes a user's rules; the next sync carries them all.
    pub async fn change_push_rules(
        &self,
        user_id: &UserId,
        change: PushRuleChange,
    ) -> Result<(), ChangePushRulesError> {
        let (target, changes) = (user_id.to_owned(), self.changes.clone());
        let (cache, mentions) = (self.push_rule_cache.clone(), self.config.push.mentions());
        let changed: Result<(), ChangePushRulesError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let user = target.as_str();
                    let stored = account_data::find_in(tx, user, "", PUSH_RULES_KIND).await?;
                    let stored = stored.as_deref();
                    let mut rules = PushRules::parse_or_predefined(stored, &target, mentions)?;
                    apply(&mut rules.global, change)?;
                    let content = rules.to_content();
                    let position =
                        account_data::set(tx, user, "", PUSH_RULES_KIND, &content).await?;
                    changes.note_in(tx, &target, position);
                    tx.after_commit(move || cache.forget(&target));
                    Ok(())
                })
            })
            .await;
        changed?;
        self.changes.wake(user_id);
        Ok(())
    }
}

fn apply(rules: &mut Ruleset, change: PushRuleChange) -> Result<(), ChangePushRulesError> {
    let not_found = |_| ChangePushRulesError::NotFound;
    match change {
        PushRuleChange::Insert { rule, before, after } => {
            insert(rules, rule, (before.as_deref(), after.as_deref()))?;
            match rules.iter().count() > RULES_MAX {
                true => Err(ChangePushRulesError::TooMany),
                false => Ok(()),
            }
        }
        PushRuleChange::Remove { kind, rule_id } => Ok(rules.remove(kind, rule_id)?),
        PushRuleChange::Enable { kind, rule_id, enabled } => {
            rules.set_enabled(kind, rule_id, enabled).map_err(not_found)
        }
        PushRuleChange::SetActions { kind, rule_id, actions } => {
            rules.set_actions(kind, rule_id, actions).map_err(not_found)
        }
    }
}

/// Adds or changes a rule. Ruma counts the place that a rule leaves when it is moved, and panics where there
/// is no place behind the last one; so what is moved is taken out first.
fn insert(
    rules: &mut Ruleset,
    rule: NewPushRule,
    (before, after): (Option<&str>, Option<&str>),
) -> Result<(), ChangePushRulesError> {
    let (kind, rule_id) = (rule.kind(), rule.rule_id().to_owned());
    let own_place = Some(rule_id.as_str());
    if before == own_place || after == own_place {
        return Err(ChangePushRulesError::InvalidPlace);
    }
    let enabled = rules.get(kind.clone(), &rule_id).map(|known| known.enabled());
    if enabled.is_some() && (before.is_some() || after.is_some()) {
        rules.remove(kind.clone(), &rule_id)?;
    }
    rules.insert(rule, after, before)?;
    match enabled {
        Some(enabled) => {
            rules.set_enabled(kind, &rule_id, enabled).map_err(|_| ChangePushRulesError::NotFound)
        }
        None => Ok(()),
    }
}

impl From<InsertPushRuleError> for ChangePushRulesError {
    fn from(error: InsertPushRuleError) -> Self {
        match error {
            InsertPushRuleError::ServerDefaultRuleId => Self::Predefined,
            InsertPushRuleError::InvalidRuleId => Self::InvalidId,
            InsertPushRuleError::UnknownRuleId => Self::NotFound,
            _ => Self::InvalidPlace,
        }
    }
}

impl From<RemovePushRuleError> for ChangePushRulesError {
    fn from(error: RemovePushRuleError) -> Self {
        match error {
            RemovePushRuleError::ServerDefault => Self::Predefined,
            _ => Self::NotFound,
        }
    }
}
