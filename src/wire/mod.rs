//! Floor 0: byte formats, parsed and made. Bounded, and nothing is allocated by numbers that come
//! from outside.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod certificate;
pub mod grpc;
pub mod proxy_header;
pub mod quic;
