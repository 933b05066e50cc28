//! Which authority a server name stands for (server-server API, "Resolving server names"): its own
//! when it is an IP literal or has a port (steps 1 and 2), else what its well-known answer says
//! (step 3), else its host (steps 4 to 6). The authority alone decides the addresses, the `Host`
//! header and the certificate's name.

use std::net::SocketAddr;

use ruma::ServerName;

use super::{AddressError, Authority, Delegation, Outbound, WellKnownFailure};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    pub authority: Authority,
    /// Whether the server's well-known answer named it.
    pub is_delegated: bool,
    /// Why the well-known answer says nothing, where it was asked for.
    pub well_known_failure: Option<WellKnownFailure>,
}

impl Outbound {
    pub async fn discover(&self, server: &ServerName) -> Discovered {
        let own = Authority { host: host_of(server), port: server.port() };
        let itself = |well_known_failure| Discovered {
            authority: own.clone(),
            is_delegated: false,
            well_known_failure,
        };
        if own.port.is_some() || own.ip().is_some() {
            return itself(None);
        }
        match self.find_delegation(&own.host).await {
            Delegation::To(authority) => {
                Discovered { authority, is_delegated: true, well_known_failure: None }
            }
            Delegation::None(failure) => itself(Some(failure)),
        }
    }

    /// The addresses of a homeserver's authority.
    pub async fn list_addresses(
        &self,
        authority: &Authority,
    ) -> Result<Vec<SocketAddr>, AddressError> {
        self.0.addresses.of_homeserver(&self.0.dns, authority).await
    }
}

fn host_of(server: &ServerName) -> String {
    server.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase()
}
