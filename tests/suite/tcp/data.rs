//! Bytes arrive as they were sent: all of them, in order, no others.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::SockRef;

use crate::harness::scale::{amount, seed};
use crate::harness::{
    Axis, Config, End, Listening, Payload, Proxy, Rng, Served, connect, on_every_axis, process,
    read_all,
    stream::{read_on, reset_on_close},
};

#[test]
fn tcp_01_backend_speaks_first() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        server.write_all(b"220 ready").unwrap();
        let mut greeting = [0; 9];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ready");
        drop((client, server));
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "bytes to client"), 9);
        assert_eq!(totals.backend("a", "bytes to backend"), 0);
    });
}

#[test]
fn tcp_02_single_bytes_are_never_held_back() {
    let rounds = amount(2_000, 100_000);
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let mut client = connect(proxy.front());
        let start = Instant::now();
        for round in 0..rounds {
            let byte = round.to_le_bytes()[0];
            client.write_all(&[byte]).unwrap();
            let mut answer = [0];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [byte]);
        }
        // A delayed acknowledgement or Nagle's algorithm in the way costs 40 ms a round.
        let mean = start.elapsed() / u32::try_from(rounds).unwrap();
        assert!(mean < Duration::from_millis(5), "{mean:?} a round");
        drop(client);
        proxy.finish();
    });
}

#[test]
fn tcp_02_a_write_waits_for_no_acknowledgement() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        let start = Instant::now();
        for _ in 0..WRITES {
            // The kernel of the server acknowledges the first byte with the answer, or much later.
            for _ in 0..2 {
                client.write_all(b"q").unwrap();
                server.read_exact(&mut [0]).unwrap();
            }
            server.write_all(b"a").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        let mean = start.elapsed() / WRITES;
        assert!(mean < Duration::from_millis(20), "{mean:?} a round");
        drop((client, server));
        proxy.finish();
    });
}

/// Enough that the quick acknowledgements of a new connection are used up.
const WRITES: u32 = 100;

#[test]
fn tcp_03_a_long_stream_each_way_at_once() {
    let bytes = amount(24, 1024) * 1024 * 1024;
    let seed = seed();
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (client, server) = backend.pair(proxy.front());
        let sides = [(client, seed, seed ^ 1), (server, seed ^ 1, seed)];
        std::thread::scope(|threads| {
            for (stream, sends, receives) in sides {
                let mut writer = stream.try_clone().unwrap();
                threads.spawn(move || {
                    write_in_pieces(&mut writer, Payload::new(sends), bytes, Rng::new(sends));
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                threads.spawn(move || check_stream(stream, Payload::new(receives), bytes));
            }
        });
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "bytes to client"), bytes);
        assert_eq!(totals.backend("a", "bytes to backend"), bytes);
    });
}

/// Writes `count` bytes in pieces of 1 B to 1 MB.
fn write_in_pieces(stream: &mut TcpStream, payload: Payload, count: u64, mut rng: Rng) {
    let mut buffer = vec![0; 1_000_000];
    let mut sent = 0;
    while sent < count {
        // Every size is as likely as every other of the same number of bits.
        let largest = 1 << rng.below(21);
        let piece = (1 + rng.below(largest)).min(count - sent).min(1_000_000);
        let piece = usize::try_from(piece).unwrap();
        payload.fill(sent, &mut buffer[..piece]);
        stream.write_all(&buffer[..piece]).unwrap();
        sent += piece as u64;
    }
}

/// Reads `count` bytes of `payload` and a clean end.
fn check_stream(mut stream: TcpStream, payload: Payload, count: u64) {
    let mut got = 0;
    let end = read_on(&mut stream, |bytes| {
        payload.check(got, bytes);
        got += bytes.len() as u64;
    });
    assert_eq!((got, end), (count, End::Fin));
}

#[test]
fn tcp_04_sizes_at_the_edges_of_buffers_and_pipes() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let mut client = connect(proxy.front());
        let mut place = 0;
        for edge in [0x4000, 0x10000, 3 * 0x10000, 0x10_0000] {
            for size in [edge - 1, edge, edge + 1] {
                let payload = Payload::new(place);
                let bytes = payload.bytes(size);
                let mut writer = client.try_clone().unwrap();
                let writer = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
                let mut answer = vec![0; size];
                client.read_exact(&mut answer).unwrap();
                writer.join().unwrap();
                payload.check(0, &answer);
                place += 1;
            }
        }
        drop(client);
        proxy.finish();
    });
}

#[test]
fn tcp_19_an_urgent_byte_stays_in_its_place() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        send_with_urgent(&mut client, &mut server);
        send_with_urgent(&mut server, &mut client);
        // After that the stream goes on as any other.
        let payload = Payload::new(19);
        let bytes = payload.bytes(2_000_000);
        let writer = std::thread::spawn(move || server.write_all(&bytes).unwrap());
        let (bytes, end) = read_all(&mut client);
        writer.join().unwrap();
        assert_eq!((bytes.len(), end), (2_000_000, End::Fin));
        payload.check(0, &bytes);
        drop(client);
        proxy.finish();
    });
}

