//! Listening sockets, TCP and Unix.

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net as unix_net,
    },
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use super::transport::Wire;
use crate::config::{ListenAddress, SocketMode};

/// A socket that listens.
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The file of a Unix socket, removed with it.
pub(super) struct SocketFile(PathBuf);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    Tcp { address: SocketAddr, tls: bool },
    Unix { path: PathBuf, tls: bool },
}

/// Why a socket does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address}: {}", explain(.source))]
    Listen { address: String, source: io::Error },
    #[error("cannot listen on unix:{path}: another process does already")]
    SocketInUse { path: PathBuf },
    #[error("cannot listen on unix:{path}: there is a file that is no socket")]
    NoSocket { path: PathBuf },
}

impl Socket {
    pub fn bind(address: &ListenAddress, mode: SocketMode) -> Result<Self, BindError> {
        let failed = |source| BindError::Listen { address: address.to_string(), source };
        match address {
            ListenAddress::Tcp(tcp) => bind_tcp(*tcp).map(Self::Tcp).map_err(failed),
            ListenAddress::Unix(path) => {
                remove_stale_socket(path)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                let file = SocketFile(path.clone());
                fs::set_permissions(path, fs::Permissions::from_mode(mode.0)).map_err(failed)?;
                Ok(Self::Unix(listener, file))
            }
        }
    }

    pub fn address(&self, tls: bool) -> BoundAddress {
        match self {
            Self::Tcp(listener) => {
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                BoundAddress::Tcp { address: listener.local_addr().unwrap_or(unknown), tls }
            }
            Self::Unix(_, file) => BoundAddress::Unix { path: file.0.clone(), tls },
        }
    }

    /// The next connection, and the address at its other end.
    pub async fn accept(&self) -> io::Result<(Wire, Option<IpAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Answers are written whole; waiting for more to send with them only delays them.
                stream.set_nodelay(true)?;
                Ok((Wire::Tcp(stream), Some(peer.ip().to_canonical())))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Wire::Unix(stream), None))
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // When it is gone already, there is nothing left to do.
        let _ = fs::remove_file(&self.0);
    }
}

impl BoundAddress {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        match self {
            Self::Tcp { tls, .. } | Self::Unix { tls, .. } => *tls,
        }
    }
}

/// As a web address, or as the path of a Unix socket.
impl fmt::Display for BoundAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { address, tls: false } => write!(formatter, "http://{address}"),
            Self::Tcp { address, tls: true } => write!(formatter, "https://{address}"),
            Self::Unix { path, .. } => write!(formatter, "unix:{}", path.display()),
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    // The standard library binds with SO_REUSEADDR, so that a restart finds its port free.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A killed process leaves its socket behind; a living one still answers there.
fn remove_stale_socket(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let path_owned = || path.to_owned();
    if !metadata.file_type().is_socket() {
        return Err(BindError::NoSocket { path: path_owned() });
    }
    if unix_net::UnixStream::connect(path).is_ok() {
        return Err(BindError::SocketInUse { path: path_owned() });
    }
    fs::remove_file(path)
        .map_err(|source| BindError::Listen { address: path.display().to_string(), source })
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there already".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "permission denied (ports below 1024 and foreign directories need a privilege)"
                .to_owned()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}
