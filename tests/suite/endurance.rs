//! Long runs: many connections over reloads, transfers broken at random, system calls counted.

mod broken;
mod churn;
mod kills;
mod matrix;
mod system_calls;

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::clients::Clients;
use crate::harness::stream::uninterrupted;
use crate::harness::{
    Axis, Config, End, Family, Payload, Proxy, Rng, Served, Tagged, connect, read_all, scale, until,
};

#[test]
fn no_foreign_bytes() {
    let start = Instant::now();
    let seed = scale::seed();
    let mut bytes = 0;
    for splice in ["off", "auto", "always"] {
        for workers in [1, 2] {
            let axis = Axis {
                splice,
                workers,
                ..Axis::PLAIN
            };
            bytes += streams_of_their_own(axis, seed);
        }
    }
    println!(
        "{} MiB each way in streams of their own, each byte in its place, {:.1} s",
        bytes >> 20,
        start.elapsed().as_secs_f64()
    );
}

/// Streams at a time.
const STREAMS: u64 = 200;

/// Sends a different stream through each of many connections at once, and another one back; the
/// bytes each way.
fn streams_of_their_own(axis: Axis, seed: u64) -> u64 {
    let mean = scale::amount(128 * 1024, 4 * 1024 * 1024);
    let backend = Served::start(Family::V4.any(), answer_in_kind);
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
    let mut streams = Vec::new();
    for n in 0..STREAMS {
        let seed = seed.wrapping_add(n);
        let mut stream = connect(proxy.front());
        stream.write_all(&seed.to_be_bytes()).unwrap();
        let size = Rng::new(seed).below(2 * mean);
        let writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || write_stream(writer, seed, size));
        let reading = std::thread::spawn(move || read_stream(stream, seed, size));
        streams.push((size, writing, reading));
    }
    let mut bytes = 0;
    for (size, writing, reading) in streams {
        writing.join().unwrap();
        reading.join().unwrap();
        bytes += size;
    }
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "bytes to backend"), bytes + 8 * STREAMS);
    assert_eq!(totals.backend("a", "bytes to client"), bytes);
    bytes
}

/// Writes a stream in random pieces, and its end.
fn write_stream(mut stream: TcpStream, seed: u64, size: u64) {
    let mut rng = Rng::new(!seed);
    let mut piece = vec![0; 128 * 1024];
    let mut position = 0;
    while position < size {
        let bits = rng.below(18);
        let count = (1 + rng.below(1 << bits)).min(size - position);
        let piece = &mut piece[..usize::try_from(count).unwrap()];
        Payload::new(seed).fill(position, piece);
        stream.write_all(piece).unwrap();
        position += count;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Checks what comes back, to its end.
fn read_stream(mut stream: TcpStream, seed: u64, size: u64) {
    let mut piece = vec![0; 64 * 1024];
    let mut position = 0;
    loop {
        let count = uninterrupted(|| stream.read(&mut piece)).unwrap();
        Payload::new(!seed).check(position, &piece[..count]);
        position += count as u64;
        if count == 0 {
            assert_eq!(position, size, "the end came early or late");
            return;
        }
    }
}

/// Checks a stream by the seed that it starts with, and sends as many bytes of another one back. A
/// wrong byte ends it, which the client sees.
fn answer_in_kind(mut stream: TcpStream) -> io::Result<()> {
    let mut seed = [0; 8];
    stream.read_exact(&mut seed)?;
    let seed = u64::from_be_bytes(seed);
    let (mut piece, mut expected) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    let mut position = 0;
    loop {
        let count = uninterrupted(|| stream.read(&mut piece))?;
        Payload::new(seed).fill(position, &mut expected[..count]);
        if count == 0 || piece[..count] != expected[..count] {
            return Ok(());
        }
        Payload::new(!seed).fill(position, &mut piece[..count]);
        stream.write_all(&piece[..count])?;
        position += count as u64;
    }
}

#[test]
fn signal_storm() {
    let seed = scale::seed();
    let backends = Tagged::start(4);
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let only = |place: u64| {
        let place = usize::try_from(place).unwrap();
        let config = Config::new(axis).backend(&backends.addresses()[place].to_string());
        config.with(&format!("name = \"{}\"", ["a", "b", "c", "d"][place]))
    };
    let mut proxy = Proxy::start(&only(0));
    proxy.expect("SIGUSR2");
    let clients = Clients::start(4, proxy.front(), |front, _| {
        // Whoever serves it: somebody does.
        let (_, stream) = Tagged::ask(front);
        drop(stream);
        Ok(())
    });
    let held: Vec<_> = (0..10).map(|_| Tagged::ask(proxy.front()).1).collect();
    let time = Duration::from_secs(scale::amount(2, 10));
    let mut rng = Rng::new(seed);
    let (mut sent, mut last) = (0u64, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        if rng.below(500) == 0 {
            last = rng.below(4);
            proxy.write(only(last).text().as_bytes());
        }
        let signals = [
            Signal::SIGHUP,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGCHLD,
            Signal::SIGWINCH,
        ];
        proxy.signal(signals[rng.size(signals.len())]);
        sent += 1;
    }
    // A signal that comes while another reload is under way is not lost: the file counts as it is
    // after it.
    for _ in 0..20 {
        last = (last + 1) % 4;
        proxy.signal(Signal::SIGHUP);
        proxy.write(only(last).text().as_bytes());
        proxy.signal(Signal::SIGHUP);
        until("the file is in force", || {
            Tagged::ask(proxy.front()).0 as u64 == last
        });
    }
    let (done, failures) = clients.stop();
    assert!(failures.is_empty(), "{failures:?}");
    let reloads = proxy.log.count("reload: generation");
    println!("{sent} signals, {reloads} reloads, {done} connections");
    assert!(reloads > 1 && done > 0);
    for mut stream in held {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut stream), (vec![], End::Fin));
    }
    proxy.finish();
}
