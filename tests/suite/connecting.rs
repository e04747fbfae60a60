//! Connecting to backends and trying again: conformance B.

mod sources;
mod unreachable;

use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::harness::backend::{Gauge, dead};
use crate::harness::clients::{Clients, finish_session};
use crate::harness::faults::{Injected, Swallowing, leave_descriptors};
use crate::harness::process::{descriptors, processor_time};
use crate::harness::scale::{amount, skip};
use crate::harness::stream::is_silent_for;
use crate::harness::wait::within;
use crate::harness::{
    Axis, Config, DEADLINE, End, Family, Proxy, Served, connect, connect_from, in_namespace,
    on_every_axis, ping, read_all, refused, reset, served, try_served, until,
};

/// Who finds every backend full is refused at once.
const NO_QUEUE: &str = "queue = { limit = 0 }";

#[test]
fn con_01_a_refusing_backend_costs_a_retry_only() {
    on_every_axis(|axis| {
        let (dead, _port) = dead(axis.family);
        let live = Served::echo(axis.family);
        let config = Config::of(axis, &[dead, live.address]).pool("balance = \"round_robin\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\": connect failed: Connection refused");
        let start = Instant::now();
        for _ in 0..20 {
            served(proxy.front());
        }
        assert!(start.elapsed() < DEADLINE / 4, "{:?}", start.elapsed());
        let totals = proxy.finish();
        assert_eq!(totals.front("refused"), 0);
        assert_eq!(totals.backend("b", "sessions"), 20);
        assert!(totals.backend("a", "connect failures") >= 10);
    });
}

/// A connect draws its own port from a range, in which the port of a dead backend may be.
#[test]
fn con_01_a_dead_backend_is_not_found_in_ourselves() {
    in_namespace("con_01", "", || {
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(ports, "40000 40063").unwrap();
        let config = Config::new(Axis::PLAIN)
            .listener("bind = \"127.0.0.1:39000\"")
            .pool("retries = 0")
            .backend("127.0.0.1:40010")
            .health("interval = \"10ms\"")
            .health("down_interval = \"10ms\"")
            .health("initial = \"down\"")
            .health("rise = 1");
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\": connect failed: Connection refused");
        proxy.expect("client refused");
        for _ in 0..1_000 {
            refused(proxy.front());
        }
        assert!(!proxy.log.has("backend \"pool/a\" is up"));
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "sessions"), 0);
    });
}

#[test]
fn con_02_when_all_refuse_the_client_is_reset_after_the_last_attempt() {
    on_every_axis(|axis| {
        let dead = [(); 5].map(|()| dead(axis.family));
        let mut proxy = Proxy::start(&Config::of(axis, &dead.each_ref().map(|one| one.0)));
        proxy.expect("connect failed: Connection refused");
        proxy.expect("client refused: 3 backends tried, none connected");
        for _ in 0..4 {
            refused(proxy.front());
        }
        let totals = proxy.finish();
        assert_eq!(totals.front("refused"), 4);
        let failures =
            ["a", "b", "c", "d", "e"].map(|name| totals.backend(name, "connect failures"));
        assert_eq!(
            failures.iter().sum::<u64>(),
            4 * 3,
            "retries = 2 by default"
        );
        assert!(
            failures.iter().all(|&each| each <= 4),
            "none is tried twice: {failures:?}"
        );
    });
}

#[test]
fn con_02_a_client_may_be_closed_instead_of_reset() {
    let (dead, _port) = dead(Family::V4);
    let config = Config::of(Axis::PLAIN, &[dead]).pool("refuse = \"close\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused");
    assert_eq!(read_all(&mut connect(proxy.front())), (vec![], End::Fin));
    proxy.finish();
}

