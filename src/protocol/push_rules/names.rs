//! Members of a room by what a text may call them: their display names, and their names before the colon.
//! So a message costs what its words do, and not a look at every member. Not for what being called means.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedUserId, UserId};

use super::glob::{Glob, is_word};

/// What a member takes beside their names, bytes, roughly: two maps know them.
const MEMBER_BYTES: u64 = 250;

/// Users with their display names, if they have some.
#[derive(Debug, Default)]
pub struct Names {
    by_user: HashMap<OwnedUserId, Option<String>>,
    /// By the piece of a name that a text must have ([`find_key`]).
    by_key: HashMap<Box<str>, Vec<OwnedUserId>>,
    weight_bytes: u64,
}

impl Names {
    /// Adds a user, or changes how they are called.
    pub fn insert(&mut self, user: &UserId, display_name: Option<String>) {
        self.remove(user);
        for key in list_keys(user, display_name.as_deref()) {
            self.by_key.entry(key).or_default().push(user.to_owned());
        }
        self.weight_bytes += weigh(user, display_name.as_deref());
        self.by_user.insert(user.to_owned(), display_name);
    }

    pub fn remove(&mut self, user: &UserId) {
        let Some(display_name) = self.by_user.remove(user) else { return };
        self.weight_bytes -= weigh(user, display_name.as_deref());
        for key in list_keys(user, display_name.as_deref()) {
            let Some(users) = self.by_key.get_mut(&key) else { continue };
            users.retain(|known| known != user);
            if users.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What all this takes in memory, bytes, roughly.
    pub fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    /// Whom a text calls, with their display names; at most `limit` of them.
    pub fn find_in(&self, text: &str, limit: usize) -> Vec<(OwnedUserId, Option<String>)> {
        if self.by_user.is_empty() {
            return Vec::new();
        }
        let text = text.to_lowercase();
        let mut seen: HashSet<&str> = HashSet::new();
        let mut found: Vec<(OwnedUserId, Option<String>)> = Vec::new();
        let mut looked_at: HashSet<&UserId> = HashSet::new();
        for key in split_keys(&text).filter(|key| seen.insert(key)) {
            for user in self.by_key.get(key).into_iter().flatten() {
                if found.len() == limit {
                    return found;
                }
                let display_name = self.by_user.get(user).cloned().flatten();
                let is_called = |name: &str| calls(&text, &name.to_lowercase());
                if looked_at.insert(user)
                    && (is_called(user.localpart())
                        || display_name.as_deref().is_some_and(is_called))
                {
                    found.push((user.clone(), display_name));
                }
            }
        }
        found
    }
}

/// Whether a text has a name as words, both in lower case. Stars and question marks of a name are no
/// wildcards.
pub(super) fn calls(text: &str, name: &str) -> bool {
    let literal = Glob::literal(name.to_owned());
    !literal.is_empty() && literal.matches_words(text)
}

/// What a text must have to call somebody of a name: the first word of the name or, if it has none, its
/// first character. A name is found only between the edges of words, so its words are words of the text.
fn find_key(name: &str) -> Option<Box<str>> {
    let name = name.to_lowercase();
    let word = split_keys(&name).find(|key| key.starts_with(is_word));
    word.or_else(|| split_keys(&name).next()).map(Into::into)
}

fn list_keys(user: &UserId, display_name: Option<&str>) -> impl Iterator<Item = Box<str>> {
    let by_id = find_key(user.localpart());
    let by_name = display_name.and_then(find_key).filter(|key| Some(key) != by_id.as_ref());
    by_id.into_iter().chain(by_name)
}

/// The words of a text, and each character that is in none.
fn split_keys(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match is_word(first) {
            true => rest.find(|character| !is_word(character)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (key, behind) = rest.split_at(end);
        rest = behind;
        Some(key)
    })
}

fn weigh(user: &UserId, display_name: Option<&str>) -> u64 {
    MEMBER_BYTES + (3 * user.as_str().len() + display_name.map_or(0, str::len)) as u64
}

#[cfg(test)]
mod tests {
    use ruma::UserId;

    use super::Names;

    fn user(localpart: &str) -> &'static UserId {
        let id = Box::leak(format!("@{localpart}:hearth.test").into_boxed_str());
        (&*id).try_into().unwrap()
    }

    fn check(names: &Names, text: &str, expected: &[&str]) {
        let found = names.find_in(text, 10);
        let mut found: Vec<&str> = found.iter().map(|(user, _)| user.localpart()).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn texts_call_users_by_their_names() {
        let mut names = Names::default();
        names.insert(user("alice"), Some("Alice Liddell".to_owned()));
        names.insert(user("bob.b"), Some("(The Builder)".to_owned()));
        names.insert(user("carol"), Some("王さん".to_owned()));
        names.insert(user("dan"), Some("!*!".to_owned()));
        names.insert(user("eve"), Some(String::new()));
        check(&names, "ALICE, are you there?", &["alice"]);
        check(&names, "Malice and alices", &[]);
        check(&names, "Liddell", &[]);
        check(&names, "so, Alice LIDDELL!", &["alice"]);
        check(&names, "@bob.b:hearth.test", &["bob.b"]);
        check(&names, "bob", &[]);
        check(&names, "x (the builder) y", &["bob.b"]);
        check(&names, "the builder", &[]);
        check(&names, "王さん、こんにちは", &["carol"]);
        check(&names, "!*!", &["dan"]);
        check(&names, "!x!", &[]);
        check(&names, "alice and carol and alice", &["alice", "carol"]);
        check(&names, "", &[]);
        assert_eq!(names.find_in("alice carol dan", 2).len(), 2);
    }

    #[test]
    fn names_that_went_are_not_found() {
        let mut names = Names::default();
        names.insert(user("alice"), Some("Queen".to_owned()));
        names.insert(user("alice"), Some("King".to_owned()));
        check(&names, "queen", &[]);
        check(&names, "king", &["alice"]);
        names.remove(user("alice"));
        check(&names, "alice king", &[]);
        assert_eq!((names.weight_bytes(), names.by_key.len()), (0, 0));
    }
}
