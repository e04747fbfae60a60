use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;
use crate::wire::testing::by_byte;

/// A server's name and protocols.
type Told = (Option<String>, Vec<Vec<u8>>);

/// What `parse` says at once, which must be what it says byte by byte.
#[track_caller]
fn read(bytes: &[u8]) -> (Result<Told, Stop<Wrong>>, usize) {
    by_byte(bytes, |bytes| {
        let hello = parse(bytes)?;
        let protocols = hello.protocols().map(|name| name.bytes().to_vec());
        Ok((hello.server_name().map(str::to_owned), protocols.collect()))
    })
}

#[track_caller]
fn wrong(bytes: &[u8], wrong: Wrong, at: usize) {
    let (decided, found) = read(bytes);
    assert_eq!(decided, Err(Stop::Invalid(wrong)));
    assert_eq!(found, at, "of {}", bytes.escape_ascii());
}

/// `content` behind its length of so many digits.
fn sized(digits: usize, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    [&length[length.len() - digits..], content].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1], &sized(2, fragment)[..]].concat()
}

/// A message in records of at most so many bytes.
fn records(message: &[u8], most: usize) -> Vec<u8> {
    message.chunks(most).flat_map(record).collect()
}

/// A message with these extensions, or without any.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let session = sized(1, &[7; 32]);
    let ciphers = sized(2, &[0x13, 1, 0x13, 2]);
    let compressions = sized(1, &[0]);
    let extensions = extensions.map(|extensions| sized(2, extensions));
    let extensions = extensions.unwrap_or_default();
    let start = [&[3, 3][..], &[9; RANDOM], &session, &ciphers, &compressions];
    let body = [&start.concat()[..], &extensions].concat();
    [&[1], &sized(3, &body)[..]].concat()
}

fn extension(kind: u8, content: &[u8]) -> Vec<u8> {
    [&[0, kind], &sized(2, content)[..]].concat()
}

fn name(host: &[u8]) -> Vec<u8> {
    let name = [&[0], &sized(2, host)[..]].concat();
    extension(0, &sized(2, &name))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list = protocols.iter().flat_map(|protocol| sized(1, protocol));
    extension(16, &sized(2, &list.collect::<Vec<u8>>()))
}

/// What a widely used library sends.
fn of_rustls(host: &str, protocols: &[&str], fragment: Option<usize>) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(RootCertStore::empty());
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| (*name).into()).collect();
    config.max_fragment_size = fragment;
    let host = host.to_owned().try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), host).unwrap();
    let mut bytes = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn what_a_library_sends_is_read() {
    for fragment in [None, Some(32), Some(47), Some(100)] {
        let bytes = of_rustls("api.a.example", &["h2", "http/1.1"], fragment);
        let expected = (
            Some("api.a.example".to_owned()),
            vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        );
        assert_eq!(read(&bytes), (Ok(expected), bytes.len()));
    }
    // An address is no name, so none is sent.
    let bytes = of_rustls("192.0.2.1", &[], None);
    assert_eq!(read(&bytes), (Ok((None, vec![])), bytes.len()));
}

#[test]
fn records_may_end_anywhere() {
    let extensions = [
        name(b"A.example"),
        extension(0xff, b"?"),
        alpn(&[b"h2", b"\0"]),
    ];
    let message = message(Some(&extensions.concat()));
    let expected = (
        Some("A.example".to_owned()),
        vec![b"h2".to_vec(), b"\0".to_vec()],
    );
    for most in 1..=message.len() {
        let bytes = records(&message, most);
        let end = bytes.len();
        assert_eq!(read(&bytes), (Ok(expected.clone()), end), "{most}");
        // What follows belongs to something else, even in the last record.
        let bytes = records(&[&message[..], b"\x0bmore"].concat(), most);
        assert_eq!(read(&bytes).0, Ok(expected.clone()));
    }
}

#[test]
fn a_hello_need_not_tell_anything() {
    for extensions in [None, Some(&[][..]), Some(&extension(43, &[2, 3, 4]))] {
        let bytes = record(&message(extensions));
        assert_eq!(read(&bytes), (Ok((None, vec![])), bytes.len()));
    }
}

#[test]
fn what_is_no_hello_is_known_by_its_first_wrong_byte() {
    for (bytes, wrong_as, at) in [
        (&b"GET / HTTP/1.1\r\n"[..], Wrong::NotTls, 1),
        (b"\x80\x2e\x01", Wrong::NotTls, 1), // SSL 2
        (b"\x16\xfe\xff", Wrong::NotTls, 2), // DTLS
        (b"\x17\x03\x03", Wrong::NotTls, 1),
        (b"\x15\x03\x01\0\x02", Wrong::NotTls, 1),
        (b"\x16\x03\x01\0\0", Wrong::NotTls, 5),
        (b"\x16\x03\x01\x40\x01\x01", Wrong::NotTls, 5),
        (b"\x16\x03\x01\0\x01\x02", Wrong::NotHello, 6),
        (b"\x16\x03\x03\0\x01\x01\x17", Wrong::NotTls, 7),
        (b"\x16\x03\x03\0\x01\x01\x16\x03\x01\0\0", Wrong::NotTls, 11),
    ] {
        wrong(bytes, wrong_as, at);
    }
}

