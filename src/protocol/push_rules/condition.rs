//! The conditions of push rules, compiled.

use ruma::{
    UInt, UserId,
    push::{PushCondition, RoomMemberCountIs, ScalarJsonValue},
};
use serde_json::Value;
use std::ops::RangeBounds as _;

use super::{PushEvent, glob::Glob, property::PropertyPath};

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

    pub fn holds(
        &self,
        event: &PushEvent<'_>,
        user: Option<&UserId>,
        display_name: Option<&str>,
    ) -> bool {
        match self {
            Self::FollowsThread(wanted) => {
                let follows =
                    user.is_some_and(|user| event.thread_followers.contains(user.as_str()));
                event.is_in_thread && follows == *wanted
            }
            Self::Matches(path, glob) => {
                path.find_text(event).is_some_and(|text| glob.matches(text))
            }
            Self::BodyContains(glob) => {
                event.lowercase_body().is_some_and(|body| glob.matches_words(body))
            }
            Self::BodyContainsDisplayName => contains_name(event, display_name),
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

/// A display name is looked for as it is written: its stars and question marks are no wildcards.
fn contains_name(event: &PushEvent<'_>, display_name: Option<&str>) -> bool {
    let Some(name) = display_name.map(str::to_lowercase) else {
        return false;
    };
    let literal = Glob::literal(name);
    !literal.is_empty() && event.lowercase_body().is_some_and(|body| literal.matches_words(body))
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
