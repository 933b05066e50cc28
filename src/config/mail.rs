//! `[mail]`: the mail server through which this server writes to its users.

use std::path::PathBuf;

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use super::{problems::Problems, secret::Secret, units};

/// The mail server through which this server writes to its users.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MailConfig {
    /// The host of the mail server (SMTP); `None`: this server sends no mail.
    #[serde(with = "units::optional")]
    pub server: Option<String>,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub tls: MailEncryption,
    /// The login there, if it wants one.
    #[serde(with = "units::optional")]
    pub login: Option<String>,
    #[serde(with = "units::optional")]
    pub password: Option<Secret>,
    /// A file that holds the password instead.
    #[serde(with = "units::optional")]
    pub password_file: Option<PathBuf>,
    /// Who the mails are from, such as `Example <matrix@example.org>`.
    #[serde(with = "units::optional")]
    pub from: Option<String>,
}

/// How the connection to the mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MailEncryption {
    /// The connection begins in the clear and must become encrypted (RFC 3207); port 587 as a rule.
    #[default]
    Starttls,
    /// Encrypted from the first byte (RFC 8314); port 465 as a rule.
    Implicit,
    /// Not at all: for a mail server on the same machine.
    None,
}

impl Default for MailConfig {
    fn default() -> Self {
        Self {
            server: None,
            port: 587,
            tls: MailEncryption::default(),
            login: None,
            password: None,
            password_file: None,
            from: None,
        }
    }
}

impl MailConfig {
    pub(super) fn complete(&mut self, problems: &mut Problems) {
        let file = self.password_file.as_deref();
        problems.read_secret("mail.password", &mut self.password, file);
        if self.login.is_some() != self.password.is_some() {
            problems.add("mail.login", "and mail.password belong together; set both or none");
        }
        let from = self.from.as_deref();
        if from.is_some_and(|from| from.parse::<Mailbox>().is_err()) {
            let message = "must be a mail address such as \"Example <matrix@example.org>\"";
            problems.add("mail.from", message);
        }
        if self.server.is_some() && from.is_none() {
            problems.add("mail.server", "needs a mail.from: who the mails are from");
        }
    }
}
