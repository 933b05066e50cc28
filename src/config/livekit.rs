//! `[livekit]`: the LiveKit server on which calls of several people take place (MatrixRTC, MSC4143).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{problems::Problems, secret::Secret, units};

/// The LiveKit server on which calls take place; this server lets its users in there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LivekitConfig {
    /// Where clients find it, such as `wss://livekit.example.org`; `None`: there is none.
    #[serde(with = "units::optional")]
    pub url: Option<String>,
    /// Where this server finds it, if not there, such as `http://127.0.0.1:7880`.
    #[serde(with = "units::optional")]
    pub internal_url: Option<String>,
    /// The name of a key in LiveKit's configuration.
    #[serde(with = "units::optional")]
    pub key: Option<String>,
    /// The secret of this key.
    #[serde(with = "units::optional")]
    pub secret: Option<Secret>,
    /// A file that holds the secret instead.
    #[serde(with = "units::optional")]
    pub secret_file: Option<PathBuf>,
}

impl LivekitConfig {
    /// The address of LiveKit's API, without a slash at its end.
    #[must_use]
    pub fn api_url(&self) -> Option<String> {
        let url = self.internal_url.as_ref().or(self.url.as_ref())?.trim_end_matches('/');
        Some(match url.strip_prefix("ws") {
            Some(rest) => format!("http{rest}"),
            None => url.to_owned(),
        })
    }

    pub(super) fn complete(&mut self, problems: &mut Problems) {
        let file = self.secret_file.as_deref();
        problems.read_secret("livekit.secret", &mut self.secret, file);
        for (key, url) in [("url", &self.url), ("internal_url", &self.internal_url)] {
            let is_address = |url: &String| {
                ["wss://", "ws://", "https://", "http://"].iter().any(|scheme| {
                    url.strip_prefix(scheme).is_some_and(|rest| !rest.trim_matches('/').is_empty())
                })
            };
            if url.as_ref().is_some_and(|url| !is_address(url)) {
                let message = "must be an address such as \"wss://livekit.example.org\"";
                problems.add(&format!("livekit.{key}"), message);
            }
        }
        if self.url.is_some() && (self.key.is_none() || self.secret.is_none()) {
            problems.add("livekit.url", "needs a key and a secret");
        }
    }
}
