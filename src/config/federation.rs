//! `[federation]`: the conversation with other servers.

use serde::{Deserialize, Serialize};

/// The conversation with other servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationConfig {
    /// Whether this server talks with other servers at all; without it no listener carries their API.
    pub enabled: bool,
}

impl Default for FederationConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}
