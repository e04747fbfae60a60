//! Clients of QUIC whose address changes, told by their connection IDs.

use std::net::{SocketAddr, UdpSocket};

use crate::harness::udp::{Echo, ask, client, free_for_both};
use crate::harness::wait::within;
use crate::harness::{Axis, Config, DEADLINE, Family, Proxy, until};

/// Servers "a" to "d"; the first has the id 000001, the second 000002, and so on. Whom no connection
/// ID leads elsewhere gets "a".
fn config(backends: &[SocketAddr]) -> Config {
    let mut config = Config::udp(Axis::PLAIN, &[])
        .pool("balance = \"first\"")
        .flows("session = \"quic\"")
        .flows("idle_timeout = \"2s\"")
        .flows("quic_server_id_length = 3");
    for (place, address) in backends.iter().enumerate() {
        let id = format!("server_id = \"{:06x}\"", place + 1);
        config = config.backend(&address.to_string()).with(&id);
    }
    config
}

fn several() -> (Vec<Echo>, Vec<SocketAddr>) {
    let backends = Echo::several(4, Family::V4);
    let addresses = backends.iter().map(|backend| backend.address).collect();
    (backends, addresses)
}

/// A connection ID of server `id`.
fn connection_id(id: u8, nonce: u8) -> [u8; 8] {
    [7, 0, 0, id, nonce, 1, 2, 3]
}

fn short(connection_id: &[u8]) -> Vec<u8> {
    [&[0x4c], connection_id, &[0xee; 30]].concat()
}

fn long(version: u32, connection_id: &[u8]) -> Vec<u8> {
    let length = u8::try_from(connection_id.len()).unwrap();
    let head = [&[0xc0], version.to_be_bytes().as_slice(), &[length]].concat();
    [&head, connection_id, &[0xee; 1_200]].concat()
}

/// Who answers a new client, which has just this to say.
#[track_caller]
fn served(front: SocketAddr, datagram: &[u8]) -> char {
    said_by(&client(front), datagram)
}

#[track_caller]
fn said_by(client: &UdpSocket, datagram: &[u8]) -> char {
    let answer = ask(client, datagram);
    assert!(answer[1..] == *datagram, "it came back changed");
    char::from(answer[0])
}

#[test]
fn udp_32_a_connection_id_leads_a_new_address_to_its_server() {
    let (_backends, addresses) = several();
    let proxy = Proxy::start(&config(&addresses));
    let front = proxy.front();
    for (id, name) in (1..).zip('a'..='d') {
        for nonce in 0..5 {
            let connection_id = connection_id(id, nonce);
            assert_eq!(served(front, &short(&connection_id)), name);
            assert_eq!(served(front, &long(1, &connection_id)), name);
            assert_eq!(served(front, &long(0x6b33_43cf, &connection_id)), name);
        }
    }
    proxy.finish();
}

#[test]
fn udp_32_what_leads_nowhere_is_balanced() {
    let (_backends, addresses) = several();
    let proxy = Proxy::start(&config(&addresses));
    let id = connection_id(3, 0);
    assert_eq!(served(proxy.front(), &short(&id)), 'c');
    let unroutable = [&[0xe7], &id[1..]].concat();
    for datagram in [
        short(&connection_id(9, 0)),
        short(&unroutable),
        short(&id)[..7].to_vec(),
        long(1, &connection_id(9, 0)),
        long(1, &id[..7]),
        long(1, &id)[..13].to_vec(),
        long(0, &id),
        long(1, &[]),
        Vec::new(),
        vec![0x40],
        vec![0xc0],
    ] {
        assert_eq!(served(proxy.front(), &datagram), 'a', "{datagram:x?}");
    }
    proxy.finish();
}

#[test]
fn udp_32_only_the_first_datagram_of_a_flow_is_looked_at() {
    let (_backends, addresses) = several();
    let proxy = Proxy::start(&config(&addresses));
    let client = client(proxy.front());
    assert_eq!(said_by(&client, &short(&connection_id(2, 0))), 'b');
    assert_eq!(said_by(&client, &short(&connection_id(3, 0))), 'b');
    assert_eq!(said_by(&client, b""), 'b');
    proxy.finish();
}

#[test]
fn udp_32_connection_ids_are_not_looked_at_unless_that_is_asked_for() {
    let (_backends, addresses) = several();
    let plain = Config::udp(Axis::PLAIN, &addresses).pool("balance = \"first\"");
    let proxy = Proxy::start(
        &plain
            .flows("session = \"quic\"")
            .flows("idle_timeout = \"2s\""),
    );
    assert_eq!(served(proxy.front(), &short(&connection_id(3, 0))), 'a');
    proxy.finish();
}

#[test]
fn udp_32_a_server_without_weight_keeps_its_connections_and_a_full_one_takes_no_more() {
    let (_backends, addresses) = several();
    let full = config(&addresses[..3]).with("max_connections = 1");
    let config = full.backend(&addresses[3].to_string());
    let config = config.with("server_id = \"000004\"").with("weight = 0");
    let proxy = Proxy::start(&config);
    let front = proxy.front();
    assert_eq!(served(front, &short(&connection_id(4, 0))), 'd');
    let keeps = client(front);
    assert_eq!(said_by(&keeps, &short(&connection_id(3, 0))), 'c');
    assert_eq!(served(front, &short(&connection_id(3, 1))), 'a');
    proxy.finish();
}

#[test]
fn udp_32_a_server_that_is_down_is_not_waited_for_and_ids_follow_a_reload() {
    let (_backends, mut addresses) = several();
    // It takes streams too, for the probes; nobody else does.
    addresses[0] = free_for_both(Family::V4);
    let _first = Echo::start(b'a', addresses[0]);
    let probed = std::net::TcpListener::bind(addresses[0]).unwrap();
    let two = config(&addresses[..2])
        .health("type = \"tcp\"")
        .health("interval = \"50ms\"")
        .health("fall = 1");
    let mut proxy = Proxy::start(&two);
    proxy.expect("is down");
    proxy.log.wait_text("backend \"pool/b\" is down");
    assert_eq!(served(proxy.front(), &short(&connection_id(2, 0))), 'a');
    proxy.reload(&config(&addresses)).unwrap();
    // Without probes every backend counts as up, from the reload on.
    let mut last = 'a';
    let moved = within(DEADLINE, || {
        last = served(proxy.front(), &short(&connection_id(2, 0)));
        last == 'b'
    });
    assert!(moved, "still {last}");
    let swapped = config(&addresses[..1])
        .backend(&addresses[1].to_string())
        .with("server_id = \"000003\"")
        .backend(&addresses[2].to_string())
        .with("server_id = \"000002\"");
    proxy.reload(&swapped).unwrap();
    let mut answers = String::new();
    until("the ids have changed places", || {
        answers = [2, 3]
            .map(|id| served(proxy.front(), &short(&connection_id(id, 0))))
            .iter()
            .collect();
        answers == "cb"
    });
    drop(probed);
    proxy.finish();
}
