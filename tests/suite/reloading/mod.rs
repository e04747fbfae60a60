//! Reload: what must not notice it, and what must. Conformance I; `refused` has the reloads that
//! fail, `stopping` drains and signals.

mod refused;
mod retrying;
mod stopping;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::clients::Clients;
use crate::harness::proxy::Folder;
use crate::harness::stream::{self, is_silent_for};
use crate::harness::{
    Axis, Config, End, Listening, Proxy, Served, Tagged, connect, on_every_axis, process, read_all,
    scale, until,
};

/// Whatever needs two workers to go wrong.
const TWO_WORKERS: Axis = Axis {
    workers: 2,
    ..Axis::PLAIN
};

#[test]
fn rld_01_an_unchanged_file_under_load_fails_nobody() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let proxy = Proxy::start(&config);
    let mut established: Vec<TcpStream> = (0..16).map(|_| connect(proxy.front())).collect();
    established.iter_mut().for_each(ping);
    let clients = Clients::start(4, proxy.front(), exchange);
    for _ in 0..scale::amount(20, 200) {
        let before = clients.done();
        assert_eq!(changes(&proxy.reload(&config).unwrap()), "nothing changed");
        established.iter_mut().for_each(ping);
        until("the load goes on", || clients.done() >= before + 20);
    }
    let (done, failures) = clients.stop();
    assert!(
        failures.is_empty(),
        "{} of {done}: {failures:?}",
        failures.len()
    );
    drop(established);
    let totals = proxy.finish();
    assert_eq!(totals.front("accepted"), done + 16);
    assert_eq!(totals.front("refused"), 0);
}

#[test]
fn rld_02_an_added_listener_is_reachable_and_the_others_are_untouched() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let config = Config::of(axis, &[backend.address]);
        let proxy = Proxy::start(&config);
        let mut session = connect(proxy.front());
        ping(&mut session);
        let sockets = process::listening_inodes(proxy.front());
        assert_eq!(sockets.len(), axis.workers as usize);
        let bind = format!("\"{}\"", axis.family.any());
        proxy
            .reload(&config.clone().also_listening("second", &bind))
            .unwrap();
        exchange(proxy.address("second"), 0).unwrap();
        assert_eq!(process::listening_inodes(proxy.front()), sockets);
        ping(&mut session);
        drop(session);
        proxy.reload(&config).unwrap(); // so that the descriptors are those of the start
        proxy.finish();
    });
}

#[test]
fn rld_03_a_removed_listener_refuses_and_its_sessions_live_on() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let config = Config::of(axis, &[backend.address]);
        let bind = format!("\"{}\"", axis.family.any());
        let both = config.clone().also_listening("second", &bind);
        let proxy = Proxy::start(&both);
        let second = proxy.address("second");
        let mut session = connect(second);
        ping(&mut session);
        proxy.reload(&config).unwrap();
        let error = TcpStream::connect(second).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        ping(&mut session);
        exchange(proxy.front(), 0).unwrap();
        // It comes back, on another port, with its counters.
        proxy.reload(&both).unwrap();
        exchange(proxy.address("second"), 1).unwrap();
        ping(&mut session);
        drop(session);
        let totals = proxy.finish();
        assert_eq!(totals.listeners["second"]["accepted"], 2);
    });
}

#[test]
fn rld_04_changed_backends_leave_the_listening_sockets_and_their_queue() {
    on_every_axis(|axis| {
        let (old, new) = (Listening::start(axis.family), Listening::start(axis.family));
        let full = Config::of(axis, &[old.address]).global("max_connections = 1");
        let mut proxy = Proxy::start(&full);
        proxy.expect("global.max_connections is reached, clients wait");
        let (first, first_server) = old.pair(proxy.front());
        let sockets = process::listening_inodes(proxy.front());
        assert_eq!(sockets.len(), axis.workers as usize);
        let mut waiting: Vec<Option<TcpStream>> = (0..8u8)
            .map(|n| {
                let mut client = connect(proxy.front());
                client.write_all(&[n]).unwrap();
                Some(client)
            })
            .collect();
        proxy
            .reload(&Config::of(axis, &[new.address]).global("max_connections = 1"))
            .unwrap();
        assert_eq!(process::listening_inodes(proxy.front()), sockets);
        assert!(new.try_accept().is_none(), "the limit holds");
        drop((first, first_server));
        // Whoever has waited is served, one after the other, by the new backend.
        for _ in 0..8 {
            let mut server = new.accept();
            let mut number = [0];
            server.read_exact(&mut number).unwrap();
            let client = waiting[usize::from(number[0])].take();
            client.expect("served once");
        }
        assert!(old.try_accept().is_none());
        proxy.finish();
    });
}

