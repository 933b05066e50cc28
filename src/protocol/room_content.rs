//! The contents of the state events that decide about a room, read as tolerantly as the specification
//! asks: what is malformed counts as absent, what is unknown is kept apart from what is known.
//!
//! Not for strict checks: the authorisation rules do those.

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::Deserialize;
use serde_json::Value;

use super::{event::Event, membership::present, room_version::RoomRules};

/// `m.room.create`: who made the room, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateContent {
    /// The first creator: `content.creator` up to version 10, the sender since.
    pub creator: Option<OwnedUserId>,
    /// Version 12 only; empty before.
    pub additional_creators: Vec<OwnedUserId>,
    /// Whether users of other servers may take part.
    pub federate: bool,
    /// Such as `m.space`.
    pub room_type: Option<String>,
    /// The room that this one replaces.
    pub predecessor: Option<OwnedRoomId>,
}

/// Who may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinRule {
    Public,
    Invite,
    Knock,
    Restricted,
    KnockRestricted,
    Private,
    /// One that this server does not know: nobody may join by it.
    Unknown,
}

/// `m.room.join_rules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRules {
    pub join_rule: JoinRule,
    /// The rooms whose members may join a restricted room (`allow` conditions of type
    /// `m.room_membership`; others can never be met).
    pub allow: Vec<OwnedRoomId>,
}

/// Whether guests may join (`m.room.guest_access`); forbidden by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestAccess {
    CanJoin,
    Forbidden,
}

impl CreateContent {
    pub fn of_event(create: &Event, rules: &RoomRules) -> Self {
        let raw: RawCreate = create.content_as().unwrap_or_default();
        let creator = if rules.creator_in_content {
            raw.creator.and_then(|creator| UserId::parse(creator.as_str()?).ok())
        } else {
            Some(create.sender().to_owned())
        };
        let additional_creators = if rules.creators_privileged {
            list_user_ids(raw.additional_creators.as_ref())
        } else {
            Vec::new()
        };
        Self {
            creator,
            additional_creators,
            federate: raw.federate != Some(Value::Bool(false)),
            room_type: raw.room_type.and_then(|kind| kind.as_str().map(str::to_owned)),
            predecessor: raw
                .predecessor
                .and_then(|room| RoomId::parse(room.get("room_id")?.as_str()?).ok()),
        }
    }

    /// Whether `user` is a creator in the sense of version 12.
    pub fn is_creator(&self, user: &UserId) -> bool {
        self.creator.as_deref() == Some(user)
            || self.additional_creators.iter().any(|creator| creator == user)
    }
}

impl JoinRule {
    pub fn parse(text: &str) -> Self {
        match text {
            "public" => Self::Public,
            "invite" => Self::Invite,
            "knock" => Self::Knock,
            "restricted" => Self::Restricted,
            "knock_restricted" => Self::KnockRestricted,
            "private" => Self::Private,
            _ => Self::Unknown,
        }
    }

    /// The wire name; empty for an unknown rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Restricted => "restricted",
            Self::KnockRestricted => "knock_restricted",
            Self::Private => "private",
            Self::Unknown => "",
        }
    }

    /// Whether joins can be vouched for by membership of another room, in rooms of `rules`.
    pub fn is_restricted(self, rules: &RoomRules) -> bool {
        match self {
            Self::Restricted => rules.restricted,
            Self::KnockRestricted => rules.knock_restricted,
            _ => false,
        }
    }

    /// Whether users may knock, in rooms of `rules`.
    pub fn allows_knocking(self, rules: &RoomRules) -> bool {
        match self {
            Self::Knock => rules.knock,
            Self::KnockRestricted => rules.knock_restricted,
            _ => false,
        }
    }
}

impl JoinRules {
    /// The rules of a room whose state has `event` as its `m.room.join_rules`. Without one, or where it
    /// names no rule, `invite`: the specification leaves it open, and that is what servers do.
    pub fn of_state(event: Option<&Event>) -> Self {
        let Some(event) = event else {
            return Self { join_rule: JoinRule::Invite, allow: Vec::new() };
        };
        let raw: RawJoinRules = event.content_as().unwrap_or_default();
        let join_rule = raw.join_rule.as_ref().and_then(Value::as_str);
        let conditions = raw.allow.as_ref().and_then(Value::as_array);
        let room_of = |condition: &Value| {
            let kind = condition.get("type")?.as_str()?;
            let room = condition.get("room_id")?.as_str()?;
            if kind == "m.room_membership" { RoomId::parse(room).ok() } else { None }
        };
        Self {
            join_rule: match raw.join_rule {
                Some(_) => join_rule.map_or(JoinRule::Unknown, JoinRule::parse),
                None => JoinRule::Invite,
            },
            allow: conditions.into_iter().flatten().filter_map(room_of).collect(),
        }
    }
}

impl GuestAccess {
    /// As the state's `m.room.guest_access` says.
    pub fn of_state(event: Option<&Event>) -> Self {
        #[derive(Deserialize)]
        struct Raw {
            guest_access: Value,
        }
        let raw = event.and_then(|event| event.content_as::<Raw>().ok());
        match raw {
            Some(raw) if raw.guest_access == "can_join" => Self::CanJoin,
            _ => Self::Forbidden,
        }
    }
}

#[derive(Default, Deserialize)]
struct RawCreate {
    #[serde(default, deserialize_with = "present")]
    creator: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    additional_creators: Option<Value>,
    #[serde(default, rename = "m.federate", deserialize_with = "present")]
    federate: Option<Value>,
    #[serde(default, rename = "type", deserialize_with = "present")]
    room_type: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    predecessor: Option<Value>,
}

#[derive(Default, Deserialize)]
struct RawJoinRules {
    #[serde(default, deserialize_with = "present")]
    join_rule: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    allow: Option<Value>,
}

fn list_user_ids(value: Option<&Value>) -> Vec<OwnedUserId> {
    let items = value.and_then(Value::as_array);
    let user_ids = items.into_iter().flatten().filter_map(Value::as_str);
    user_ids.filter_map(|text| UserId::parse(text).ok()).collect()
}
