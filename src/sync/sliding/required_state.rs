//! Which state of a room a client wants (MSC4186, "Room config"), and how wishes are joined.

use std::collections::{BTreeMap, BTreeSet};

use ruma::UserId;
use serde::{Deserialize, Serialize};

use crate::rooms::MEMBER;

const ANY: &str = "*";

/// What is wanted of a room: of one rule of a request, or of several that match it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomConfig {
    pub timeline_limit: usize,
    /// Without repetitions, in order; a state event is wanted if any of them wants it.
    parts: Vec<RequiredState>,
}

/// One `required_state`: pairs of type and state key. Beside `["*", "*"]`, a pair with a type
/// narrows that type down to what the pairs name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct RequiredState {
    everything: bool,
    /// Of `["*", key]`.
    keys_of_any_kind: BTreeSet<String>,
    kinds: BTreeMap<String, Keys>,
    /// `["m.room.member", "$LAZY"]`: members as they are needed for the timeline.
    lazy_members: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Keys {
    any: bool,
    keys: BTreeSet<String>,
}

impl RoomConfig {
    pub fn new(timeline_limit: usize, pairs: &[(String, String)], user: &UserId) -> Self {
        let mut part = RequiredState::default();
        for (kind, key) in pairs {
            let key = if key == "$ME" { user.as_str() } else { key };
            match (kind.as_str(), key) {
                (ANY, ANY) => part.everything = true,
                (ANY, key) => drop(part.keys_of_any_kind.insert(key.to_owned())),
                (MEMBER, "$LAZY") => {
                    part.lazy_members = true;
                    part.kinds.entry(MEMBER.to_owned()).or_default();
                }
                (kind, ANY) => part.kinds.entry(kind.to_owned()).or_default().any = true,
                (kind, key) => {
                    let keys = &mut part.kinds.entry(kind.to_owned()).or_default().keys;
                    keys.insert(key.to_owned());
                }
            }
        }
        Self { timeline_limit, parts: vec![part] }
    }

    /// What either wants: the longer timeline and all state that one of them wants.
    pub fn join(&self, other: &Self) -> Self {
        let mut parts = self.parts.clone();
        parts.extend(other.parts.iter().cloned());
        parts.sort_unstable();
        parts.dedup();
        Self { timeline_limit: self.timeline_limit.max(other.timeline_limit), parts }
    }

    /// Whether a state event is wanted for its own sake.
    pub fn wants(&self, kind: &str, state_key: &str) -> bool {
        self.parts.iter().any(|part| part.wants(kind, state_key))
    }

    /// Whether members come as they are needed: not when all are wanted anyway.
    pub fn lazy_members(&self) -> bool {
        self.parts.iter().any(|part| part.lazy_members) && !self.wants_all_members()
    }

    pub fn wants_all_members(&self) -> bool {
        self.parts.iter().any(|part| match part.kinds.get(MEMBER) {
            Some(keys) => keys.any,
            None => part.everything,
        })
    }

    /// The users whose memberships are wanted by name.
    pub fn named_members(&self) -> BTreeSet<&str> {
        let mut named = BTreeSet::new();
        for part in &self.parts {
            let keys = part.kinds.get(MEMBER).map(|keys| &keys.keys);
            let users = keys.into_iter().flatten().chain(&part.keys_of_any_kind);
            named.extend(users.map(String::as_str));
        }
        named
    }

    /// The pairs of type and state key that are wanted by name, memberships left out; None when
    /// there are wishes that no list of names fulfils.
    pub fn named_state(&self) -> Option<BTreeSet<(&str, &str)>> {
        let mut named = BTreeSet::new();
        for part in &self.parts {
            if part.everything || !part.keys_of_any_kind.is_empty() {
                return None;
            }
            for (kind, keys) in part.kinds.iter().filter(|(kind, _)| *kind != MEMBER) {
                if keys.any {
                    return None;
                }
                named.extend(keys.keys.iter().map(|key| (kind.as_str(), key.as_str())));
            }
        }
        Some(named)
    }
}

impl RequiredState {
    fn wants(&self, kind: &str, state_key: &str) -> bool {
        let by_kind = match self.kinds.get(kind) {
            Some(keys) => keys.any || keys.keys.contains(state_key),
            None => self.everything,
        };
        by_kind || self.keys_of_any_kind.contains(state_key)
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    fn config(pairs: &[(&str, &str)]) -> RoomConfig {
        let pairs: Vec<_> = pairs.iter().map(|(k, s)| ((*k).to_owned(), (*s).to_owned())).collect();
        RoomConfig::new(1, &pairs, user_id!("@me:x"))
    }

    #[test]
    fn pairs_name_kinds_keys_or_either() {
        let config = config(&[("a", ""), ("b", "*"), ("*", "k"), (MEMBER, "$ME")]);
        for (kind, key, expect) in [
            ("a", "", true),
            ("a", "x", false),
            ("b", "x", true),
            ("c", "k", true),
            ("c", "", false),
            (MEMBER, "@me:x", true),
            (MEMBER, "@you:x", false),
        ] {
            assert_eq!(config.wants(kind, key), expect, "{kind} {key}");
        }
    }

    #[test]
    fn everything_is_narrowed_by_what_names_a_kind() {
        let config = config(&[("*", "*"), (MEMBER, "$LAZY"), ("a", "x")]);
        assert!(config.wants("b", "y") && config.wants("a", "x"));
        assert!(!config.wants("a", "y") && !config.wants(MEMBER, "@me:x"));
        assert!(config.lazy_members());
    }

    #[test]
    fn joined_configs_want_what_either_wants() {
        let lazy = config(&[(MEMBER, "$LAZY"), ("a", "")]);
        let all = config(&[("*", "*")]);
        let both = lazy.join(&all);
        assert!(both.wants(MEMBER, "@you:x") && both.wants("b", ""));
        assert!(!both.lazy_members() && lazy.lazy_members());
        assert_eq!(both.join(&lazy), both);
        assert_eq!(lazy.named_state(), Some([("a", "")].into()));
        assert_eq!(all.named_state(), None);
    }
}
