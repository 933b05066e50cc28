//! What users have said about what may notify them: their push rules, whom they ignore, and whose
//! invitations they take. Not for evaluating rules.

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedUserId, UserId};

use crate::{
    accounts::{
        account_data::{IGNORED_USERS_KIND, parse_ignored_users},
        push_rules::{PUSH_RULES_KIND, PushRules},
    },
    protocol::{
        invite_permission::{
            INVITE_FILTER_KIND, INVITE_PERMISSION_KIND, InvitePermission, InviteVerdict,
        },
        push_rules::{CompiledRules, Mentions, default_ruleset},
    },
    storage::{Database, StorageError, counts::list_wishes_of_users},
};

/// The contents of one user's account data, as far as they matter here.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    rules: Option<String>,
    ignored: Option<String>,
    permission: Option<String>,
    filter: Option<String>,
}

impl Wishes {
    /// The wishes of these users; who has none is not among them.
    pub async fn load(
        database: &Database,
        users: &[&str],
    ) -> Result<BTreeMap<String, Self>, StorageError> {
        Ok(Self::group(list_wishes_of_users(database, users).await?))
    }

    /// Sorts rows of user, type and content.
    pub fn group(rows: Vec<(String, String, String)>) -> BTreeMap<String, Self> {
        let mut by_user: BTreeMap<String, Self> = BTreeMap::new();
        for (user, kind, content) in rows {
            let wishes = by_user.entry(user).or_default();
            let place = match kind.as_str() {
                PUSH_RULES_KIND => &mut wishes.rules,
                IGNORED_USERS_KIND => &mut wishes.ignored,
                INVITE_PERMISSION_KIND => &mut wishes.permission,
                INVITE_FILTER_KIND => &mut wishes.filter,
                _ => continue,
            };
            *place = Some(content);
        }
        by_user
    }

    /// The user's rules, ready to be evaluated.
    pub fn compile_rules(
        &self,
        user: &UserId,
        mentions: Mentions,
    ) -> Result<CompiledRules, StorageError> {
        let own = self.rules.as_deref().map(|content| PushRules::parse(content, user, mentions));
        Ok(match own.transpose()? {
            Some(rules) => CompiledRules::compile(&rules.global, user, mentions),
            None => CompiledRules::compile(&default_ruleset(user, mentions), user, mentions),
        })
    }

    /// Whom the user ignores: nothing of theirs notifies.
    pub fn ignored_users(&self) -> HashSet<OwnedUserId> {
        parse_ignored_users(self.ignored.as_deref())
    }

    /// Whether the user hears of an invitation by `sender`.
    pub fn takes_invite(&self, sender: &UserId) -> bool {
        let permission =
            InvitePermission::parse(self.permission.as_deref(), self.filter.as_deref());
        permission.judge(sender) == InviteVerdict::Take
    }
}
