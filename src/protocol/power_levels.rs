//! Who may do what: the power levels of a room, with their defaults and old spellings.
//!
//! Not for judging a change of power levels (see `authorisation`). Source: client-server API,
//! `m.room.power_levels`; content/rooms/, "Deprecated event content schemas" for strings and floats.

use std::{collections::BTreeMap, sync::Arc};

use ruma::UserId;
use serde_json::{Map, Value};

use super::{event::Event, room_content::CreateContent, room_version::RoomRules};

/// The power of a room's creator while the room has no power levels.
const CREATOR_LEVEL_WITHOUT_EVENT: i64 = 100;

/// A user's power. Creators of rooms of version 12 stand above every number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PowerLevel {
    Finite(i64),
    Infinite,
}

/// The levels that stand directly in the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedLevel {
    UsersDefault,
    EventsDefault,
    StateDefault,
    Ban,
    Redact,
    Kick,
    Invite,
}

/// The content of `m.room.power_levels`, as far as it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowerLevelsContent {
    named: [Option<i64>; NamedLevel::ALL.len()],
    pub events: BTreeMap<String, i64>,
    pub users: BTreeMap<String, i64>,
    pub notifications: BTreeMap<String, i64>,
}

/// The levels that hold in a room.
#[derive(Clone, Debug)]
pub struct PowerLevels {
    content: Option<Arc<PowerLevelsContent>>,
    creators: Option<CreateContent>,
    creators_privileged: bool,
}

/// What is wrong with the content of `m.room.power_levels`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PowerLevelsError {
    #[error("the content is not an object")]
    NotAnObject,
    #[error("`{0}` is not a level that this room version allows")]
    BadLevel(&'static str),
    #[error("`{0}` is not an object of levels that this room version allows")]
    BadMap(&'static str),
}

impl NamedLevel {
    pub const ALL: [Self; 7] = [
        Self::UsersDefault,
        Self::EventsDefault,
        Self::StateDefault,
        Self::Ban,
        Self::Redact,
        Self::Kick,
        Self::Invite,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::UsersDefault => "users_default",
            Self::EventsDefault => "events_default",
            Self::StateDefault => "state_default",
            Self::Ban => "ban",
            Self::Redact => "redact",
            Self::Kick => "kick",
            Self::Invite => "invite",
        }
    }

    /// The level that holds where the content does not say.
    pub fn default_level(self) -> i64 {
        match self {
            Self::UsersDefault | Self::EventsDefault | Self::Invite => 0,
            Self::StateDefault | Self::Ban | Self::Redact | Self::Kick => 50,
        }
    }
}

impl PowerLevelsContent {
    /// Reads `content`, refusing every value that the room version does not allow. Before version 6 no rule
    /// looks at `notifications`, so that nothing there can be refused.
    pub fn parse(
        content: &Map<String, Value>,
        rules: &RoomRules,
    ) -> Result<Self, PowerLevelsError> {
        let mut parsed = Self::default();
        for level in NamedLevel::ALL {
            if let Some(value) = content.get(level.as_str()) {
                let value = parse_level(value, rules);
                let value = value.ok_or(PowerLevelsError::BadLevel(level.as_str()))?;
                parsed.named[level as usize] = Some(value);
            }
        }
        parsed.events = parse_map(content, "events", rules)?;
        parsed.users = parse_map(content, "users", rules)?;
        parsed.notifications = if rules.notifications_authorised {
            parse_map(content, "notifications", rules)?
        } else {
            Self::parse_lenient(content, rules).notifications
        };
        Ok(parsed)
    }

    /// Reads what can be read: malformed values count as absent.
    pub fn parse_lenient(content: &Map<String, Value>, rules: &RoomRules) -> Self {
        let mut parsed = Self::default();
        for level in NamedLevel::ALL {
            let value = content.get(level.as_str());
            parsed.named[level as usize] = value.and_then(|value| parse_level(value, rules));
        }
        let map = |key| {
            let entries = content.get(key).and_then(Value::as_object).into_iter().flatten();
            entries
                .filter_map(|(name, value)| Some((name.clone(), parse_level(value, rules)?)))
                .collect()
        };
        Self {
            events: map("events"),
            users: map("users"),
            notifications: map("notifications"),
            ..parsed
        }
    }

    /// The level as the content states it.
    pub fn stated(&self, level: NamedLevel) -> Option<i64> {
        self.named[level as usize]
    }
}

