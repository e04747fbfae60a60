//! Backends that are not there, and kernels that refuse.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use super::data::on_every_axis;
use crate::harness::backend::listen;
use crate::harness::udp::{Echo, ask, client, is_silent_for, socket};
use crate::harness::{Axis, Config, Family, Proxy, until};

/// An address where nobody listens.
fn nowhere(family: Family) -> std::net::SocketAddr {
    socket(family).local_addr().unwrap()
}

#[test]
fn udp_06_a_closed_port_invents_nothing() {
    on_every_axis(|axis| {
        let mut proxy = Proxy::start(&Config::udp(axis, &[nowhere(axis.family)]));
        proxy.expect("connect failed");
        let client = client(proxy.front());
        for _ in 0..5 {
            client.send(b"anybody?").unwrap();
            is_silent_for(&client, Duration::from_millis(30));
        }
        let totals = proxy.finish();
        assert!(totals.backend("a", "connect failures") >= 4);
        assert_eq!(totals.backend("a", "bytes to client"), 0);
    });
}

#[test]
fn a_refused_flow_moves_to_a_backend_that_listens() {
    let alive = Echo::start(b'b', Family::V4.any());
    let addresses = [nowhere(Family::V4), alive.address];
    let config = Config::udp(Axis::PLAIN, &addresses).pool("balance = \"first\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    let client = client(proxy.front());
    client.send(b"lost").unwrap();
    // The one that was refused is lost, as the network would have lost it; the next arrives.
    until("the flow has moved", || {
        client.send(b"again").unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let mut answer = [0; 16];
        client
            .recv(&mut answer)
            .is_ok_and(|count| &answer[..count] == b"bagain")
    });
    proxy.finish();
}

/// A backend that is probed by TCP, on the port of the same number.
fn probed(tag: u8) -> (Echo, TcpListener) {
    // Somebody else may have one of the two; then another number is as good.
    let both = (0..100).find_map(|_| {
        let probed = listen(Family::V4.any());
        let address = probed.local_addr().unwrap();
        let is_free = UdpSocket::bind(address).is_ok();
        is_free.then(|| (Echo::start(tag, address), probed))
    });
    both.expect("a port that is free for both")
}

/// A pool of such backends.
fn config(backends: &[&Echo]) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let settings = [
        "type = \"tcp\"",
        "interval = \"50ms\"",
        "fast_interval = \"20ms\"",
        "down_interval = \"50ms\"",
        "rise = 1",
        "fall = 1",
    ];
    let config = Config::udp(Axis::PLAIN, &addresses)
        .pool("balance = \"first\"")
        .flows("idle_timeout = \"2s\"");
    settings.into_iter().fold(config, Config::health)
}

#[test]
fn udp_23_a_flow_leaves_a_backend_that_is_down() {
    let ((a, port), (b, _other_port)) = (probed(b'a'), probed(b'b'));
    let mut proxy = Proxy::start(&config(&[&a, &b]));
    proxy.expect("is down");
    let client = client(proxy.front());
    assert_eq!(ask(&client, b"1"), b"a1");
    drop(port);
    proxy.log.wait_text("backend \"pool/a\" is down");
    assert_eq!(ask(&client, b"2"), b"b2", "the live flow has moved");
    let _port = listen(a.address);
    proxy.log.wait_text("backend \"pool/a\" is up");
    assert_eq!(
        ask(&client, b"3"),
        b"b3",
        "and does not go back while it is well"
    );
    proxy.finish();
}

#[test]
fn udp_24_with_everybody_down_a_flow_stays() {
    let ((a, port), (b, other_port)) = (probed(b'a'), probed(b'b'));
    let mut proxy = Proxy::start(&config(&[&a, &b]));
    proxy.expect("is down");
    let client = client(proxy.front());
    assert_eq!(ask(&client, b"1"), b"a1");
    drop((port, other_port));
    for name in ["a", "b"] {
        proxy
            .log
            .wait_text(&format!("backend \"pool/{name}\" is down"));
    }
    for _ in 0..10 {
        assert_eq!(ask(&client, b"2"), b"a2", "no better place");
    }
    assert_eq!(proxy.finish().front("accepted"), 1);
}
