//! The header of the PROXY protocol that tells a backend who its client is. The numbers are those of
//! sections 2.1 (version 1, a line of text) and 2.2 (version 2) of its specification.

pub mod parse;

use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A header, ready to be sent. It is never longer than [`MAX_HEADER`].
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; MAX_HEADER],
    length: usize,
}

/// What the header stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A stream.
    Stream = 1,
    /// A datagram.
    Datagram = 2,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// The address of ours that it talks to.
    pub destination: SocketAddr,
}

impl Header {
    /// Version 2. IPv4-mapped addresses are the IPv4 addresses they mean. Without `ends` the header
    /// says that the connection is the proxy's own, or comes from where there are no addresses.
    pub fn v2(transport: Transport, ends: Option<Ends>) -> Self {
        let mut header = Self::empty();
        header.push(&SIGNATURE);
        let Some(Ends {
            source,
            destination,
        }) = ends
        else {
            header.push(&[VERSION_2 | LOCAL, 0, 0, 0]);
            return header;
        };
        header.push(&[VERSION_2 | PROXY]);
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.push(&[OVER_V4 | transport as u8, 0, 12]);
                header.push(&source.octets());
                header.push(&destination.octets());
            }
            (source, destination) => {
                header.push(&[OVER_V6 | transport as u8, 0, 36]);
                header.push(&v6(source).octets());
                header.push(&v6(destination).octets());
            }
        }
        header.push(&source.port().to_be_bytes());
        header.push(&destination.port().to_be_bytes());
        header
    }

    /// Version 1, which stands before streams only. Without `ends` it says that nothing is known.
    pub fn v1(ends: Option<Ends>) -> Self {
        let Some(Ends {
            source,
            destination,
        }) = ends
        else {
            return Self::line(format_args!("PROXY UNKNOWN\r\n"));
        };
        let ports = (source.port(), destination.port());
        match (source.ip().to_canonical(), destination.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Self::line(format_args!(
                "PROXY TCP4 {source} {destination} {} {}\r\n",
                ports.0, ports.1
            )),
            (source, destination) => Self::line(format_args!(
                "PROXY TCP6 {} {} {} {}\r\n",
                v6(source),
                v6(destination),
                ports.0,
                ports.1
            )),
        }
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    const fn empty() -> Self {
        Self {
            bytes: [0; MAX_HEADER],
            length: 0,
        }
    }

    fn line(text: std::fmt::Arguments<'_>) -> Self {
        let mut header = Self::empty();
        let mut room = header.bytes.as_mut_slice();
        room.write_fmt(text)
            .expect("the longest line of version 1 fits");
        header.length = MAX_HEADER - room.len();
        header
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

/// The longest line of version 1, which is longer than any header of version 2 without extensions.
pub const MAX_HEADER: usize = 107;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const VERSION_2: u8 = 0x20;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;
const OVER_V4: u8 = 0x10;
const OVER_V6: u8 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    /// The signature as the specification spells it.
    const SPELT: [u8; 12] = [
        0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A,
    ];

    fn header(source: &str, destination: &str) -> Vec<u8> {
        let header = Header::v2(Transport::Datagram, Some(ends(source, destination)));
        header.as_bytes().to_vec()
    }

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
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
        assert_eq!(header("[2001:db8::1]:65535", "[2001:db8::2]:53"), expected);
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 1];
        expected[destination..destination + 16].copy_from_slice(&mapped);
        assert_eq!(header("[2001:db8::1]:65535", "192.0.2.1:53"), expected);
    }

    #[test]
    fn streams_and_datagrams_differ_in_four_bits() {
        let ends = Some(ends("192.0.2.1:1", "198.51.100.2:2"));
        let (stream, datagram) = (
            Header::v2(Transport::Stream, ends),
            Header::v2(Transport::Datagram, ends),
        );
        assert_eq!(stream.as_bytes()[13], 0x11);
        assert_eq!(datagram.as_bytes()[13], 0x12);
        assert_eq!(stream.as_bytes()[14..], datagram.as_bytes()[14..]);
    }

    #[test]
    fn version_1_is_a_line() {
        let line = |source, destination| {
            let header = Header::v1(Some(ends(source, destination)));
            String::from_utf8(header.as_bytes().to_vec()).unwrap()
        };
        assert_eq!(
            line("192.0.2.1:65535", "[::ffff:198.51.100.2]:80"),
            "PROXY TCP4 192.0.2.1 198.51.100.2 65535 80\r\n"
        );
        assert_eq!(
            line("[2001:db8::1]:1", "192.0.2.1:80"),
            "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 1 80\r\n"
        );
        let long = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        assert!(line(long, long).len() <= MAX_HEADER);
    }

    #[test]
    fn without_addresses_it_says_so() {
        assert_eq!(Header::v1(None).as_bytes(), b"PROXY UNKNOWN\r\n");
        let mut expected = SPELT.to_vec();
        expected.extend([0x20, 0, 0, 0]);
        assert_eq!(Header::v2(Transport::Stream, None).as_bytes(), expected);
    }
}