#[test]
fn con_03_a_swallowed_connect_is_tried_elsewhere_after_the_time_out() {
    for family in [Family::V4, Family::V6] {
        let axis = Axis::plain(family);
        let swallowing = Swallowing::start(family);
        let live = Served::echo(family);
        let config = Config::of(axis, &[swallowing.address, live.address])
            .pool("balance = \"first\"")
            .pool("connect_timeout = \"200ms\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\": connect failed: timed out");
        let start = Instant::now();
        served(proxy.front());
        assert!(start.elapsed() >= Duration::from_millis(200));
        assert!(start.elapsed() < DEADLINE / 4, "{:?}", start.elapsed());
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "connect failures"), 1);
        assert_eq!(totals.backend("b", "sessions"), 1);
    }
}

#[test]
fn con_05_without_retries_there_is_one_attempt() {
    let (dead, _port) = dead(Family::V4);
    let live = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[dead, live.address])
        .pool("balance = \"first\"")
        .pool("retries = 0");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\": connect failed");
    proxy.expect("client refused: 1 backends tried");
    refused(proxy.front());
    assert_eq!(live.served(), 0);
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 1);
    assert_eq!(totals.backend("b", "connect failures"), 0);
}

#[test]
fn con_06_a_backup_is_within_the_limit_of_attempts_too() {
    let dead = [(); 3].map(|()| dead(Family::V4));
    let backup = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &dead.each_ref().map(|one| one.0))
        .backend(&backup.address.to_string())
        .with("backup = true")
        .pool("retries = 2");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused: 3 backends tried");
    refused(proxy.front());
    assert_eq!(backup.served(), 0);
    proxy.reload(&config.pool("retries = 3")).unwrap();
    served(proxy.front());
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 2);
    assert_eq!(totals.backend("d", "sessions"), 1);
}

#[test]
fn con_08_thousands_of_retries_leak_nothing() {
    let dead = [(); 2].map(|()| dead(Family::V4));
    let live = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &dead.each_ref().map(|one| one.0))
        .backend(&live.address.to_string())
        .pool("balance = \"first\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    let clients = Clients::start(4, proxy.front(), |front, _| {
        try_served(front)
            .map(drop)
            .map_err(|error| error.to_string())
    });
    let wanted = amount(500, 10_000);
    assert!(within(DEADLINE * 4, || clients.done() >= wanted));
    let (done, failures) = clients.stop();
    assert_eq!(failures, Vec::<String>::new());
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), done);
    assert_eq!(totals.backend("b", "connect failures"), done);
    assert_eq!(totals.backend("c", "sessions"), done);
}

#[test]
fn con_09_without_a_free_port_the_next_backend_serves_and_none_is_to_blame() {
    in_namespace("con_09", "", || {
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(ports, "40000 40031").unwrap();
        let backends = [(); 2].map(|()| Served::echo(Family::V4));
        let config = Config::of(Axis::PLAIN, &backends.each_ref().map(|one| one.address))
            .pool("balance = \"first\"")
            .health("interval = \"500ms\"")
            .health("fast_interval = \"20ms\"")
            .health("fall = 2");
        let mut proxy = Proxy::start_with(&config, |mut command| {
            command.arg("-v");
            command
        });
        proxy.expect("client refused: Cannot assign requested address");

        // Each client has an address of its own, and with it all ports.
        let mut sources = (1..).map(|n| IpAddr::from([127, 0, 1, n]));
        let mut next = || {
            let mut client = connect_from(sources.next().unwrap(), proxy.front())?;
            ping(&mut client).map(|()| client)
        };
        let mut sessions = Vec::new();
        until("all ports are in use", || match next() {
            Ok(client) => {
                sessions.push(client);
                false
            }
            Err(_) => true,
        });
        let count = sessions.len();
        assert!(
            (33..=64).contains(&count),
            "{count} sessions, 32 ports to each backend"
        );
        proxy
            .log
            .wait_text("cannot be probed: Cannot assign requested address");
        // A reset leaves no port in TIME_WAIT.
        sessions.into_iter().for_each(reset);
        until("ports are free", || next().is_ok());
        let totals = proxy.finish();
        for name in ["a", "b"] {
            assert_eq!(totals.backend(name, "connect failures"), 0);
        }
    });
}

