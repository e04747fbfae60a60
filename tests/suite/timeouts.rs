//! Time-outs: conformance D. None may come early; how late one comes says more of the machine than
//! of the proxy, so that is bounded by the harness alone.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::backend::listen_with_backlog;
use crate::harness::scale::amount;
use crate::harness::stream::{bounded, is_reset, is_silent_for, send_aside, uninterrupted};
use crate::harness::wait::within;
use crate::harness::{
    Axis, Config, DEADLINE, End, Family, Listening, Proxy, Served, Tagged, connect, evenkeel,
    on_every_axis, read_all, until,
};

/// A proxy whose log tells why a session was cut.
fn start(config: &Config) -> Proxy {
    Proxy::start_with(config, |mut command| {
        command.arg("-v");
        command
    })
}

/// Runs a case that waits with copying and with splicing, which note activity each in its place.
fn on_both_carriages(case: impl Fn(Axis) + Sync) {
    std::thread::scope(|scope| {
        for splice in ["off", "always"] {
            let axis = Axis {
                splice,
                ..Axis::PLAIN
            };
            let case = &case;
            scope.spawn(move || case(axis));
        }
    });
}

/// Both ends get a reset, and not before `time` has passed since `since`. The second one may have
/// read an end of file, after which a reset is known only by the socket's error.
#[track_caller]
fn assert_cut(first: &mut TcpStream, second: &TcpStream, since: Instant, time: Duration) {
    assert_eq!(read_all(first), (vec![], End::Reset));
    let after = since.elapsed();
    assert!(after + TICK >= time, "{after:?} is before {time:?}");
    until("a reset at the other end", || {
        second.take_error().unwrap().is_some()
    });
}

/// Sends one byte from one end to the other.
fn pass(from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
    from.write_all(b"x")?;
    to.read_exact(&mut [0])
}

/// Passes a byte for each of `turns` (`true`: from the client) with a silence of `gap` before each,
/// and fails if the session ends although it was never silent for [`IDLE`]. `false`: this machine
/// stood still for so long that it rightly did.
fn survives(
    backend: &Listening,
    front: SocketAddr,
    gap: Duration,
    turns: impl IntoIterator<Item = bool>,
) -> bool {
    let mut since = Instant::now();
    let (mut client, mut server) = backend.pair(front);
    for from_client in turns {
        let (from, to) = if from_client {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        from.set_read_timeout(Some(gap)).unwrap();
        let heard = uninterrupted(|| from.read(&mut [0]));
        from.set_read_timeout(Some(DEADLINE)).unwrap();
        let sent = Instant::now();
        let is_silent = matches!(&heard, Err(error) if error.kind() == ErrorKind::WouldBlock);
        if !is_silent || pass(from, to).is_err() {
            let silence = since.elapsed();
            assert!(silence >= IDLE, "ended after {silence:?}: {heard:?}");
            return false;
        }
        since = sent;
    }
    true
}

/// Repeats what this machine may have spoilt by standing still.
#[track_caller]
fn unless_disturbed(mut attempt: impl FnMut() -> bool) {
    assert!((0..10).any(|_| attempt()), "disturbed again and again");
}

#[test]
fn tmo_01_idle_both_ways_is_reset() {
    const SHORT: Duration = Duration::from_millis(100);
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address]).pool("idle_timeout = \"100ms\"");
        let proxy = start(&config);
        let since = Instant::now();
        let (mut client, server) = backend.pair(proxy.front());
        assert_cut(&mut client, &server, since, SHORT);
        unless_disturbed(|| {
            let since = Instant::now();
            let (mut client, mut server) = backend.pair(proxy.front());
            let passed = pass(&mut client, &mut server).and_then(|()| {
                let since = Instant::now();
                pass(&mut server, &mut client)?;
                assert_cut(&mut client, &server, since, SHORT);
                Ok(())
            });
            assert!(passed.is_ok() || since.elapsed() >= SHORT, "{passed:?}");
            passed.is_ok()
        });
        let reason = "session on \"pool/a\" reset: idle";
        until("both reasons", || proxy.log.count(reason) >= 2);
        proxy.finish();
    });
}

#[test]
fn tmo_01_a_transfer_that_is_stuck_is_idle() {
    on_both_carriages(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address]).pool("idle_timeout = \"300ms\"");
        let proxy = start(&config);
        let (mut client, mut server) = backend.pair(proxy.front());
        let block = vec![7; 64 * 1024];
        let error = loop {
            if let Err(error) = client.write_all(&block) {
                break error;
            }
        };
        assert!(is_reset(&error), "{error}");
        assert_eq!(read_all(&mut server).1, End::Reset);
        proxy.log.wait_text("session on \"pool/a\" reset: idle");
        proxy.finish();
    });
}

