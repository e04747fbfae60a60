//! Back-pressure, fairness and limits: conformance C.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use socket2::SockRef;

use crate::harness::backend::Gauge;
use crate::harness::clients::{Clients, finish_session};
use crate::harness::faults::{Injected, leave_descriptors, with_descriptors};
use crate::harness::process::{descriptors, is_stopped, private_dirty, processor_time, resident};
use crate::harness::scale::{amount, skip};
use crate::harness::stream::{is_silent_for, read_on, uninterrupted};
use crate::harness::wait::within;
use crate::harness::{
    Axis, Config, End, Family, Listening, Payload, Proxy, Served, connect, on_every_axis, ping,
    reset, served, try_served, until,
};

#[test]
fn res_01_a_slow_reader_stops_its_sender_and_loses_nothing() {
    let total = amount(64, 1024) * MIB;
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        let before = private_dirty(proxy.id());
        let written = Arc::new(AtomicU64::new(0));
        let payload = Payload::new(1);
        let writer = std::thread::spawn({
            let written = Arc::clone(&written);
            move || {
                let mut piece = vec![0; 64 * 1024];
                while written.load(SeqCst) < total {
                    payload.fill(written.load(SeqCst), &mut piece);
                    server.write_all(&piece).unwrap();
                    written.fetch_add(piece.len() as u64, SeqCst);
                }
            }
        });
        let stopped = settled(|| written.load(SeqCst));
        assert!(stopped < total, "nothing stops the sender");
        let grown = private_dirty(proxy.id()).saturating_sub(before);
        assert!(grown < 2 * MIB, "{grown} bytes for one session");
        let mut got = 0;
        let end = read_on(&mut client, |bytes| {
            payload.check(got, bytes);
            got += bytes.len() as u64;
        });
        assert_eq!((got, end), (total, End::Fin));
        writer.join().unwrap();
        drop(client);
        proxy.finish();
    });
}

#[test]
fn res_02_many_stuck_readers_cost_little_memory_and_hurt_nobody() {
    let count = usize::try_from(amount(200, 1_000)).unwrap();
    for splice in ["auto", "off"] {
        let stuck = Listening::start(Family::V4);
        let axis = Axis {
            splice,
            ..Axis::PLAIN
        };
        let live = Served::echo(Family::V4);
        // One pool for each, so that both are reached on purpose.
        let config = Config::of(axis, &[stuck.address]).more(&other_pool("live", live.address));
        let mut proxy = Proxy::start(&config);
        let before = resident(proxy.id());
        let pairs = stuck.pairs(proxy.front(), count);
        for (client, server) in &pairs {
            // Little is kept in the kernel, so that the proxy has to keep the rest waiting.
            SockRef::from(client)
                .set_recv_buffer_size(4 * 1024)
                .unwrap();
            SockRef::from(server)
                .set_send_buffer_size(64 * 1024)
                .unwrap();
            server.set_nonblocking(true).unwrap();
        }
        let piece = vec![7; 64 * 1024];
        let mut written = 0;
        settled(|| {
            written += pairs
                .iter()
                .map(|(_, server)| fill(server, &piece))
                .sum::<u64>();
            written
        });
        assert!(
            written > 128 * 1024 * count as u64,
            "{written} bytes are on their way"
        );
        let grown = resident(proxy.id()).saturating_sub(before);
        let each = grown / count as u64;
        assert!(
            each <= 64 * 1024 + 2 * 1024,
            "{each} bytes for each stuck reader"
        );
        served(proxy.address("live"));
        for (client, server) in pairs {
            reset(client);
            drop(server);
        }
        proxy.allow_resident(before + 66 * 1024 * count as u64);
        proxy.finish();
    }
}