#[test]
fn rld_09_a_storm_of_signals_is_few_reloads_and_ends_in_the_last_file() {
    let backends = Tagged::start(2);
    let of = |name: &str| {
        let other = if name == "a" { "b" } else { "a" };
        Config::of(TWO_WORKERS, &backends.addresses()).without(other)
    };
    let mut proxy = Proxy::start(&of("a"));
    // The last signal may ask for one more while the reload before it is under way.
    proxy.expect("reload given up: the process stops");
    let clients = Clients::start(2, proxy.front(), |front, _| ask(front).map(drop));
    for round in 0..1000 {
        if round % 100 == 0 {
            proxy.write(
                of(if round % 200 == 0 { "b" } else { "a" })
                    .text()
                    .as_bytes(),
            );
        }
        if round == 999 {
            proxy.write(of("b").with("name = \"the-last\"").text().as_bytes());
        }
        proxy.signal(Signal::SIGHUP);
    }
    proxy.log.wait_text("the-last");
    assert_eq!(ask(proxy.front()), Ok(1));
    let (_, failures) = clients.stop();
    assert!(failures.is_empty(), "{failures:?}");
    let reloads = proxy.log.count("reload: generation");
    assert!((1..500).contains(&reloads), "{reloads} reloads");
    // Signals work as before.
    proxy.reload(&of("a")).unwrap();
    until("another reload", || ask(proxy.front()) == Ok(0));
    proxy.finish();
}

#[test]
fn rld_11_a_file_replaced_while_it_is_read_is_one_of_its_versions() {
    let backend = Served::echo(Axis::PLAIN.family);
    // A version has the same number at its start and at its end and takes many reads.
    let version = |number: u32| {
        Config::of(Axis::PLAIN, &[backend.address])
            .pool(&format!("retries = {number}"))
            .more(&format!("# {}\n", "x".repeat(98)).repeat(10_000))
            .more("[[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\npool = \"other\"")
            .more(&format!("[pool.other]\nretries = {number}"))
            .more(&format!(
                "[[pool.other.backend]]\naddress = \"{}\"",
                backend.address
            ))
    };
    let proxy = Proxy::start(&version(1));
    let versions = [version(1).text(), version(2).text()];
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let (stop, folder) = (Arc::clone(&stop), proxy.folder().to_owned());
        move || {
            for text in versions.iter().cycle() {
                std::fs::write(folder.join("next.toml"), text).unwrap();
                std::fs::rename(folder.join("next.toml"), folder.join("evenkeel.toml")).unwrap();
                if stop.load(SeqCst) {
                    return;
                }
            }
        }
    });
    for _ in 0..scale::amount(30, 300) {
        let line = proxy.reload_file().unwrap();
        let what = changes(&line);
        assert!(
            what == "nothing changed" || what.starts_with("2 pools changed"),
            "{line}"
        );
    }
    stop.store(true, SeqCst);
    writer.join().unwrap();
    proxy.finish();
}

