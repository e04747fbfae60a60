//! The header of the PROXY protocol, version 2, that tells a backend who its client is. The numbers
//! are those of section 2.2 of its specification.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A header, ready to be sent. It is never longer than [`MAX_HEADER`].
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

impl Header {
    /// For a datagram that `source` sent to `destination`. IPv4-mapped addresses are the IPv4
    /// addresses they mean.
    pub fn of_datagram(source: SocketAddr, destination: SocketAddr) -> Self {
        let mut header = Self {
            bytes: [0; MAX_HEADER],
            length: 0,
        };
        header.push(&SIGNATURE);
        header.push(&[VERSION_2_PROXY]);
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.push(&[DATAGRAMS_OVER_V4, 0, 12]);
                header.push(&source.octets());
                header.push(&destination.octets());
            }
            (source, destination) => {
                header.push(&[DATAGRAMS_OVER_V6, 0, 36]);
                header.push(&v6(source).octets());
                header.push(&v6(destination).octets());
            }
        }
        header.push(&source.port().to_be_bytes());
        header.push(&destination.port().to_be_bytes());
        header
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }
}

/// One family holds both addresses.
const fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Signature, version and command, family and transport, length, two IPv6 addresses and ports.
pub const MAX_HEADER: usize = 12 + 1 + 1 + 2 + 36;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2_PROXY: u8 = 0x21;
const DATAGRAMS_OVER_V4: u8 = 0x12;
const DATAGRAMS_OVER_V6: u8 = 0x22;

#[cfg(test)]
mod tests {
    use super::*;

    /// The signature as the specification spells it.
    const SPELT: [u8; 12] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ];

    fn header(source: &str, destination: &str) -> Vec<u8> {
        let header = Header::of_datagram(source.parse().unwrap(), destination.parse().unwrap());
        header.as_bytes().to_vec()
    }

    #[test]
    fn ipv4_is_twelve_bytes_of_addresses() {
        let mut expected = SPELT.to_vec();
        expected.extend([0x21, 0x12, 0x00, 0x0C]);
        expected.extend([192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0x00, 0x35]);
        assert_eq!(header("192.0.2.1:4660", "198.51.100.2:53"), expected);
        assert_eq!(
            header("[::ffff:192.0.2.1]:4660", "[::ffff:198.51.100.2]:53"),
            expected
        );
    }

    #[test]
    fn ipv6_is_thirty_six_bytes_of_addresses() {
        let mut expected = SPELT.to_vec();
        expected.extend([0x21, 0x22, 0x00, 0x24]);
        expected.extend([0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let destination = expected.len();
        expected.extend([0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        expected.extend([0xFF, 0xFF, 0x00, 0x35]);
        assert_eq!(expected.len(), MAX_HEADER);
        assert_eq!(header("[2001:db8::1]:65535", "[2001:db8::2]:53"), expected);
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 1];
        expected[destination..destination + 16].copy_from_slice(&mapped);
        assert_eq!(header("[2001:db8::1]:65535", "192.0.2.1:53"), expected);
    }
}
