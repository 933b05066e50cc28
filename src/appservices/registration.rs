//! Registrations as their YAML files have them (application-service API, "Registration"), read and
//! checked one by one. Whether several get along is decided in `registry`.

use ruma::{OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use super::namespaces::{CompileError, Namespaces};
use crate::accounts::sessions::hash_token;

/// The size of a registration.
pub const REGISTRATION_BYTES_MAX: usize = 256 * 1024;
/// The length of `id`, which becomes part of paths and rows.
const ID_BYTES_MAX: usize = 255;
/// Namespaces of one kind.
const NAMESPACES_MAX: usize = 1000;
/// Protocols of one service.
const PROTOCOLS_MAX: usize = 100;

/// A registration as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Registration {
    pub id: String,
    /// `None` when the service wants no traffic.
    pub url: Option<String>,
    pub as_token: String,
    pub hs_token: String,
    pub sender_localpart: String,
    pub namespaces: NamespaceLists,
    /// Whether masqueraded users are limited as others are; the sender never is.
    #[serde(default = "default_rate_limited")]
    pub rate_limited: Option<bool>,
    #[serde(default)]
    pub receive_ephemeral: Option<bool>,
    /// The name of the same before it was specified; bridges write both.
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    pub push_ephemeral: Option<bool>,
    /// Whether it wants in transactions what encryption needs (MSC3202, MSC4203): device lists,
    /// counts of keys, messages to devices. A service that does not say so may sync for these.
    #[serde(default, rename = "org.matrix.msc3202")]
    pub receive_device_news: Option<bool>,
    #[serde(default)]
    pub protocols: Option<Vec<String>>,
}

/// The namespaces as they are written.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NamespaceLists {
    pub users: Option<Vec<NamespaceEntry>>,
    pub aliases: Option<Vec<NamespaceEntry>>,
    pub rooms: Option<Vec<NamespaceEntry>>,
}

/// One namespace as it is written.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct NamespaceEntry {
    pub regex: String,
    #[serde(default)]
    pub exclusive: bool,
}

/// What is wrong with a registration; continues a sentence about it.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("is not the YAML of a registration: {0}")]
    NotYaml(String),
    #[error("is larger than 256 KiB")]
    TooLarge,
    #[error(
        "has an `id` that is empty, or longer than 255 bytes, or has characters beside letters, digits, space and any of . _ = - / + : @ ~ ! ( )"
    )]
    BadId,
    #[error("has an empty `{0}`")]
    EmptyToken(&'static str),
    #[error("has the same `as_token` and `hs_token`; each side needs its own secret")]
    SameTokens,
    #[error("has a `url` that is no http:// or https:// address: {0}")]
    BadUrl(String),
    #[error("has a `sender_localpart` that is not the local part of a user ID: {0}")]
    BadSender(String),
    #[error("has more than 1000 namespaces of one kind, or more than 100 protocols")]
    TooMany,
    #[error("has a namespace with a regular expression that does not do, {regex}: {error}")]
    BadRegex { regex: String, error: CompileError },
}

/// A registered service, ready for use.
#[derive(Debug)]
pub struct Service {
    pub id: String,
    /// Without a slash at its end.
    pub url: Option<String>,
    pub as_token_hash: [u8; 32],
    pub hs_token: String,
    /// The user as whom the service acts when it does not say.
    pub sender: OwnedUserId,
    pub namespaces: Namespaces,
    pub is_rate_limited: bool,
    pub receives_ephemeral: bool,
    pub receives_device_news: bool,
    pub protocols: Vec<String>,
    /// Where it is registered: a file's name, or None for the database.
    pub file: Option<String>,
}

