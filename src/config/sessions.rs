//! `[sessions]`: how long logins last.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{problems::Problems, units};

/// How long logins last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionsConfig {
    /// How long an access token lasts when the client can refresh it (Client-Server API,
    /// "Refreshing access tokens"). Others last until logout.
    #[serde(with = "units::duration_or_never")]
    pub access_token_lifetime: Option<Duration>,
    /// How long a refresh token lasts while nobody uses it.
    #[serde(with = "units::duration_or_never")]
    pub refresh_token_lifetime: Option<Duration>,
    /// How long a login token made by a logged-in device is valid (`POST /v1/login/get_token`).
    #[serde(with = "units::duration")]
    pub login_token_lifetime: Duration,
    /// How long the stages of one user-interactive authentication are remembered.
    #[serde(with = "units::duration")]
    pub interactive_auth_lifetime: Duration,
    /// How many devices one user may have.
    pub devices_max: usize,
}

impl Default for SessionsConfig {
    fn default() -> Self {
        Self {
            access_token_lifetime: Some(Duration::from_secs(60 * 60)),
            refresh_token_lifetime: None,
            login_token_lifetime: Duration::from_secs(2 * 60),
            interactive_auth_lifetime: Duration::from_secs(15 * 60),
            devices_max: 500,
        }
    }
}

impl SessionsConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.access_token_lifetime.is_some_and(|lifetime| lifetime < ACCESS_TOKEN_LIFETIME_LEAST)
        {
            problems.add("sessions.access_token_lifetime", "must be at least 10s, or \"never\"");
        }
        if self.interactive_auth_lifetime.is_zero() {
            problems.add("sessions.interactive_auth_lifetime", "must be longer than nothing");
        }
        if self.devices_max == 0 {
            problems.add("sessions.devices_max", "must be at least 1");
        }
    }
}

/// With less, a client would do little but refresh its token.
const ACCESS_TOKEN_LIFETIME_LEAST: Duration = Duration::from_secs(10);
