//! Headers of the PROXY protocol, as its specification has them.

use std::net::{IpAddr, SocketAddr};

/// The transport of a header of version 2.
pub const STREAMS: u8 = 1;
pub const DATAGRAMS: u8 = 2;

/// A header of version 2.
pub fn v2(transport: u8, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.push(0x21);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([0x10 + transport, 0, 12]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x20 + transport, 0, 36]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        mixed => panic!("{mixed:?}"),
    }
    for port in [source.port(), destination.port()] {
        bytes.extend(port.to_be_bytes());
    }
    bytes
}

/// A header of version 2 of a connection that is the proxy's own.
pub fn v2_local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// A header of version 1.
pub fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").into_bytes()
}

pub const SIGNATURE: &[u8] = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A";
