//! Orders for backends, against the real process.

use std::net::Shutdown;

use serde_json::Value;

use super::{TWO_WORKERS, ping};
use crate::harness::backend::Tagged;
use crate::harness::{Config, End, Proxy, Served, connect, read_all, refused, reset, until};

fn start(count: u8, setting: &str) -> (Proxy, Tagged, Config) {
    let backends = Tagged::start(count);
    let config = Config::of(TWO_WORKERS, &backends.addresses()).admin();
    let config = config.pool("balance = \"round_robin\"").pool(setting);
    (Proxy::start(&config), backends, config)
}

#[test]
fn adm_09_a_draining_backend_gets_nobody_and_keeps_whom_it_has() {
    let (proxy, backends, config) = start(2, "retries = 1");
    assert_eq!(backends.shares(proxy.front(), 10), [5, 5]);
    let told = proxy.told("backend drain pool b");
    assert!(
        told.starts_with("backend \"pool/b\" drain: set; sessions open: "),
        "{told}"
    );
    let told = proxy.told("backend drain pool b");
    assert!(told.contains("as it was"), "{told}");
    assert_eq!(backends.shares(proxy.front(), 10), [10, 0]);
    let b = proxy.backend("b");
    assert_eq!(
        (&b["admin"], &b["state"], &b["is_up"]),
        (&"drain".into(), &"draining".into(), &true.into())
    );
    // A reload that changes the pool, and one that changes the backend, change nothing of that.
    proxy.reload(&config.clone().pool("retries = 2")).unwrap();
    proxy.reload(&config.clone().with("weight = 5")).unwrap();
    assert_eq!(backends.shares(proxy.front(), 10), [10, 0]);
    proxy.told("backend ready pool b");
    proxy.reload(&config).unwrap();
    assert_eq!(backends.shares(proxy.front(), 10), [5, 5]);
    for (line, error) in [
        ("backend drain nowhere b", "there is no pool \"nowhere\"\n"),
        (
            "backend drain pool x",
            "pool \"pool\" has no backend \"x\"\n",
        ),
    ] {
        let outcome = proxy.client(line);
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(1), error));
    }
    proxy.finish();
}

#[test]
fn with_all_backends_drained_clients_are_refused_even_where_health_would_not_matter() {
    let (mut proxy, _backends, _) = start(1, "fail_open = true");
    proxy.expect("client refused: no backend is up");
    proxy.told("backend drain pool a");
    refused(proxy.front());
    proxy.told("backend ready pool a");
    Tagged::ask(proxy.front());
    proxy.finish();
}

#[test]
fn a_drain_waits_for_the_last_session() {
    let backend = Served::echo(TWO_WORKERS.family);
    let proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]).admin());
    let mut client = connect(proxy.front());
    ping(&mut client);
    let out = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| proxy.told("backend drain pool a --wait"));
        until("the order", || {
            proxy.log.has("backend \"pool/a\" drain: done")
        });
        ping(&mut client); // it lives on
        assert!(!waiting.is_finished());
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), (vec![], End::Fin));
        waiting.join().unwrap()
    });
    assert!(out.contains("drain: set; sessions open: 1\n"), "{out}");
    assert!(out.ends_with("; reset: 0\n"), "{out}");
    proxy.finish();
}

#[test]
fn a_drain_resets_who_is_left_at_its_deadline() {
    for is_json in [true, false] {
        let backend = Served::echo(TWO_WORKERS.family);
        let proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]).admin());
        let mut clients: Vec<_> = (0..4).map(|_| connect(proxy.front())).collect();
        clients.iter_mut().for_each(ping);
        let line = "backend drain pool a --wait --deadline 300ms";
        if is_json {
            let end = proxy.json(line);
            assert_eq!(
                (&end["backend"], &end["reset"]),
                (&"a".into(), &4.into()),
                "{end}"
            );
            assert!(end["waited_s"].as_f64().unwrap() >= 0.3, "{end}");
        } else {
            let text = proxy.told(line);
            assert!(text.contains("\nsessions left: 4"), "{text}");
            assert!(text.ends_with("; reset: 4\n"), "{text}");
        }
        for mut client in clients {
            assert_eq!(read_all(&mut client).1, End::Reset);
        }
        proxy.finish();
    }
}

