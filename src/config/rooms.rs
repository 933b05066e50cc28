//! `[rooms]`: how rooms are made, what they may grow to, and what is kept of them.

use std::time::Duration;

use ruma::RoomVersionId;
use serde::{Deserialize, Serialize};

use super::{problems::Problems, units};

/// How rooms are made, what they may grow to, and what is kept of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoomsConfig {
    /// The room version of new rooms, `"1"` to `"12"`.
    pub default_version: RoomVersionId,
    /// How long the content of a redacted event stays in the database; never deleted when `None`.
    #[serde(with = "units::duration_or_never")]
    pub redaction_retention: Option<Duration>,
    /// Who may make rooms.
    pub create_permission: PermittedTo,
    /// Who may list a room in the public directory, beside having the power for it in the room.
    pub publish_permission: PermittedTo,
    /// Who may make aliases.
    pub alias_permission: PermittedTo,
    /// How many people one request that makes a room may invite.
    pub creation_invites_max: usize,
    /// How many state events a room may hold.
    pub state_events_max: usize,
    /// How many aliases of this server may point to one room.
    pub aliases_max: usize,
}

/// Who is allowed to do something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PermittedTo {
    /// Every user of this server.
    #[default]
    Everyone,
    /// Administrators of this server.
    Administrators,
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            default_version: RoomVersionId::V12,
            redaction_retention: Some(Duration::from_secs(7 * 24 * 60 * 60)),
            create_permission: PermittedTo::Everyone,
            publish_permission: PermittedTo::Everyone,
            alias_permission: PermittedTo::Everyone,
            creation_invites_max: 200,
            state_events_max: 1_000_000,
            aliases_max: 100,
        }
    }
}

impl RoomsConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let version = self.default_version.as_str();
        if !version.parse::<u8>().is_ok_and(|number| (1..=12).contains(&number)) {
            problems.add("rooms.default_version", "must be one of \"1\" to \"12\"");
        }
        if self.state_events_max < STATE_EVENTS_MAX_LEAST {
            problems
                .add("rooms.state_events_max", "must be at least 100: a new room needs a dozen");
        }
    }
}

/// Below this, ordinary rooms could not be made.
const STATE_EVENTS_MAX_LEAST: usize = 100;