#[test]
fn tmo_02_traffic_in_one_direction_is_activity() {
    on_both_carriages(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address]).pool("idle_timeout = \"200ms\"");
        let proxy = Proxy::start(&config);
        for from_client in [true, false] {
            let turns = [from_client; 6];
            unless_disturbed(|| survives(&backend, proxy.front(), IDLE / 2, turns));
        }
        proxy.finish();
    });
}

#[test]
fn tmo_04_half_closed_has_a_time_of_its_own() {
    const HALF_CLOSED: Duration = Duration::from_millis(100);
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address])
            .pool("idle_timeout = \"1h\"")
            .pool("half_close_timeout = \"100ms\"");
        let proxy = start(&config);
        let (mut client, mut server) = backend.pair(proxy.front());
        let (mut other_client, mut other_server) = backend.pair(proxy.front());
        // Nothing of this before one side has finished.
        is_silent_for(&mut client, 2 * HALF_CLOSED);
        let since = Instant::now();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), (vec![], End::Fin));
        assert_cut(&mut client, &server, since, HALF_CLOSED);
        let since = Instant::now();
        other_server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut other_client), (vec![], End::Fin));
        assert_cut(&mut other_server, &other_client, since, HALF_CLOSED);
        let reason = "session on \"pool/a\" reset: half closed for too long";
        until("both reasons", || proxy.log.count(reason) == 2);
        proxy.finish();
    });
}

#[test]
fn tmo_04_a_finish_after_a_long_silence_still_gets_its_answer() {
    on_both_carriages(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address])
            .pool("idle_timeout = \"1h\"")
            .pool("half_close_timeout = \"1s\"");
        let proxy = Proxy::start(&config);
        unless_disturbed(|| {
            let (mut client, mut server) = backend.pair(proxy.front());
            is_silent_for(&mut client, Duration::from_millis(1_100));
            let since = Instant::now();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut server), (vec![], End::Fin));
            server
                .set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            drop(uninterrupted(|| server.read(&mut [0]))); // it thinks, for as long as that
            drop(server.write_all(b"answer"));
            drop(server);
            let answer = read_all(&mut client);
            let is_whole = answer == (b"answer".to_vec(), End::Fin);
            assert!(
                is_whole || since.elapsed() >= Duration::from_secs(1),
                "{answer:?}"
            );
            is_whole
        });
        proxy.finish();
    });
}

#[test]
fn tmo_04_half_closed_may_be_silent_for_longer_than_idle() {
    on_both_carriages(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address])
            .pool("idle_timeout = \"400ms\"")
            .pool("half_close_timeout = \"1h\"");
        let proxy = Proxy::start(&config);
        unless_disturbed(|| {
            let since = Instant::now();
            let (mut client, mut server) = backend.pair(proxy.front());
            client.shutdown(Shutdown::Write).unwrap();
            if read_all(&mut server).1 == End::Reset {
                assert!(since.elapsed() >= Duration::from_millis(400));
                return false;
            }
            is_silent_for(&mut client, Duration::from_millis(900));
            server.write_all(b"answer").unwrap();
            drop(server);
            assert_eq!(read_all(&mut client), (b"answer".to_vec(), End::Fin));
            true
        });
        proxy.finish();
    });
}

/// A backend whose queue is full: whoever connects to it hears nothing.
struct Deaf {
    listener: TcpListener,
    address: SocketAddr,
    fill: Vec<TcpStream>,
}

impl Deaf {
    fn start() -> Self {
        let listener = listen_with_backlog(Family::V4.any(), 0);
        let address = listener.local_addr().unwrap();
        let mut fill = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            fill.push(stream);
        }
        Self {
            listener,
            address,
            fill,
        }
    }

    /// Hears again: the connections of all who waited for that, and still do.
    fn recover(mut self) -> impl Iterator<Item = TcpStream> {
        self.fill.clear();
        std::iter::from_fn(move || {
            self.listener
                .accept()
                .ok()
                .map(|(stream, _)| bounded(stream))
        })
    }
}

#[test]
fn tmo_05_a_session_ends_at_a_quiet_point_after_its_lifetime() {
    const LIFETIME: Duration = Duration::from_millis(300);
    // No pause of this machine is taken for the end of an answer.
    const LINGER: Duration = Duration::from_secs(1);
    on_both_carriages(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address])
            .pool("max_lifetime = \"300ms\"")
            .pool("max_lifetime_jitter = \"100ms\"")
            .pool("busy_linger = \"1s\"");
        let proxy = start(&config);
        let since = Instant::now();
        let (mut idle, idle_server) = backend.pair(proxy.front());
        let (mut streaming, mut stream_server) = backend.pair(proxy.front());
        let (mut waiting, mut wait_server) = backend.pair(proxy.front());
        pass(&mut waiting, &mut wait_server).unwrap();
        pass(&mut streaming, &mut stream_server).unwrap();
        let mut next = Instant::now();
        while since.elapsed() < 2 * LINGER {
            pass(&mut stream_server, &mut streaming).unwrap();
            next += Duration::from_millis(20);
            let pause = next.saturating_duration_since(Instant::now());
            if !pause.is_zero() {
                is_silent_for(&mut waiting, pause);
            }
        }
        assert_cut(&mut idle, &idle_server, since, LIFETIME);
        // Who waited or streamed all the time ends once it has its answer.
        let answered = Instant::now();
        pass(&mut wait_server, &mut waiting).unwrap();
        assert_cut(&mut waiting, &wait_server, answered, LINGER);
        assert_cut(&mut streaming, &stream_server, since, 2 * LINGER);
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "answers"), 2);
    });
}

