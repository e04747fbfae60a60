//! Who asks for a backend.

use std::net::SocketAddr;

/// Who is asking.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client's address, IPv4-mapped addresses already made IPv4.
    pub source: SocketAddr,
    /// The address it connected to, likewise.
    pub destination: SocketAddr,
    /// What it has said.
    pub digests: Digests,
}

impl Client {
    /// One that has said nothing yet.
    pub const fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        let digests = Digests {
            balance: None,
            sticky: None,
        };
        Self {
            source,
            destination,
            digests,
        }
    }
}

/// What a client has said, as far as the keys of its pool ask for it; `None` = none of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digests {
    /// For the hash that balances.
    pub balance: Option<u64>,
    /// For the key by which it stays.
    pub sticky: Option<u64>,
}
