//! Clients that stay on the backend that was chosen for them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::harness::stream::is_silent_for;
use crate::harness::{Axis, Config, Proxy, Tagged, connect_from, until};

/// A client of its own for each number.
fn source(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 211, 0, number).into()
}

/// Who serves this client now.
#[track_caller]
fn ask(front: SocketAddr, number: u8) -> usize {
    let mut client = connect_from(source(number), front).unwrap();
    Tagged::read_tag(&mut client)
}

const BOTH: Axis = Axis {
    workers: 2,
    ..Axis::PLAIN
};

fn config(tagged: &Tagged, sticky: &str) -> Config {
    Config::of(BOTH, &tagged.addresses())
        .pool("balance = \"round_robin\"")
        .pool(&format!("sticky = {{ key = [\"source_ip\"]{sticky} }}"))
}

#[test]
fn a_client_stays_and_the_balance_chooses_where() {
    let tagged = Tagged::start(3);
    let proxy = Proxy::start(&config(&tagged, ""));
    let first: Vec<_> = (0..12).map(|n| ask(proxy.front(), n)).collect();
    let each = (0..3).map(|place| first.iter().filter(|&&one| one == place).count());
    assert_eq!(each.collect::<Vec<_>>(), [4, 4, 4], "by turns");
    for _ in 0..4 {
        for (n, place) in (0..).zip(&first) {
            assert_eq!(ask(proxy.front(), n), *place);
        }
    }
    // A reload keeps them where they are, although the balance would choose otherwise now.
    let reloaded = config(&tagged, ", ttl = \"20m\"").pool("retries = 1");
    proxy
        .reload(&reloaded.pool("balance = \"random\""))
        .unwrap();
    for (n, place) in (0..).zip(&first) {
        assert_eq!(ask(proxy.front(), n), *place);
    }
    proxy.finish();
}

#[test]
fn a_client_of_a_backend_that_fails_gets_another_and_stays_there() {
    let mut tagged = Tagged::start(3);
    let mut proxy = Proxy::start(&config(&tagged, ""));
    proxy.expect("connect failed");
    let first = ask(proxy.front(), 1);
    tagged.backends[first].kill();
    let second = ask(proxy.front(), 1);
    assert_ne!(first, second);
    tagged.backends[first].revive();
    for _ in 0..5 {
        assert_eq!(ask(proxy.front(), 1), second);
    }
    proxy.finish();
}

#[test]
fn a_client_leaves_a_backend_that_drains_or_is_full() {
    let tagged = Tagged::start(2);
    let weighted = |a: u32, b: u32| {
        let addresses = tagged.addresses();
        Config::new(BOTH)
            .pool("balance = \"round_robin\"")
            .pool("sticky = { key = [\"source_ip\"] }")
            .backend(&addresses[0].to_string())
            .with(&format!("weight = {a}"))
            .backend(&addresses[1].to_string())
            .with(&format!("weight = {b}"))
    };
    let proxy = Proxy::start(&weighted(1, 0));
    assert_eq!(ask(proxy.front(), 1), 0);
    proxy.reload(&weighted(0, 1)).unwrap();
    assert_eq!(ask(proxy.front(), 1), 1, "the first one drains");
    proxy.reload(&weighted(1, 1)).unwrap();
    assert_eq!(ask(proxy.front(), 1), 1, "and this is where it stays");
    // Somebody else takes the only place.
    proxy
        .reload(&weighted(1, 1).pool("max_connections = 1"))
        .unwrap();
    let mut held = connect_from(source(1), proxy.front()).unwrap();
    assert_eq!(Tagged::read_tag(&mut held), 1);
    assert_eq!(ask(proxy.front(), 1), 0);
    drop(held);
    proxy.finish();
}

#[test]
fn what_is_not_used_is_forgotten() {
    let tagged = Tagged::start(8);
    let proxy = Proxy::start(&config(&tagged, ", ttl = \"50ms\""));
    let first = ask(proxy.front(), 1);
    // Whoever asks too soon stays for another while: the pauses grow.
    let mut pause = Duration::from_millis(60);
    until("another backend by turns", || {
        let mut client = connect_from(source(1), proxy.front()).unwrap();
        let place = Tagged::read_tag(&mut client);
        is_silent_for(&mut client, pause);
        pause += pause / 2;
        place != first
    });
    proxy.finish();
}

#[test]
fn so_many_are_remembered_and_no_more() {
    let tagged = Tagged::start(4);
    let proxy = Proxy::start(&config(&tagged, ", max_entries = 5"));
    let places: Vec<_> = (0..6).map(|n| ask(proxy.front(), n)).collect();
    for n in 1..6 {
        assert_eq!(
            ask(proxy.front(), n),
            places[usize::from(n)],
            "one of the last five"
        );
    }
    // Each of many newcomers pushes out the next: all get what the turn gives.
    let seen: HashSet<_> = (0..4).map(|n| ask(proxy.front(), 100 + n)).collect();
    assert_eq!(seen.len(), 4);
    proxy.finish();
}

#[test]
fn a_destination_is_told_apart_on_a_wildcard_too() {
    let tagged = Tagged::start(6);
    let config = Config::of(Axis::PLAIN, &tagged.addresses())
        .listener("bind = \"0.0.0.0:0\"")
        .pool("balance = \"round_robin\"")
        .pool("sticky = { key = [\"destination_ip\"] }");
    let proxy = Proxy::start(&config);
    let port = proxy.front().port();
    let ask = |n: u8| Tagged::ask((Ipv4Addr::new(127, 0, 0, n), port).into()).0;
    let first: Vec<_> = (1..=6).map(ask).collect();
    assert_eq!(first, (0..6).collect::<Vec<_>>(), "by turns");
    assert_eq!((1..=6).map(ask).collect::<Vec<_>>(), first);
    proxy.finish();
}
