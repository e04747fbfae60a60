//! What is explained is what happens, against the real process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use super::TWO_WORKERS;
use crate::harness::backend::Tagged;
use crate::harness::scale::seed;
use crate::harness::{Config, Proxy, Rng, Served, connect, connect_from, read_all, reset, until};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The backend that a client from `source` would get.
#[track_caller]
fn explained(proxy: &Proxy, source: SocketAddr) -> Value {
    proxy.json(&format!("explain --listener front --source {source}"))
}

/// Connects from many addresses, and asks for each where it has come to and where it should.
#[track_caller]
fn assert_agrees(proxy: &Proxy, rng: &mut Rng, count: usize) {
    for _ in 0..count {
        let low = u32::try_from(rng.below(1 << 16)).unwrap();
        let source = Ipv4Addr::from_bits(u32::from_be_bytes([127, 20, 0, 0]) + low.max(1));
        let mut stream = connect_from(source.into(), proxy.front()).unwrap();
        let owner = Tagged::read_tag(&mut stream);
        let answer = explained(proxy, stream.local_addr().unwrap());
        assert_eq!(answer["backend"], NAMES[owner], "{answer}");
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        read_all(&mut stream);
    }
}

#[test]
fn explain_agrees_with_where_clients_go() {
    let backends = Tagged::start(5);
    for balance in ["hash", "rendezvous"] {
        let config = Config::of(TWO_WORKERS, &backends.addresses()).admin();
        let proxy = Proxy::start(&config.pool(&format!("balance = \"{balance}\"")));
        let mut rng = Rng::new(seed());
        assert_agrees(&proxy, &mut rng, 20);
        proxy.told("backend drain pool a");
        proxy.told("backend weight pool b 0");
        proxy.told("backend weight pool c 500");
        assert_agrees(&proxy, &mut rng, 20);
        let answer = explained(&proxy, "127.0.0.9:9".parse().unwrap());
        let because = |place: usize| answer["backends"][place]["because"].as_str().unwrap();
        assert_eq!(because(0), "it is draining by order");
        assert_eq!(because(1), "its weight is 0");
        proxy.finish();
    }
}

#[test]
fn explain_follows_routes_by_source_and_who_is_not_let_in() {
    let backends = Tagged::start(2);
    let addresses = backends.addresses();
    let route = "[[listener.route]]\nsource = [\"127.20.0.0/16\"]\npool = \"other\"";
    let config = Config::of(TWO_WORKERS, &addresses[..1]).admin();
    let config = config
        .listener("deny = [\"127.30.0.0/16\"]")
        .listener(&format!("allow = []\n{route}"))
        .more(&format!(
            "[pool.other]\nhealth = {{ type = \"none\" }}\n[[pool.other.backend]]\nname = \"b\"\n\
             address = \"{}\"",
            addresses[1]
        ));
    let proxy = Proxy::start(&config);
    for (source, pool, backend) in [
        ("127.0.0.1:5", "pool", Value::from("a")),
        ("127.20.0.1:5", "other", Value::from("b")),
        ("127.30.0.1:5", "pool", Value::Null),
    ] {
        let answer = explained(&proxy, source.parse().unwrap());
        assert_eq!(
            (&answer["pool"], &answer["backend"]),
            (&pool.into(), &backend),
            "{answer}"
        );
    }
    let from = |ip: [u8; 4]| connect_from(IpAddr::from(ip), proxy.front());
    assert_eq!(Tagged::read_tag(&mut from([127, 20, 0, 1]).unwrap()), 1);
    let text = proxy.told("explain --listener front --source 127.20.0.1:5");
    assert!(
        text.contains("\nbackend b: its key leads there\n"),
        "{text}"
    );
    for (line, code, error) in [
        (
            "explain --listener x --source 127.0.0.1:1",
            1,
            "there is no listener \"x\"\n",
        ),
        (
            "explain --listener front --source 127.0.0.1",
            2,
            "error: invalid value",
        ),
    ] {
        let outcome = proxy.client(line);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.err.starts_with(error), "{outcome:?}");
    }
    proxy.finish();
}

#[test]
fn explain_knows_who_stays_and_who_has_to_wait() {
    let backends = [0, 1].map(|_| Served::echo(TWO_WORKERS.family));
    let config = Config::of(TWO_WORKERS, &backends.each_ref().map(|it| it.address)).admin();
    let config = config
        .pool("balance = \"least_connections\"\nmax_connections = 1")
        .pool("sticky = { key = [\"source_ip\"] }");
    let proxy = Proxy::start(&config);
    let source: SocketAddr = "127.20.0.1:7".parse().unwrap();
    let mut first = connect_from(source.ip(), proxy.front()).unwrap();
    super::ping(&mut first);
    let owner = if proxy.backend("a")["open"] == 1 {
        "a"
    } else {
        "b"
    };
    let other = if owner == "a" { "b" } else { "a" };
    let answer = explained(&proxy, source);
    assert_eq!(answer["backend"], other, "the one that it was on is full");
    reset(first);
    until("the session to end", || proxy.backend(owner)["open"] == 0);
    let answer = explained(&proxy, source);
    assert_eq!(answer["backend"], owner, "{answer}");
    assert!(
        answer["because"].as_str().unwrap().contains("sticky"),
        "{answer}"
    );
    // Asking has reserved nothing, and with all full there is the queue.
    let mut held: Vec<_> = (0..2).map(|_| connect(proxy.front())).collect();
    held.iter_mut().for_each(super::ping);
    let answer = explained(&proxy, source);
    assert_eq!(answer["backend"], Value::Null);
    let because = answer["because"].as_str().unwrap();
    assert_eq!(
        because,
        "all are full: it waits in the queue, where 0 of 1024 are"
    );
    let because = answer["backends"][0]["because"].as_str().unwrap();
    assert!(because.starts_with("it is full: 1 open, "), "{because}");
    held.into_iter().for_each(reset);
    proxy.finish();
}
