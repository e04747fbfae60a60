//! Balancing and affinity: conformance H. The statistics of each policy are checked in
//! `lb::balance`; here it is checked that what runs is what is checked there.

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::backend::dead;
use crate::harness::clients::Clients;
use crate::harness::command::end_of;
use crate::harness::scale::{amount, seed, skip};
use crate::harness::{
    Axis, Config, End, Family, Listening, Proxy, Rng, Served, Tagged, connect, connect_from,
    evenkeel, on_every_axis, process, read_all, reset, until,
};

/// Who serves one connection after the other, each gone before the next one comes.
fn owners(front: SocketAddr, count: usize) -> Vec<usize> {
    (0..count)
        .map(|_| {
            let (owner, mut stream) = Tagged::ask(front);
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut stream), (vec![], End::Fin));
            owner
        })
        .collect()
}

/// Who serves the client at `source`.
fn owner_of(source: Ipv4Addr, front: SocketAddr) -> usize {
    let mut stream = connect_from(source.into(), front).unwrap();
    Tagged::read_tag(&mut stream)
}

fn counts(owners: &[usize], backends: usize) -> Vec<usize> {
    let mut counts = vec![0; backends];
    for &owner in owners {
        counts[owner] += 1;
    }
    counts
}

/// The `n`th of many addresses of this machine.
fn source(n: usize) -> Ipv4Addr {
    let n = u32::try_from(n).expect("a small number");
    Ipv4Addr::from_bits(u32::from_be_bytes([127, 10, 0, 1]) + n)
}

#[test]
fn bal_01_round_robin_is_even() {
    on_every_axis(|axis| {
        let backends = Tagged::start(2);
        let config = Config::of(axis, &backends.addresses()).pool("balance = \"round_robin\"");
        let proxy = Proxy::start(&config);
        assert_eq!(backends.shares(proxy.front(), 30), [15, 15]);
        proxy.finish();
    });
}

#[test]
fn bal_02_weights_are_shares_and_mixed_smoothly() {
    on_every_axis(|axis| {
        let backends = Tagged::start(2);
        let [a, b] = backends.addresses()[..] else {
            unreachable!("two backends")
        };
        let config = Config::new(axis)
            .pool("balance = \"round_robin\"")
            .backend(&a.to_string())
            .with("weight = 1")
            .backend(&b.to_string())
            .with("weight = 2");
        let proxy = Proxy::start(&config);
        let owners = owners(proxy.front(), 30);
        assert_eq!(counts(&owners, 2), [10, 20]);
        assert!(owners.windows(3).all(|run| run.contains(&0)), "{owners:?}");
        proxy.finish();
    });
}

#[test]
fn bal_03_weight_0_keeps_what_is_there_and_gets_nothing_new() {
    on_every_axis(|axis| {
        let backends = Tagged::start(2);
        let config = Config::of(axis, &backends.addresses()).pool("balance = \"round_robin\"");
        let proxy = Proxy::start(&config);
        let mut held: Vec<(usize, TcpStream)> =
            (0..4).map(|_| Tagged::ask(proxy.front())).collect();
        proxy.reload(&config.clone().with("weight = 0")).unwrap();
        assert_eq!(backends.shares(proxy.front(), 10), [10, 0]);
        for (_, stream) in &mut held {
            // Through the proxy to the backend, which answers the end with its own.
            stream.write_all(b"still here").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(stream), (vec![], End::Fin));
        }
        proxy.reload(&config).unwrap();
        assert_eq!(backends.shares(proxy.front(), 10), [5, 5]);
        proxy.finish();
    });
}