#[test]
fn con_10_local_failures_are_not_the_backends() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .health("interval = \"300ms\"")
        .health("fast_interval = \"20ms\"")
        .health("fall = 2");
    let mut proxy = Proxy::start(&config);
    proxy.expect("client refused");
    let errors = ["EAGAIN", "ENOBUFS", "ENOMEM", "EPERM", "EADDRNOTAVAIL"];
    for error in errors {
        let Some(injected) = Injected::start(&proxy, &format!("connect:error={error}")) else {
            return skip("con_10", "needs strace and the right to trace");
        };
        refused(proxy.front());
        until("probes fail too", || injected.count() >= 3);
        drop(injected);
        served(proxy.front());
    }
    assert!(!proxy.log.has("is down"));
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 0);
    assert_eq!(totals.front("refused"), errors.len() as u64);
}

#[test]
fn con_10_a_local_failure_towards_one_backend_is_tried_on_the_next() {
    let backends = [(); 2].map(|()| Served::echo(Family::V4));
    let config = Config::of(Axis::PLAIN, &backends.each_ref().map(|one| one.address))
        .pool("balance = \"first\"");
    let proxy = Proxy::start(&config);
    let Some(_injected) = Injected::start(&proxy, "connect:error=EPERM:when=1") else {
        return skip("con_10", "needs strace and the right to trace");
    };
    served(proxy.front());
    served(proxy.front());
    let totals = proxy.finish();
    for name in ["a", "b"] {
        assert_eq!(totals.backend(name, "sessions"), 1);
        assert_eq!(totals.backend(name, "connect failures"), 0);
    }
}

#[test]
fn con_11_without_a_descriptor_for_the_backend_the_client_is_reset() {
    let backend = Served::echo(Family::V4);
    let mut proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    proxy.expect("client refused: Too many open files");
    served(proxy.front());
    proxy.wait_quiet();
    if !leave_descriptors(&proxy, Some(1)) {
        return skip("con_11", "needs prlimit");
    }
    for _ in 0..5 {
        refused(proxy.front());
    }
    leave_descriptors(&proxy, None);
    served(proxy.front());
    let totals = proxy.finish();
    assert_eq!(totals.front("refused"), 5);
    assert_eq!(totals.backend("a", "sessions"), 2);
    assert_eq!(totals.backend("a", "connect failures"), 0);
}

#[test]
fn con_12_a_session_that_cannot_be_watched_is_rolled_back() {
    let (dead, _port) = dead(Family::V4);
    let live = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[dead, live.address]).pool("balance = \"first\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused");
    // The client's socket, that to the first backend, and that to the second one.
    let calls = [1, 2, 3];
    let mut refusals = 0;
    for (error, call) in ["ENOSPC", "ENOMEM"]
        .into_iter()
        .flat_map(|e| calls.map(|c| (e, c)))
    {
        let what = format!("epoll_ctl:error={error}:when={call}");
        let Some(injected) = Injected::start(&proxy, &what) else {
            return skip("con_12", "needs strace and the right to trace");
        };
        refused(proxy.front());
        refusals += 1;
        drop(injected);
        served(proxy.front());
        proxy.wait_quiet();
    }
    let totals = proxy.finish();
    assert_eq!(totals.front("refused"), refusals);
    assert_eq!(totals.front("accepted"), 2 * refusals);
}

#[test]
fn con_15_a_full_backend_takes_no_more_and_the_others_do() {
    let backends = [(); 2].map(|()| Served::echo(Family::V4));
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::of(axis, &backends.each_ref().map(|one| one.address))
        .pool("max_connections = 3")
        .pool(NO_QUEUE);
    let mut proxy = Proxy::start(&config);
    proxy.expect("client refused: every backend is at its max_connections");
    let mut sessions: Vec<_> = (0..6).map(|_| served(proxy.front())).collect();
    assert_eq!(backends.each_ref().map(Served::served), [3, 3]);
    for _ in 0..4 {
        refused(proxy.front());
    }
    drop(sessions.pop());
    until("a place is free", || try_served(proxy.front()).is_ok());
    drop(sessions);
    let totals = proxy.finish();
    assert!(totals.front("refused") >= 4);
    assert_eq!(
        totals.backend("a", "connect failures"),
        0,
        "full is not failed"
    );
}