impl Registration {
    /// Reads a registration, YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, RegistrationError> {
        if text.len() > REGISTRATION_BYTES_MAX {
            return Err(RegistrationError::TooLarge);
        }
        serde_yaml_ng::from_str(text).map_err(|error| RegistrationError::NotYaml(error.to_string()))
    }

    /// Checks everything that one registration alone can have wrong, and compiles its namespaces.
    pub fn compile(
        self,
        server_name: &ServerName,
        file: Option<String>,
    ) -> Result<Service, RegistrationError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || " ._=-/+:@~!()".contains(c);
        if self.id.is_empty() || self.id.len() > ID_BYTES_MAX || !self.id.chars().all(is_plain) {
            return Err(RegistrationError::BadId);
        }
        for (name, token) in [("as_token", &self.as_token), ("hs_token", &self.hs_token)] {
            if token.trim().is_empty() || token.contains(char::is_control) {
                return Err(RegistrationError::EmptyToken(name));
            }
        }
        if self.as_token == self.hs_token {
            return Err(RegistrationError::SameTokens);
        }
        let lists = [&self.namespaces.users, &self.namespaces.aliases, &self.namespaces.rooms];
        let protocols = self.protocols.unwrap_or_default();
        if lists.iter().any(|list| list.as_ref().is_some_and(|l| l.len() > NAMESPACES_MAX))
            || protocols.len() > PROTOCOLS_MAX
        {
            return Err(RegistrationError::TooMany);
        }
        let is_localpart = |text: &str| !text.is_empty() && !text.contains([':', '\0']);
        let sender = Some(&*self.sender_localpart).filter(|text| is_localpart(text));
        let sender = sender.and_then(|text| UserId::parse_with_server_name(text, server_name).ok());
        let sender = sender.ok_or(RegistrationError::BadSender(self.sender_localpart))?;
        Ok(Service {
            url: self.url.map(read_url).transpose()?.flatten(),
            as_token_hash: hash_token(&self.as_token),
            hs_token: self.hs_token,
            namespaces: Namespaces::compile(self.namespaces, server_name)?,
            sender,
            is_rate_limited: self.rate_limited.unwrap_or(true),
            receives_ephemeral: self.receive_ephemeral.or(self.push_ephemeral).unwrap_or(false),
            receives_device_news: self.receive_device_news.unwrap_or(false),
            protocols,
            id: self.id,
            file,
        })
    }
}

impl Service {
    /// Whether the user is the service's alone, so that nobody else reads their messages.
    pub fn owns_user(&self, user: &str) -> bool {
        user == self.sender || self.namespaces.users.claims(user)
    }

    /// Whether the service may act as this user: one of its namespace, or its sender.
    pub fn covers_user(&self, user: &UserId) -> bool {
        user == self.sender || self.namespaces.users.matches(user.as_str())
    }
}

fn default_rate_limited() -> Option<bool> {
    Some(true)
}

/// An empty text stands for no address.
fn read_url(url: String) -> Result<Option<String>, RegistrationError> {
    let url = url.trim_end_matches('/');
    if url.is_empty() {
        return Ok(None);
    }
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = host.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        Some(host) if !host.is_empty() && !url.contains(char::is_whitespace) => {
            Ok(Some(url.to_owned()))
        }
        _ => Err(RegistrationError::BadUrl(url.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, user_id};

    use super::*;

    const GOOD: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234/"
as_token: "a"
hs_token: "h"
sender_localpart: "_irc_bot"
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"##;

    fn compile(text: &str) -> Result<Service, RegistrationError> {
        Registration::parse(text)?.compile(server_name!("hs"), None)
    }

    #[test]
    fn example_of_the_specification_is_understood() {
        let service = compile(GOOD).expect("is good");
        assert_eq!(service.url.as_deref(), Some("http://127.0.0.1:1234"));
        assert!(service.covers_user(user_id!("@_irc_bridge_a:hs")));
        assert!(service.covers_user(user_id!("@_irc_bot:hs")));
        assert!(!service.covers_user(user_id!("@_irc_bridge_a:elsewhere")));
        assert!(!service.covers_user(user_id!("@x_irc_bridge_a:hs")));
        assert!(service.is_rate_limited && !service.receives_ephemeral);
    }

    #[test]
    fn both_names_of_ephemeral_data_can_stand_together() {
        let both = "receive_ephemeral: true\nde.sorunome.msc2409.push_ephemeral: true\n";
        let service = compile(&format!("{GOOD}{both}org.matrix.msc3202: true\n")).expect("is good");
        assert!(service.receives_ephemeral && service.receives_device_news);
        let old = "de.sorunome.msc2409.push_ephemeral: true\n";
        let service = compile(&format!("{GOOD}{old}")).expect("is good");
        assert!(service.receives_ephemeral && !service.receives_device_news);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (from, to, says) in [
            ("\"a\"", "\"h\"", "same `as_token`"),
            ("\"a\"", "\"\"", "empty `as_token`"),
            ("http://127.0.0.1:1234/", "ftp://x", "no http:// or https://"),
            ("_irc_bot", "@bot:hs", "`sender_localpart`"),
            ("@_irc_bridge_.*", "@(", "regular expression"),
            ("@_irc_bridge_.*", "@(x{999}){999}", "regular expression"),
            ("IRC Bridge", "a\\u0001", "`id`"),
            ("as_token", "ass_token", "not the YAML"),
        ] {
            let error = compile(&GOOD.replace(from, to)).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
