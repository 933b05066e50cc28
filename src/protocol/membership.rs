//! A user's membership of a room, and the parts of `m.room.member` that rules look at.

use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::event::Event;

/// What a user is to a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Membership {
    Join,
    Invite,
    Knock,
    Leave,
    Ban,
}

/// The content of `m.room.member` as the authorisation rules read it: each property, whatever its type.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct MemberContent {
    #[serde(default, deserialize_with = "present")]
    pub membership: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub third_party_invite: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    pub join_authorised_via_users_server: Option<Value>,
}

impl Membership {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "join" => Some(Self::Join),
            "invite" => Some(Self::Invite),
            "knock" => Some(Self::Knock),
            "leave" => Some(Self::Leave),
            "ban" => Some(Self::Ban),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }

    /// The membership that `event`, an accepted `m.room.member`, sets. `None` for anything else.
    pub fn of_event(event: &Event) -> Option<Self> {
        if event.kind() != "m.room.member" || !event.is_state() {
            return None;
        }
        event.content_as::<MemberContent>().ok()?.membership()
    }

    /// The membership that the state gives a user: `leave` where it has no event of theirs.
    pub fn of_state(event: Option<&Event>) -> Self {
        event.and_then(Self::of_event).unwrap_or(Self::Leave)
    }
}

impl MemberContent {
    /// The membership, if it is one that the specification knows.
    pub fn membership(&self) -> Option<Membership> {
        Membership::parse(self.membership.as_ref()?.as_str()?)
    }

    /// `third_party_invite.signed.token`.
    pub fn third_party_token(&self) -> Option<&str> {
        self.third_party_invite.as_ref()?.get("signed")?.get("token")?.as_str()
    }

    /// The user whose server vouches for a restricted join.
    pub fn authorising_user(&self) -> Option<OwnedUserId> {
        UserId::parse(self.join_authorised_via_users_server.as_ref()?.as_str()?).ok()
    }
}

/// Reads a property that is there, `null` included.
pub(super) fn present<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