#[test]
fn con_15_a_limit_holds_across_workers_and_reloads() {
    let open = Gauge::default();
    let backend = open.echo();
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::of(axis, &[backend.address])
        .pool("max_connections = 3")
        .pool(NO_QUEUE);
    let mut proxy = Proxy::start(&config);
    proxy.expect("client refused: every backend is at its max_connections");
    let clients = Clients::start(8, proxy.front(), |front, _| {
        // The others are refused.
        try_served(front).map_or(Ok(()), finish_session)
    });
    for round in 1..=4 {
        let config = config.clone().pool(&format!("idle_timeout = \"{round}h\""));
        proxy.reload(&config).unwrap();
        let served = backend.served();
        until("sessions go on", || {
            backend.served() >= served + amount(50, 5_000)
        });
    }
    assert_eq!(clients.stop().1, Vec::<String>::new());
    assert_eq!(open.most.load(SeqCst), 3);
    proxy.finish();
}

#[test]
fn con_18_with_all_full_the_answer_is_quick() {
    for balance in [
        "least_connections",
        "power_of_two",
        "round_robin",
        "hash",
        "first",
    ] {
        let backends = [(); 2].map(|()| Served::echo(Family::V4));
        let config = Config::of(Axis::PLAIN, &backends.each_ref().map(|one| one.address))
            .pool(&format!("balance = \"{balance}\""))
            .pool("max_connections = 1")
            .pool(NO_QUEUE);
        let mut proxy = Proxy::start(&config);
        proxy.expect("client refused: every backend is at its max_connections");
        let sessions = [served(proxy.front()), served(proxy.front())];
        let start = Instant::now();
        for _ in 0..100 {
            refused(proxy.front());
        }
        assert!(
            start.elapsed() < DEADLINE / 4,
            "{balance}: {:?}",
            start.elapsed()
        );
        drop(sessions);
        until("a place is free", || try_served(proxy.front()).is_ok());
        proxy.finish();
    }
}

#[test]
fn con_14_a_listener_in_its_own_pool_is_an_error() {
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &["127.0.0.1:1".parse().unwrap()]));
    let front = proxy.front();
    let text = Config::of(Axis::PLAIN, &[front])
        .listener(&format!("bind = \"{front}\""))
        .text();
    proxy.write(text.as_bytes());
    let output = Command::new(crate::harness::EVENKEEL)
        .arg("check")
        .arg(proxy.folder().join("evenkeel.toml"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(
        text.contains("is the listener itself: connections would go round"),
        "{text}"
    );
    proxy.finish();
}

#[test]
fn con_14_a_loop_is_bounded_by_the_limit_and_mended_by_a_reload() {
    let live = Served::echo(Family::V4);
    let good = Config::of(Axis::PLAIN, &[live.address]).global("max_connections = 20");
    let mut proxy = Proxy::start(&good);
    proxy.expect("global.max_connections is reached");
    // The listener has port 0, so no check of the file can know.
    let loops = Config::of(Axis::PLAIN, &[proxy.front()]).global("max_connections = 20");
    proxy.reload(&loops).unwrap();
    let mut client = connect(proxy.front());
    client.write_all(b"round and round").unwrap();
    proxy.log.wait_text("global.max_connections is reached");
    let before = processor_time(proxy.id());
    is_silent_for(&mut client, Duration::from_secs(1));
    let spent = processor_time(proxy.id()) - before;
    assert!(spent < Duration::from_millis(300), "{spent:?} in a second");
    let open = descriptors(proxy.id()).others;
    assert!(open < 2 * 20 + 20, "{open} descriptors");
    proxy.reload(&good).unwrap();
    reset(client);
    served(proxy.front());
    proxy.finish();
}
