//! Flows over reloads.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::sync::atomic::Ordering::SeqCst;

use super::data::on_every_axis;
use crate::harness::udp::{Echo, ask, client, receive, receive_from, socket};
use crate::harness::{Axis, Config, Family, Proxy, until};

#[test]
fn rld_16_flows_keep_their_sockets_over_reloads() {
    on_every_axis(|axis| {
        let (a, b) = (socket(axis.family), socket(axis.family));
        let config = Config::udp(axis, &[a.local_addr().unwrap()]).flows("idle_timeout = \"3s\"");
        let proxy = Proxy::start(&config);
        let clients: Vec<UdpSocket> = (0..20).map(|_| client(proxy.front())).collect();
        let ports = || -> HashSet<_> {
            clients
                .iter()
                .for_each(|client| assert_eq!(client.send(b"x").unwrap(), 1));
            clients.iter().map(|_| receive_from(&a).1).collect()
        };
        let before = ports();
        assert_eq!(before.len(), clients.len());
        for round in 0..10 {
            // Something always changes: a second backend comes and goes, and a weight.
            let next = config.clone().with(&format!("weight = {}", round + 1));
            let next = match round % 2 {
                0 => next
                    .backend(&b.local_addr().unwrap().to_string())
                    .with("weight = 0"),
                _ => next,
            };
            proxy.reload(&next).unwrap();
            assert_eq!(ports(), before, "reload {round}");
        }
        assert_eq!(proxy.finish().front("accepted"), 20);
    });
}

#[test]
fn rld_17_answers_under_way_are_delivered() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let config =
            Config::udp(axis, &[backend.local_addr().unwrap()]).flows("idle_timeout = \"3s\"");
        let proxy = Proxy::start(&config);
        let client = client(proxy.front());
        client.send(b"question").unwrap();
        let (_, flow) = receive_from(&backend);
        proxy.reload(&config.pool("retries = 5")).unwrap();
        backend.send_to(b"answer", flow).unwrap();
        assert_eq!(receive(&client), b"answer");
        proxy.finish();
    });
}

#[test]
fn rld_18_new_settings_apply_to_new_flows_and_old_flows_stay() {
    let backend = socket(Family::V4);
    let address = backend.local_addr().unwrap();
    let config = Config::udp(Axis::PLAIN, &[address]).flows("idle_timeout = \"3s\"");
    let proxy = Proxy::start(&config);
    let old = client(proxy.front());
    old.send(b"x").unwrap();
    let (_, flow) = receive_from(&backend);
    proxy
        .reload(&config.flows("responses = 1").flows("max_flows = 100"))
        .unwrap();
    for _ in 0..3 {
        old.send(b"x").unwrap();
        assert_eq!(receive_from(&backend).1, flow, "the flow goes on");
        backend.send_to(b"answer", flow).unwrap();
        assert_eq!(receive(&old), b"answer");
    }
    let new = client(proxy.front());
    new.send(b"x").unwrap();
    let (_, flow) = receive_from(&backend);
    backend.send_to(b"only", flow).unwrap();
    assert_eq!(receive(&new), b"only");
    new.send(b"x").unwrap();
    assert_ne!(
        receive_from(&backend).1,
        flow,
        "one answer, and the flow was over"
    );
    proxy.finish();
}

#[test]
fn udp_22_a_flow_leaves_a_backend_that_is_removed() {
    let backends = Echo::several(2, Family::V4);
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let config = Config::udp(Axis::PLAIN, &addresses).pool("balance = \"first\"");
    let config = config.flows("idle_timeout = \"3s\"");
    let proxy = Proxy::start(&config);
    let client = client(proxy.front());
    assert_eq!(ask(&client, b"1"), b"a1");
    proxy.reload(&config.clone().without("a")).unwrap();
    assert_eq!(ask(&client, b"2"), b"b2");
    proxy.reload(&config).unwrap();
    assert_eq!(ask(&client, b"3"), b"b3", "a flow stays where it is well");
    proxy.finish();
}

#[test]
fn a_listener_that_is_removed_is_gone_and_can_come_back() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address]);
    let more = "[[listener]]\nname = \"more\"\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"pool\"";
    let proxy = Proxy::start(&config.clone().more(more));
    let client = client(proxy.address("more"));
    assert_eq!(ask(&client, b"1"), b"a1");
    proxy.reload(&config).unwrap();
    // The kernel says so at the next operation or the one after it.
    let refused =
        crate::harness::wait::within(crate::harness::DEADLINE, || client.send(b"2").is_err());
    assert!(refused, "the socket is still there");
    proxy.reload(&config.more(more)).unwrap();
    let client = crate::harness::udp::client(proxy.address("more"));
    assert_eq!(ask(&client, b"3"), b"a3");
    proxy.finish();
}

#[test]
fn rld_18_a_backend_that_has_moved_takes_its_flows_along() {
    for session in ["dialog", "oneway"] {
        let [old, new, other] = [(); 3].map(|()| socket(Family::V4));
        let of = |socket: &UdpSocket| socket.local_addr().unwrap().to_string();
        // By this balance a flow that is given another backend goes to the first.
        let config = |moved: &UdpSocket| {
            Config::udp(Axis::PLAIN, &[])
                .pool("balance = \"first\"")
                .flows(&format!("session = \"{session}\""))
                .backend(&of(&other))
                .with("max_connections = 1")
                .backend(&of(moved))
        };
        let proxy = Proxy::start(&config(&old));
        let fills = client(proxy.front());
        fills.send(b"first").unwrap();
        assert_eq!(receive(&other), b"first");
        let client = client(proxy.front());
        client.send(b"before").unwrap();
        assert_eq!(receive(&old), b"before");
        proxy.reload(&config(&new)).unwrap();
        client.send(b"after").unwrap();
        assert_eq!(receive(&new), b"after");
        fills.send(b"stays").unwrap();
        assert_eq!(receive(&other), b"stays");
        proxy.finish();
    }
}

#[test]
fn rld_18_flows_begin_anew_when_answers_come_to_be_expected() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = |session: &str| {
        let config = Config::udp(Axis::PLAIN, &[backend.address]);
        config.flows(&format!("session = \"{session}\""))
    };
    let proxy = Proxy::start(&config("oneway"));
    let client = client(proxy.front());
    client.send(b"tell").unwrap();
    until("it has arrived", || backend.count.load(SeqCst) == 1);
    proxy.reload(&config("dialog")).unwrap();
    assert_eq!(ask(&client, b"ask"), b"aask");
    assert_eq!(proxy.finish().front("accepted"), 2);
}
