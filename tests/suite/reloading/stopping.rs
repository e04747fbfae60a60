//! The end: drains, their deadline, and signals of all kinds.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{TWO_WORKERS, exchange, ping};
use crate::harness::clients::Clients;
use crate::harness::namespace::has;
use crate::harness::proxy::Folder;
use crate::harness::stream::{is_reset, is_silent_for, read_on};
use crate::harness::tamper::tamper;
use crate::harness::{
    Axis, Config, DEADLINE, End, Listening, Proxy, Served, connect, on_every_axis, process,
    read_all, scale, until,
};

#[test]
fn rld_25_an_endless_transfer_is_reset_when_the_drain_time_is_over() {
    for splice in ["off", "always"] {
        let axis = Axis {
            splice,
            ..TWO_WORKERS
        };
        let backend = Served::start(axis.family.any(), |mut stream| {
            loop {
                stream.write_all(&[7; 64 * 1024])?;
            }
        });
        let config = Config::of(axis, &[backend.address]).global("drain_timeout = \"1s\"");
        let mut proxy = Proxy::start(&config);
        let mut client = connect(proxy.front());
        client.read_exact(&mut [0; 1024]).unwrap();
        let start = Instant::now();
        proxy.signal(Signal::SIGTERM);
        until("nobody listens", || is_refused(&proxy));
        let mut after = 0;
        assert_eq!(
            read_on(&mut client, |bytes| after += bytes.len()),
            End::Reset
        );
        assert!(
            start.elapsed() >= Duration::from_millis(990),
            "cut too early"
        );
        assert!(after > 1 << 20, "the transfer went on: {after} bytes");
        assert!(proxy.wait_exit(DEADLINE).success());
        assert_eq!(proxy.check_end().front("open"), 0);
    }
}

#[test]
fn rld_25_sessions_that_end_in_time_end_the_process() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let mut proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let mut sessions: Vec<TcpStream> = (0..4).map(|_| connect(proxy.front())).collect();
        sessions.iter_mut().for_each(ping);
        proxy.signal(Signal::SIGTERM);
        until("nobody listens", || is_refused(&proxy));
        for mut session in sessions {
            assert!(proxy.is_alive(), "sessions are left");
            ping(&mut session);
            session.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut session), (vec![], End::Fin));
        }
        assert!(proxy.wait_exit(DEADLINE).success());
        assert_eq!(proxy.check_end().front("open"), 0);
    });
}

/// 50,000 sessions take 100,000 descriptors; here 1,000, or 4,000 with the full scale, which fit the
/// 20,000 that a process may have, with room for the cases beside it.
#[test]
fn rld_26_idle_sessions_are_reset_spread_over_the_last_fifth() {
    let backend = Listening::start(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]).global("drain_timeout = \"5s\"");
    let mut proxy = Proxy::start(&config);
    let count = scale::amount(1_000, 4_000);
    let mut servers = Vec::new();
    let mut clients: Vec<TcpStream> = (0..count)
        .map(|_| {
            let (client, server) = backend.pair(proxy.front());
            client.set_nonblocking(true).unwrap();
            servers.push(server);
            client
        })
        .collect();
    let start = Instant::now();
    proxy.signal(Signal::SIGTERM);
    let mut ends = Vec::new();
    until("all are reset", || {
        clients.retain_mut(|client| match client.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) if is_reset(&error) => {
                ends.push(start.elapsed());
                false
            }
            other => panic!("neither silent nor reset: {other:?}"),
        });
        clients.is_empty()
    });
    let from = Duration::from_millis(3_990);
    assert!(ends[0] >= from, "the first after {:?}", ends[0]);
    let mut quarters = [0usize; 4];
    for end in &ends {
        let quarter = (*end - from).as_millis() / 250;
        quarters[usize::try_from(quarter).unwrap().min(3)] += 1;
    }
    println!("{quarters:?}");
    // Each is a quarter of all; a machine that is busy with something else shifts some.
    assert!(
        quarters
            .iter()
            .all(|&quarter| quarter < ends.len() * 6 / 10),
        "{quarters:?} of {}",
        ends.len()
    );
    assert!(proxy.wait_exit(DEADLINE).success());
    assert_eq!(proxy.check_end().front("open"), 0);
}

