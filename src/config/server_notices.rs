//! `[server_notices]`: the server's own words to its users (Client-Server API, "Server Notices").

use serde::{Deserialize, Serialize};

use super::problems::Problems;

/// Who speaks, and in which room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerNoticesConfig {
    /// The name of the user who speaks; it is made with the first notice.
    pub localpart: String,
    /// How this user is shown.
    pub display_name: String,
    /// The name of the rooms.
    pub room_name: String,
}

impl Default for ServerNoticesConfig {
    fn default() -> Self {
        Self {
            localpart: "server-notices".to_owned(),
            display_name: "Server Notices".to_owned(),
            room_name: "Server Notices".to_owned(),
        }
    }
}

impl ServerNoticesConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        let is_allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._=-/+".contains(&byte)
        };
        if self.localpart.is_empty() || !self.localpart.bytes().all(is_allowed) {
            let message = "must be a name out of a-z, 0-9 and . _ = - / +";
            problems.add("server_notices.localpart", message);
        }
    }
}
