//! `[presence]`: who is online (Client-Server API, "Presence").

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{problems::Problems, units};

/// Who is online.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PresenceConfig {
    /// Whether users see who is online.
    pub enabled: bool,
    /// After how long without a sign of activity someone counts as unavailable.
    #[serde(with = "units::duration")]
    pub unavailable_after: Duration,
    /// After how long without a connection someone counts as offline.
    #[serde(with = "units::duration")]
    pub offline_after: Duration,
}

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            unavailable_after: Duration::from_secs(5 * 60),
            offline_after: Duration::from_secs(30),
        }
    }
}

impl PresenceConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.offline_after.is_zero() {
            problems.add("presence.offline_after", "must be longer than nothing");
        }
    }
}
