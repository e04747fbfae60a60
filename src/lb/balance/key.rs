//! What a hash is taken over.

/// One part of a hash key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPart {
    /// The client's address.
    SourceIp,
    /// The client's port.
    SourcePort,
    /// The address the client connected to.
    DestinationIp,
    /// The port the client connected to.
    DestinationPort,
    /// The first `N` bits of the client's address: N ≤ 32 takes /N of IPv4 and /64 of IPv6;
    /// N > 32 takes /N of IPv6 and all of IPv4.
    SourceNet(u8),
}
