use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::proxy_header::{Header, MAX_HEADER};
use crate::wire::testing::by_byte;

const PAYLOAD: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// A header of version 2: signature, command, family, length, and `rest`.
fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE, &[command, family][..], &length, rest].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// `parse` at once, which must be what it says byte by byte, with and without a payload behind.
#[track_caller]
fn read(bytes: &[u8], versions: Versions) -> Result<(Origin, usize), Stop<Wrong>> {
    let said = |bytes| parse(bytes, versions).map(|header| (header.origin, header.length));
    let (decided, at) = by_byte(bytes, said);
    if let Ok((_, length)) = decided {
        assert_eq!(at, length, "decided late");
        assert_eq!(said(&[bytes, PAYLOAD].concat()), decided);
    }
    decided
}

#[track_caller]
fn wrong(bytes: &[u8], wrong: Wrong, at: usize) {
    let (decided, found) = by_byte(bytes, |bytes| parse(bytes, Versions::Any));
    assert_eq!(decided, Err(Stop::Invalid(wrong)));
    assert_eq!(found, at, "of {}", bytes.escape_ascii());
}

fn client(source: &str, destination: &str) -> Origin {
    Origin::Client(Ends {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    })
}

#[test]
fn lines_tell_addresses() {
    for (line, origin) in [
        (
            "PROXY TCP4 192.0.2.1 198.51.100.2 0 65535\r\n",
            client("192.0.2.1:0", "198.51.100.2:65535"),
        ),
        (
            "PROXY TCP6 2001:DB8::1 2001:db8:0:0:0:0:0:02 1 443\r\n",
            client("[2001:db8::1]:1", "[2001:db8::2]:443"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 1 443\r\n",
            client("192.0.2.1:1", "198.51.100.2:443"),
        ),
        ("PROXY UNKNOWN\r\n", Origin::Unknown),
        ("PROXY UNKNOWN \r\n", Origin::Unknown),
        ("PROXY UNKNOWN a  \0 é 99999\r\n", Origin::Unknown),
    ] {
        let line = line.as_bytes();
        assert_eq!(read(line, Versions::Any), Ok((origin, line.len())));
        assert_eq!(read(line, Versions::V1), Ok((origin, line.len())));
        assert_eq!(
            read(line, Versions::V2),
            Err(Stop::Invalid(Wrong::NoHeader))
        );
    }
}

#[test]
fn lines_are_107_bytes_long_at_most() {
    let unknown = |length| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    let longest = unknown(LINE_MAX);
    assert_eq!(longest.len(), LINE_MAX);
    assert_eq!(
        read(longest.as_bytes(), Versions::Any),
        Ok((Origin::Unknown, LINE_MAX))
    );
    // It is too long when a line break cannot come in time.
    wrong(unknown(LINE_MAX + 1).as_bytes(), Wrong::LineTooLong, 106);
    let digits = format!("PROXY TCP4 {}", "1".repeat(200));
    wrong(digits.as_bytes(), Wrong::LineTooLong, 106);
    let full = "1111:2222:3333:4444:5555:6666:7777:8888";
    let line = format!("PROXY TCP6 {full} {full} 65535 65535\r\n");
    assert_eq!(line.len(), 104);
    assert!(read(line.as_bytes(), Versions::Any).is_ok());
}

#[test]
fn lines_are_as_they_must_be() {
    for line in [
        "PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1  198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1  2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 02\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 00 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 a\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP6 2001:db8::1::2 2001:db8::2 1 2\r\n",
        "PROXY TCP6 2001:db8::00001 2001:db8::2 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7 2001:db8::2 1 2\r\n",
        "PROXY TCP4 \r\n",
    ] {
        // The numbers are not looked at before all of them are there.
        wrong(line.as_bytes(), Wrong::Line, line.len());
    }
    for (line, at) in [
        ("PROXY TCP4\r\n", 11),
        ("PROXY TCP5 ", 10),
        ("PROXY tcp4 ", 7),
        ("PROXY  TCP4 ", 7),
        ("PROXY UDP4 ", 8),
        ("PROXY UNKNOWNS\r\n", 14),
        ("PROXY UNKNOWN\n", 14),
        ("PROXY UNKNOWN\rx", 15),
        ("PROXY UNKNOWN a\nb\r\n", 16),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n", 38),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n", 39),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 -1 2\r\n", 35),
        ("PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n", 35),
        ("PROXY TCP4 0xc0.0.2.1 198.51.100.2 1 2\r\n", 13),
        ("PROXY TCP4 192.0.2.1\t198.51.100.2 1 2\r\n", 21),
        ("PROXY TCP6 fe80::1%1 fe80::2 1 2\r\n", 19),
        ("PROXY TCP6 [::1] [::2] 1 2\r\n", 12),
    ] {
        wrong(line.as_bytes(), Wrong::Line, at);
    }
}

