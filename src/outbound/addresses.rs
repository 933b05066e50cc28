//! From an authority (`host[:port]`) to socket addresses that may be connected to: SRV records, the
//! port 8448, and the networks that are off limits (server-server API, "Resolving server names",
//! what follows after the well-known request).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::dns::{Dns, DnsError};
use crate::config::AddressRange;

/// Where homeservers listen when nothing else is said.
pub const HOMESERVER_PORT: u16 = 8448;
/// Addresses of one authority that are tried.
const ADDRESSES_MAX: usize = 6;
/// The service names of homeservers: the registered one, and the older one.
const SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];

/// A host, which may be an IP literal, and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority {
    /// Without brackets.
    pub host: String,
    pub port: Option<u16>,
}

/// Why an authority has no address that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error(transparent)]
    Dns(#[from] DnsError),
    #[error("the SRV record of {0} says that there is no homeserver")]
    Unavailable(String),
    #[error("the address {0} lies in a network that this server does not connect to")]
    Blocked(IpAddr),
}

/// Where connections may go.
pub struct AddressRules {
    blocked: Vec<AddressRange>,
}

impl Authority {
    /// Reads `host`, `host:port`, `[IPv6]` or `[IPv6]:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map(str::parse::<u16>).transpose().ok()?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        (!host.is_empty() && host.bytes().all(is_plain))
            .then(|| Self { host: host.to_ascii_lowercase(), port })
    }

    /// The address, if the host is an IP literal.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(IpAddr::V6(ip)) => write!(formatter, "[{ip}]")?,
            _ => formatter.write_str(&self.host)?,
        }
        match self.port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}

impl AddressRules {
    pub fn new(blocked: Vec<AddressRange>) -> Self {
        Self { blocked }
    }

    pub fn allows(&self, address: IpAddr) -> bool {
        !self.blocked.iter().any(|network| network.contains(address))
    }

    /// Addresses of a homeserver: steps 3.1 to 3.5, or 4 to 6 without a well-known answer.
    pub async fn of_homeserver(
        &self,
        dns: &Dns,
        authority: &Authority,
    ) -> Result<Vec<SocketAddr>, AddressError> {
        if authority.port.is_some() || authority.ip().is_some() {
            return self.of_host(dns, &authority.host, authority.port, HOMESERVER_PORT).await;
        }
        for service in SERVICES {
            let name = format!("{service}.{}", authority.host);
            // A resolver that fails here may still find the address below.
            let Ok(Some(places)) = dns.find_service(&name).await else { continue };
            if places.is_empty() {
                return Err(AddressError::Unavailable(authority.host.clone()));
            }
            let mut found = Vec::new();
            let mut failure = None;
            for place in places {
                match self.of_host(dns, &place.host, Some(place.port), place.port).await {
                    Ok(addresses) => found.extend(addresses),
                    Err(error) => failure = Some(error),
                }
            }
            found.truncate(ADDRESSES_MAX);
            return match (found.is_empty(), failure) {
                (true, Some(error)) => Err(error),
                _ => Ok(found),
            };
        }
        self.of_host(dns, &authority.host, None, HOMESERVER_PORT).await
    }

    /// Addresses of a host.
    pub async fn of_host(
        &self,
        dns: &Dns,
        host: &str,
        port: Option<u16>,
        port_default: u16,
    ) -> Result<Vec<SocketAddr>, AddressError> {
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => dns.list_addresses(host).await?,
        };
        let port = port.unwrap_or(port_default);
        let allowed = found.iter().filter(|ip| self.allows(**ip));
        let mut addresses: Vec<_> = allowed.map(|ip| SocketAddr::new(*ip, port)).collect();
        addresses.truncate(ADDRESSES_MAX);
        match (addresses.is_empty(), found.first()) {
            (true, Some(ip)) => Err(AddressError::Blocked(*ip)),
            _ => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FederationConfig;

    #[test]
    fn authorities_are_read_and_written() {
        for text in ["example.org", "example.org:443", "192.0.2.1", "[2001:db8::1]:8448", "[::1]"] {
            assert_eq!(Authority::parse(text).map(|a| a.to_string()).as_deref(), Some(text));
        }
        for text in ["", ":1", "a:b", "a:70000", "[::1", "[x]", "::1", "a/b", "a b", "a:1:2"] {
            assert_eq!(Authority::parse(text), None, "{text}");
        }
    }

    #[test]
    fn private_addresses_are_blocked_however_they_are_written() {
        let rules = AddressRules::new(FederationConfig::default().blocked_networks);
        for ip in ["127.0.0.1", "10.1.2.3", "::1", "::ffff:192.168.1.1", "fe80::1", "169.254.1.1"] {
            assert!(!rules.allows(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["8.8.8.8", "2a00:1450:4001::1"] {
            assert!(rules.allows(ip.parse().unwrap()), "{ip}");
        }
    }
}
