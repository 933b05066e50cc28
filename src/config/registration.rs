//! `[registration]`: who may make an account.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

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
    /// Whether new users must have proven a mail address (`[mail]` must be set).
    pub require_email: bool,
    /// Documents that new users must accept.
    pub terms: Vec<Terms>,
    /// Whether guests (accounts without a password) may look at rooms that admit them.
    pub allow_guests: bool,
    /// A secret with which scripts register accounts in any mode; empty switches this off.
    #[serde(with = "units::optional")]
    pub shared_secret: Option<Secret>,
    /// A file that holds the shared secret instead.
    #[serde(with = "units::optional")]
    pub shared_secret_file: Option<PathBuf>,
}

/// A document that new users must accept, in one language (Client-Server API, "Terms of service at
/// registration").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Such as `terms_of_service`; the same for all translations.
    pub id: String,
    pub version: String,
    /// Such as `en`.
    pub language: String,
    pub name: String,
    /// Where it can be read.
    pub url: String,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            id: "terms_of_service".to_owned(),
            version: "1".to_owned(),
            language: "en".to_owned(),
            name: "Terms of Service".to_owned(),
            url: String::new(),
        }
    }
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
    /// The documents as clients are told (`m.login.terms` params).
    #[must_use]
    pub fn describe_terms(&self) -> Value {
        let mut policies: Map<String, Value> = Map::new();
        for terms in &self.terms {
            let policy = policies.entry(&terms.id);
            let policy = policy.or_insert_with(|| json!({ "version": terms.version }));
            policy[&terms.language] = json!({ "name": terms.name, "url": terms.url });
        }
        json!({ "policies": policies })
    }

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
        for (index, terms) in self.terms.iter().enumerate() {
            problems.check_web_address(&format!("registration.terms[{index}].url"), &terms.url);
            let path = format!("registration.terms[{index}]");
            if terms.language == "version" || terms.id.is_empty() || terms.language.is_empty() {
                problems.add(&path, "needs an id, and a language such as \"en\"");
            }
            let differs = |other: &Terms| other.id == terms.id && other.version != terms.version;
            if self.terms.iter().any(differs) {
                problems.add(&path, "has another version than its translation");
            }
        }
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