#[test]
fn bal_04_nothing_but_weight_0_is_an_error() {
    const REFUSAL: &str = "every backend of pool \"pool\" has weight 0; give one of them a weight";
    let backends = Tagged::start(1);
    let good = Config::of(Axis::PLAIN, &backends.addresses());
    let bad = good.clone().with("weight = 0");
    let mut proxy = Proxy::start(&good);
    proxy.expect("reload failed");
    let error = proxy.reload(&bad).unwrap_err();
    assert!(error.contains(REFUSAL), "{error}");
    assert_eq!(
        Tagged::ask(proxy.front()).0,
        0,
        "the old weight is in force"
    );
    let file = proxy.folder().join("evenkeel.toml");
    for arguments in [&["check"][..], &["run", "-c"]] {
        let outcome = evenkeel(
            arguments
                .iter()
                .map(AsRef::as_ref)
                .chain([file.as_os_str()]),
        );
        assert_eq!(outcome.code, Some(3));
        assert!(outcome.err.contains(REFUSAL), "{outcome:?}");
    }
    proxy.finish();
}

#[test]
fn bal_06_least_connections_leaves_a_stuck_one_alone() {
    let backends = Tagged::start(2);
    let config =
        Config::of(Axis::PLAIN, &backends.addresses()).pool("balance = \"least_connections\"");
    let proxy = Proxy::start(&config);
    let (stuck, connection) = Tagged::ask(proxy.front());
    assert_eq!(owners(proxy.front(), 10), [1 - stuck; 10]);
    drop(connection);
    proxy.finish();
}

#[test]
fn bal_07_no_way_to_end_leaves_a_count_behind() {
    let backends = Tagged::start(2);
    let (refusing, _guard) = dead(Family::V4);
    let mut addresses = backends.addresses();
    addresses.push(refusing);
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::of(axis, &addresses).pool("balance = \"least_connections\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/c\": connect failed");
    let seed = seed();
    let clients = Clients::start(4, proxy.front(), move |front, n| {
        let mut stream = connect(front);
        let mut tag = [0];
        match Rng::new(seed ^ n).below(5) {
            0 => reset(stream),
            1 => drop(stream),
            2 => {
                stream
                    .read_exact(&mut tag)
                    .map_err(|error| error.to_string())?;
                reset(stream);
            }
            3 => {
                stream
                    .read_exact(&mut tag)
                    .map_err(|error| error.to_string())?;
                drop(stream);
            }
            _ => {
                stream
                    .shutdown(Shutdown::Write)
                    .map_err(|error| error.to_string())?;
                let (bytes, end) = read_all(&mut stream);
                if bytes.len() != 1 || end != End::Fin {
                    return Err(format!("{bytes:?}, {end:?}"));
                }
            }
        }
        Ok(())
    });
    until("all clients", || clients.done() >= amount(2_000, 10_000));
    let (_, failures) = clients.stop();
    assert!(failures.is_empty(), "{failures:?}");
    proxy.wait_quiet();
    // With every count back at 0, the next ones are spread evenly over those that answer.
    let held: Vec<(usize, TcpStream)> = (0..20).map(|_| Tagged::ask(proxy.front())).collect();
    let owners: Vec<usize> = held.iter().map(|(owner, _)| *owner).collect();
    assert_eq!(counts(&owners, 2), [10, 10]);
    drop(held);
    let totals = proxy.finish(); // which looks at every count
    assert_eq!(totals.backend("c", "sessions"), 0);
    assert!(totals.backend("c", "connect failures") > 100, "{totals:?}");
}

#[test]
fn bal_08_the_better_of_two_is_nearly_even() {
    const BACKENDS: u64 = 10;
    let count = amount(1_000, 3_000);
    let backends: Vec<Listening> = (0..BACKENDS)
        .map(|_| Listening::start(Family::V4))
        .collect();
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let config = Config::of(Axis::PLAIN, &addresses).pool("balance = \"power_of_two\"");
    let proxy = Proxy::start(&config);
    let held: Vec<TcpStream> = (0..count).map(|_| connect(proxy.front())).collect();
    // The kernel completes the backends' handshakes; nobody needs to accept.
    until("all sessions", || {
        proxy.open_descriptors() as u64 >= 2 * count
    });
    drop((held, backends));
    let totals = proxy.finish();
    let sessions: Vec<u64> = totals
        .backends
        .values()
        .map(|counts| counts["sessions"])
        .collect();
    let (least, most) = (
        *sessions.iter().min().unwrap(),
        *sessions.iter().max().unwrap(),
    );
    println!("{count} sessions on {BACKENDS} backends: {least} to {most}");
    assert_eq!(sessions.iter().sum::<u64>(), count);
    assert!(most * 10 <= count / BACKENDS * 13, "{sessions:?}");
    // One choice at random would pass that, but its extremes lie some 30 apart.
    assert!(most - least <= 12, "{sessions:?}");
}

