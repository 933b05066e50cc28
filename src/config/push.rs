//! `[push]`: notifications to phones and other devices (Client-Server API, "Push Notifications").

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::units;
use crate::protocol::push_rules::Mentions;

/// Notifications to phones and other devices, by way of the push gateways of their apps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushConfig {
    /// For gateways of your own: they may have private addresses, and need no encryption.
    /// Otherwise `federation.blocked_networks` holds.
    pub allow_private_networks: bool,
    /// Whether a message that does not say whom it mentions mentions those whose names are in its text.
    pub legacy_mentions: bool,
    /// How long something has to be unread before a mail tells of it, to those who want mails.
    #[serde(with = "units::duration")]
    pub mail_delay: Duration,
    /// The least time between two mails to one address.
    #[serde(with = "units::duration")]
    pub mail_pause: Duration,
}

impl PushConfig {
    /// What mentions somebody.
    pub fn mentions(&self) -> Mentions {
        match self.legacy_mentions {
            true => Mentions::ByName,
            false => Mentions::Intended,
        }
    }
}

impl Default for PushConfig {
    fn default() -> Self {
        Self {
            allow_private_networks: false,
            legacy_mentions: false,
            mail_delay: Duration::from_secs(10 * 60),
            mail_pause: Duration::from_secs(60 * 60),
        }
    }
}
