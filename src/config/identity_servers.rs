//! `[identity_servers]`: servers that know whose a mail address is (identity service API).

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// Servers that know whose a mail address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityServersConfig {
    /// Those that users of this server may use: hosts, with or without a port.
    pub trusted: Vec<String>,
}

impl Default for IdentityServersConfig {
    fn default() -> Self {
        Self { trusted: vec!["matrix.org".to_owned(), "vector.im".to_owned()] }
    }
}

impl IdentityServersConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (index, name) in self.trusted.iter().enumerate() {
            if <&ruma::ServerName>::try_from(name.as_str()).is_err() {
                let path = format!("identity_servers.trusted[{index}]");
                problems.add(&path, "must be a host name, with or without a port");
            }
        }
    }
}
