//! Floor 0: byte formats, parsed and made. Bounded, and nothing is allocated by numbers that come
//! from outside.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod certificate;
pub mod client_hello;
pub mod grpc;
pub mod http_head;
pub mod proxy_header;
pub mod quic;

/// Why the first bytes of a stream have not been read. All parsers of streams are given every byte
/// since the first, each time that more have come; what they have said of a stream other than
/// [`Stop::Incomplete`] stays so, whatever comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop<Wrong> {
    /// More must come.
    Incomplete {
        /// All of it takes no less than so many bytes since the first, which is more than there are.
        /// Fewer may show that it is not what it should be.
        needed: usize,
    },
    /// They are something else, whatever follows.
    Invalid(Wrong),
}

/// Whether `bytes` begin with `start`, as far as they go.
fn agree(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, start)| byte == start)
}

/// Whether a host may be called so: letters, digits, and what stands between them. Names beyond
/// ASCII are written so too, and underscores are in use where they should not be.
fn is_host_name(name: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
    (1..=255).contains(&name.len()) && name.iter().all(is_allowed)
}

#[cfg(test)]
mod testing;