#[test]
fn bal_09_a_source_stays_with_its_backend() {
    const BACKENDS: u8 = 10;
    let count = usize::try_from(amount(1_500, 10_000)).unwrap();
    let backends = Tagged::start(BACKENDS);
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    for balance in ["hash", "rendezvous"] {
        let config = Config::of(axis, &backends.addresses())
            .pool(&format!("balance = {balance:?}"))
            .pool("hash_key = [\"source_ip\"]");
        let proxy = Proxy::start(&config);
        let first: Vec<usize> = (0..count)
            .map(|n| owner_of(source(n), proxy.front()))
            .collect();
        for (n, owner) in first.iter().enumerate() {
            assert_eq!(owner_of(source(n), proxy.front()), *owner, "{}", source(n));
        }
        let expected = count as f64 / f64::from(BACKENDS);
        let counts = counts(&first, BACKENDS.into());
        let chi_squared: f64 = counts
            .iter()
            .map(|&count| (count as f64 - expected).powi(2) / expected)
            .sum();
        // 9 degrees of freedom: 27.9 is passed by chance once in a thousand, and names and sources
        // are always the same.
        println!("{balance}: χ² {chi_squared:.1}");
        assert!(chi_squared < 27.9, "{balance}: {counts:?}");
        proxy.finish();
    }
}

#[test]
fn bal_10_a_backend_that_goes_moves_its_own_clients() {
    let count = usize::try_from(amount(500, 10_000)).unwrap();
    let backends = Tagged::start(10);
    for (balance, others_moved_max) in [("hash", count / 50), ("rendezvous", 0)] {
        let config = Config::of(Axis::PLAIN, &backends.addresses())
            .pool(&format!("balance = {balance:?}"))
            .pool("hash_key = [\"source_ip\"]");
        let proxy = Proxy::start(&config);
        let owners = || -> Vec<usize> {
            (0..count)
                .map(|n| owner_of(source(n), proxy.front()))
                .collect()
        };
        let before = owners();
        proxy.reload(&config.clone().without("e")).unwrap();
        let without = owners();
        assert!(without.iter().all(|&owner| owner != 4));
        let others = before
            .iter()
            .zip(&without)
            .filter(|(before, _)| **before != 4);
        let others_moved = others.filter(|(before, without)| before != without).count();
        println!("{balance}: {others_moved} of {count} moved without need");
        assert!(
            others_moved <= others_moved_max,
            "{balance}: {others_moved}"
        );
        proxy.reload(&config).unwrap();
        assert_eq!(
            owners(),
            before,
            "{balance}: it is back, and so are its clients"
        );
        proxy.finish();
    }
}

/// Users size caches by it and restart without emptying them: a table that has to be changed here
/// sends their clients to other backends.
#[test]
fn bal_11_who_serves_whom_never_changes() {
    const WEIGHTS: [u16; 5] = [1, 1, 2, 1, 3];
    let backends = Tagged::start(5);
    for (balance, key, golden) in GOLDEN {
        let mut config = Config::new(Axis::PLAIN)
            .pool(&format!("balance = {balance:?}"))
            .pool(&format!("hash_key = [{key:?}]"));
        for (address, weight) in backends.addresses().iter().zip(WEIGHTS) {
            config = config
                .backend(&address.to_string())
                .with(&format!("weight = {weight}"));
        }
        // Twice, because a restart must not matter.
        for _ in 0..2 {
            let proxy = Proxy::start(&config);
            let served: String = (0..24)
                .map(|n| owner_of(Ipv4Addr::new(127, 7, n / 2, 1 + n), proxy.front()))
                .map(|owner| char::from(b"abcde"[owner]))
                .collect();
            assert_eq!(served, golden, "{balance} over {key}");
            proxy.finish();
        }
    }
}

