use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::wire::testing::by_byte;

/// Where something has been asked for: the answer, and after how many bytes it was known.
type Known<T> = (Result<T, Stop<Wrong>>, usize);

fn path(bytes: &[u8]) -> Known<(&str, &[u8])> {
    by_byte(bytes, |bytes| {
        parse(bytes).map(|head| (head.method(), head.path()))
    })
}

fn host(bytes: &[u8]) -> Known<Option<&str>> {
    by_byte(bytes, |bytes| parse(bytes)?.host())
}

fn field<'a>(bytes: &'a [u8], name: &str) -> Known<Option<&'a [u8]>> {
    by_byte(bytes, |bytes| parse(bytes)?.field(name))
}

#[track_caller]
fn wrong(bytes: &str, wrong: Wrong, at: usize) {
    let (decided, found) = field(bytes.as_bytes(), "x-none");
    assert_eq!(decided, Err(Stop::Invalid(wrong)), "{bytes:?}");
    assert_eq!(found, at, "{bytes:?}");
}

#[test]
fn the_path_is_known_with_the_first_line() {
    for (line, method, expected) in [
        ("GET / HTTP/1.1", "GET", "/"),
        ("GET /v1/models?limit=1#top HTTP/1.0", "GET", "/v1/models"),
        ("POST /a/../%62 HTTP/1.1", "POST", "/a/../%62"),
        ("GET http://a.example HTTP/1.1", "GET", "/"),
        ("GET http://a.example:80/b/c?d HTTP/1.1", "GET", "/b/c"),
        ("GET https://[::1]?d HTTP/1.1", "GET", ""),
        (
            "GET /redirect?to=http://b.example/ HTTP/1.1",
            "GET",
            "/redirect",
        ),
        (
            "GET /http://b.example/ HTTP/1.1",
            "GET",
            "/http://b.example/",
        ),
        ("OPTIONS * HTTP/1.1", "OPTIONS", "*"),
        ("CONNECT a.example:443 HTTP/1.1", "CONNECT", ""),
        ("M-SEARCH /é HTTP/1.1", "M-SEARCH", "/é"),
    ] {
        for end in ["\r\n", "\n"] {
            let line = format!("{line}{end}");
            let (decided, at) = path(line.as_bytes());
            assert_eq!(decided, Ok((method, expected.as_bytes())), "{line}");
            assert_eq!(at, line.len());
        }
    }
}

#[test]
fn what_is_no_http_is_known_by_its_first_wrong_byte() {
    for (bytes, at) in [
        ("\x16\x03\x01", 1),
        ("\0\0\0\x08", 1),
        ("\r\nGET / HTTP/1.1\r\n", 2),
        ("\n", 1),
        (" GET / HTTP/1.1\r\n", 1),
        ("*1\r\n$4\r\nPING\r\n", 4),
        ("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 32),
        ("EHLO a.example\r\n", 16),
        ("{\"method\"", 1),
        ("G:T / HTTP/1.1\r\n", 2),
        ("GET  HTTP/1.1\r\n", 5),
        ("GET\t/ HTTP/1.1\r\n", 4),
        ("GET /\t HTTP/1.1\r\n", 6),
        ("GET /\x7f HTTP/1.1\r\n", 6),
        ("GET /\r HTTP/1.1\r\n", 7),
        ("GET /\r\n", 7),
        ("GET\r\n", 5),
        ("GET / \r\n", 8),
        ("GET / HTTP/1\r\n", 14),
        ("GET / HTTP/1.\n", 14),
        ("GET / http/1.1\r\n", 7),
        ("GET / XTTP/1.1\r\n", 7),
    ] {
        wrong(bytes, Wrong::NotHttp, at);
    }
    for (bytes, at) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 12),
        ("GET / HTTP/3\r\n", 12),
        ("GET / HTTP/1:1\r\n", 13),
        ("GET / HTTP/1.x\r\n", 14),
        ("GET / HTTP/1.11\r\n", 15),
        ("GET / HTTP/1.1 \r\n", 15),
    ] {
        wrong(bytes, Wrong::Version, at);
    }
    let method = format!("{} / HTTP/1.1\r\n", "A".repeat(METHOD_MAX));
    assert!(path(method.as_bytes()).0.is_ok());
    wrong(&"A".repeat(METHOD_MAX + 1), Wrong::NotHttp, METHOD_MAX + 1);
}

#[test]
fn fields_are_known_with_their_line() {
    let head = "POST /v1 HTTP/1.1\r\nHost: a.example\r\nX-Empty:\r\nX-Session: \t one two\t \r\n\
                x-session: second\nX-\u{e9}: ";
    let head = head.replace("X-\u{e9}: ", "X-Bytes: \u{e9}:\r\n\r\n") + "body: x\r\n";
    let head = head.as_bytes();
    let ends_at = |text: &str| {
        let starts = head
            .windows(text.len())
            .position(|at| at == text.as_bytes());
        starts.map(|place| place + text.len())
    };
    for (name, value, end) in [
        ("host", Some("a.example"), "a.example\r\n"),
        ("HOST", Some("a.example"), "a.example\r\n"),
        ("x-empty", Some(""), "X-Empty:\r\n"),
        ("x-session", Some("one two"), "two\t \r\n"),
        ("x-bytes", Some("\u{e9}:"), "\u{e9}:\r\n"),
        ("body", None, "\u{e9}:\r\n\r\n"),
        ("session", None, "\u{e9}:\r\n\r\n"),
        ("", None, "\u{e9}:\r\n\r\n"),
    ] {
        let (decided, at) = field(head, name);
        assert_eq!(decided, Ok(value.map(str::as_bytes)), "{name}");
        assert_eq!(Some(at), ends_at(end), "{name}");
    }
}