/// What the client has not read yet is not lost to it.
#[test]
fn a_lifetime_ends_only_when_everything_is_delivered() {
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .pool("max_lifetime = \"50ms\"")
        .pool("busy_linger = \"50ms\"");
    let proxy = start(&config);
    let (mut client, mut server) = backend.pair(proxy.front());
    pass(&mut client, &mut server).unwrap();
    let answer = vec![b'a'; 32 << 20];
    let sender = send_aside(server, answer.clone());
    // Longer than the lifetime and the linger together.
    let stalled = Instant::now();
    assert!(!within(Duration::from_millis(400), || sender.is_finished()));
    assert!(stalled.elapsed() >= Duration::from_millis(400));
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == answer, "every byte");
    let server = sender.join().unwrap();
    assert_cut(&mut client, &server, stalled, Duration::ZERO);
    proxy.finish();
}

#[test]
fn tmo_06_a_connect_does_not_wait_for_a_probe() {
    let deaf = Deaf::start();
    let other = Tagged::start(2);
    let config = Config::of(Axis::PLAIN, &[deaf.address, other.backends[1].address])
        .pool("balance = \"first\"")
        .pool("connect_timeout = \"100ms\"")
        .health("interval = \"1m\"")
        .health("timeout = \"1m\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\": connect failed: timed out");
    for _ in 0..3 {
        let since = Instant::now();
        let (letter, _client) = Tagged::ask(proxy.front());
        assert_eq!(letter, 1);
        let after = since.elapsed();
        assert!(after + TICK >= Duration::from_millis(100), "{after:?}");
    }
    // The probe that the first of them called for has a minute.
    assert!(!proxy.log.has("is down"));
    drop(deaf);
    proxy.finish();
}

#[test]
fn tmo_06_a_probe_does_not_end_a_connect() {
    let deaf = Deaf::start();
    let config = Config::of(Axis::PLAIN, &[deaf.address])
        .pool("connect_timeout = \"1m\"")
        .health("interval = \"50ms\"")
        .health("down_interval = \"50ms\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    let mut client = connect(proxy.front());
    client.write_all(b"patience").unwrap();
    proxy.log.wait_text("backend \"pool/a\" is down: no answer");
    is_silent_for(&mut client, Duration::from_millis(200));
    let mut server = deaf
        .recover()
        .find_map(|mut stream| {
            // Probes come too, and say nothing.
            let mut request = [0; 8];
            let is_client = stream.read_exact(&mut request).is_ok() && request == *b"patience";
            is_client.then_some(stream)
        })
        .unwrap();
    server.write_all(b"reward").unwrap();
    drop(server);
    assert_eq!(read_all(&mut client), (b"reward".to_vec(), End::Fin));
    drop(client);
    proxy.finish();
}

/// Every time-out of a pool, and which values stand for one.
const TIMES: [&str; 3] = ["connect_timeout", "idle_timeout", "half_close_timeout"];

#[test]
fn tmo_07_times_out_of_range_are_refused() {
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &["127.0.0.1:1".parse().unwrap()]));
    let file = proxy.folder().join("times.toml");
    for key in TIMES {
        for (value, is_good) in [
            ("0s", false),
            ("0", false),
            ("999us", false),
            ("1ms", true),
            ("49d 17h 2m 47s 295ms", true),
            ("49d 17h 2m 47s 296ms", true),
            ("365d", true),
            ("365d 1ms", false),
            ("18446744073709551615ms", false),
            ("18446744073709551615s", false),
            ("18446744073709551616s", false),
            ("-1s", false),
        ] {
            let config = Config::of(Axis::PLAIN, &["127.0.0.1:1".parse().unwrap()])
                .pool(&format!("{key} = \"{value}\""));
            let text = config.text();
            std::fs::write(&file, &text).unwrap();
            let outcome = evenkeel(["check".as_ref(), file.as_os_str()]);
            let line = 1 + text.lines().position(|line| line.starts_with(key)).unwrap();
            let refusal = format!("times.toml:{line}:{}: `{key}` is {value:?}", key.len() + 4);
            assert_eq!(outcome.code, Some(if is_good { 0 } else { 3 }), "{refusal}");
            assert_eq!(outcome.err.contains(&refusal), !is_good, "{outcome:?}");
        }
    }
    proxy.finish();
}