#[test]
fn res_04_a_hog_does_not_starve_the_others() {
    for splice in ["off", "always"] {
        let axis = Axis {
            splice,
            ..Axis::PLAIN
        };
        let hog = Served::start(Family::V4.any(), |mut stream| {
            let piece = vec![7; 256 * 1024];
            loop {
                stream.write_all(&piece)?;
            }
        });
        let echo = Served::echo(Family::V4);
        let config = Config::of(axis, &[hog.address]).more(&other_pool("live", echo.address));
        let proxy = Proxy::start(&config);
        let (stop, eaten) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let eater = std::thread::spawn({
            let (stop, eaten) = (Arc::clone(&stop), Arc::clone(&eaten));
            let mut stream = connect(proxy.front());
            move || {
                let mut buffer = vec![0; 256 * 1024];
                while !stop.load(SeqCst) {
                    eaten.fetch_add(
                        uninterrupted(|| stream.read(&mut buffer)).unwrap() as u64,
                        SeqCst,
                    );
                }
                reset(stream);
            }
        });
        until("the hog is at it", || eaten.load(SeqCst) > 16 * MIB);
        let before = eaten.load(SeqCst);
        let live = proxy.address("live");
        let others: Vec<_> = (0..20)
            .map(|_| std::thread::spawn(move || slowest_of(live, amount(50, 1_000))))
            .collect();
        let mut slowest: Vec<_> = others
            .into_iter()
            .map(|other| other.join().unwrap())
            .collect();
        let meanwhile = eaten.load(SeqCst) - before;
        stop.store(true, SeqCst);
        eater.join().unwrap();
        slowest.sort_unstable();
        assert!(
            meanwhile > MIB,
            "the hog ate only {meanwhile} bytes in the meantime"
        );
        assert!(slowest[10] < Duration::from_secs(3), "{slowest:?}");
        proxy.finish();
    }
}

#[test]
fn res_05_dribbling_clients_cost_no_processor_time() {
    let backend = Listening::start(Family::V4);
    let mut proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    let count = amount(300, 4_000);
    let mut pairs = backend.pairs(proxy.front(), usize::try_from(count).unwrap());
    let (before, start) = (processor_time(proxy.id()), Instant::now());
    let mut byte = [0];
    for round in 0..2 {
        for (client, server) in &mut pairs {
            client.write_all(&[round]).unwrap();
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte[0], round);
            is_silent_for(client, Duration::from_millis(2));
        }
    }
    let (spent, elapsed) = (processor_time(proxy.id()) - before, start.elapsed());
    assert!(
        spent < elapsed / 4,
        "{spent:?} in {elapsed:?} for {} bytes",
        2 * count
    );
    drop(pairs);
    proxy.allow_resident(64 * MIB);
    proxy.finish();
}

#[test]
fn res_06_with_few_descriptors_the_others_wait_and_all_are_served() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let mut proxy = Proxy::start_with(&config, |command| with_descriptors(&command, 256));
    proxy.expect("the limit on open files is reached, clients wait");
    let places = proxy.log.wait(0, "with the limit", |line| {
        let (_, count) = line.split_once("room for ")?;
        count.split_once(" sessions")?.0.parse::<u64>().ok()
    });
    assert!((64..128).contains(&places), "{places}");
    let mut clients: Vec<_> = (0..1_000)
        .map(|_| {
            let mut client = connect(proxy.front());
            client.write_all(b"ping").unwrap();
            client
        })
        .collect();
    until("all places are taken", || backend.served() == places);

    let (before, mark) = (processor_time(proxy.id()), proxy.log.mark());
    is_silent_for(clients.last_mut().unwrap(), Duration::from_millis(1_500));
    let spent = processor_time(proxy.id()) - before;
    assert!(
        spent < Duration::from_millis(300),
        "{spent:?} while nothing happens"
    );
    let lines = proxy.log.mark() - mark;
    assert!(lines <= 3, "{lines} lines in 1.5 s");
    assert_eq!(backend.served(), places);

    // The queue is first come, first served, so each of these has a place or gets the next.
    for mut client in clients {
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"ping");
    }
    let totals = proxy.finish();
    assert_eq!(totals.front("accepted"), 1_000);
    assert_eq!(totals.front("refused"), 0);
}