/// The backend of 127.7.0.1, 127.7.0.2, 127.7.1.3, 127.7.1.4, 127.7.2.5 …
const GOLDEN: [(&str, &str, &str); 4] = [
    ("hash", "source_ip", "ccbdbceeeebeceeecbaedded"),
    ("hash", "source_net/24", "ddeeeeeeccccddeebbbbeecc"),
    ("rendezvous", "source_ip", "cceacdebcabdecebedceeece"),
    ("rendezvous", "source_net/24", "eeddaaaabbccaacceeeeddcc"),
];

#[test]
fn bal_12_backups_serve_while_no_primary_does() {
    let mut backends = Tagged::start(3);
    let config = Config::of(Axis::PLAIN, &backends.addresses())
        .with("backup = true")
        .pool("balance = \"round_robin\"")
        .health("interval = \"300ms\"")
        .health("fast_interval = \"50ms\"")
        .health("down_interval = \"50ms\"")
        .health("rise = 1")
        .health("fall = 2");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("is down");
    let front = proxy.front();
    assert_eq!(backends.shares(front, 10), [5, 5, 0]);
    let wait = |mark: usize, what: &str| {
        proxy
            .log
            .wait(mark, what, |line| line.contains(what).then_some(()));
    };
    let mark = proxy.log.mark();
    backends.backends[0].kill();
    wait(mark, "backend \"pool/a\" is down");
    assert_eq!(
        backends.shares(front, 10),
        [0, 10, 0],
        "one primary is enough"
    );
    backends.backends[1].kill();
    wait(mark, "backend \"pool/b\" is down");
    assert_eq!(backends.shares(front, 10), [0, 0, 10]);
    let mark = proxy.log.mark();
    backends.backends[1].revive();
    wait(mark, "backend \"pool/b\" is up");
    assert_eq!(backends.shares(front, 10), [0, 10, 0], "and back");
    proxy.finish();
}

/// Thousands of backends that one socket serves: each is an address of its own in 127.0.0.0/8, which
/// it sends to whoever connects.
struct Street {
    served: Served,
}

impl Street {
    fn start() -> Self {
        let served = Served::start((Ipv4Addr::UNSPECIFIED, 0).into(), |mut stream| {
            if let IpAddr::V4(house) = stream.local_addr()?.ip() {
                stream.write_all(&house.octets())?;
            }
            Ok(())
        });
        Self { served }
    }

    fn address(&self, number: usize) -> SocketAddr {
        let number = u32::try_from(number).unwrap();
        let house = Ipv4Addr::from_bits(u32::from_be_bytes([127, 64, 0, 1]) + number);
        SocketAddr::new(house.into(), self.served.address.port())
    }

    /// The house that serves the client at `source`.
    fn ask(source: Ipv4Addr, front: SocketAddr) -> Ipv4Addr {
        let mut stream = connect_from(source.into(), front).unwrap();
        let mut house = [0; 4];
        stream.read_exact(&mut house).unwrap();
        house.into()
    }
}

#[test]
fn bal_13_most_of_many_heavy_backends_down_is_no_search() {
    const BACKENDS: usize = 2_000;
    const ALIVE: usize = 1_234;
    const PICKS: usize = 50;
    let street = Street::start();
    let backends = |balance: &str| {
        let mut config = Config::new(Axis::PLAIN)
            .pool(&format!("balance = {balance:?}"))
            .pool("fail_open = false")
            .health("interval = \"1s\"")
            .health("down_interval = \"1h\"")
            .health("initial = \"down\"")
            .health("rise = 1");
        for number in 0..BACKENDS {
            // All but one are on ports where nobody listens.
            let mut address = street.address(number);
            if number != ALIVE {
                address.set_port(1);
            }
            let weight = if number == ALIVE { 1 } else { 65_535 };
            config = config
                .backend(&address.to_string())
                .with(&format!("weight = {weight}"));
        }
        config
    };
    let proxy = Proxy::start(&backends("hash"));
    proxy
        .log
        .wait_text(&format!("backend \"pool/backend-{ALIVE}\" is up"));
    for balance in [
        "hash",
        "rendezvous",
        "round_robin",
        "least_connections",
        "power_of_two",
        "random",
        "first",
    ] {
        proxy.reload(&backends(balance)).unwrap();
        let start = Instant::now();
        for n in 0..PICKS {
            let house = Street::ask(source(n), proxy.front());
            assert_eq!(IpAddr::V4(house), street.address(ALIVE).ip(), "{balance}");
        }
        let each = start.elapsed() / u32::try_from(PICKS).unwrap();
        println!("{balance}: {each:?} a connection");
        assert!(each < Duration::from_millis(50), "{balance}: {each:?}");
    }
    proxy.finish();
}

