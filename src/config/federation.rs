//! `[federation]`: the conversation with other servers.

use std::path::PathBuf;

use ruma::{OwnedServerName, server_name};
use serde::{Deserialize, Serialize};

use super::{network::AddressRange, problems::Problems};

/// The conversation with other servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationConfig {
    /// Whether this server talks with other servers at all; without it no listener carries their API.
    pub enabled: bool,
    /// Whether large rooms are entered without waiting for the list of their members: the room can be
    /// used at once, the members follow in the background.
    pub partial_state_joins: bool,
    /// For test networks: other servers may have any address, `blocked_networks` notwithstanding.
    pub allow_private_networks: bool,
    /// Addresses that this server never connects to on behalf of others, whatever name they have.
    pub blocked_networks: Vec<AddressRange>,
    /// Certificates (PEM) that are trusted beside those of the operating system.
    pub ca_files: Vec<PathBuf>,
    /// For test networks: whether other servers have to prove by a certificate who they are.
    pub verify_certificates: bool,
    /// Servers that are asked for the keys of those that cannot be reached.
    pub key_servers: Vec<OwnedServerName>,
}

/// Networks that are not part of the public Internet (IANA's special-purpose address registries).
const NETWORKS_NOT_PUBLIC: [&str; 23] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "100::/64",
    "2001:db8::/32",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

impl Default for FederationConfig {
    fn default() -> Self {
        let networks = NETWORKS_NOT_PUBLIC.iter();
        Self {
            enabled: true,
            partial_state_joins: true,
            allow_private_networks: false,
            blocked_networks: networks
                .map(|text| text.parse().expect("the networks above are well-formed"))
                .collect(),
            ca_files: Vec::new(),
            verify_certificates: true,
            key_servers: vec![server_name!("matrix.org").to_owned()],
        }
    }
}

impl FederationConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (index, file) in self.ca_files.iter().enumerate() {
            problems.read_file(&format!("federation.ca_files[{index}]"), file);
        }
    }
}
