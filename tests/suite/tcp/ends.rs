//! How a session ends: a FIN is a FIN, a reset is a reset, and a cut is never a clean end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use evenkeel::sys::socket::unacknowledged;
use nix::sys::signal::Signal;

use crate::harness::stream::{read_on, reset_on_close};
use crate::harness::wait::within;
use crate::harness::{
    Config, End, Listening, Payload, Proxy, Served, connect, on_every_axis, process, read_all,
    reset, until,
};

const TEN_MIB: usize = 10 * 1024 * 1024;

/// One side finishes first and then gets 10 MiB from the other.
fn finishes_first(finisher: &mut TcpStream, mut other: TcpStream) {
    finisher.write_all(b"all of it").unwrap();
    finisher.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut other), (b"all of it".to_vec(), End::Fin));
    let payload = Payload::new(5);
    let writer = std::thread::spawn(move || other.write_all(&payload.bytes(TEN_MIB)).unwrap());
    let (bytes, end) = read_all(finisher);
    writer.join().unwrap();
    assert_eq!((bytes.len(), end), (TEN_MIB, End::Fin));
    payload.check(0, &bytes);
}

#[test]
fn tcp_05_client_finishes_first_and_gets_the_whole_answer() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, server) = backend.pair(proxy.front());
        finishes_first(&mut client, server);
        proxy.finish();
    });
}

#[test]
fn tcp_06_backend_finishes_first_and_gets_all_that_follows() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (client, mut server) = backend.pair(proxy.front());
        finishes_first(&mut server, client);
        proxy.finish();
    });
}

#[test]
fn tcp_07_both_finish_at_once_with_bytes_under_way() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (client, server) = backend.pair(proxy.front());
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|threads| {
            for (mut stream, own, other) in [(client, 1, 2), (server, 2, 1)] {
                let start = &start;
                threads.spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    let bytes = Payload::new(own).bytes(1_000_000);
                    start.wait();
                    let writing = std::thread::spawn(move || {
                        writer.write_all(&bytes).unwrap();
                        writer.shutdown(Shutdown::Write).unwrap();
                    });
                    let (bytes, end) = read_all(&mut stream);
                    writing.join().unwrap();
                    assert_eq!((bytes.len(), end), (1_000_000, End::Fin));
                    Payload::new(other).check(0, &bytes);
                });
            }
        });
        proxy.finish();
    });
}

#[test]
fn tcp_09_backend_reset_is_passed_on() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));

        let (mut client, server) = backend.pair(proxy.front());
        reset(server);
        assert_eq!(
            read_all(&mut client),
            (vec![], End::Reset),
            "before any byte"
        );

        let (mut client, mut server) = backend.pair(proxy.front());
        exchange(&mut client, &mut server);
        reset(server);
        assert_eq!(
            read_all(&mut client),
            (vec![], End::Reset),
            "between messages"
        );

        let (mut client, mut server) = backend.pair(proxy.front());
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), (b"request".to_vec(), End::Fin));
        reset(server);
        assert_eq!(read_all(&mut client), (vec![], End::Reset), "half closed");
        proxy.finish();
    });
}

#[test]
fn tcp_10_client_reset_is_passed_on() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));

        let (client, mut server) = backend.pair(proxy.front());
        reset(client);
        assert_eq!(
            read_all(&mut server),
            (vec![], End::Reset),
            "before any byte"
        );

        let (mut client, mut server) = backend.pair(proxy.front());
        exchange(&mut client, &mut server);
        reset(client);
        assert_eq!(
            read_all(&mut server),
            (vec![], End::Reset),
            "between messages"
        );

        let (mut client, mut server) = backend.pair(proxy.front());
        server.write_all(b"goodbye").unwrap();
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), (b"goodbye".to_vec(), End::Fin));
        reset(client);
        assert_eq!(read_all(&mut server), (vec![], End::Reset), "half closed");
        proxy.finish();
    });
}

/// A message each way.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    let mut buffer = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut buffer).unwrap();
    server.write_all(&buffer).unwrap();
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"ping");
}

/// Waits until the proxy's kernel has all that was written to this socket.
#[track_caller]
fn wait_delivered(stream: &TcpStream) {
    until("the proxy's kernel has everything", || {
        unacknowledged(stream.as_fd()).unwrap() == 0
    });
}