#[test]
fn rld_27_a_second_term_or_an_int_stops_at_once() {
    for signals in [&[Signal::SIGTERM, Signal::SIGTERM][..], &[Signal::SIGINT]] {
        let backend = Listening::start(TWO_WORKERS.family);
        let mut proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        let start = Instant::now();
        for (n, signal) in signals.iter().enumerate() {
            if n > 0 {
                until("it drains", || is_refused(&proxy));
            }
            proxy.signal(*signal);
        }
        assert_eq!(read_all(&mut client), (vec![], End::Reset));
        assert_eq!(read_all(&mut server), (vec![], End::Reset));
        assert!(proxy.wait_exit(DEADLINE).success());
        // The drain time is five minutes.
        assert!(start.elapsed() < Duration::from_secs(30));
        assert_eq!(proxy.check_end().front("open"), 0);
    }
}

#[test]
fn rld_28_storms_of_signals_cost_nothing() {
    let backend = Served::echo(TWO_WORKERS.family);
    let mut proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]));
    proxy.expect("SIGUSR2: upgrade is not supported yet");
    let mut session = connect(proxy.front());
    let clients = Clients::start(2, proxy.front(), exchange);
    for _ in 0..scale::amount(200, 2_000) {
        for signal in [
            Signal::SIGPIPE,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGWINCH,
            Signal::SIGCHLD,
            Signal::SIGURG,
            Signal::SIGTTOU,
            Signal::SIGTSTP,
            Signal::SIGCONT,
        ] {
            proxy.signal(signal);
        }
    }
    ping(&mut session);
    proxy.signal(Signal::SIGSTOP);
    until("it is stopped", || is_stopped(&proxy));
    proxy.signal(Signal::SIGCONT);
    let before = clients.done();
    ping(&mut session);
    until("the load goes on", || clients.done() >= before + 20);
    let (_, failures) = clients.stop();
    assert!(failures.is_empty(), "{failures:?}");
    drop(session);
    assert_eq!(proxy.log.count("reload"), 0, "none of these reloads");
    proxy.finish();
}

/// Connections that the kernel has accepted for a process that is told to stop belong to it,
/// whatever queue they wait in.
#[test]
fn connections_that_wait_when_it_is_told_to_stop_are_served() {
    let backend = Served::echo(TWO_WORKERS.family);
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let config = Config::of(TWO_WORKERS, &[backend.address])
        .also_listening("socket", &format!("\"unix:{}\"", path.display()));
    let mut proxy = Proxy::start(&config);
    proxy.signal(Signal::SIGSTOP);
    until("it is stopped", || is_stopped(&proxy));
    let mut over_tcp: Vec<_> = (0..100).map(|_| connect(proxy.front())).collect();
    let mut over_unix: Vec<_> = (0..100)
        .map(|_| {
            let stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            stream
        })
        .collect();
    proxy.signal(Signal::SIGTERM);
    proxy.signal(Signal::SIGCONT);
    over_tcp.iter_mut().for_each(ping);
    over_unix.iter_mut().for_each(ping);
    drop(over_tcp);
    over_unix.iter_mut().for_each(ping);
    drop(over_unix);
    assert!(proxy.wait_exit(DEADLINE).success());
    let totals = proxy.check_end();
    assert_eq!(totals.front("accepted"), 100);
    assert_eq!(totals.listeners["socket"]["accepted"], 100);
}