#[test]
fn res_07_an_accept_that_fails_is_tried_again() {
    let backend = Served::echo(Family::V4);
    let mut proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    proxy.expect("listener \"front\": cannot accept");
    let errors = [
        "EMFILE",
        "ENFILE",
        "ENOBUFS",
        "ENOMEM",
        "ECONNABORTED",
        "EPROTO",
    ];
    for error in errors {
        let what = format!("accept4:error={error}:when=1..3");
        let Some(injected) = Injected::start(&proxy, &what) else {
            return skip("res_07", "needs strace and the right to trace");
        };
        served(proxy.front());
        until("three failures", || injected.count() == 3);
    }
    assert!(proxy.log.has("cannot accept"));
    let totals = proxy.finish();
    assert_eq!(totals.front("accepted"), errors.len() as u64);
}

#[test]
fn res_07_a_listener_that_cannot_accept_does_not_spin() {
    for (error, told) in [
        ("ENFILE", "Too many open files in system"),
        ("EINVAL", "Invalid argument"), // as after a shutdown by another owner of the socket
    ] {
        let backend = Served::echo(Family::V4);
        let mut proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
        proxy.expect(&format!("listener \"front\": cannot accept: {told}"));
        let Some(injected) = Injected::start(&proxy, &format!("accept4:error={error}")) else {
            return skip("res_07", "needs strace and the right to trace");
        };
        let mut client = connect(proxy.front());
        client.write_all(b"ping").unwrap();
        is_silent_for(&mut client, Duration::from_secs(1));
        let failed = injected.count();
        assert!((2..=40).contains(&failed), "{failed} attempts in a second");
        drop(injected);
        let mut answer = [0; 4];
        client.read_exact(&mut answer).unwrap();
        drop(client);
        proxy.finish();
    }
}

#[test]
fn res_07_without_descriptors_clients_wait() {
    let backend = Served::echo(Family::V4);
    let mut proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    proxy.expect("listener \"front\": cannot accept: Too many open files");
    if !leave_descriptors(&proxy, Some(0)) {
        return skip("res_07", "needs prlimit");
    }
    let mut client = connect(proxy.front());
    client.write_all(b"ping").unwrap();
    proxy.log.wait_text("cannot accept: Too many open files");
    leave_descriptors(&proxy, None);
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    drop(client);
    let totals = proxy.finish();
    assert_eq!(totals.front("refused"), 0);
}

#[test]
fn res_08_at_the_limit_reloads_and_probes_still_work() {
    let backend = Served::echo(Family::V4);
    let mut checked = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .health("interval = \"500ms\"")
        .health("fast_interval = \"20ms\"")
        .health("down_interval = \"20ms\"")
        .health(&format!("port = {}", checked.address.port()));
    let mut proxy = Proxy::start_with(&config, |command| with_descriptors(&command, 200));
    proxy.expect("the limit on open files is reached");
    proxy.expect("backend \"pool/a\" is down");
    let clients: Vec<_> = (0..200).map(|_| connect(proxy.front())).collect();
    proxy.log.wait_text("the limit on open files is reached");
    let accepted = settled(|| backend.served());
    assert!(accepted < 100);

    proxy
        .reload(&config.clone().also_listening("side", "\"127.0.0.1:0\""))
        .unwrap();
    assert_eq!(proxy.addresses("side").len(), 1);
    checked.kill();
    proxy
        .log
        .wait_text("backend \"pool/a\" is down: Connection refused");
    checked.revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    proxy.reload(&config).unwrap();
    drop(clients);
    served(proxy.front());
    proxy.finish();
}