/// Sends "before", an urgent "!" and "after", and expects them in that order.
fn send_with_urgent(from: &mut TcpStream, to: &mut TcpStream) {
    SockRef::from(&*to).set_out_of_band_inline(true).unwrap();
    from.write_all(b"before").unwrap();
    SockRef::from(&*from).send_out_of_band(b"!").unwrap();
    from.write_all(b"after").unwrap();
    let mut got = [0; 12];
    to.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"before!after");
}

/// An urgent byte may come while its direction streams, and a FIN right behind it.
#[test]
fn tcp_19_a_fin_close_behind_an_urgent_byte_hides_nothing() {
    let payload = Payload::new(19);
    let mut sent = payload.bytes(300_000);
    sent.extend_from_slice(b"!after");
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        for _ in 0..amount(25, 500) {
            let (client, mut server) = backend.pair(proxy.front());
            SockRef::from(&server).set_out_of_band_inline(true).unwrap();
            let bytes = sent.clone();
            let writer = std::thread::spawn(move || {
                let urgent = bytes.len() - "!after".len();
                (&client).write_all(&bytes[..urgent]).unwrap();
                SockRef::from(&client).send_out_of_band(b"!").unwrap();
                (&client).write_all(&bytes[urgent + 1..]).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                client
            });
            let (bytes, end) = read_all(&mut server);
            assert_eq!((bytes.len(), end), (sent.len(), End::Fin));
            assert_eq!(bytes[299_000..], sent[299_000..]);
            drop((writer.join().unwrap(), server));
        }
        proxy.finish();
    });
}

#[test]
fn tcp_25_fifty_answers_each_closed_by_the_backend() {
    on_every_axis(|axis| {
        let backend = Served::start(axis.family.any(), |mut stream| {
            let mut request = [0; 8];
            stream.read_exact(&mut request)?;
            let payload = Payload::new(u64::from_le_bytes(request));
            stream.write_all(&payload.bytes(100_000))
        });
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let front = proxy.front();
        std::thread::scope(|threads| {
            for number in 0..50u64 {
                threads.spawn(move || {
                    let mut client = connect(front);
                    client.write_all(&number.to_le_bytes()).unwrap();
                    let (bytes, end) = read_all(&mut client);
                    assert_eq!((bytes.len(), end), (100_000, End::Fin));
                    Payload::new(number).check(0, &bytes);
                });
            }
        });
        assert_eq!(proxy.finish().backend("a", "sessions"), 50);
    });
}

#[test]
fn tcp_27_late_events_of_a_closed_session_miss_its_successor() {
    const SESSIONS: usize = 40;
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        for round in 0..5 {
            let open: Vec<_> = (0..SESSIONS).map(|_| backend.pair(proxy.front())).collect();
            // Everything below is one batch of events for the proxy: both sides of each old session
            // end in different ways, and new ones come for the same slots.
            proxy.signal(Signal::SIGSTOP);
            for (number, (mut client, mut server)) in (0..).zip(open) {
                drop((client.write_all(b"late"), server.write_all(b"late")));
                if number % 2 == round % 2 {
                    reset_on_close(&client);
                }
                if number % 3 == 0 {
                    reset_on_close(&server);
                }
            }
            let fresh: Vec<_> = (0..SESSIONS).map(|_| connect(proxy.front())).collect();
            for client in &fresh {
                client.shutdown(Shutdown::Write).unwrap();
            }
            proxy.signal(Signal::SIGCONT);
            let payload = Payload::new(round);
            // Which of them a backend's connection belongs to is the proxy's own affair.
            let servers: Vec<_> = fresh.iter().map(|_| backend.accept()).collect();
            for mut server in servers {
                server.write_all(&payload.bytes(5_000)).unwrap();
                server.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&mut server), (vec![], End::Fin));
            }
            for mut client in fresh {
                let (bytes, end) = read_all(&mut client);
                assert_eq!((bytes.len(), end), (5_000, End::Fin));
                payload.check(0, &bytes);
            }
        }
        proxy.finish();
    });
}

#[test]
fn tcp_32_a_client_with_a_tiny_window_gets_everything() {
    let bytes = usize::try_from(amount(256, 10 * 1024)).unwrap() * 1024;
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let client = small_window_client(axis, &proxy);
        let mut server = backend.accept();
        let payload = Payload::new(32);
        let writer = std::thread::spawn(move || server.write_all(&payload.bytes(bytes)).unwrap());
        let before = process::processor_time(proxy.id());
        check_stream(client, payload, bytes as u64);
        let spent = process::processor_time(proxy.id()) - before;
        assert!(spent < Duration::from_secs(2), "busy for {spent:?}");
        writer.join().unwrap();
        proxy.finish();
    });
}

/// A client that announces a window of a few kilobytes.
fn small_window_client(axis: Axis, proxy: &Proxy) -> TcpStream {
    let domain = socket2::Domain::for_address(axis.family.any());
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&proxy.front().into()).unwrap();
    crate::harness::stream::bounded(socket.into())
}
