//! The load tool checked against itself: it must see no error where there is none, and every error
//! where a relay makes one. A benchmark that cannot fail would praise a proxy that loses bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::bulk::{Bulk, Direction};
use crate::exchange::{Exchanges, Limit};
use crate::measure::Tally;
use crate::message::{Header, Kind};

/// More than one chunk and no multiple of anything.
const AMOUNT: u64 = 1_000_003;
const TIME: Duration = Duration::from_secs(10);

/// What a relay does to the answers that pass through it.
#[derive(Clone, Copy)]
enum Harm {
    None,
    /// Flips a bit of the byte at this position.
    Flip(usize),
    /// Ends cleanly after so many bytes.
    Cut(usize),
}

/// Each test has a backend of its own; it serves until the test process ends.
fn backend() -> SocketAddr {
    let mut backend = Backend::bind(0, 1).unwrap();
    let port = backend.ports().unwrap()[0];
    thread::spawn(move || backend.run());
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A relay in front of a new backend.
fn relay(harm: Harm) -> SocketAddr {
    let target = backend();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = TcpStream::connect(target).unwrap();
            let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || copy(up, server, Harm::None));
            thread::spawn(move || copy(down, client, harm));
        }
    });
    address
}

fn copy(mut from: TcpStream, mut to: TcpStream, harm: Harm) {
    let mut buffer = vec![0; 64 * 1024];
    let mut passed = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let mut piece = &mut buffer[..read];
        match harm {
            Harm::Flip(at) if (passed..passed + read).contains(&at) => piece[at - passed] ^= 1,
            Harm::Cut(at) if passed + read > at => piece = &mut piece[..at - passed],
            _ => {}
        }
        passed += piece.len();
        if to.write_all(piece).is_err() || piece.len() < read {
            break;
        }
    }
    // The other side may be gone already.
    drop(to.shutdown(Shutdown::Write));
}

fn bulk(direction: Direction, harm: Harm) -> Tally {
    Bulk::new(direction, AMOUNT)
        .run(relay(harm), 3, TIME)
        .unwrap()
}

fn churn(harm: Harm) -> Tally {
    let mut clients = Exchanges::new(relay(harm), 64).unwrap();
    let limit = Limit {
        count: 50,
        time: TIME,
    };
    clients.churn(4, limit).unwrap()
}

fn first_error(tally: &Tally) -> &str {
    tally.first_error.as_deref().unwrap_or_default()
}

#[test]
fn a_relay_that_does_no_harm_passes() {
    for direction in [Direction::Download, Direction::Upload] {
        let tally = bulk(direction, Harm::None);
        assert_eq!((tally.count, tally.errors), (3 * AMOUNT, 0), "{tally:?}");
        assert_eq!(tally.latencies.len(), 3);
    }
    let tally = churn(Harm::None);
    assert_eq!(
        (tally.count, tally.errors, tally.latencies.len()),
        (50, 0, 50)
    );
    for size in [16, 64, 16 * 1024, 250_000] {
        let mut clients = Exchanges::new(relay(Harm::None), size).unwrap();
        assert_eq!(clients.open(5).unwrap().count, 5);
        let limit = Limit {
            count: 100,
            time: TIME,
        };
        let tally = clients.repeat(limit).unwrap();
        assert_eq!((tally.count, tally.errors), (100, 0), "{size}: {tally:?}");
    }
}

#[test]
fn a_wrong_byte_is_seen() {
    let last = usize::try_from(AMOUNT).unwrap() - 1;
    for at in [0, last / 2, last] {
        let tally = bulk(Direction::Download, Harm::Flip(at));
        assert_eq!((tally.count, tally.errors), (0, 3), "{at}");
        assert!(first_error(&tally).contains("wrong byte"));
    }
    let tally = bulk(Direction::Upload, Harm::Flip(8));
    assert_eq!((tally.count, tally.errors), (0, 3), "the confirmation");
    for at in [0, 8, 16, 63] {
        let tally = churn(Harm::Flip(at));
        assert_eq!((tally.count, tally.errors), (0, 50), "{at}");
    }
}

#[test]
fn a_clean_end_before_the_last_byte_is_seen() {
    let tally = bulk(Direction::Download, Harm::Cut(1_000_002));
    assert_eq!((tally.count, tally.errors), (0, 3));
    assert!(first_error(&tally).contains("before the last byte"));
    let tally = churn(Harm::Cut(63));
    assert_eq!((tally.count, tally.errors), (0, 50));
    assert!(first_error(&tally).contains("before the answer was complete"));
}

#[test]
fn a_backend_that_is_gone_is_an_error_and_not_a_hang() {
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let mut clients = Exchanges::new(address, 64).unwrap();
    let limit = Limit {
        count: 20,
        time: TIME,
    };
    let tally = clients.churn(4, limit).unwrap();
    assert_eq!((tally.count, tally.errors), (0, 20));
}

#[test]
fn headers_are_read_as_they_were_written() {
    for kind in [
        Kind::Echo,
        Kind::EchoOnce,
        Kind::Source,
        Kind::Sink,
        Kind::Taken,
    ] {
        let header = Header {
            kind,
            length: 0x0102_0304,
            value: u64::MAX - 1,
        };
        assert_eq!(Header::decode(&header.encode()), Some(header));
    }
    assert_eq!(Header::decode(&[0; 16]), None);
}
