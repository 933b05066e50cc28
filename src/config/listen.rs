//! `[[listen]]`: the doors of the server, each with the APIs it carries.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    network::{ListenAddress, TrustedProxy},
    problems::Problems,
    units,
};

/// One door of the server: a TCP or Unix socket, plain or TLS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// `127.0.0.1:8008`, `[::]:8448` or `unix:/run/hearth/hearth.sock`.
    pub address: ListenAddress,
    /// The permissions of a Unix socket, in octal digits.
    pub mode: SocketMode,
    /// The certificate, when this door speaks TLS.
    pub tls: TlsFiles,
    /// What can be asked for here.
    pub apis: Vec<Api>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<TrustedProxy>,
}

/// A group of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// What apps use.
    Client,
    /// What other servers use.
    Federation,
    /// What administrators use.
    Admin,
    /// Figures for Prometheus.
    Metrics,
}

/// The certificate chain and its key, as PEM files. Both or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    #[serde(with = "units::optional")]
    pub certificate: Option<PathBuf>,
    /// Its private key.
    #[serde(with = "units::optional")]
    pub key: Option<PathBuf>,
}

/// The permissions of a Unix socket; `"660"` in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketMode(pub u32);

impl Default for Listener {
    fn default() -> Self {
        Self {
            address: ListenAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8008)),
            mode: SocketMode(0o660),
            tls: TlsFiles::default(),
            apis: vec![Api::Client, Api::Federation, Api::Admin],
            trusted_proxies: Vec::new(),
        }
    }
}

impl Listener {
    /// The certificate chain and the key, when this door speaks TLS.
    #[must_use]
    pub fn tls_files(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.tls.certificate.as_ref().zip(self.tls.key.as_ref())
    }

    /// What someone on this machine types to reach the clients' API here; a Unix socket has no such address.
    pub(super) fn local_client_url(&self) -> Option<String> {
        let ListenAddress::Tcp(address) = self.address else { return None };
        if !self.apis.contains(&Api::Client) {
            return None;
        }
        let scheme = if self.tls_files().is_some() { "https" } else { "http" };
        let mut reachable = address;
        if address.ip().is_unspecified() {
            reachable.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        Some(format!("{scheme}://{reachable}"))
    }
}

pub(super) fn validate(listeners: &[Listener], problems: &mut Problems) {
    if listeners.is_empty() {
        problems.add("listen", "needs at least one entry: nobody could reach the server");
    }
    for (index, listener) in listeners.iter().enumerate() {
        let path = format!("listen[{index}]");
        if listener.tls.certificate.is_some() != listener.tls.key.is_some() {
            problems.add(&format!("{path}.tls"), "needs both `certificate` and `key`");
        }
        if listener.apis.is_empty() {
            problems.add(&format!("{path}.apis"), "needs at least one API");
        }
        let port_is_chosen =
            !matches!(listener.address, ListenAddress::Tcp(address) if address.port() == 0);
        let earlier = &listeners[..index];
        if port_is_chosen && earlier.iter().any(|other| other.address == listener.address) {
            problems.add(&format!("{path}.address"), "is already the address of another listener");
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:03o}", self.0)
    }
}

impl Serialize for SocketMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SocketMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o777 => Ok(Self(mode)),
            _ => Err(D::Error::custom(format!(
                "\"{text}\" are no permissions; write three octal digits, for example \"660\""
            ))),
        }
    }
}