#[test]
fn a_hello_is_bounded() {
    let padding = |length| message(Some(&extension(21, &vec![0; length])));
    let rest = padding(0).len() - HANDSHAKE_HEAD;
    for most in [1000, FRAGMENT_MAX] {
        let longest = records(&padding(HELLO_MAX - rest), most);
        assert!(parse(&longest).is_ok());
        let longer = records(&padding(HELLO_MAX - rest + 1), most);
        wrong(&longer[..20], Wrong::TooLong, RECORD_HEAD + HANDSHAKE_HEAD);
    }
    wrong(b"\x16\x03\x01\x01\x01\x01\xff\xff\xff", Wrong::TooLong, 9);
}

#[test]
fn a_hello_is_as_it_must_be() {
    let good = [name(b"a.example"), alpn(&[b"h2"])].concat();
    assert!(parse(&record(&message(Some(&good)))).is_ok());
    let malformed = |extensions: &[u8]| {
        let bytes = record(&message(Some(extensions)));
        wrong(&bytes, Wrong::Malformed, bytes.len());
    };
    for extensions in [
        [name(b"a.example"), name(b"b.example")].concat(),
        [alpn(&[b"h2"]), alpn(&[b"h2"])].concat(),
        alpn(&[]),
        alpn(&[b"h2", b""]),
        extension(16, &[]),
        extension(16, &[0, 3, 2, b'h', b'2', 0]),
        extension(16, &[0, 2, 2, b'h']),
        extension(16, &[0, 4, 2, b'h', b'2']),
        extension(0, &[]),
        extension(0, &[0, 0]),
        extension(0, &sized(2, &[1, 0, 1, b'a'])),
        extension(0, &sized(2, &[0, 0, 2, b'a'])),
        extension(0, &sized(2, &[0, 0, 1, b'a', b'b'])),
        extension(0, &[0, 4, 0, 0, 1, b'a', b'b']),
        extension(0, &sized(2, &[0, 0, 1, b'a', 0, 0, 1, b'b'])),
        vec![0, 16, 0],
        vec![0, 99, 0, 1],
    ] {
        malformed(&extensions);
    }
    // The extensions are followed by something, or are shorter than what holds them.
    let mut long = message(Some(&good));
    long.push(0);
    long[3] += 1;
    wrong(&record(&long), Wrong::Malformed, RECORD_HEAD + long.len());
    for length in [0, 2, 33, 34, 40, 67, 71, 73, 74, 75] {
        let mut short = message(Some(&good));
        short.truncate(HANDSHAKE_HEAD + length);
        short[3] = u8::try_from(length).unwrap();
        let end = RECORD_HEAD + short.len();
        let decided = read(&record(&short));
        // Without extensions it is whole.
        if length == message(None).len() - HANDSHAKE_HEAD {
            assert_eq!(decided, (Ok((None, vec![])), end));
        } else {
            assert_eq!(
                decided,
                (Err(Stop::Invalid(Wrong::Malformed)), end),
                "{length}"
            );
        }
    }
}

#[test]
fn names_are_those_of_hosts() {
    for (host, is_host) in [
        (&b"a"[..], true),
        (b"A-1_b.example", true),
        (b"xn--bcher-kva.example", true),
        (b"192.0.2.1", true),
        (&[b'a'; 255], true),
        (b"a b", false),
        (b"*.example", false),
        (b"a\0b", false),
        (b"::1", false),
        ("bücher.example".as_bytes(), false),
    ] {
        let bytes = record(&message(Some(&name(host))));
        let host = String::from_utf8(host.to_vec()).unwrap();
        let expected = match is_host {
            true => Ok((Some(host), vec![])),
            false => Err(Stop::Invalid(Wrong::ServerName)),
        };
        assert_eq!(read(&bytes), (expected, bytes.len()));
    }
    for length in [0, 256, 300] {
        let bytes = record(&message(Some(&name(&vec![b'a'; length]))));
        wrong(&bytes, Wrong::ServerName, bytes.len());
    }
}

proptest! {
    #[test]
    fn what_is_made_is_read(
        host in proptest::option::of("[a-z0-9.]{1,255}"),
        protocols in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..256), 0..4),
        others in proptest::collection::vec((17..=255_u8, 0..40_usize), 0..4),
        most in 1..700_usize,
    ) {
        let mut extensions = vec![];
        for (kind, length) in others {
            extensions.extend(extension(kind, &vec![3; length]));
        }
        if !protocols.is_empty() {
            let protocols: Vec<&[u8]> = protocols.iter().map(Vec::as_slice).collect();
            extensions.extend(alpn(&protocols));
        }
        if let Some(host) = &host {
            extensions.extend(name(host.as_bytes()));
        }
        let bytes = records(&message(Some(&extensions)), most);
        let end = bytes.len();
        prop_assert_eq!(read(&bytes), (Ok((host, protocols)), end));
    }

    #[test]
    fn what_is_decided_stays_decided(
        most in 1..200_usize,
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
    ) {
        let extensions = [name(b"a.example"), alpn(&[b"h2", b"http/1.1"])].concat();
        let mut bytes = records(&message(Some(&extensions)), most);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read(&bytes).0.ok();
    }

    #[test]
    fn anything_may_come(bytes: Vec<u8>, rest: Vec<u8>, most in 1..50_usize) {
        read(&bytes).0.ok();
        let mut message = message(None);
        message.extend(sized(2, &rest));
        message[2..4].copy_from_slice(&[1, 0]);
        read(&records(&message, most)).0.ok();
    }
}