impl PowerLevels {
    /// The levels of a room whose state has `create` and `power`. Cheap: an event is read only once.
    pub fn from_events(create: Option<&Event>, power: Option<&Event>, rules: &RoomRules) -> Self {
        Self {
            content: power.map(|event| event.power_levels(rules)),
            creators: create.map(|create| CreateContent::of_event(create, rules)),
            creators_privileged: rules.creators_privileged,
        }
    }

    pub fn user(&self, user: &UserId) -> PowerLevel {
        if self.creators_privileged && self.is_creator(user) {
            return PowerLevel::Infinite;
        }
        let level = match &self.content {
            Some(content) => content
                .users
                .get(user.as_str())
                .copied()
                .unwrap_or_else(|| self.named(NamedLevel::UsersDefault)),
            None if self.is_creator(user) => CREATOR_LEVEL_WITHOUT_EVENT,
            None => NamedLevel::UsersDefault.default_level(),
        };
        PowerLevel::Finite(level)
    }

    /// The level that sending an event of type `kind` takes.
    pub fn to_send(&self, kind: &str, is_state: bool) -> i64 {
        let stated = self.content.as_ref().and_then(|content| content.events.get(kind));
        stated.copied().unwrap_or_else(|| {
            self.named(if is_state { NamedLevel::StateDefault } else { NamedLevel::EventsDefault })
        })
    }

    pub fn ban(&self) -> i64 {
        self.named(NamedLevel::Ban)
    }

    pub fn kick(&self) -> i64 {
        self.named(NamedLevel::Kick)
    }

    pub fn invite(&self) -> i64 {
        self.named(NamedLevel::Invite)
    }

    pub fn redact(&self) -> i64 {
        self.named(NamedLevel::Redact)
    }

    /// The level that triggering a notification takes; `room` is that of `@room`. 50 by default.
    pub fn notification(&self, key: &str) -> i64 {
        let stated = self.content.as_ref().and_then(|content| content.notifications.get(key));
        stated.copied().unwrap_or(50)
    }

    /// The level of `name`, or its default.
    pub fn named(&self, level: NamedLevel) -> i64 {
        let stated = self.content.as_ref().and_then(|content| content.stated(level));
        stated.unwrap_or_else(|| level.default_level())
    }

    /// Whether `user` made the room (with `additional_creators` in version 12).
    pub fn is_creator(&self, user: &UserId) -> bool {
        self.creators.as_ref().is_some_and(|creators| creators.is_creator(user))
    }

    /// The content of the event, if the room has one.
    pub fn content(&self) -> Option<&PowerLevelsContent> {
        self.content.as_deref()
    }

    /// What the create event says, if it is known.
    pub fn create(&self) -> Option<&CreateContent> {
        self.creators.as_ref()
    }
}

impl PartialEq<i64> for PowerLevel {
    fn eq(&self, level: &i64) -> bool {
        *self == Self::Finite(*level)
    }
}

impl PartialOrd<i64> for PowerLevel {
    fn partial_cmp(&self, level: &i64) -> Option<std::cmp::Ordering> {
        self.partial_cmp(&Self::Finite(*level))
    }
}

/// One level in the spellings that the room version allows: integers; before version 10 decimal strings
/// too; before version 6 floats, cut at the decimal point.
pub fn parse_level(value: &Value, rules: &RoomRules) -> Option<i64> {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Some(integer),
            // The cast saturates, which keeps the order of levels beyond 64 bits.
            None if !rules.canonical_json_strict => number.as_f64().map(|float| float as i64),
            None => None,
        },
        Value::String(text) if !rules.integer_power_levels => parse_level_text(text),
        _ => None,
    }
}

/// `" +0100 "`: one base-10 integer with an optional sign, zeroes in front and whitespace around. Beyond 64
/// bits it saturates, as a number does: servers whose integers know no bounds accept it, too.
fn parse_level_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let beyond = if text.starts_with('-') { i64::MIN } else { i64::MAX };
    Some(text.parse().unwrap_or(beyond))
}

fn parse_map(
    content: &Map<String, Value>,
    key: &'static str,
    rules: &RoomRules,
) -> Result<BTreeMap<String, i64>, PowerLevelsError> {
    let Some(value) = content.get(key) else {
        return Ok(BTreeMap::new());
    };
    let entries = value.as_object().ok_or(PowerLevelsError::BadMap(key))?;
    let levels = entries.iter().map(|(name, value)| {
        let level = parse_level(value, rules).ok_or(PowerLevelsError::BadMap(key))?;
        Ok((name.clone(), level))
    });
    levels.collect()
}