#[test]
fn what_is_no_header_is_known_by_its_first_wrong_byte() {
    for (bytes, at) in [
        ("GET / HTTP/1.1\r\n", 1),
        ("POST / HTTP/1.1\r\n", 2),
        ("PRI * HTTP/2.0\r\n", 3),
        ("PROXY\tTCP4", 6),
        (" PROXY TCP4", 1),
        ("\x16\x03\x01", 1),
        ("\r\n\r\n\r", 5),
        ("\r\n\r\n\0\r\nQUIT\r", 12),
        ("\0", 1),
    ] {
        wrong(bytes.as_bytes(), Wrong::NoHeader, at);
    }
    for (versions, needed) in [
        (Versions::V1, LINE_MIN),
        (Versions::V2, HEAD),
        (Versions::Any, LINE_MIN),
    ] {
        assert_eq!(parse(b"", versions), Err(Stop::Incomplete { needed }));
    }
}

#[test]
fn blocks_tell_addresses() {
    let v4 = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 0, 53];
    for family in [0x11, 0x12] {
        let header = binary(0x21, family, &v4);
        let origin = client("192.0.2.1:4660", "198.51.100.2:53");
        assert_eq!(read(&header, Versions::Any), Ok((origin, 28)));
        assert_eq!(read(&header, Versions::V2), Ok((origin, 28)));
        let wrong = Err(Stop::Invalid(Wrong::NoHeader));
        assert_eq!(read(&header, Versions::V1), wrong);
    }
    let mut v6 = [0; 36];
    v6[..2].copy_from_slice(&[0x20, 1]);
    v6[26..32].copy_from_slice(&[0xff, 0xff, 198, 51, 100, 2]);
    v6[32..].copy_from_slice(&[0xff, 0xff, 0, 53]);
    for family in [0x21, 0x22] {
        let header = binary(0x21, family, &v6);
        let origin = client("[2001::]:65535", "198.51.100.2:53");
        assert_eq!(read(&header, Versions::Any), Ok((origin, 52)));
    }
}

#[test]
fn blocks_without_addresses_leave_the_real_ones() {
    let extensions = [extension(0xe0, b"key"), extension(4, &[])].concat();
    // A health check's family and extensions are skipped, whatever they are.
    for (family, rest) in [
        (0x00, &[][..]),
        (0x00, &extensions),
        (0x00, &[0, 0, 1, 0xff]),
        (0x11, &[1; 11]),
        (0x21, &[0xff; 300]),
        (0x99, &[3, 0, 4, 0, 0, 0, 0]),
    ] {
        let header = binary(0x20, family, rest);
        let expected = Ok((Origin::Proxy, header.len()));
        assert_eq!(read(&header, Versions::Any), expected);
        assert_eq!(parse(&header, Versions::Any).unwrap().extension(0xe0), None);
    }
    for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
        for rest in [&[][..], &extensions, &[0xff; 11]] {
            let header = binary(0x21, family, rest);
            let expected = Ok((Origin::Unknown, header.len()));
            assert_eq!(read(&header, Versions::Any), expected, "{family:x}");
        }
    }
    for family in [0x31, 0x32] {
        let header = binary(0x21, family, &[&[b'/'; 216][..], &extensions].concat());
        let expected = Ok((Origin::Unknown, header.len()));
        assert_eq!(read(&header, Versions::Any), expected);
        let header = parse(&header, Versions::Any).unwrap();
        assert_eq!(header.extension(0xe0), Some(&b"key"[..]));
    }
}