#[test]
fn res_09_limits_hold_across_workers_and_listeners() {
    let open = Gauge::default();
    let backend = open.echo();
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::of(axis, &[backend.address])
        .global("max_connections = 10")
        .listener("max_connections = 7")
        .also_listening("side", "\"127.0.0.1:0\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("max_connections is reached, clients wait");
    let wanted = amount(300, 10_000);

    let session = |front, _| {
        let client = try_served(front).map_err(|error| error.to_string())?;
        finish_session(client)
    };

    // One listener alone stops at its own limit, both together at the global one.
    let front = Clients::start(12, proxy.front(), session);
    until("enough sessions", || front.done() >= wanted);
    proxy
        .log
        .wait_text("\"front\": listener.max_connections is reached");
    assert!(open.most.load(SeqCst) <= 7);
    let side = Clients::start(12, proxy.address("side"), session);
    until("enough sessions", || side.done() >= wanted);
    proxy
        .log
        .wait_text("\"side\": global.max_connections is reached");
    assert!(open.most.load(SeqCst) <= 10);
    for clients in [front, side] {
        assert_eq!(
            clients.stop().1,
            Vec::<String>::new(),
            "clients wait, none is refused"
        );
    }

    // Nothing has been lost: all ten places can be had at once.
    let held: Vec<_> = (0..10).map(|_| served(proxy.address("side"))).collect();
    assert_eq!(open.now.load(SeqCst), 10);
    drop(held);
    let totals = proxy.finish();
    assert_eq!(totals.front("refused"), 0);
}

#[test]
fn res_12_where_splice_is_impossible_bytes_are_copied() {
    for error in ["EINVAL", "ENOSYS", "ENOMEM"] {
        // The first call fills the pipe, the second empties it; 2+3 fails every third from there.
        for when in ["1", "2", "3", "4", "9", "2+3", "1+"] {
            if !both_ways_with_splice_failing(&format!("splice:error={error}:when={when}")) {
                return skip("res_12", "needs strace and the right to trace");
            }
        }
    }
}

#[test]
fn res_13_a_splice_that_has_to_wait_waits_for_the_right_side() {
    for when in ["1", "2", "3", "4", "10..14", "5..19+7"] {
        if !both_ways_with_splice_failing(&format!("splice:error=EAGAIN:when={when}")) {
            return skip("res_13", "needs strace and the right to trace");
        }
    }
}

#[test]
fn res_19_idle_connections_cost_a_few_hundred_bytes_and_no_pipe() {
    let backend = Listening::start(Family::V4);
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    let exchange = |(client, server): &mut (TcpStream, TcpStream)| {
        let mut got = [0; 4];
        client.write_all(b"ping").unwrap();
        server.read_exact(&mut got).unwrap();
        server.write_all(b"pong").unwrap();
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"pong");
    };
    exchange(&mut backend.pair(proxy.front()));
    proxy.wait_quiet();
    let (memory, pipes) = (private_dirty(proxy.id()), descriptors(proxy.id()).pipes);
    let count = 4_000;
    let mut pairs = backend.pairs(proxy.front(), count);
    pairs.iter_mut().for_each(exchange);
    let each = private_dirty(proxy.id()).saturating_sub(memory) / count as u64;
    assert!(each <= 600, "{each} bytes for each connection");
    assert_eq!(descriptors(proxy.id()).pipes, pipes);
    pairs.iter_mut().for_each(exchange);
    drop(pairs);
    proxy.finish();
}

#[test]
fn res_21_a_process_that_stood_still_ends_no_session_falsely() {
    let backend = Listening::start(Family::V4);
    let probed = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .pool("idle_timeout = \"5s\"")
        .health("interval = \"1s\"")
        .health(&format!("port = {}", probed.address.port()));
    let proxy = Proxy::start(&config);
    // More than a worker hears of in one turn.
    let mut pairs = backend.pairs(proxy.front(), 700);
    for (client, server) in &mut pairs {
        client.write_all(b"a").unwrap();
        server.read_exact(&mut [0]).unwrap();
    }
    proxy.signal(Signal::SIGSTOP);
    until("it stands still", || is_stopped(proxy.id()));
    // They speak while it stands still, and would be idle for too long if that did not count.
    for (client, _) in &mut pairs {
        client.write_all(b"b").unwrap();
    }
    is_silent_for(&mut pairs[0].0, Duration::from_millis(5_500));
    proxy.signal(Signal::SIGCONT);
    for (client, server) in &mut pairs {
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"c").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    let probes = probed.served();
    until("probes go on", || probed.served() > probes);
    assert!(!proxy.log.has("is down"));
    drop(pairs);
    proxy.finish();
}

#[test]
fn res_21_standing_still_between_the_events_and_the_clock_ends_no_session_falsely() {
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).pool("idle_timeout = \"3s\"");
    let proxy = Proxy::start(&config);
    let mut pairs = backend.pairs(proxy.front(), 20);
    let what = "/^epoll_p?wait$:delay_exit=3500000:when=1";
    let Some(_injected) = Injected::start(&proxy, what) else {
        return skip("res_21", "needs strace and the right to trace");
    };
    // The worker hears of the first and stands still; then the others speak.
    for (client, _) in &mut pairs {
        client.write_all(b"b").unwrap();
        is_silent_for(client, Duration::from_millis(50));
    }
    for (client, server) in &mut pairs {
        server.read_exact(&mut [0]).unwrap();
        server.write_all(b"c").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    drop(pairs);
    proxy.finish();
}

