//! Rule 10: changes of the power levels.

use std::collections::BTreeMap;

use ruma::UserId;
use serde_json::{Map, Value};

use super::{AuthRejection, Candidate};
use crate::protocol::{
    power_levels::{
        NamedLevel, PowerLevel, PowerLevels, PowerLevelsContent, PowerLevelsError, parse_level,
    },
    room_version::RoomRules,
};

pub(super) fn check(
    event: &impl Candidate,
    current: &PowerLevels,
    rules: &RoomRules,
) -> Result<(), AuthRejection> {
    let content: Map<String, Value> = event.read_content().ok_or(PowerLevelsError::NotAnObject)?;
    if rules.integer_power_levels {
        // Rules 10.1 and 10.2: named levels, `events` and `notifications` must be integers.
        PowerLevelsContent::parse(&content, rules)?;
    }
    check_users(&content, current, rules)?;
    // Rule 10.5: if there is no previous `m.room.power_levels` event, allow.
    let Some(old) = current.content() else {
        return Ok(());
    };
    // Before version 10, only now must the rest be readable: it is about to be compared.
    let new = PowerLevelsContent::parse(&content, rules)?;
    let change = Change { sender: event.sender(), level: current.user(event.sender()) };
    change.check_named(old, &new)?;
    // Rules 10.7 and 10.8: `events`, and from version 6 on `notifications`.
    change.check_map("events", &old.events, &new.events)?;
    if rules.notifications_authorised {
        change.check_map("notifications", &old.notifications, &new.notifications)?;
    }
    // Rules 10.9 and 10.10; rule 10.11: otherwise, allow.
    change.check_users(&old.users, &new.users)
}

/// Rules 10.3 and 10.4: `users` must be levels of valid user IDs, and of no creator.
fn check_users(
    content: &Map<String, Value>,
    current: &PowerLevels,
    rules: &RoomRules,
) -> Result<(), AuthRejection> {
    let Some(users) = content.get("users") else {
        return Ok(());
    };
    let users = users.as_object().ok_or(PowerLevelsError::BadMap("users"))?;
    for (user, level) in users {
        let user =
            <&UserId>::try_from(user.as_str()).map_err(|_| AuthRejection::PowerLevelOfNoUser)?;
        parse_level(level, rules).ok_or(PowerLevelsError::BadMap("users"))?;
        if rules.creators_privileged && current.is_creator(user) {
            return Err(AuthRejection::PowerLevelOfCreator);
        }
    }
    Ok(())
}

/// Who changes the levels, and by what power.
struct Change<'a> {
    sender: &'a UserId,
    level: PowerLevel,
}

impl Change<'_> {
    /// Rule 10.6: a named level that is added, changed or removed is neither before nor after above the
    /// sender's level.
    fn check_named(
        &self,
        old: &PowerLevelsContent,
        new: &PowerLevelsContent,
    ) -> Result<(), AuthRejection> {
        for level in NamedLevel::ALL {
            let (before, after) = (old.stated(level), new.stated(level));
            if before != after && (self.is_below(before) || self.is_below(after)) {
                return Err(AuthRejection::LevelAboveSender(level.as_str().to_owned()));
            }
        }
        Ok(())
    }

    /// Rules 10.7 (entries changed or removed: the old value) and 10.8 (added or changed: the new one).
    fn check_map(
        &self,
        name: &str,
        old: &BTreeMap<String, i64>,
        new: &BTreeMap<String, i64>,
    ) -> Result<(), AuthRejection> {
        for (key, before, after) in list_changes(old, new) {
            if self.is_below(before) || self.is_below(after) {
                return Err(AuthRejection::LevelAboveSender(format!("{name}.{key}")));
            }
        }
        Ok(())
    }

    fn check_users(
        &self,
        old: &BTreeMap<String, i64>,
        new: &BTreeMap<String, i64>,
    ) -> Result<(), AuthRejection> {
        for (user, before, after) in list_changes(old, new) {
            // Rule 10.9: another user's entry may be changed or removed only if it is below the sender.
            if self.sender != user && before.is_some_and(|before| self.level <= before) {
                return Err(AuthRejection::UserNotBelowSender(user.to_owned()));
            }
            // Rule 10.10: an entry may not become higher than the sender.
            if self.is_below(after) {
                return Err(AuthRejection::LevelAboveSender(format!("users.{user}")));
            }
        }
        Ok(())
    }

    fn is_below(&self, level: Option<i64>) -> bool {
        level.is_some_and(|level| self.level < level)
    }
}

/// The entries that differ, with their old and new values.
fn list_changes<'a>(
    old: &'a BTreeMap<String, i64>,
    new: &'a BTreeMap<String, i64>,
) -> impl Iterator<Item = (&'a str, Option<i64>, Option<i64>)> {
    let kept_or_removed =
        old.iter().map(|(key, before)| (key, Some(*before), new.get(key).copied()));
    let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
    let added = added.map(|(key, after)| (key, None, Some(*after)));
    kept_or_removed
        .chain(added)
        .filter(|(_, before, after)| before != after)
        .map(|(key, before, after)| (key.as_str(), before, after))
}