#[test]
fn tcp_11_bytes_before_a_reset_arrive_before_it() {
    const BYTES: usize = 300_000;
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let payload = Payload::new(11);
        for case in ["reset", "closed with unread bytes", "from the client"] {
            let (mut client, mut server) = backend.pair(proxy.front());
            if case == "closed with unread bytes" {
                client.write_all(b"never read").unwrap();
                wait_delivered(&client);
            }
            let (mut sender, mut receiver) = match case {
                "from the client" => (client, server),
                _ => {
                    if case == "closed with unread bytes" {
                        let mut first = [0];
                        server.read_exact(&mut first).unwrap();
                    }
                    (server, client)
                }
            };
            sender.write_all(&payload.bytes(BYTES)).unwrap();
            // The receiver does not read yet: part of it is in the proxy's hands now.
            wait_delivered(&sender);
            if case != "closed with unread bytes" {
                reset_on_close(&sender);
            }
            drop(sender);
            let (bytes, end) = read_all(&mut receiver);
            assert_eq!((bytes.len(), end), (BYTES, End::Reset), "{case}");
            payload.check(0, &bytes);
        }
        proxy.finish();
    });
}

#[test]
fn tcp_13_a_reset_with_bytes_parked_releases_them() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        for aborter in ["backend", "client"] {
            let (mut client, mut server) = backend.pair(proxy.front());
            // More than both kernels hold, so that the proxy has some parked.
            server.set_nonblocking(true).unwrap();
            let payload = Payload::new(13);
            let sent = fill(&mut server, payload);
            assert!(sent > 1_000_000, "only {sent} bytes went out");
            match aborter {
                "backend" => {
                    reset(server);
                    let mut got = 0;
                    let end = read_on(&mut client, |bytes| {
                        payload.check(got, bytes);
                        got += bytes.len() as u64;
                    });
                    assert_eq!(end, End::Reset, "after {got} of {sent} bytes");
                    assert!(got <= sent);
                }
                _ => {
                    reset(client);
                    server.set_nonblocking(false).unwrap();
                    assert_eq!(read_all(&mut server), (vec![], End::Reset));
                }
            }
        }
        proxy.finish();
    });
}

/// Writes until nothing more is taken for a while; the bytes taken.
fn fill(stream: &mut TcpStream, payload: Payload) -> u64 {
    let mut sent = 0;
    let mut buffer = vec![0; 64 * 1024];
    let mut write = || {
        let before = sent;
        loop {
            payload.fill(sent, &mut buffer);
            match stream.write(&buffer) {
                Ok(count) => sent += count as u64,
                Err(_) => return sent > before,
            }
        }
    };
    while within(Duration::from_millis(100), &mut write) {}
    sent
}

#[test]
fn tcp_14_a_cut_of_our_own_is_a_reset_on_both_sides() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address]).pool("idle_timeout = \"200ms\"");
        let proxy = Proxy::start_with(&config, |mut command| {
            command.arg("-v");
            command
        });
        let (mut client, mut server) = backend.pair(proxy.front());
        server.write_all(b"half an ans").unwrap();
        assert_eq!(read_all(&mut client), (b"half an ans".to_vec(), End::Reset));
        assert_eq!(read_all(&mut server), (vec![], End::Reset));
        proxy.log.wait_text("session on \"pool/a\" reset: idle");
        proxy.finish();
    });
}

#[test]
fn tcp_15_a_client_that_leaves_before_the_backend_answers() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        // The proxy sees the client's connection and its end in the same moment.
        for is_reset in [false, true] {
            for _ in 0..20 {
                proxy.signal(Signal::SIGSTOP);
                let client = connect(proxy.front());
                if is_reset {
                    reset_on_close(&client);
                }
                drop(client);
                proxy.signal(Signal::SIGCONT);
                if !is_reset {
                    // A client may send, finish and expect the work to be done, so its FIN counts
                    // as any other.
                    let mut server = backend.accept();
                    assert_eq!(read_all(&mut server), (vec![], End::Fin));
                }
            }
        }
        proxy.finish();
    });
}

#[test]
fn tcp_16_connections_reset_before_they_are_accepted_do_no_harm() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        proxy.signal(Signal::SIGSTOP);
        for _ in 0..100 {
            reset(connect(proxy.front()));
        }
        let mut client = connect(proxy.front());
        proxy.signal(Signal::SIGCONT);
        client.write_all(b"still here").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), (b"still here".to_vec(), End::Fin));
        proxy.finish();
    });
}

#[test]
fn tcp_17_a_backend_that_closes_at_once_is_a_clean_end() {
    on_every_axis(|axis| {
        let backend = Served::start(axis.family.any(), |_| Ok(()));
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        for _ in 0..100 {
            assert_eq!(read_all(&mut connect(proxy.front())), (vec![], End::Fin));
        }
        // One that stays half closed does not spin on the end that it knows of.
        let mut half_closed = connect(proxy.front());
        assert_eq!(read_all(&mut half_closed), (vec![], End::Fin));
        let before = process::processor_time(proxy.id());
        within(Duration::from_millis(300), || false);
        let spent = process::processor_time(proxy.id()) - before;
        drop(half_closed);
        assert!(
            spent < Duration::from_millis(150),
            "{spent:?} while nothing happens"
        );
        proxy.finish();
    });
}