#[test]
fn rld_12_many_reloads_leave_nothing_behind() {
    let backends = Tagged::start(3);
    let addresses = backends.addresses();
    let small = Config::of(TWO_WORKERS, &addresses[..2]).health("interval = \"100ms\"");
    let extra = format!(
        "[[listener]]\nname = \"extra\"\nbind = \"127.0.0.1:0\"\npool = \"extra\"\n\
         [[pool.extra.backend]]\naddress = \"{}\"",
        addresses[2]
    );
    let large = small
        .clone()
        .backend(&addresses[2].to_string())
        .more(&extra)
        .also_listening("second", "\"127.0.0.1:0\"");
    let proxy = Proxy::start(&small);
    let turn = || {
        proxy.reload(&large).unwrap();
        ask(proxy.address("second")).unwrap();
        ask(proxy.address("extra")).unwrap();
        proxy.reload(&small).unwrap();
        ask(proxy.front()).unwrap();
    };
    let threads = || {
        process::status(proxy.id(), "Threads:")
            .parse::<usize>()
            .unwrap()
    };
    (0..5).for_each(|_| turn());
    let (resident, threads_before) = (process::resident(proxy.id()), threads());
    (0..scale::amount(50, 500)).for_each(|_| turn());
    let grown = process::resident(proxy.id()).saturating_sub(resident);
    assert!(grown < 4 << 20, "{grown} bytes more");
    // Threads that read files and build tables come and go, on a busy machine a few at a time.
    assert!(
        threads() <= threads_before + 4,
        "{threads_before} threads before, {} now",
        threads()
    );
    proxy.finish(); // looks at the descriptors
}

#[test]
fn rld_13_long_sessions_live_on_at_no_cost() {
    let backend = Listening::start(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let mut proxy = Proxy::start(&config);
    proxy.allow_resident(256 << 20);
    let time_of_some = |sessions: &mut Vec<_>| {
        let start = Instant::now();
        sessions.extend((0..200).map(|_| backend.pair(proxy.front())));
        start.elapsed()
    };
    let mut sessions = Vec::new();
    let before = time_of_some(&mut sessions);
    // Two descriptors each on both sides, of 20,000 that a process may have.
    for _ in 0..scale::amount(4, 20) {
        time_of_some(&mut sessions);
    }
    for round in 0..5 {
        // The pool is built anew each time.
        let policy = format!("retries = {round}");
        proxy.reload(&config.clone().pool(&policy)).unwrap();
    }
    let after = time_of_some(&mut sessions);
    assert!(
        after < before * 5 + Duration::from_millis(200),
        "200 sessions took {before:?} before and {after:?} after"
    );
    let used = process::processor_time(proxy.id());
    is_silent_for(&mut sessions[0].0, Duration::from_millis(500));
    let used = process::processor_time(proxy.id()) - used;
    assert!(used < Duration::from_millis(100), "{used:?} of 500 ms");
    for (client, server) in &mut sessions {
        client.write_all(b"on").unwrap();
        let mut got = [0; 2];
        server.read_exact(&mut got).unwrap();
        server.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
    }
    drop(sessions);
    proxy.finish();
}

#[test]
fn a_unix_listener_stays_goes_and_comes_back() {
    let backend = Served::echo(TWO_WORKERS.family);
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let without = Config::of(TWO_WORKERS, &[backend.address]);
    let with = without
        .clone()
        .also_listening("socket", &format!("\"unix:{}\"", path.display()));
    let mut proxy = Proxy::start(&without);
    proxy.reload(&with).unwrap();
    let inode = |path: &Path| std::fs::symlink_metadata(path).unwrap().ino();
    let first = inode(&path);
    let mut session = UnixStream::connect(&path).unwrap();
    ping(&mut session);
    assert_eq!(changes(&proxy.reload(&with).unwrap()), "nothing changed");
    assert_eq!(inode(&path), first, "the file is the same");
    proxy.reload(&without).unwrap();
    assert!(UnixStream::connect(&path).is_err(), "nobody listens");
    assert!(!path.exists());
    ping(&mut session);
    proxy.reload(&with).unwrap();
    ping(&mut UnixStream::connect(&path).unwrap());
    ping(&mut session);
    drop(session);
    proxy.signal(Signal::SIGTERM);
    proxy.wait_exit(crate::harness::DEADLINE);
    proxy.check_end();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_removed_backend_gets_nothing_new_and_its_sessions_go_on() {
    on_every_axis(|axis| {
        let (old, new) = (Listening::start(axis.family), Listening::start(axis.family));
        let both = Config::of(axis, &[old.address, new.address]).pool("balance = \"first\"");
        let proxy = Proxy::start(&both);
        let (mut client, mut server) = old.pair(proxy.front());
        proxy.reload(&both.clone().without("a")).unwrap();
        let others: Vec<_> = (0..8).map(|_| new.pair(proxy.front())).collect();
        assert!(old.try_accept().is_none());
        client.write_all(b"on").unwrap();
        let mut got = [0; 2];
        server.read_exact(&mut got).unwrap();
        // It comes back as who it was: the session that never ended is counted.
        proxy.reload(&both.with("max_connections = 0")).unwrap();
        drop(old.pair(proxy.front()));
        drop((client, server, others));
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "sessions"), 2);
        assert_eq!(totals.backend("b", "sessions"), 8);
    });
}