/// A process of other software, stopped at the end of the case.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn iperf3_server() -> (Other, SocketAddr) {
    // The port is free until another process takes it, which the wait below would notice.
    let (address, guard) = dead(Family::V4);
    drop(guard);
    let child = Command::new("iperf3")
        .args(["-s", "-B", &address.ip().to_string()])
        .args(["-p", &address.port().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut server = Other(child.unwrap());
    until("iperf3 listens", || {
        assert!(server.0.try_wait().unwrap().is_none(), "iperf3 ended");
        !process::listening_inodes(address).is_empty()
    });
    (server, address)
}

#[test]
fn bal_14_all_connections_of_one_iperf3_reach_one_server() {
    const STREAMS: u64 = 3;
    if Command::new("iperf3").arg("-v").output().is_err() {
        return skip("bal_14", "iperf3 is not installed");
    }
    let (_first, a) = iperf3_server();
    let (_second, b) = iperf3_server();
    let config = Config::of(Axis::PLAIN, &[a, b]).pool("hash_key = [\"source_ip\"]");
    let proxy = Proxy::start(&config);
    // A control connection, which sets up the others on one of the servers.
    for direction in [None, Some("-R")] {
        let mut command = Command::new("iperf3");
        let front = proxy.front();
        command
            .args([
                "-c",
                &front.ip().to_string(),
                "-p",
                &front.port().to_string(),
            ])
            .args(["-n", "16M", "-P", &STREAMS.to_string()])
            .args(direction);
        let listening = || [a, b].map(process::listening_inodes);
        let before = listening();
        let outcome = end_of(command);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        // A server that is still at a test sends others away; after it, it listens anew.
        until("the server has done with this one", || {
            let now = listening();
            now != before && now.iter().all(|sockets| !sockets.is_empty())
        });
    }
    let totals = proxy.finish();
    let mut sessions = ["a", "b"].map(|name| totals.backend(name, "sessions"));
    sessions.sort_unstable();
    assert_eq!(sessions, [0, 2 * (1 + STREAMS)]);
}

#[test]
fn bal_16_ten_thousand_backends_load_and_serve() {
    const BACKENDS: usize = 10_000;
    const PICKS: usize = 300;
    let street = Street::start();
    let mut config = Config::new(Axis::PLAIN).pool("hash_key = [\"source_ip\"]");
    for number in 0..BACKENDS {
        config = config.backend(&street.address(number).to_string());
    }
    let start = Instant::now();
    let proxy = Proxy::start(&config);
    let loaded = start.elapsed();
    let checked = evenkeel([
        "check".as_ref(),
        proxy.folder().join("evenkeel.toml").as_os_str(),
    ]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("10000 backends"), "{checked:?}");
    let start = Instant::now();
    let houses: HashSet<Ipv4Addr> = (0..PICKS)
        .map(|n| Street::ask(source(n), proxy.front()))
        .collect();
    let each = start.elapsed() / u32::try_from(PICKS).unwrap();
    println!(
        "{BACKENDS} backends: checked in {:?}, serving after {loaded:?}, {each:?} a connection, \
         {} KiB resident",
        checked.time,
        process::resident(proxy.id()) / 1024
    );
    assert!(loaded.max(checked.time) < Duration::from_secs(10));
    // So many clients among so many backends rarely meet.
    assert!(houses.len() > PICKS * 9 / 10, "{}", houses.len());
    assert_eq!(
        Street::ask(source(0), proxy.front()),
        Street::ask(source(0), proxy.front())
    );
    proxy.finish();
}