#[test]
fn blocks_are_as_they_must_be() {
    for (byte, what, at) in [
        (0x31, Wrong::Version, 13),
        (0x11, Wrong::Version, 13),
        (0x91, Wrong::Version, 13),
        (0x01, Wrong::Version, 13),
        (0x22, Wrong::Command, 14),
        (0x29, Wrong::Command, 14),
    ] {
        wrong(&binary(byte, 0x11, &[0; 12]), what, at);
    }
    for family in [0x03, 0x13, 0x1f, 0x29, 0x33, 0x40, 0x41, 0x91, 0xff] {
        wrong(&binary(0x21, family, &[0; 216]), Wrong::Family, 14);
    }
    for (family, length) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216)] {
        let header = binary(0x21, family, &[0; 216][..length - 1]);
        wrong(&header, Wrong::Addresses, HEAD);
        let header = binary(0x21, family, &[0; 216][..length]);
        assert!(read(&header, Versions::Any).is_ok());
    }
}

#[test]
fn blocks_are_bounded() {
    let longest = binary(0x20, 0, &vec![1; RECEIVED_MAX - HEAD]);
    assert_eq!(
        parse(&longest, Versions::Any).map(|header| header.length),
        Ok(RECEIVED_MAX)
    );
    for length in [RECEIVED_MAX - HEAD + 1, 65_535] {
        wrong(&binary(0x20, 0, &vec![1; length]), Wrong::TooLong, HEAD);
    }
}

#[test]
fn extensions_are_found_and_must_be_whole() {
    let v4 = [0; 12];
    let many: Vec<u8> = (5..=255)
        .flat_map(|kind| extension(kind, &[kind; 3]))
        .chain(extension(0xe0, b"second"))
        .collect();
    let header = binary(0x21, 0x11, &[&v4[..], &many].concat());
    let header = parse(&header, Versions::Any).unwrap();
    for kind in 5..=255 {
        assert_eq!(header.extension(kind), Some(&[kind; 3][..]));
    }
    assert_eq!(header.extension(1), None);

    let whole = [&v4[..], &extension(0xe0, b"value")].concat();
    assert!(read(&binary(0x21, 0x11, &whole), Versions::Any).is_ok());
    for missing in 1..8 {
        let header = binary(0x21, 0x11, &whole[..whole.len() - missing]);
        wrong(&header, Wrong::Extension, header.len());
    }
    let beyond = [&v4[..], &[0xe0, 0xff, 0xff]].concat();
    let header = binary(0x21, 0x11, &beyond);
    wrong(&header, Wrong::Extension, header.len());
}

/// What a load balancer of a cloud sends: a checksum, the id of an endpoint, and padding.
fn from_a_cloud() -> Vec<u8> {
    let addresses = [172, 31, 7, 113, 172, 31, 10, 31, 0xc8, 0xf2, 0, 80];
    let checksum = extension(CHECKSUM, &[0xe8, 0xd6, 0x89, 0x2d]);
    let endpoint = extension(0xea, b"\x01vpce-08d2bf15fac5001c9");
    let padding = extension(4, &[0; 36]);
    let rest = [&addresses[..], &checksum, &endpoint, &padding].concat();
    binary(0x21, 0x11, &rest)
}

#[test]
fn checksums_are_those_of_the_header() {
    let digits = "123456789".as_bytes();
    assert_eq!(crc32c(digits.iter()), 0xe306_9283); // the check value of the polynomial
    let header = from_a_cloud();
    let origin = client("172.31.7.113:51442", "172.31.10.31:80");
    assert_eq!(read(&header, Versions::Any), Ok((origin, header.len())));
    let received = parse(&header, Versions::Any).unwrap();
    let endpoint = Some(&b"\x01vpce-08d2bf15fac5001c9"[..]);
    assert_eq!(received.extension(0xea), endpoint);
    // Another bit of the addresses, the checksum itself, or what follows.
    for place in (HEAD..28).chain(31..35).chain(38..header.len() - 39) {
        let mut header = header.clone();
        header[place] ^= 0x10;
        wrong(&header, Wrong::Checksum, header.len());
    }
}

