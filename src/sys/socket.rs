//! Sockets with the options the data plane wants, set once.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A bound, listening, non-blocking socket.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// Where a backend is, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket's path.
    Unix(PathBuf),
}

/// Binds a TCP listener with SO_REUSEPORT, so that each worker can have its own on one address.
/// `v6_only` matters for IPv6 only.
pub fn listen_tcp(_address: SocketAddr, _v6_only: bool) -> std::io::Result<TcpListener> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Fails if any socket listens on `address` already, also one with SO_REUSEPORT, which
/// [`listen_tcp`] would silently share the traffic with.
pub fn check_free(_address: SocketAddr, _v6_only: bool) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Binds a Unix stream listener at `path`: bound under a temporary name and renamed into place, so
/// that a stale file is replaced at once and a live one never disappears.
pub fn listen_unix(_path: &Path) -> std::io::Result<UnixListener> {
    Err(std::io::ErrorKind::Unsupported.into())
}
