//! Addresses as an administrator writes them: where to listen, and which proxies to believe.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:8008`; port 0 lets the system choose one.
    Tcp(SocketAddr),
    /// `unix:/run/hearth/hearth.sock`.
    Unix(PathBuf),
}

/// Whose `X-Forwarded-For` is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// `10.0.0.0/8`, or a single address.
    Network { address: IpAddr, prefix_bits: u8 },
    /// `unix`: whoever connects to the Unix socket.
    UnixSocket,
}

/// A range of addresses: `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    address: IpAddr,
    prefix_bits: u8,
}

impl AddressRange {
    /// Whether `address` lies in it; an IPv4 address that is written as an IPv6 one counts as
    /// what it is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        same_network(self.address, address.to_canonical(), self.prefix_bits)
    }
}

impl TrustedProxy {
    /// Whether `peer` (`None` for a connection through a Unix socket) is this proxy.
    #[must_use]
    pub fn covers(&self, peer: Option<IpAddr>) -> bool {
        match (self, peer) {
            (Self::UnixSocket, None) => true,
            (Self::Network { address, prefix_bits }, Some(peer)) => {
                same_network(*address, peer.to_canonical(), *prefix_bits)
            }
            _ => false,
        }
    }
}

/// An address with the length of its network's prefix, which is all of it when none is given.
fn parse_network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let address = address.parse::<IpAddr>().ok()?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let prefix_bits = prefix.map_or(Some(bits_max), |prefix| prefix.parse().ok())?;
    (prefix_bits <= bits_max).then_some((address, prefix_bits))
}

fn same_network(network: IpAddr, peer: IpAddr, prefix_bits: u8) -> bool {
    let differing_bits = match (network, peer) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing_bits >= u32::from(prefix_bits)
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:")
            && !path.is_empty()
        {
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "\"{text}\" is no address to listen on; write for example \"127.0.0.1:8008\", \
                 \"[::]:8448\" or \"unix:/run/hearth/hearth.sock\""
            )
        })
    }
}

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unix" {
            return Ok(Self::UnixSocket);
        }
        let parsed = parse_network(text);
        let network = |(address, prefix_bits)| Self::Network { address, prefix_bits };
        parsed.map(network).ok_or_else(|| {
            format!(
                "\"{text}\" is no proxy; write an address such as \"127.0.0.1\", a network such as \
                 \"10.0.0.0/8\", or \"unix\""
            )
        })
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |(address, prefix_bits)| Self { address, prefix_bits };
        parse_network(text).map(range).ok_or_else(|| {
            format!("\"{text}\" is no network; write for example \"10.0.0.0/8\" or \"fc00::/7\"")
        })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_bits)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { address, prefix_bits } => write!(formatter, "{address}/{prefix_bits}"),
            Self::UnixSocket => formatter.write_str("unix"),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for TrustedProxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TrustedProxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AddressRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(proxy: &str, peer: &str) -> bool {
        let proxy: TrustedProxy = proxy.parse().unwrap();
        proxy.covers(peer.parse().ok())
    }

    #[test]
    fn network_covers_its_addresses_and_no_others() {
        assert!(covers("10.0.0.0/8", "10.255.1.2"));
        assert!(!covers("10.0.0.0/8", "11.0.0.1"));
        assert!(covers("127.0.0.1", "127.0.0.1"));
        assert!(!covers("127.0.0.1", "127.0.0.2"));
        assert!(covers("fd00::/8", "fd12::1"));
        assert!(!covers("fd00::/8", "10.0.0.1"));
        assert!(covers("0.0.0.0/0", "203.0.113.9"));
        assert!(covers("10.0.0.0/8", "::ffff:10.1.2.3"));
    }

    #[test]
    fn unix_covers_only_the_unix_socket() {
        assert!(TrustedProxy::UnixSocket.covers(None));
        assert!(!covers("unix", "127.0.0.1"));
        assert!(!"127.0.0.1".parse::<TrustedProxy>().unwrap().covers(None));
    }

    #[test]
    fn wrong_addresses_are_refused_with_an_example() {
        for text in ["10.0.0.0/33", "proxy", "10.0.0.0/", "::/129"] {
            assert!(text.parse::<TrustedProxy>().unwrap_err().contains("10.0.0.0/8"));
        }
        for text in ["8008", "localhost:8008", "unix:", "127.0.0.1"] {
            assert!(text.parse::<ListenAddress>().unwrap_err().contains("127.0.0.1:8008"));
        }
    }
}
