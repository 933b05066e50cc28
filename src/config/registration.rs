//! `[registration]`: who may make an account.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{problems::Problems, secret::Secret, units};

/// Who may make an account.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RegistrationConfig {
    /// Who may register.
    pub mode: RegistrationMode,
    /// Tokens that may be used any number of times, beside those kept in the database.
    pub tokens: Vec<Secret>,
    /// A file with further such tokens, one per line.
    #[serde(with = "units::optional")]
    pub tokens_file: Option<PathBuf>,
    /// Whether guests (accounts without a password) may look at rooms that admit them.
    pub allow_guests: bool,
    /// A secret with which scripts register accounts in any mode; empty switches this off.
    #[serde(with = "units::optional")]
    pub shared_secret: Option<Secret>,
    /// A file that holds the shared secret instead.
    #[serde(with = "units::optional")]
    pub shared_secret_file: Option<PathBuf>,
}

/// Who may register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegistrationMode {
    /// Whoever has a registration token (Client-Server API, "Token-authenticated registration").
    #[default]
    Token,
    /// Everybody.
    Open,
    /// Nobody; an administrator makes the accounts.
    Closed,
}

impl RegistrationConfig {
    pub(super) fn complete(&mut self, problems: &mut Problems) {
        if let Some(path) = &self.tokens_file
            && let Some(text) = problems.read_file("registration.tokens_file", path)
        {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            self.tokens.extend(lines.map(Secret::new));
        }
        problems.read_secret(
            "registration.shared_secret",
            &mut self.shared_secret,
            self.shared_secret_file.as_deref(),
        );
        if !self.tokens.iter().all(|token| is_registration_token(token.expose())) {
            problems.add(
                "registration.tokens",
                "each token must be 1 to 64 characters out of A-Z a-z 0-9 . _ ~ -",
            );
        }
    }
}

/// The grammar of registration tokens (Client-Server API, "Token-authenticated registration").
fn is_registration_token(token: &str) -> bool {
    (1..=REGISTRATION_TOKEN_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

/// Client-Server API, "Token-authenticated registration".
const REGISTRATION_TOKEN_BYTES_MAX: usize = 64;
