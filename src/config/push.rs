//! `[push]`: notifications to phones and other devices (Client-Server API, "Push Notifications").

use serde::{Deserialize, Serialize};

/// Notifications to phones and other devices, by way of the push gateways of their apps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushConfig {
    /// For gateways of your own: they may have private addresses, and need no encryption.
    /// Otherwise `federation.blocked_networks` holds.
    pub allow_private_networks: bool,
}
