//! `[sync]`: what one answer of `/sync` may carry and how long it may wait.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{problems::Problems, units};

/// What one answer of `/sync` may carry and how long it may wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SyncConfig {
    /// Events per room when the filter names no limit.
    pub timeline_limit_default: usize,
    /// Events per room at most, whatever the filter says.
    pub timeline_limit_max: usize,
    /// How long a request may wait for news, whatever its `timeout` says.
    #[serde(with = "units::duration")]
    pub long_poll_max: Duration,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            timeline_limit_default: 10,
            timeline_limit_max: 100,
            long_poll_max: Duration::from_secs(5 * 60),
        }
    }
}

impl SyncConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.timeline_limit_max == 0 {
            problems.add("sync.timeline_limit_max", "must be at least 1");
        }
        if self.timeline_limit_default > self.timeline_limit_max {
            problems.add("sync.timeline_limit_default", "must be at most sync.timeline_limit_max");
        }
    }
}