#[test]
fn tmo_07_the_longest_times_do_not_overflow() {
    let backend = Served::echo(Family::V4);
    let mut config = Config::of(Axis::PLAIN, &[backend.address]);
    // At and beyond 2^32 ms and 2^31 ms, in milliseconds and in the wheel's units.
    let long = [
        "24d 20h 31m 23s 648ms",
        "49d 17h 2m 47s 295ms",
        "49d 17h 2m 47s 296ms",
        "365d",
    ];
    for (place, time) in long.into_iter().enumerate() {
        let times: String = TIMES.map(|key| format!("{key} = \"{time}\"\n")).concat();
        config = config.more(&format!(
            "[[listener]]\nname = \"long-{place}\"\nbind = \"127.0.0.1:0\"\npool = \"p{place}\"\n\
             [pool.p{place}]\n{times}health.type = \"none\"\n\
             [[pool.p{place}.backend]]\naddress = \"{}\"",
            backend.address
        ));
    }
    let config = TIMES.iter().fold(config, |config, key| {
        config.pool(&format!("{key} = \"1ms\""))
    });
    let mut proxy = Proxy::start(&config);
    let mut clients: Vec<TcpStream> = (0..long.len())
        .map(|place| connect(proxy.address(&format!("long-{place}"))))
        .collect();
    // Time enough for many turns of the wheel, whose shortest wait is 10 ms.
    for _ in 0..2 {
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        is_silent_for(&mut clients[0], Duration::from_millis(300));
    }
    for client in &mut clients {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(client), (vec![], End::Fin));
    }
    // And the shortest one ends, be it in the connect or in the silence after it.
    proxy.expect("connect failed: timed out");
    proxy.expect("client refused");
    assert_eq!(read_all(&mut connect(proxy.front())), (vec![], End::Reset));
    proxy.finish();
}

#[test]
fn tmo_09_thousands_of_deadlines_at_once_hold_nobody_up() {
    let count = usize::try_from(amount(1_000, 3_000)).unwrap();
    let sink = Listening::start(Family::V4);
    let echo = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[sink.address])
        .pool("idle_timeout = \"2s\"")
        .more(&format!(
            "[[listener]]\nname = \"busy\"\nbind = \"127.0.0.1:0\"\npool = \"busy\"\n\
             [[pool.busy.backend]]\nname = \"a\"\naddress = \"{}\"\n\
             [pool.busy.health]\ntype = \"none\"",
            echo.address
        ));
    let proxy = Proxy::start(&config);
    let mut busy = connect(proxy.address("busy"));
    let mut echo_time = || {
        let start = Instant::now();
        busy.write_all(b"x").unwrap();
        busy.read_exact(&mut [0]).unwrap();
        start.elapsed()
    };
    let before = echo_time();
    let mut idle: Vec<TcpStream> = (0..count).map(|_| connect(proxy.front())).collect();
    let descriptors = || proxy.open_descriptors();
    until("all sessions", || descriptors() >= 2 * count);
    // While the process stands still all deadlines pass, so that one turn finds them all.
    proxy.signal(Signal::SIGSTOP);
    is_silent_for(&mut idle[0], Duration::from_millis(2_100));
    proxy.signal(Signal::SIGCONT);
    let times: Vec<Duration> = (0..20).map(|_| echo_time()).collect();
    let worst = times.iter().max().unwrap();
    println!("{count} deadlines in one turn: an echo took {before:?} before, {worst:?} at worst");
    assert!(*worst < Duration::from_secs(2), "{times:?}");
    for stream in &mut idle {
        assert_eq!(read_all(stream), (vec![], End::Reset));
    }
    assert!(within(DEADLINE, || descriptors() < count));
    drop(busy);
    assert_eq!(proxy.finish().backend("a", "sessions"), count as u64);
}

#[test]
fn tmo_10_a_byte_just_in_time_keeps_a_session_open() {
    // As close as the timers of this machine allow: the kernel's time-out of a read is coarse.
    const GAP: Duration = Duration::from_millis(180);
    on_both_carriages(|axis| {
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address]).pool("idle_timeout = \"200ms\"");
        let proxy = Proxy::start(&config);
        let turns = || (0..amount(8, 20_000)).map(|turn| turn % 2 == 0);
        unless_disturbed(|| survives(&backend, proxy.front(), GAP, turns()));
        proxy.finish();
    });
}

/// Time is counted in milliseconds, of which the first may have been nearly over.
const TICK: Duration = Duration::from_millis(2);

/// The time-out of sessions that are kept open by a byte now and then.
const IDLE: Duration = Duration::from_millis(200);