#[test]
fn fields_are_as_they_must_be() {
    let line = "GET / HTTP/1.1\r\n";
    for (fields, at) in [
        (" a: b\r\n", 1),
        ("a: b\r\n c\r\n", 7),
        ("a : b\r\n", 2),
        (": b\r\n", 1),
        ("a\r\n\r\n", 3),
        ("a b\r\n", 2),
        ("a: \0\r\n", 4),
        ("a: \r\r\n", 5),
        ("\r\r\n", 2),
        ("(a): b\r\n", 1),
    ] {
        wrong(&format!("{line}{fields}"), Wrong::Field, line.len() + at);
    }
    // What stands behind the field that is asked for does not matter.
    let (decided, _) = field(b"GET / HTTP/1.1\r\na: b\r\n c\r\n", "a");
    assert_eq!(decided, Ok(Some(&b"b"[..])));
}

#[test]
fn hosts_are_those_of_urls_or_of_the_field() {
    for (target, of_field, expected) in [
        ("/", "a.example", Some("a.example")),
        ("/", "A.Example:8080", Some("A.Example")),
        ("/", "a_b-c.example:", Some("a_b-c.example")),
        ("/", "192.0.2.1:80", Some("192.0.2.1")),
        ("/", "[2001:db8::1]:80", Some("[2001:db8::1]")),
        ("/", "[2001:db8::1]", Some("[2001:db8::1]")),
        ("/", "", None),
        ("http://b.example:81/", "a.example", Some("b.example")),
        ("HTTPS://[::1]", "a.example", Some("[::1]")),
        ("/http://b.example/", "a.example", Some("a.example")),
        ("*", "a.example", Some("a.example")),
        ("http:///x", "a.example", None),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nhost:{of_field}\r\nhost: other\r\n\r\n");
        assert_eq!(host(head.as_bytes()).0, Ok(expected), "{head:?}");
    }
    assert_eq!(host(b"GET / HTTP/1.0\r\n\r\n").0, Ok(None));
    let long = "a".repeat(256);
    for wrong in [
        "a b",
        "a/b",
        "user@a",
        "user:word@a",
        "a:b",
        "a:80:80",
        "::1",
        "[::1",
        "[]",
        "[a]",
        "[::1]x",
        "[192.0.2.1]",
        "a,b",
        "\u{e9}",
        "%41",
        ":80",
        &long,
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: {wrong}\r\n\r\n");
        let expected = Err(Stop::Invalid(Wrong::Host));
        assert_eq!(host(head.as_bytes()).0, expected, "{head:?}");
    }
}

#[test]
fn heads_are_bounded() {
    let line = format!("GET /{}", "a".repeat(HEAD_MAX));
    let head = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(HEAD_MAX));
    for bytes in [&line, &head] {
        let decided = |length| parse(&bytes.as_bytes()[..length])?.field("host");
        let needed = HEAD_MAX;
        assert_eq!(decided(needed - 1), Err(Stop::Incomplete { needed }));
        for length in needed..bytes.len() {
            assert_eq!(decided(length), Err(Stop::Invalid(Wrong::TooLong)));
        }
    }
    // What is known before is known.
    assert_eq!(
        parse(head.as_bytes()).map(|head| head.path()),
        Ok(&b"/"[..])
    );
}

fn heads() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        "/[a-z/?]{0,9}",
        "http://[a-z.]{1,9}(:80)?/?",
        Just("*".to_owned())
    ];
    let fields = proptest::collection::vec("(host|a|b-c):[ a-z.:0-9]{0,12}", 0..5);
    ("[A-Z]{1,5}", target, fields, "\r?\n").prop_map(|(method, target, fields, end)| {
        let fields: String = fields.iter().map(|field| format!("{field}{end}")).collect();
        format!("{method} {target} HTTP/1.1{end}{fields}{end}body")
    })
}

proptest! {
    #[test]
    fn what_is_decided_stays_decided(
        head in heads(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3),
    ) {
        let mut head = head.into_bytes();
        prop_assert!(path(&head).0.is_ok());
        prop_assert!(field(&head, "b-c").0.is_ok());
        for (place, byte) in changes {
            let place = place.index(head.len());
            head[place] = byte;
        }
        path(&head).0.ok();
        host(&head).0.ok();
        field(&head, "a").0.ok();
    }

    #[test]
    fn anything_may_come(bytes: Vec<u8>, rest: Vec<u8>) {
        for start in [&b""[..], b"GET ", b"GET / ", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost:"] {
            let bytes = [start, &bytes, b"\n", &rest].concat();
            path(&bytes).0.ok();
            host(&bytes).0.ok();
            field(&bytes, "a").0.ok();
        }
    }
}
