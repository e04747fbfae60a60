//! Who may come in: networks that are allowed or denied, and limits for each source.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::harness::scale::amount;
use crate::harness::stream::is_reset;
use crate::harness::udp::{Echo, ask, socket_at};
use crate::harness::{
    Axis, Config, Family, Proxy, Served, connect_from, on_every_axis, ping, reset, until,
};

const LIMIT: &str = "max_connections_per_source is reached";
const RATE: &str = "connection_rate_per_source is reached";

/// Another loopback address than the usual one.
fn other(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 210, high, low).into()
}

/// A client from this address, if it is served; otherwise it must be reset.
#[track_caller]
fn attempt(source: IpAddr, front: SocketAddr) -> Option<TcpStream> {
    let served = connect_from(source, front).and_then(|mut client| {
        ping(&mut client)?;
        Ok(client)
    });
    match served {
        Ok(client) => Some(client),
        Err(error) if is_reset(&error) => None,
        Err(error) => panic!("neither served nor reset: {error}"),
    }
}

#[test]
fn res_16_connections_of_a_source_keep_to_their_rate() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let config =
            Config::of(axis, &[backend.address]).listener("connection_rate_per_source = \"5/m\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect(RATE);
        let (source, start) = (axis.family.ip(), Instant::now());
        let served = (0..30)
            .filter(|_| attempt(source, proxy.front()).is_some())
            .count() as u64;
        let earned = start.elapsed().as_secs() / 12 + 1;
        assert!((5..=5 + earned).contains(&served), "{served}");
        assert_eq!(backend.served(), served, "no backend hears of the others");
        let mut others = 0;
        if axis.family == Family::V4 {
            attempt(other(1), proxy.front()).expect("another source has a rate of its own");
            others = 1;
        }
        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 30 + others);
        assert_eq!(totals.front("refused"), 30 - served);
        assert_eq!(totals.front("refused source rate:"), 30 - served);
    });
}

#[test]
fn res_16_a_rate_is_earned_again() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .listener("connection_rate_per_source = \"2/s\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect(RATE);
    let (source, front) = (Family::V4.ip(), proxy.front());
    until("the rate is used up", || attempt(source, front).is_none());
    until("there is more of it", || attempt(source, front).is_some());
    proxy.finish();
}

/// Rules, and which of the clients 127.0.0.1, 127.0.0.2 and ::1 they let in.
const RULES: &[(&str, &str, [bool; 3])] = &[
    ("", "", [true, true, true]),
    ("\"127.0.0.1\"", "", [true, false, false]),
    ("\"::1\"", "", [false, false, true]),
    ("\"127.0.0.1\", \"::1\"", "", [true, false, true]),
    ("\"0.0.0.0/0\"", "", [true, true, false]),
    ("\"::/0\"", "", [false, false, true]),
    ("\"10.0.0.0/8\"", "", [false, false, false]),
    ("", "\"127.0.0.1\"", [false, true, true]),
    ("", "\"::1/128\"", [true, true, false]),
    ("", "\"127.0.0.0/8\"", [false, false, true]),
    ("", "\"0.0.0.0/0\", \"::/0\"", [false, false, false]),
    ("", "\"10.0.0.0/8\"", [true, true, true]),
    ("", "\"::ffff:127.0.0.2\"", [true, false, true]),
    ("\"127.0.0.0/8\"", "\"127.0.0.2\"", [true, false, false]),
    ("\"127.0.0.2\"", "\"127.0.0.0/8\"", [false, true, false]),
    (
        "\"127.0.0.2\", \"::/0\"",
        "\"127.0.0.0/8\"",
        [false, true, true],
    ),
    ("\"127.0.0.0/8\"", "\"127.0.0.0/8\"", [false, false, false]),
    ("\"127.0.0.0/8\"", "\"126.0.0.0/7\"", [true, true, false]),
];