/// A worker that is slow to accept gives clients away when the other one has nothing left already.
#[test]
fn a_client_given_to_a_worker_that_has_drained_is_served_to_its_end() {
    if !has("strace") {
        return scale::skip("a_client_given_to_a_worker", "strace is not installed");
    }
    let backend = Served::echo(TWO_WORKERS.family);
    for is_swapped in [false, true] {
        let mut proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]));
        let slow = tamper(proxy.id(), "worker-0", "accept4", "delay_exit=100000");
        // Whoever is answered at once is with the other worker, and leaves.
        let mut clients = Vec::new();
        while clients.len() < 9 {
            let mut client = connect(proxy.front());
            client.write_all(b"ping").unwrap();
            if !is_answered_soon(&mut client) {
                clients.push(client);
            }
        }
        proxy.signal(Signal::SIGTERM);
        for client in &mut clients {
            client.read_exact(&mut [0; 4]).unwrap();
        }
        drop(slow);
        let (mut first, mut last) = by_worker(&proxy, clients);
        assert!(!last.is_empty(), "none was given to the other worker");
        if is_swapped {
            std::mem::swap(&mut first, &mut last);
        }
        // One worker has nothing left, and the process goes on for the sake of the other.
        drop(first);
        is_silent_for(&mut last[0], Duration::from_millis(100));
        last.iter_mut().for_each(ping);
        drop(last);
        assert!(proxy.wait_exit(DEADLINE).success());
        assert_eq!(proxy.check_end().front("open"), 0);
    }
}

fn is_answered_soon(client: &mut TcpStream) -> bool {
    let soon = Duration::from_millis(30);
    client.set_read_timeout(Some(soon)).unwrap();
    let is_answered = client.read_exact(&mut [0; 4]).is_ok();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    is_answered
}

/// The clients of the worker of the first one, and those of the other worker.
fn by_worker(proxy: &Proxy, clients: Vec<TcpStream>) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let sockets = process::tcp_sockets();
    let sets = process::epoll_sets(proxy.id());
    let inode = |client: &TcpStream| {
        let port = client.local_addr().unwrap().port();
        sockets[&(proxy.front().port(), port)].inode
    };
    let first = sets.iter().find(|set| set.contains(&inode(&clients[0])));
    let first = first.expect("a worker watches it");
    let is_with_the_first = |client: &TcpStream| first.contains(&inode(client));
    clients.into_iter().partition(is_with_the_first)
}

#[test]
fn a_reload_is_refused_while_it_drains() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let mut proxy = Proxy::start(&config);
    proxy.expect("reload refused: the process stops");
    let mut session = connect(proxy.front());
    ping(&mut session);
    proxy.signal(Signal::SIGTERM);
    until("nobody listens", || is_refused(&proxy));
    proxy.signal(Signal::SIGHUP);
    proxy.log.wait_text("reload refused: the process stops");
    assert!(is_refused(&proxy), "it does not listen again");
    ping(&mut session);
    drop(session);
    assert!(proxy.wait_exit(DEADLINE).success());
    proxy.check_end();
}

/// A file that cannot be read in time, here a pipe that nobody writes to, holds back nothing else.
#[test]
fn a_stop_does_not_wait_for_a_reload_that_hangs() {
    let backend = Served::echo(TWO_WORKERS.family);
    let mut proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]));
    let mut session = connect(proxy.front());
    ping(&mut session);
    // Whichever of the two signals is seen first.
    proxy.expect("reload given up: the process stops");
    proxy.expect("reload refused: the process stops");
    let path = proxy.folder().join("evenkeel.toml");
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    proxy.signal(Signal::SIGHUP);
    proxy.signal(Signal::SIGTERM);
    until("nobody listens", || is_refused(&proxy));
    ping(&mut session);
    drop(session);
    assert!(proxy.wait_exit(DEADLINE).success());
    assert_eq!(proxy.check_end().front("open"), 0);
}

/// Whether nobody listens on the front any more.
fn is_refused(proxy: &Proxy) -> bool {
    TcpStream::connect(proxy.front())
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn is_stopped(proxy: &Proxy) -> bool {
    process::status(proxy.id(), "State:").starts_with('T')
}