#[test]
fn changed_weights_apply_to_new_sessions() {
    let backends = Tagged::start(2);
    let weighted = |a: u32, b: u32| {
        let addresses = backends.addresses();
        Config::new(TWO_WORKERS)
            .pool("balance = \"round_robin\"")
            .backend(&addresses[0].to_string())
            .with(&format!("weight = {a}"))
            .backend(&addresses[1].to_string())
            .with(&format!("weight = {b}"))
    };
    let proxy = Proxy::start(&weighted(1, 1));
    assert_eq!(backends.shares(proxy.front(), 40), [20, 20]);
    proxy.reload(&weighted(3, 1)).unwrap();
    assert_eq!(backends.shares(proxy.front(), 40), [30, 10]);
    proxy.reload(&weighted(0, 1)).unwrap();
    assert_eq!(backends.shares(proxy.front(), 40), [0, 40]);
    proxy.finish();
}

#[test]
fn a_limit_set_below_what_is_open_cuts_nobody_and_holds_from_then_on() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let limited = |limit: u32| {
            Config::of(axis, &[backend.address])
                .pool(&format!("max_connections = {limit}"))
                .pool("queue = { limit = 0 }")
        };
        let mut proxy = Proxy::start(&limited(4));
        proxy.expect("every backend is at its max_connections");
        let open_descriptors = || proxy.open_descriptors();
        let quiet = open_descriptors();
        let mut sessions: Vec<_> = (0..4).map(|_| backend.pair(proxy.front())).collect();
        proxy.reload(&limited(2)).unwrap();
        for left in (2..=4).rev() {
            assert!(is_reset(proxy.front()));
            for (client, server) in &mut sessions {
                client.write_all(b"on").unwrap();
                server.read_exact(&mut [0; 2]).unwrap();
            }
            assert_eq!(sessions.len(), left);
            drop(sessions.pop());
            until("a session has ended", || {
                open_descriptors() == quiet + 2 * sessions.len()
            });
        }
        sessions.push(backend.pair(proxy.front()));
        assert!(is_reset(proxy.front()));
        drop(sessions);
        let totals = proxy.finish();
        assert_eq!(totals.front("refused"), 4);
        assert_eq!(totals.backend("a", "sessions"), 5);
    });
}

/// Whether a new client is refused by a reset, which may come before its connect has returned.
fn is_reset(front: SocketAddr) -> bool {
    match TcpStream::connect(front) {
        Ok(mut stream) => read_all(&mut stream) == (vec![], End::Reset),
        Err(error) => stream::is_reset(&error),
    }
}

/// What a reload says it has changed.
fn changes(line: &str) -> &str {
    let (_, rest) = line.split_once("in force: ").expect("a successful reload");
    rest.rsplit_once(" (").expect("its time").0
}

/// A whole session with an echoing backend.
fn exchange(front: SocketAddr, number: u64) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("session {number}: {error}");
    let mut stream = TcpStream::connect(front).map_err(failed)?;
    stream
        .set_read_timeout(Some(crate::harness::DEADLINE))
        .map_err(failed)?;
    stream.write_all(&number.to_le_bytes()).map_err(failed)?;
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).map_err(failed)?;
    if answer == number.to_le_bytes() {
        Ok(())
    } else {
        Err(format!("session {number}: {answer:?}"))
    }
}

/// Which of [`Tagged`] backends serves a new session.
fn ask(front: SocketAddr) -> Result<usize, String> {
    let mut stream = TcpStream::connect(front).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(crate::harness::DEADLINE))
        .map_err(|error| error.to_string())?;
    let mut tag = [0];
    stream
        .read_exact(&mut tag)
        .map_err(|error| error.to_string())?;
    Ok(usize::from(tag[0] - b'a'))
}

/// Fails unless an echoing backend answers on this session.
#[track_caller]
fn ping(stream: &mut (impl std::io::Read + std::io::Write)) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}