#[test]
fn res_17_the_longest_network_decides_who_is_allowed() {
    let backend = Served::echo(Family::V4);
    let v4 = |last| IpAddr::from([127, 0, 0, last]);
    let clients = [v4(1), v4(2), Ipv6Addr::LOCALHOST.into()];
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let with = |allow: &str, deny: &str| {
        Config::of(axis, &[backend.address])
            .listener("bind = \"[::]:0\"")
            .listener(&format!("allow = [{allow}]"))
            .listener(&format!("deny = [{deny}]"))
    };
    let proxy = Proxy::start(&with("", ""));
    let port = proxy.front().port();
    let (mut served, mut refused) = (0, 0);
    for (allow, deny, expected) in RULES {
        proxy.reload(&with(allow, deny)).unwrap();
        for (client, is_allowed) in clients.into_iter().zip(expected) {
            let front = match client {
                IpAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            };
            let is_served = attempt(client, front).is_some();
            assert_eq!(
                is_served, *is_allowed,
                "{client}: allow {allow}, deny {deny}"
            );
            *(if is_served { &mut served } else { &mut refused }) += 1;
        }
    }
    assert_eq!(backend.served(), served, "no backend hears of the others");
    assert!(proxy.log.has("client 127.0.0.2 refused: not allowed"));
    let totals = proxy.finish();
    assert_eq!(totals.front("refused denied:"), refused);
    assert_eq!(totals.front("refused"), refused);
}

#[test]
fn res_17_clients_of_a_unix_socket_are_in_no_network() {
    let backend = Served::echo(Family::V4);
    let path = std::env::temp_dir().join(format!("evenkeel-admission-{}", std::process::id()));
    let bind = format!("[\"unix:{}\"]", path.display());
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .listener("deny = [\"0.0.0.0/0\", \"::/0\"]")
        .also_listening("local", &bind);
    let proxy = Proxy::start(&config);
    assert!(attempt(Family::V4.ip(), proxy.front()).is_none());
    drop(UnixStream::connect(&path).unwrap());
    let totals = proxy.finish();
    assert_eq!(totals.listeners["local"]["accepted"], 1);
    assert_eq!(totals.listeners["local"]["refused"], 0);
}

#[test]
fn ten_thousand_networks_load_at_once_and_hold() {
    let backend = Served::echo(Family::V4);
    let mut lists = [String::new(), String::new()];
    for number in 0..10_000_u16 {
        let list = &mut lists[usize::from(number % 2)];
        // Many nest, many meet: half of what each `allow` holds is in the `deny` after it.
        let bits = 31 + number % 2;
        let network = other(number.wrapping_mul(4) & !1);
        write!(list, "\"{network}/{bits}\", ").unwrap();
    }
    let [allow, deny] = &lists;
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let proxy = Proxy::start(&config);
    let line = proxy
        .reload(
            &config
                .listener(&format!("allow = [{allow}\"10.0.0.0/8\"]"))
                .listener(&format!("deny = [{deny}]")),
        )
        .unwrap();
    let (_, time) = line.rsplit_once('(').unwrap();
    let time: u64 = time.trim_end_matches(" ms)").parse().unwrap();
    println!("10,000 networks in force after {time} ms");
    assert!(time < 1_000, "{line}");
    for number in [0, 1, 2, 4, 5, 39_992, 39_993, 39_996, 39_997] {
        let is_allowed = number / 4 % 2 == 0 && number % 4 < 2;
        let is_served = attempt(other(number), proxy.front()).is_some();
        assert_eq!(is_served, is_allowed, "{}", other(number));
    }
    proxy.finish();
}

#[test]
fn a_source_has_as_many_open_as_it_may_whatever_the_worker() {
    on_every_axis(|axis| {
        let backend = Served::echo(axis.family);
        let config =
            Config::of(axis, &[backend.address]).listener("max_connections_per_source = 3");
        let mut proxy = Proxy::start(&config);
        proxy.expect(LIMIT);
        let (source, front) = (axis.family.ip(), proxy.front());
        for _ in 0..3 {
            // All at the same time, by every worker.
            let attempts: Vec<_> = (0..16)
                .map(|_| std::thread::spawn(move || attempt(source, front)))
                .collect();
            let attempts = attempts.into_iter().map(|attempt| attempt.join().unwrap());
            let mut open: Vec<TcpStream> = attempts.flatten().collect();
            assert_eq!(open.len(), 3);
            assert!(attempt(source, front).is_none());
            if axis.family == Family::V4 {
                attempt(other(1), front).expect("another source has a limit of its own");
            }
            open.truncate(2);
            until("a place is free again", || {
                open.extend(attempt(source, front));
                open.len() == 3
            });
            assert!(attempt(source, front).is_none());
            open.into_iter().for_each(reset);
            proxy.wait_quiet();
        }
        let totals = proxy.finish();
        assert_eq!(
            totals.front("refused"),
            totals.front("refused source limit:")
        );
    });
}