#[test]
fn a_backend_that_is_down_loses_whom_it_has() {
    for (on_down, is_at_once) in [("keep", true), ("reset", true), ("drain:1h", false)] {
        let backend = Served::echo(TWO_WORKERS.family);
        let config = Config::of(TWO_WORKERS, &[backend.address]).admin();
        let mut proxy = Proxy::start(&config.pool(&format!("on_down = \"{on_down}\"")));
        proxy.expect("client refused: no backend is up");
        let mut client = connect(proxy.front());
        ping(&mut client);
        proxy.told("backend down pool a");
        assert_eq!(proxy.backend("a")["state"], "disabled");
        refused(proxy.front());
        if is_at_once {
            assert_eq!(read_all(&mut client).1, End::Reset, "{on_down}");
        } else {
            ping(&mut client);
            reset(client);
        }
        proxy.told("backend ready pool a");
        ping(&mut connect(proxy.front()));
        proxy.finish();
    }
}

#[test]
fn a_weight_moves_the_share_and_outlives_a_reload() {
    let (proxy, backends, config) = start(2, "retries = 1");
    proxy.told("backend weight pool a 300");
    assert_eq!(backends.shares(proxy.front(), 40), [30, 10]);
    let a = proxy.backend("a");
    assert_eq!(
        (&a["weight"], &a["weight_configured"]),
        (&300.into(), &100.into())
    );
    proxy.reload(&config.pool("retries = 0")).unwrap();
    assert_eq!(backends.shares(proxy.front(), 40), [30, 10]);
    proxy.told("backend weight pool a 0");
    assert_eq!(backends.shares(proxy.front(), 10), [0, 10]);
    proxy.told("backend weight pool a configured");
    assert_eq!(backends.shares(proxy.front(), 10), [5, 5]);
    for (value, code) in [("65536", 2), ("-1", 2), ("x", 2), ("65535", 0)] {
        let outcome = proxy.client(&format!("backend weight pool a {value}"));
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
    }
    proxy.finish();
}

#[test]
fn adm_10_orders_that_race_with_reloads_are_not_lost() {
    let (proxy, backends, config) = start(3, "retries = 1");
    let configs: Vec<Config> = (0..2u16)
        .map(|n| config.clone().pool(&format!("retries = {n}")))
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for config in configs.iter().cycle().take(20) {
                proxy.reload(config).unwrap();
            }
        });
        for n in 1..=20 {
            proxy.told(&format!("backend weight pool a {n}"));
            proxy.told("backend drain pool b");
            assert_eq!(proxy.backend("a")["weight"], n);
            assert_eq!(proxy.backend("b")["admin"], "drain");
            proxy.told("backend ready pool b");
        }
    });
    proxy.told("backend drain pool c");
    proxy.told("backend weight pool a 100");
    let shares = backends.shares(proxy.front(), 20);
    assert_eq!(shares, [10, 10, 0]);
    let status: Value = proxy.status();
    assert_eq!(status["reloads"]["succeeded"], 20);
    proxy.finish();
}

#[test]
fn who_waits_gets_a_backend_that_is_ready_again() {
    let backend = Served::echo(TWO_WORKERS.family);
    let other = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address, other.address]).admin();
    let proxy = Proxy::start(
        &config
            .pool("max_connections = 1")
            .pool("balance = \"first\""),
    );
    proxy.told("backend drain pool b");
    let mut first = connect(proxy.front());
    ping(&mut first);
    let mut second = connect(proxy.front());
    until("somebody waits", || {
        proxy.status()["connections"]["waiting"] == 1
    });
    proxy.told("backend ready pool b");
    ping(&mut second);
    assert_eq!(proxy.backend("b")["open"], 1);
    reset(first);
    reset(second);
    proxy.finish();
}
