//! Probes of backends that serve datagrams.

use std::net::{Ipv4Addr, SocketAddr};

use super::faults::nowhere;
use crate::harness::backend::listen;
use crate::harness::program::free_address;
use crate::harness::stream::uninterrupted;
use crate::harness::udp::{Echo, ask, client, socket, socket_at};
use crate::harness::{Axis, Config, DEADLINE, Family, Proxy, until};

/// A pool whose backends are probed often and judged at once.
fn probed(axis: Axis, kind: &str, backends: &[SocketAddr]) -> Config {
    let settings = [
        &format!("type = \"{kind}\""),
        "interval = \"500ms\"",
        "fast_interval = \"50ms\"",
        "down_interval = \"50ms\"",
        "rise = 1",
        "fall = 1",
    ];
    let config = Config::udp(axis, backends).pool("balance = \"first\"");
    settings.into_iter().fold(config, Config::health)
}

#[test]
fn hlt_21_an_expected_answer_is_waited_for() {
    for family in [Family::V4, Family::V6] {
        let silent = socket(family);
        let (wrong, right) = (
            Echo::start(b'x', family.any()),
            Echo::start(b'o', family.any()),
        );
        let addresses = [
            nowhere(family),
            wrong.address,
            silent.local_addr().unwrap(),
            right.address,
        ];
        let config = probed(Axis::plain(family), "udp", &addresses)
            .health("send = \"hex:6b00ff\"")
            // What follows in the answer may be anything.
            .health("expect_bytes = \"hex:6f6b00\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("is down");
        proxy.log.wait_down([
            ("a", "Connection refused"),
            ("b", "another answer than the expected one"),
            ("c", "no answer within 500ms"),
        ]);
        let mut sent = [0; 16];
        silent.set_read_timeout(Some(DEADLINE)).unwrap();
        let (count, _) = uninterrupted(|| silent.recv_from(&mut sent)).unwrap();
        assert_eq!(sent[..count], [b'k', 0, 0xff]);
        assert_eq!(ask(&client(proxy.front()), b"?"), b"o?", "by the one left");
        assert!(!proxy.log.has("backend \"pool/d\" is down"));
        proxy.finish();
    }
}

#[test]
fn hlt_21_without_an_expected_answer_silence_passes() {
    for family in [Family::V4, Family::V6] {
        let (silent, talker) = (socket(family), Echo::start(b'x', family.any()));
        let addresses = [silent.local_addr().unwrap(), talker.address];
        let config = probed(Axis::plain(family), "udp", &addresses).health("initial = \"down\"");
        let proxy = Proxy::start(&config);
        proxy.log.wait_text("backend \"pool/a\" is up");
        proxy.log.wait_text("backend \"pool/b\" is up");
        proxy.finish();
    }
}

#[test]
fn hlt_21_a_refusal_is_a_failure_until_somebody_listens() {
    for family in [Family::V4, Family::V6] {
        // Nobody else comes here meanwhile.
        let address = match family {
            Family::V4 => free_address(),
            Family::V6 => socket(family).local_addr().unwrap(),
        };
        let mut proxy = Proxy::start(&probed(Axis::plain(family), "udp", &[address]));
        proxy.expect("is down");
        let down = "backend \"pool/a\" is down: Connection refused";
        proxy.log.wait_text(down);
        let socket = socket_at(address);
        proxy.log.wait_text("backend \"pool/a\" is up");
        drop(socket);
        until("it is down again", || proxy.log.count(down) == 2);
        proxy.finish();
    }
}

#[test]
fn hlt_21_a_reload_changes_the_probe() {
    let echo = Echo::start(b'o', Family::V4.any());
    let config = probed(Axis::PLAIN, "udp", &[echo.address]).health("send = \"k\"");
    let mut proxy = Proxy::start(&config.clone().health("expect_bytes = \"no\""));
    proxy.expect("is down");
    proxy.log.wait_text("backend \"pool/a\" is down");
    proxy
        .reload(&config.health("expect_bytes = \"ok\""))
        .unwrap();
    assert!(proxy.log.has("health.expect_bytes \"no\" → \"ok\""));
    proxy.log.wait_text("backend \"pool/a\" is up");
    proxy.finish();
}

#[test]
fn a_companion_port_speaks_for_a_datagram_service() {
    let at = |last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    let (a, b) = (Echo::start(b'a', at(1)), Echo::start(b'b', at(2)));
    let companion = listen(at(1));
    let port = companion.local_addr().unwrap().port();
    let other = listen((Ipv4Addr::new(127, 0, 0, 2), port).into());
    let config = probed(Axis::PLAIN, "tcp", &[a.address, b.address])
        .health(&format!("port = {port}"))
        .flows("idle_timeout = \"2s\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down");
    let client = client(proxy.front());
    assert_eq!(ask(&client, b"1"), b"a1");
    drop(companion);
    proxy.log.wait_text("backend \"pool/a\" is down");
    assert_eq!(ask(&client, b"2"), b"b2");
    drop(other);
    proxy.finish();
}
