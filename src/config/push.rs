//! `[push]`: notifications to phones and other devices (Client-Server API, "Push Notifications").

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;

/// Notifications to phones and other devices, by way of the push gateways of their apps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushConfig {
    /// For gateways of your own: they may have private addresses, and need no encryption.
    /// Otherwise `federation.blocked_networks` holds.
    pub allow_private_networks: bool,
    /// How long something has to be unread before a mail tells of it, to those who want mails.
    #[serde(with = "units::duration")]
    pub mail_delay: Duration,
    /// The least time between two mails to one address.
    #[serde(with = "units::duration")]
    pub mail_pause: Duration,
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            allow_private_networks: false,
            mail_delay: Duration::from_secs(10 * 60),
            mail_pause: Duration::from_secs(60 * 60),
        }
    }
}
