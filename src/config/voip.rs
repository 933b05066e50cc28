//! `[voip]`: relays that help calls through routers and firewalls (TURN), such as coturn.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{problems::Problems, secret::Secret, units};

/// Which relays clients are told of, and how they log in there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VoipConfig {
    /// Addresses such as `turn:turn.example.org:3478?transport=udp`.
    pub turn_uris: Vec<String>,
    /// The secret that the relay shares with this server (`static-auth-secret` of coturn), from which
    /// everybody gets a login of their own for a while.
    #[serde(with = "units::optional")]
    pub turn_secret: Option<Secret>,
    /// A file that holds the secret instead.
    #[serde(with = "units::optional")]
    pub turn_secret_file: Option<PathBuf>,
    /// One login for everybody, where there is no such secret.
    #[serde(with = "units::optional")]
    pub turn_username: Option<String>,
    /// The password of this login.
    #[serde(with = "units::optional")]
    pub turn_password: Option<Secret>,
    /// A file that holds the password instead.
    #[serde(with = "units::optional")]
    pub turn_password_file: Option<PathBuf>,
    /// How long a login is valid.
    #[serde(with = "units::duration")]
    pub turn_lifetime: Duration,
}

impl Default for VoipConfig {
    fn default() -> Self {
        Self {
            turn_uris: Vec::new(),
            turn_secret: None,
            turn_secret_file: None,
            turn_username: None,
            turn_password: None,
            turn_password_file: None,
            turn_lifetime: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl VoipConfig {
    pub(super) fn complete(&mut self, problems: &mut Problems) {
        let file = self.turn_secret_file.as_deref();
        problems.read_secret("voip.turn_secret", &mut self.turn_secret, file);
        let file = self.turn_password_file.as_deref();
        problems.read_secret("voip.turn_password", &mut self.turn_password, file);
        let is_relay = |uri: &String| uri.starts_with("turn:") || uri.starts_with("turns:");
        if !self.turn_uris.iter().all(is_relay) {
            problems.add("voip.turn_uris", "must be addresses such as \"turn:turn.example.org\"");
        }
        let has_login = self.turn_username.is_some() && self.turn_password.is_some();
        if !self.turn_uris.is_empty() && self.turn_secret.is_none() && !has_login {
            problems.add(
                "voip.turn_uris",
                "needs a turn_secret, or a turn_username and a turn_password",
            );
        }
        if self.turn_lifetime < LIFETIME_LEAST {
            problems.add("voip.turn_lifetime", "must be at least 1m: calls begin with it");
        }
    }
}

/// Below this a login would end while a call is being set up.
const LIFETIME_LEAST: Duration = Duration::from_secs(60);
