//! `[server]`: who this server is and where its data lie.

use std::{path::PathBuf, time::Duration};

use ruma::{OwnedServerName, server_name};
use serde::{Deserialize, Serialize};

use super::{problems::Problems, units};

/// Who this server is and where its data lie.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerConfig {
    /// The part behind the colon in `@alice:example.org`. It can never change once there are users.
    pub name: OwnedServerName,
    /// The base address under which clients reach this server, such as `https://matrix.example.org`.
    #[serde(with = "units::optional")]
    pub public_url: Option<String>,
    /// The directory for the database, the media and the signing key; made when it is missing.
    pub data_dir: PathBuf,
    /// The file of the signing key, when it does not lie in the data directory; made when it is missing.
    #[serde(with = "units::optional")]
    pub signing_key_file: Option<PathBuf>,
    /// How many threads serve requests; 0 stands for one per processor.
    pub threads: usize,
    /// How long writes under way may take to finish after the server was asked to stop.
    #[serde(with = "units::duration")]
    pub shutdown_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            name: server_name!("localhost").to_owned(),
            public_url: None,
            data_dir: PathBuf::from("./hearth-data"),
            signing_key_file: None,
            threads: 0,
            shutdown_timeout: Duration::from_secs(20),
        }
    }
}

impl ServerConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if let Some(url) = &self.public_url {
            problems.check_web_address("server.public_url", url);
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.add("server.data_dir", "must name a directory");
        }
    }
}
