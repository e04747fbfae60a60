//! Backends that come back: their share and their limit grow.

use std::net::TcpStream;

use super::quick;
use crate::harness::{Axis, Config, Family, Proxy, Served, Tagged, served, try_served, until};

#[test]
fn hlt_16_who_is_back_gets_a_tenth_of_its_share_and_in_the_end_all_of_it() {
    for balance in [
        "round_robin",
        "hash",
        "rendezvous",
        "random",
        "power_of_two",
    ] {
        let mut tagged = Tagged::start(2);
        let config = quick(slow(&tagged, "1h")).pool(&format!("balance = \"{balance}\""));
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\" is down");
        let at_first = tagged.shares(proxy.front(), 60);
        assert!(
            at_first[0] >= 15,
            "{balance}: {at_first:?}: a start is no return"
        );
        leave_and_return(&mut tagged, &proxy);
        assert_little(&tagged, &proxy);

        // Nor does a reload end it that changes other things.
        proxy.reload(&config.clone().pool("retries = 1")).unwrap();
        assert_little(&tagged, &proxy);
        let quickly = config.pool("slow_start = \"1ms\"");
        proxy.reload(&quickly).unwrap();
        let whole = tagged.shares(proxy.front(), 60);
        assert!(whole[0] >= 15, "{balance}: {whole:?}");
        proxy.finish();
    }
}

#[test]
fn hlt_16_least_connections_do_not_send_everybody_to_who_is_back() {
    let mut tagged = Tagged::start(2);
    let config = quick(slow(&tagged, "1h")).pool("balance = \"least_connections\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    tagged.backends[0].kill();
    proxy.log.wait_text("backend \"pool/a\" is down");
    let before = ask(&proxy, 40);
    assert_eq!(before.0, 0);
    tagged.backends[0].revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    let after = ask(&proxy, 40);
    assert!((1..=12).contains(&after.0), "{} of 40", after.0);
    drop((before, after));
    proxy.finish();
}

#[test]
fn hlt_16_the_limit_of_who_is_back_grows_and_serves_who_waits() {
    let mut backend = Served::echo(Family::V4);
    let config = quick(Config::of(Axis::PLAIN, &[backend.address])).pool("max_connections = 20");
    let config = config.pool("queue = { limit = 0 }");
    let mut proxy = Proxy::start(&config.clone().pool("slow_start = \"1h\""));
    proxy.expect("backend \"pool/a\" is down");
    proxy.expect("client refused");
    backend.kill();
    proxy.log.wait_text("backend \"pool/a\" is down");
    backend.revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    // Two, or three if that took some seconds.
    let mut held = vec![served(proxy.front()), served(proxy.front())];
    until("the limit is reached", || {
        let more = try_served(proxy.front());
        more.map(|client| held.push(client)).is_err()
    });
    assert!(held.len() <= 3, "{} sessions", held.len());

    // Nobody leaves, and whoever waits is served all the same.
    let waiting = config
        .pool("queue = { limit = 1 }")
        .pool("slow_start = \"1s\"");
    let mut proxy_of_waiting = Proxy::start(&waiting.pool("max_connections = 2"));
    proxy_of_waiting.expect("backend \"pool/a\" is down");
    backend.kill();
    proxy_of_waiting.log.wait_text("backend \"pool/a\" is down");
    backend.revive();
    proxy_of_waiting.log.wait_text("backend \"pool/a\" is up");
    let both = [(); 2].map(|()| served(proxy_of_waiting.front()));
    drop((held, both));
    proxy_of_waiting.finish();
    proxy.finish();
}

#[test]
fn hlt_16_the_end_of_an_ejection_and_a_reload_that_adds_a_backend_are_returns_too() {
    let mut tagged = Tagged::start(2);
    let config = slow(&tagged, "1h")
        .pool("balance = \"round_robin\"")
        .outlier("consecutive_failures = 1")
        .outlier("eject_time = \"300ms\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\"");
    tagged.backends[0].kill();
    until("it is ejected", || {
        Tagged::ask(proxy.front());
        proxy.log.has("backend \"pool/a\" is ejected for 300ms")
    });
    tagged.backends[0].revive();
    proxy.log.wait_text("backend \"pool/a\" is used again");
    assert_little(&tagged, &proxy);

    proxy.reload(&config.clone().without("a")).unwrap();
    assert_eq!(tagged.shares(proxy.front(), 10), [0, 10]);
    proxy.reload(&config).unwrap();
    assert_little(&tagged, &proxy);
    proxy.finish();
}

#[test]
fn hlt_16_without_slow_start_who_is_back_has_its_share_at_once() {
    let mut tagged = Tagged::start(2);
    let config = quick(Config::of(Axis::PLAIN, &tagged.addresses()));
    let mut proxy = Proxy::start(&config.pool("balance = \"round_robin\""));
    proxy.expect("backend \"pool/a\" is down");
    leave_and_return(&mut tagged, &proxy);
    assert_eq!(tagged.shares(proxy.front(), 20), [10, 10]);
    proxy.finish();
}

fn slow(tagged: &Tagged, slow_start: &str) -> Config {
    Config::of(Axis::PLAIN, &tagged.addresses()).pool(&format!("slow_start = \"{slow_start}\""))
}

fn leave_and_return(tagged: &mut Tagged, proxy: &Proxy) {
    tagged.backends[0].kill();
    proxy.log.wait_text("backend \"pool/a\" is down");
    assert_eq!(tagged.shares(proxy.front(), 10), [0, 10]);
    tagged.backends[0].revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
}

/// The first gets some, and far from half.
fn assert_little(tagged: &Tagged, proxy: &Proxy) {
    let shares = tagged.shares(proxy.front(), 300);
    assert!((1..=75).contains(&shares[0]), "{shares:?}");
}

/// Clients that stay, and how many of them the first backend serves.
fn ask(proxy: &Proxy, count: usize) -> (usize, Vec<TcpStream>) {
    let (owners, streams): (Vec<_>, Vec<_>) =
        (0..count).map(|_| Tagged::ask(proxy.front())).unzip();
    (owners.iter().filter(|&&owner| owner == 0).count(), streams)
}