#[test]
fn counts_of_open_connections_outlive_reloads_and_a_lower_limit_cuts_nobody() {
    let backend = Served::echo(Family::V4);
    let with = |limit| {
        Config::of(Axis::PLAIN, &[backend.address])
            .listener(&format!("max_connections_per_source = {limit}"))
    };
    let mut proxy = Proxy::start(&with(3));
    proxy.expect(LIMIT);
    let (source, front) = (Family::V4.ip(), proxy.front());
    let mut open: Vec<_> = (0..3).map(|_| attempt(source, front).unwrap()).collect();
    proxy.reload(&with(1)).unwrap();
    while !open.is_empty() {
        for client in &mut open {
            ping(client).unwrap();
        }
        assert!(attempt(source, front).is_none(), "{} are open", open.len());
        open.pop();
        if open.is_empty() {
            until("it may have one", || {
                open.extend(attempt(source, front));
                !open.is_empty()
            });
            break;
        }
    }
    proxy
        .reload(&with(2).listener("deny = [\"127.0.0.0/8\"]"))
        .unwrap();
    assert!(attempt(source, front).is_none());
    ping(&mut open[0]).unwrap();
    proxy.reload(&with(2)).unwrap();
    open.extend(attempt(source, front));
    assert_eq!(
        open.len(),
        2,
        "the first is still counted, and there is room for one"
    );
    assert!(attempt(source, front).is_none());
    drop(open);
    proxy.finish();
}

#[test]
fn a_storm_of_sources_takes_no_memory_and_frees_nobody() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .listener("max_connections_per_source = 1")
        .listener("connection_rate_per_source = \"600/m\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect(LIMIT);
    proxy.expect(RATE);
    let (holder, front) = (Family::V4.ip(), proxy.front());
    let mut held = attempt(holder, front).unwrap();
    let sources = u16::try_from(amount(4_000, 60_000)).unwrap();
    for number in 0..sources {
        match connect_from(other(number), front) {
            Ok(client) => reset(client),
            Err(error) => assert!(is_reset(&error), "{error}"),
        }
    }
    assert!(
        attempt(holder, front).is_none(),
        "its connection is counted"
    );
    ping(&mut held).unwrap();
    drop(held);
    until("it may come again", || attempt(holder, front).is_some());
    let totals = proxy.finish();
    assert!(totals.front("accepted") >= u64::from(sources));
}

#[test]
fn flows_are_held_to_the_same_limits() {
    for family in [Family::V4, Family::V6] {
        let axis = Axis {
            family,
            workers: 2,
            ..Axis::PLAIN
        };
        let backend = Echo::start(b'a', family.any());
        let with = |setting: &str| {
            Config::udp(axis, &[backend.address])
                .flows("idle_timeout = \"2s\"")
                .listener(setting)
        };
        let mut proxy = Proxy::start(&with("max_connections_per_source = 2"));
        proxy.expect(LIMIT);
        proxy.expect(RATE);
        let front = proxy.front();
        let client = || {
            let socket = socket_at(family.any());
            socket.connect(front).unwrap();
            socket
        };
        let clients = [client(), client(), client()];
        for client in &clients[..2] {
            assert_eq!(ask(client, b"1"), b"a1");
        }
        refused(&proxy, LIMIT, || clients[2].send(b"2").unwrap());
        assert_eq!(ask(&clients[0], b"3"), b"a3");
        proxy.wait_quiet();
        assert_eq!(ask(&clients[2], b"4"), b"a4");

        proxy
            .reload(&with("connection_rate_per_source = \"1/m\""))
            .unwrap();
        let clients = [client(), client()];
        assert_eq!(ask(&clients[0], b"5"), b"a5");
        refused(&proxy, RATE, || clients[1].send(b"6").unwrap());

        let own = format!("deny = [\"{}\"]", family.ip());
        proxy.reload(&with(&own)).unwrap();
        assert_eq!(
            ask(&clients[0], b"7"),
            b"a7",
            "a flow that is there goes on"
        );
        refused(&proxy, "not allowed", || clients[1].send(b"8").unwrap());
        let totals = proxy.finish();
        for reason in ["source limit", "source rate", "denied"] {
            assert_eq!(totals.front(&format!("dropped {reason}:")), 1);
        }
    }
}

/// Fails unless the log says so of a client when it does this.
#[track_caller]
fn refused(proxy: &Proxy, reason: &str, act: impl FnOnce() -> usize) {
    let mark = proxy.log.mark();
    act();
    proxy.log.wait(mark, reason, |line| {
        let is_it = line.contains("refused: ") && line.contains(reason);
        is_it.then_some(())
    });
}
