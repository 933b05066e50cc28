//! Who may see an event: history visibility.
//!
//! Not for finding the state at an event: the caller brings it. Source: client-server API, "Room History
//! Visibility", "Server behaviour".

use serde::Deserialize;
use serde_json::Value;

use super::{event::Event, membership::Membership};

/// The value of `m.room.history_visibility`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HistoryVisibility {
    WorldReadable,
    Shared,
    Invited,
    Joined,
}

/// What decides about an event at one moment: on one side of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub visibility: HistoryVisibility,
    /// The viewer's membership.
    pub membership: Membership,
}

impl HistoryVisibility {
    /// The visibility of a room whose state has `event`; `shared` where there is none or it is not
    /// understood.
    pub fn of_state(event: Option<&Event>) -> Self {
        #[derive(Deserialize)]
        struct Raw {
            history_visibility: Value,
        }
        let raw = event.and_then(|event| event.content_as::<Raw>().ok());
        raw.and_then(|raw| Self::parse(raw.history_visibility.as_str()?)).unwrap_or(Self::Shared)
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "world_readable" => Some(Self::WorldReadable),
            "shared" => Some(Self::Shared),
            "invited" => Some(Self::Invited),
            "joined" => Some(Self::Joined),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::WorldReadable => "world_readable",
            Self::Shared => "shared",
            Self::Invited => "invited",
            Self::Joined => "joined",
        }
    }
}

/// Whether a user may see an event. `joined_since` says whether the user joined the room at any point
/// after the event was sent.
pub fn may_see(visibility: HistoryVisibility, membership: Membership, joined_since: bool) -> bool {
    match (visibility, membership) {
        // Rule 1: world-readable history is for everyone.
        (HistoryVisibility::WorldReadable, _) => true,
        // Rule 2: the user was in the room.
        (_, Membership::Join) => true,
        // Rule 3: shared history is for those who came later.
        (HistoryVisibility::Shared, _) if joined_since => true,
        // Rule 4: the user was invited, and that was enough.
        (HistoryVisibility::Invited, Membership::Invite) => true,
        // Rule 5.
        _ => false,
    }
}

/// Whether a user may see an event that itself may change what decides: `before` and `after` are the
/// moments on its two sides. They differ only for `m.room.history_visibility` and for the user's own
/// `m.room.member`, which may be seen if either side allows it.
pub fn may_see_change(before: Moment, after: Moment, joined_since: bool) -> bool {
    may_see(before.visibility, before.membership, joined_since)
        || may_see(after.visibility, after.membership, joined_since)
}
