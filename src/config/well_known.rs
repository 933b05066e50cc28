//! `[well_known]`: what `/.well-known/matrix/…` tells about this server.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::{problems::Problems, units};

/// What `/.well-known/matrix/{client,server,support}` tell about this server. What is empty is not served.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WellKnownConfig {
    /// Where clients find the server; `server.public_url` when `None`.
    #[serde(with = "units::optional")]
    pub client_base_url: Option<String>,
    /// Where other servers find it (Server-Server API, "Server discovery"), such as
    /// `matrix.example.org:443`.
    #[serde(with = "units::optional")]
    pub server: Option<String>,
    /// A page with help for users.
    #[serde(with = "units::optional")]
    pub support_page: Option<String>,
    /// The public key (ed25519, unpadded base64) of the policy server that bears this server's name.
    #[serde(with = "units::optional")]
    pub policy_server_key: Option<String>,
    /// Where calls take place: addresses of LiveKit authorisation services (MSC4143).
    pub livekit_service_urls: Vec<String>,
    /// Whom to ask.
    pub support_contacts: Vec<SupportContact>,
}

/// A way to reach the administrator (Client-Server API, `GET /.well-known/matrix/support`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SupportContact {
    /// `m.role.admin`, `m.role.security` or a name of your own.
    pub role: String,
    /// A Matrix user.
    #[serde(with = "units::optional")]
    pub matrix_id: Option<OwnedUserId>,
    /// An address for mail.
    #[serde(with = "units::optional")]
    pub email_address: Option<String>,
}

impl Default for SupportContact {
    fn default() -> Self {
        Self { role: "m.role.admin".to_owned(), matrix_id: None, email_address: None }
    }
}

impl WellKnownConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, url) in
            [("client_base_url", &self.client_base_url), ("support_page", &self.support_page)]
        {
            if let Some(url) = url {
                problems.check_web_address(&format!("well_known.{key}"), url);
            }
        }
        if let Some(server) = &self.server
            && <&ruma::ServerName>::try_from(server.as_str()).is_err()
        {
            problems.add("well_known.server", "must be a host name, with or without a port");
        }
        if self.policy_server_key.as_ref().is_some_and(|key| !is_public_key(key)) {
            let message = "must be an ed25519 public key: 43 characters of unpadded base64";
            problems.add("well_known.policy_server_key", message);
        }
        for (index, url) in self.livekit_service_urls.iter().enumerate() {
            problems.check_web_address(&format!("well_known.livekit_service_urls[{index}]"), url);
        }
        for (index, contact) in self.support_contacts.iter().enumerate() {
            if contact.matrix_id.is_none() && contact.email_address.is_none() {
                problems.add(
                    &format!("well_known.support_contacts[{index}]"),
                    "needs a matrix_id or an email_address",
                );
            }
        }
    }
}

/// 32 bytes in base64 of either alphabet, without padding.
fn is_public_key(key: &str) -> bool {
    key.len() == 43
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte))
}