/// Different streams both ways at once, moved by splice, while calls of splice fail; false where
/// they cannot be made to fail.
fn both_ways_with_splice_failing(what: &str) -> bool {
    let axis = Axis {
        splice: "always",
        ..Axis::PLAIN
    };
    let backend = Listening::start(Family::V4);
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
    let (client, server) = backend.pair(proxy.front());
    let Some(injected) = Injected::start(&proxy, what) else {
        return false;
    };
    eprintln!("{what}");
    let streams = [
        (client.try_clone().unwrap(), server.try_clone().unwrap()),
        (server, client),
    ];
    let threads: Vec<_> = (0..)
        .zip(streams)
        .flat_map(|(seed, (source, sink))| {
            let (payload, taken) = (Payload::new(seed), Arc::new(AtomicU64::new(0)));
            let writer = std::thread::spawn({
                let taken = Arc::clone(&taken);
                move || pour(source, payload, &taken)
            });
            [
                writer,
                std::thread::spawn(move || drain(sink, payload, &taken)),
            ]
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(injected.count() > 0, "nothing has failed");
    drop(injected);
    proxy.finish();
    true
}

/// Writes a whole stream, mostly no further than a little ahead of the reader. If the reader gets
/// nothing, more comes all the same: a call that failed without a reason makes the proxy wait for
/// the next event, which must then come.
fn pour(mut source: TcpStream, payload: Payload, taken: &AtomicU64) {
    let mut written = 0;
    let mut piece = vec![0; 64 * 1024];
    while written < STREAM_BYTES {
        let is_flowing = within(Duration::from_millis(20), || {
            written - taken.load(SeqCst) <= 256 * 1024
        });
        let count = if is_flowing { piece.len() } else { 1024 };
        let left = usize::try_from(STREAM_BYTES - written).unwrap();
        let piece = &mut piece[..count.min(left)];
        payload.fill(written, piece);
        source.write_all(piece).unwrap();
        written += piece.len() as u64;
    }
    source.shutdown(Shutdown::Write).unwrap();
}

/// Reads a whole stream and looks at every byte.
fn drain(mut sink: TcpStream, payload: Payload, taken: &AtomicU64) {
    let end = read_on(&mut sink, |bytes| {
        payload.check(taken.load(SeqCst), bytes);
        taken.fetch_add(bytes.len() as u64, SeqCst);
    });
    assert_eq!((taken.load(SeqCst), end), (STREAM_BYTES, End::Fin));
}

/// Waits until a count stops growing.
fn settled(mut count: impl FnMut() -> u64) -> u64 {
    let (mut last, mut since) = (count(), Instant::now());
    until("it stands still", || {
        let now = count();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() >= Duration::from_millis(300)
    });
    last
}

/// Writes as often as the socket takes something; the bytes taken.
fn fill(mut stream: &TcpStream, piece: &[u8]) -> u64 {
    let mut taken = 0;
    while let Ok(count) = stream.write(piece) {
        taken += count as u64;
    }
    taken
}

/// The slowest of so many answers on one connection.
fn slowest_of(front: SocketAddr, rounds: u64) -> Duration {
    let mut stream = connect(front);
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        let start = Instant::now();
        ping(&mut stream).unwrap();
        slowest = slowest.max(start.elapsed());
    }
    slowest
}

/// One more listener with a pool of its own, both of this name.
fn other_pool(name: &str, backend: SocketAddr) -> String {
    format!(
        "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\
         [pool.{name}]\nhealth = {{ type = \"none\" }}\n\
         [[pool.{name}.backend]]\nname = \"a\"\naddress = \"{backend}\""
    )
}

const MIB: u64 = 1024 * 1024;

/// Long enough that the calls that fail are in its middle.
const STREAM_BYTES: u64 = 4 * MIB;
