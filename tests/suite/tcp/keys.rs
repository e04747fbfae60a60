//! Backends that are chosen by what a client says first.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::routes::hello;
use crate::harness::proxy_protocol::{STREAMS, v2};
use crate::harness::stream::is_silent_for;
use crate::harness::{Axis, Config, Proxy, Tagged, connect_from, on_every_axis};

/// Another address for each number: what a client says is to count, not where it is.
fn source(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 212, 0, number).into()
}

fn say(front: SocketAddr, number: u8, words: &[u8]) -> TcpStream {
    let mut client = connect_from(source(number), front).unwrap();
    client.write_all(words).unwrap();
    client
}

/// Which backend serves a client that says this.
#[track_caller]
fn ask(front: SocketAddr, number: u8, words: &[u8]) -> usize {
    Tagged::read_tag(&mut say(front, number, words))
}

/// Clients with the same words meet, and those with others do not all meet.
#[track_caller]
fn is_by_words(front: SocketAddr, words: impl Fn(u8) -> Vec<u8>) {
    let places: Vec<usize> = (0..24).map(|n| ask(front, n, &words(n))).collect();
    for (n, place) in (0..).zip(&places) {
        assert_eq!(ask(front, 100 + n, &words(n)), *place, "words {n}");
    }
    for backend in 0..3 {
        let count = places.iter().filter(|&&place| place == backend).count();
        assert!((1..24).contains(&count), "{places:?}");
    }
}

fn request(user: u8) -> Vec<u8> {
    let head = format!(
        "POST /v1/chat?n={user} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {user}\r\n\r\n"
    );
    head.into_bytes()
}

#[test]
fn clients_go_by_a_header_a_path_a_name_or_their_first_bytes() {
    let tagged = Tagged::start(3);
    for (key, words) in [
        ("http_header/Authorization", request as fn(u8) -> Vec<u8>),
        ("http_path", |n| {
            format!("GET /{n}?{n} HTTP/1.1\r\n").into_bytes()
        }),
        ("sni", |n| hello(&format!("host{n}.example"), &["h2"], None)),
        ("alpn", |n| {
            hello("a.example", &[&format!("protocol{n}")], None)
        }),
        ("first_bytes/8", |n| {
            format!("PREFIX{n:02} and more").into_bytes()
        }),
    ] {
        let config = Config::of(Axis::PLAIN, &tagged.addresses());
        let proxy = Proxy::start(&config.pool(&format!("hash_key = [\"{key}\"]")));
        is_by_words(proxy.front(), words);
        proxy.finish();
    }
}

#[test]
fn clients_go_by_what_their_proxy_says_of_them() {
    let tagged = Tagged::start(3);
    let config = Config::of(Axis::PLAIN, &tagged.addresses());
    let config = config.listener("accept_proxy = \"v2\"");
    let proxy = Proxy::start(&config.pool("hash_key = [\"proxy_tlv/0xE1\"]"));
    is_by_words(proxy.front(), |n| {
        let client = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let mut header = v2(STREAMS, client, proxy.front());
        let extensions = [0xe0, 0, 1, n, 0xe1, 0, 2, b'u', n % 12];
        header.extend(extensions);
        header[15] += u8::try_from(extensions.len()).unwrap();
        header
    });
    proxy.finish();
}

#[test]
fn words_may_come_in_pieces_and_reach_the_backend() {
    on_every_axis(|axis| {
        let tagged = Tagged::start(3);
        let config = Config::of(axis, &tagged.addresses());
        let proxy = Proxy::start(&config.pool("hash_key = [\"http_header/authorization\"]"));
        let words = request(7);
        let front = proxy.front();
        let at_once = {
            let mut client = crate::harness::connect(front);
            client.write_all(&words).unwrap();
            Tagged::read_tag(&mut client)
        };
        let mut client = crate::harness::connect(front);
        let (last, first) = words.split_last().unwrap();
        for piece in first.chunks(20) {
            client.write_all(piece).unwrap();
        }
        client.write_all(&[*last]).unwrap();
        assert_eq!(Tagged::read_tag(&mut client), at_once);
        drop(client);
        proxy.finish();
    });
}

#[test]
fn who_says_nothing_of_that_is_spread_and_counted() {
    let tagged = Tagged::start(3);
    let config = Config::of(Axis::PLAIN, &tagged.addresses())
        .listener("preread = { timeout = \"200ms\" }")
        .pool("hash_key = [\"http_header/authorization\"]");
    let proxy = Proxy::start(&config);
    let front = proxy.front();
    let places = (0..24).map(|n| ask(front, n, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    let places: Vec<_> = places.collect();
    assert!((0..3).all(|place| places.contains(&place)), "{places:?}");
    // One that waits for the server to speak, and one that ends before it has said enough.
    let mut silent = connect_from(source(50), front).unwrap();
    is_silent_for(&mut silent, Duration::from_millis(20));
    Tagged::read_tag(&mut silent);
    let mut ended = say(front, 51, b"GET / HT");
    ended.shutdown(Shutdown::Write).unwrap();
    Tagged::read_tag(&mut ended);
    drop((silent, ended));
    let totals = proxy.finish();
    assert_eq!(totals.listeners["front"]["without a key"], 26);
}

#[test]
fn clients_stay_by_what_they_say() {
    let tagged = Tagged::start(3);
    let config = Config::of(Axis::PLAIN, &tagged.addresses())
        .pool("balance = \"round_robin\"")
        .pool("sticky = { key = [\"http_header/authorization\"] }");
    let proxy = Proxy::start(&config);
    let front = proxy.front();
    let first: Vec<_> = (0..9).map(|n| ask(front, n, &request(n))).collect();
    assert_eq!(&first[..6], [0, 1, 2, 0, 1, 2], "by turns");
    for (n, place) in (0..).zip(&first) {
        assert_eq!(ask(front, 100 + n, &request(n)), *place);
    }
    // Nobody knows who says nothing, so the balance chooses each time.
    let mute = (0..6).map(|_| ask(front, 0, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(mute.collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    // A reload to another key forgets them, and one to the same does not.
    let config = config.pool("retries = 1");
    proxy.reload(&config).unwrap();
    for (n, place) in (0..).zip(&first) {
        assert_eq!(ask(front, 200 + n, &request(n)), *place);
    }
    proxy.finish();
}

#[test]
fn a_key_can_come_and_go_with_a_reload() {
    let tagged = Tagged::start(3);
    let config = || Config::of(Axis::PLAIN, &tagged.addresses());
    let proxy = Proxy::start(&config());
    let keyed = config().pool("hash_key = [\"first_bytes/4\"]");
    proxy.reload(&keyed).unwrap();
    is_by_words(proxy.front(), |n| format!("{n:04}").into_bytes());
    proxy.reload(&config()).unwrap();
    // Nothing is waited for any more.
    let mut silent = connect_from(source(1), proxy.front()).unwrap();
    Tagged::read_tag(&mut silent);
    drop(silent);
    proxy.finish();
}