#[test]
fn there_is_one_checksum_of_four_bytes() {
    let checksum = extension(CHECKSUM, &[0; 4]);
    for rest in [
        extension(CHECKSUM, &[]),
        extension(CHECKSUM, &[0; 3]),
        extension(CHECKSUM, &[0; 5]),
        [&checksum[..], &checksum].concat(),
    ] {
        let header = binary(0x21, 0x11, &[&[0; 12][..], &rest].concat());
        wrong(&header, Wrong::Checksum, header.len());
    }
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| (Ipv4Addr::from(ip), port).into());
    let v6 = any::<([u8; 16], u16)>().prop_map(|(ip, port)| (Ipv6Addr::from(ip), port).into());
    let mapped = any::<([u8; 4], u16)>().prop_map(|(ip, port)| {
        let ip = Ipv4Addr::from(ip).to_ipv6_mapped();
        SocketAddr::from((ip, port))
    });
    prop_oneof![v4, v6, mapped]
}

/// Headers of all kinds, more of them right than wrong.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let made = (any::<bool>(), addresses(), addresses());
    let made = made.prop_map(|(is_line, source, destination)| {
        let ends = Some(Ends {
            source,
            destination,
        });
        let header = match is_line {
            true => Header::v1(ends),
            false => Header::v2(Transport::Stream, ends),
        };
        header.as_bytes().to_vec()
    });
    let values = proptest::collection::vec(any::<u8>(), 0..20);
    let extensions = proptest::collection::vec((any::<u8>(), values), 0..6);
    let families = prop_oneof![
        Just((0x11, 12)),
        Just((0x21, 36)),
        Just((0x31, 216)),
        Just((0x00, 0))
    ];
    let blocks = (0x20..0x22_u8, families, extensions).prop_map(
        |(command, (family, length), extensions)| {
            let extensions = extensions
                .iter()
                .flat_map(|(kind, value)| extension(*kind, value));
            let rest: Vec<u8> = vec![7; length].into_iter().chain(extensions).collect();
            binary(command, family, &rest)
        },
    );
    prop_oneof![made, blocks, Just(from_a_cloud())]
}

proptest! {
    #[test]
    fn what_is_made_is_read(source in addresses(), destination in addresses()) {
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let ends = Ends { source, destination };
        // The addresses of a header are of one family: an IPv4 address among them is mapped.
        let expected = Origin::Client(Ends {
            source: canonical(source),
            destination: canonical(destination),
        });
        for (header, versions) in [
            (Header::v1(Some(ends)), Versions::V1),
            (Header::v2(Transport::Stream, Some(ends)), Versions::V2),
            (Header::v2(Transport::Datagram, Some(ends)), Versions::Any),
        ] {
            let bytes = header.as_bytes();
            prop_assert!(bytes.len() <= MAX_HEADER);
            prop_assert_eq!(read(bytes, versions), Ok((expected, bytes.len())));
        }
        let length = Header::v1(None).as_bytes().len();
        prop_assert_eq!(read(Header::v1(None).as_bytes(), Versions::V1), Ok((Origin::Unknown, length)));
        let own = Header::v2(Transport::Stream, None);
        prop_assert_eq!(read(own.as_bytes(), Versions::V2), Ok((Origin::Proxy, HEAD)));
    }

    #[test]
    fn what_is_decided_stays_decided(
        header in headers(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        end in any::<Index>(),
    ) {
        let mut header = header;
        for (place, byte) in changes {
            let place = place.index(header.len());
            header[place] = byte;
        }
        read(&header, Versions::Any).ok();
        read(&header[..end.index(header.len())], Versions::Any).ok();
    }

    #[test]
    fn anything_may_come(bytes: Vec<u8>, rest: Vec<u8>) {
        by_byte(&bytes, |bytes| parse(bytes, Versions::Any)).0.ok();
        for start in [LINE_START, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", &SIGNATURE] {
            by_byte(&[start, &rest].concat(), |bytes| parse(bytes, Versions::Any)).0.ok();
        }
    }
}
