//! Backends that are not written in the configuration, and where they are looked up.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the backends of a pool are found, beside those that are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// All of them are asked; empty = nobody.
    pub origins: Vec<Origin>,
    /// An answer without a backend is taken for a fault: the last one that had some holds on.
    pub keeps_last: bool,
    /// The limit of a backend that says none; 0 = none.
    pub max_connections: u32,
}

/// Somebody who knows backends. Displayed as the log names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The Domain Name System.
    Dns {
        /// What is asked for.
        question: Question,
        /// Who is asked; `None` = whom the system asks.
        resolver: Option<SocketAddr>,
    },
    /// A file with tables like those of a pool.
    File(PathBuf),
}

/// What is asked for in the Domain Name System.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// All addresses of a host, each with this port.
    Addresses(String, u16),
    /// All servers of a service (RFC 2782), such as `_http._tcp.example`.
    Service(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns { question, resolver } => {
                write!(f, "dns {question}")?;
                resolver.map_or(Ok(()), |resolver| write!(f, " at {resolver}"))
            }
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(host, port) => write!(f, "{host}:{port}"),
            Self::Service(name) => write!(f, "srv:{name}"),
        }
    }
}
