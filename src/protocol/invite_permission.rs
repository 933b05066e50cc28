//! Whose invitations a user takes (client-server API, "Invite permission"; MSC4155). Pure; not for
//! ignored users, who have a list of their own.

use ruma::UserId;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::server_acl::glob_matches;

/// The account data in which a user refuses all invitations.
pub const INVITE_PERMISSION_KIND: &str = "m.invite_permission_config";
/// The account data with lists of users and servers (MSC4155).
pub const INVITE_FILTER_KIND: &str = "org.matrix.msc4155.invite_permission_config";
/// The longest pattern that is looked at, bytes: a user ID has 255 at most.
const PATTERN_BYTES_MAX: usize = 512;

/// What becomes of an invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteVerdict {
    Take,
    /// The user never hears of it, the inviter hears nothing of that.
    Ignore,
    /// The inviter is told.
    Block,
}

/// What a user says of invitations. By default they take all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvitePermission {
    blocks_all: bool,
    /// In the order in which they are asked.
    lists: Vec<PatternList>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct PatternList {
    is_of_servers: bool,
    verdict: InviteVerdict,
    patterns: Vec<String>,
}

/// MSC4155, "Proposal": the order of the lists.
const LISTS: [(&str, bool, InviteVerdict); 6] = [
    ("allowed_users", false, InviteVerdict::Take),
    ("ignored_users", false, InviteVerdict::Ignore),
    ("blocked_users", false, InviteVerdict::Block),
    ("allowed_servers", true, InviteVerdict::Take),
    ("ignored_servers", true, InviteVerdict::Ignore),
    ("blocked_servers", true, InviteVerdict::Block),
];

impl InvitePermission {
    /// Reads the contents of both kinds of account data, as far as they can be understood.
    pub fn parse(permission: Option<&str>, filter: Option<&str>) -> Self {
        #[derive(Deserialize)]
        struct Permission {
            default_action: Option<Value>,
        }
        let permission = permission.and_then(|text| serde_json::from_str::<Permission>(text).ok());
        let blocks_all = permission.is_some_and(|one| one.default_action == Some("block".into()));
        let filter: Option<Map<String, Value>> =
            filter.and_then(|text| serde_json::from_str(text).ok());
        let filter = filter.filter(|filter| filter.get("enabled") != Some(&Value::Bool(false)));
        let lists = filter.as_ref().map(list_patterns).unwrap_or_default();
        Self { blocks_all, lists }
    }

    /// Whether every invitation is taken.
    pub fn takes_all(&self) -> bool {
        !self.blocks_all && self.lists.is_empty()
    }

    /// What becomes of an invitation by `sender`.
    pub fn judge(&self, sender: &UserId) -> InviteVerdict {
        if self.blocks_all {
            return InviteVerdict::Block;
        }
        let user = sender.as_str().to_ascii_lowercase();
        // Ports do not count, as in access control lists.
        let server = sender.server_name().host().to_ascii_lowercase();
        let matching = self.lists.iter().find(|list| {
            let text = if list.is_of_servers { &server } else { &user };
            list.patterns.iter().any(|one| glob_matches(one.as_bytes(), text.as_bytes()))
        });
        matching.map_or(InviteVerdict::Take, |list| list.verdict)
    }
}

fn list_patterns(filter: &Map<String, Value>) -> Vec<PatternList> {
    let mut lists = Vec::new();
    for (name, is_of_servers, verdict) in LISTS {
        let patterns = filter.get(name).and_then(Value::as_array).into_iter().flatten();
        let patterns = patterns.filter_map(Value::as_str);
        let patterns: Vec<String> = patterns
            .filter(|pattern| pattern.len() <= PATTERN_BYTES_MAX)
            .map(str::to_ascii_lowercase)
            .collect();
        if !patterns.is_empty() {
            lists.push(PatternList { is_of_servers, verdict, patterns });
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, sender: &str, expect: InviteVerdict) {
        let permission = InvitePermission::parse(None, Some(filter));
        let sender = UserId::parse(sender).unwrap();
        assert_eq!(permission.judge(&sender), expect, "{filter} {sender}");
    }

    #[test]
    fn lists_are_asked_in_their_order() {
        use InviteVerdict::{Block, Ignore, Take};
        let only_good = r#"{"allowed_servers":["good.org"],"blocked_servers":["*"]}"#;
        check(only_good, "@a:good.org", Take);
        check(only_good, "@a:good.org:8448", Take);
        check(only_good, "@a:bad.org", Block);
        let but_one = r#"{"blocked_users":["@bad*:good.org"],"allowed_servers":["good.org"],
            "ignored_servers":["worse.*"],"blocked_servers":["*"]}"#;
        check(but_one, "@badly:good.org", Block);
        check(but_one, "@well:good.org", Take);
        check(but_one, "@a:worse.org", Ignore);
        let both = r#"{"allowed_users":["@a:b"],"ignored_users":["@a:b"],"blocked_users":null}"#;
        check(both, "@a:b", Take);
        check(r#"{"ignored_users":["@?:b"]}"#, "@a:b", Ignore);
        check(r#"{"enabled":false,"blocked_servers":["*"]}"#, "@a:b", Take);
    }

    #[test]
    fn who_refuses_all_has_no_exceptions() {
        let filter = r#"{"allowed_users":["@a:b"]}"#;
        let permission =
            InvitePermission::parse(Some(r#"{"default_action":"block"}"#), Some(filter));
        assert_eq!(permission.judge(&UserId::parse("@a:b").unwrap()), InviteVerdict::Block);
        assert!(InvitePermission::parse(Some(r#"{"default_action":"allow"}"#), None).takes_all());
    }
}
