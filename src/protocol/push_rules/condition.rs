//! The conditions of push rules, compiled.

use ruma::{
    UInt,
    push::{PushCondition, RoomMemberCountIs, ScalarJsonValue},
};
use serde_json::Value;
use std::ops::RangeBounds as _;

use super::{Me, PushEvent, glob::Glob, names::calls, property::PropertyPath};

pub(super) enum Condition {
    /// `event_match`, on anything but the body.
    Matches(PropertyPath, Glob),
    /// `event_match` on the body, and content rules.
    BodyContains(Glob),
    /// `contains_display_name`.
    BodyContainsDisplayName,
    /// `event_property_is`.
    PropertyIs(PropertyPath, ScalarJsonValue),
    /// `event_property_contains`.
    PropertyContains(PropertyPath, ScalarJsonValue),
    /// `room_member_count`.
    MemberCount(RoomMemberCountIs),
    /// `sender_notification_permission`, with the key in `notifications`.
    SenderMayNotify(String),
    /// `io.element.msc4306.thread_subscription`: the event is in a thread that the user follows, or
    /// in one that they do not follow.
    FollowsThread(bool),
    /// `event_property_is`, with the user.
    PropertyIsMe(PropertyPath),
    /// `event_property_contains`, with the user.
    PropertyContainsMe(PropertyPath),
    /// The user's name before the colon is a word of the body.
    BodyContainsMyLocalpart,
    /// Conditions that are not recognised must not match any events.
    Never,
}

impl Condition {
    pub fn compile(condition: &PushCondition) -> Self {
        match condition {
            PushCondition::EventMatch(data) => Self::matches(&data.key, &data.pattern),
            #[expect(deprecated, reason = "old clients have rules with it")]
            PushCondition::ContainsDisplayName => Self::BodyContainsDisplayName,
            PushCondition::RoomMemberCount(data) => Self::MemberCount(data.is),
            PushCondition::SenderNotificationPermission(data) => {
                Self::SenderMayNotify(data.key.as_str().to_owned())
            }
            PushCondition::EventPropertyIs(data) => {
                Self::PropertyIs(PropertyPath::parse(&data.key), data.value.clone())
            }
            PushCondition::EventPropertyContains(data) => {
                Self::PropertyContains(PropertyPath::parse(&data.key), data.value.clone())
            }
            PushCondition::ThreadSubscription(data) => Self::FollowsThread(data.subscribed),
            _ => Self::Never,
        }
    }

    /// Whether it matters which threads a user follows.
    pub fn asks_for_threads(&self) -> bool {
        matches!(self, Self::FollowsThread(_))
    }

    /// What a content rule asks for.
    pub fn body_contains(pattern: &str) -> Self {
        Glob::parse(pattern).map_or(Self::Never, Self::BodyContains)
    }

    /// What room and sender rules ask for.
    pub fn property_is(path: &str, value: &impl AsRef<str>) -> Self {
        let value = ScalarJsonValue::String(value.as_ref().to_owned());
        Self::PropertyIs(PropertyPath::parse(path), value)
    }

    /// Makes of a condition that names `nobody` one that asks for the user.
    pub fn ask_for_me(&mut self, nobody: &str) {
        let is_nobody = |value: &ScalarJsonValue| matches!(value, ScalarJsonValue::String(text) if text == nobody);
        let localpart = nobody.trim_start_matches('@').split(':').next().unwrap_or_default();
        *self = match std::mem::replace(self, Self::Never) {
            Self::PropertyIs(path, value) if is_nobody(&value) => Self::PropertyIsMe(path),
            Self::PropertyContains(path, value) if is_nobody(&value) => {
                Self::PropertyContainsMe(path)
            }
            Self::Matches(path, glob) if glob.is_literally(nobody) => Self::PropertyIsMe(path),
            Self::BodyContains(glob) if glob.is_literally(localpart) => {
                Self::BodyContainsMyLocalpart
            }
            other => other,
        };
    }

    /// Whether it asks who the user is.
    pub fn is_personal(&self) -> bool {
        matches!(
            self,
            Self::BodyContainsDisplayName
                | Self::PropertyIsMe(_)
                | Self::PropertyContainsMe(_)
                | Self::BodyContainsMyLocalpart
                | Self::FollowsThread(_)
        )
    }

    /// Without a user, what asks for them does not hold.
    pub fn holds(&self, event: &PushEvent<'_>, me: Option<Me<'_>>) -> bool {
        let user_id = me.map(|me| me.user_id);
        match self {
            Self::FollowsThread(wanted) => {
                let follows = user_id.is_some_and(|id| event.thread_followers.contains(id));
                event.is_in_thread && follows == *wanted
            }
            Self::PropertyIsMe(path) => user_id.is_some() && path.find_text(event) == user_id,
            Self::PropertyContainsMe(path) => user_id.is_some_and(|user_id| {
                let property = path.find(event);
                let items = property.as_ref().and_then(|property| property.as_array());
                items.is_some_and(|items| items.iter().any(|item| item.as_str() == Some(user_id)))
            }),
            Self::BodyContainsMyLocalpart => user_id.is_some_and(|user_id| {
                let localpart = user_id.trim_start_matches('@').split(':').next();
                contains_name(event, localpart)
            }),
            Self::PropertyIs(path, ScalarJsonValue::String(value)) => {
                path.find_text(event) == Some(value.as_str())
            }
            Self::Matches(path, glob) => {
                path.find_text(event).is_some_and(|text| glob.matches(text))
            }
            Self::BodyContains(glob) => {
                event.lowercase_body().is_some_and(|body| glob.matches_words(body))
            }
            Self::BodyContainsDisplayName => {
                contains_name(event, me.and_then(|me| me.display_name))
            }
            Self::PropertyIs(path, value) => {
                path.find(event).is_some_and(|property| is_scalar(&property, value))
            }
            Self::PropertyContains(path, value) => path.find(event).is_some_and(|property| {
                let items = property.as_array().map(Vec::as_slice).unwrap_or_default();
                items.iter().any(|item| is_scalar(item, value))
            }),
            Self::MemberCount(is) => {
                UInt::try_from(event.member_count).is_ok_and(|count| is.contains(&count))
            }
            Self::SenderMayNotify(key) => {
                let power = event.power_levels;
                power.user(event.event.sender()) >= power.notification(key)
            }
            Self::Never => false,
        }
    }

    fn matches(key: &str, pattern: &str) -> Self {
        let path = PropertyPath::parse(key);
        match Glob::parse(pattern) {
            None => Self::Never,
            Some(glob) if path.is(&["content", "body"]) => Self::BodyContains(glob),
            Some(glob) => Self::Matches(path, glob),
        }
    }
}

/// A name is looked for as it is written.
fn contains_name(event: &PushEvent<'_>, name: Option<&str>) -> bool {
    let Some(name) = name.map(str::to_lowercase) else {
        return false;
    };
    event.lowercase_body().is_some_and(|body| calls(body, &name))
}

/// Exact equality; types are not cast.
fn is_scalar(property: &Value, value: &ScalarJsonValue) -> bool {
    match (property, value) {
        (Value::Null, ScalarJsonValue::Null) => true,
        (Value::Bool(property), ScalarJsonValue::Bool(value)) => property == value,
        (Value::Number(property), ScalarJsonValue::Integer(value)) => {
            property.as_i64() == Some(i64::from(*value))
        }
        (Value::String(property), ScalarJsonValue::String(value)) => property == value,
        _ => false,
    }
}
