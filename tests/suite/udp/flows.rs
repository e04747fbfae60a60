//! Which datagrams belong together, and for how long.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::data::on_every_axis;
use crate::harness::faults::with_descriptors;
use crate::harness::udp::{
    Echo, ask, client, is_silent_for, receive, receive_from, socket, socket_at,
};
use crate::harness::wait::within;
use crate::harness::{Axis, Config, Family, Proxy, in_namespace, process, until};

fn several(count: u8) -> (Vec<Echo>, Vec<SocketAddr>) {
    let backends = Echo::several(count, Family::V4);
    let addresses = backends.iter().map(|backend| backend.address).collect();
    (backends, addresses)
}

#[test]
fn udp_12_a_silent_flow_ends_and_the_next_datagram_begins_another() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
        let client = client(proxy.front());
        client.send(b"one").unwrap();
        let (_, first) = receive_from(&backend);
        client.send(b"two").unwrap();
        assert_eq!(receive_from(&backend).1, first, "the same flow");
        proxy.wait_quiet();
        client.send(b"three").unwrap();
        let (_, second) = receive_from(&backend);
        assert_ne!(first, second, "another flow has another port");
        assert_eq!(proxy.finish().front("accepted"), 2);
    });
}

#[test]
fn udp_12_answers_that_waited_for_a_process_that_stood_still_came_in_time() {
    through_a_standstill("responses = 2", |backend, clients, flows| {
        flows.iter().for_each(|flow| {
            backend.send_to(b"second", flow).unwrap();
        });
        Box::new(move || {
            for client in clients {
                assert_eq!(receive(client), b"second");
            }
        })
    });
}

#[test]
fn udp_12_requests_that_waited_for_a_process_that_stood_still_came_in_time() {
    through_a_standstill("responses = 0", |backend, clients, _| {
        clients.iter().for_each(|client| {
            client.send(b"again").unwrap();
        });
        Box::new(move || assert_eq!(receive(backend), b"again"))
    });
}

/// Many flows of a process that stands still for longer than they may be silent. `speak` is called
/// while it does, and what it returns afterwards.
fn through_a_standstill<S>(setting: &str, speak: S)
where
    S: for<'a> FnOnce(&'a UdpSocket, &'a [UdpSocket], &[SocketAddr]) -> Box<dyn FnOnce() + 'a>,
{
    let backend = socket(Family::V4);
    let config = Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()]);
    let proxy = Proxy::start(&config.flows("idle_timeout = \"4s\"").flows(setting));
    // More than a worker hears of in two turns.
    let clients: Vec<UdpSocket> = (0..1_700).map(|_| client(proxy.front())).collect();
    let begin = |client: &UdpSocket| {
        client.send(b"first").unwrap();
        let (_, flow) = receive_from(&backend);
        backend.send_to(b"first", flow).unwrap();
        assert_eq!(receive(client), b"first");
        flow
    };
    let flows: Vec<SocketAddr> = clients.iter().map(begin).collect();
    proxy.signal(Signal::SIGSTOP);
    until("it stands still", || process::is_stopped(proxy.id()));
    let check = speak(&backend, &clients, &flows);
    is_silent_for(&clients[0], Duration::from_millis(4_500));
    proxy.signal(Signal::SIGCONT);
    check();
    assert_eq!(
        proxy.finish().front("accepted"),
        1_700,
        "no flow began anew"
    );
}

#[test]
fn udp_13_answers_keep_a_flow_alive_and_a_client_alone_does_not() {
    let backend = socket(Family::V4);
    let config = Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()]);
    let proxy = Proxy::start(&config.flows("idle_timeout = \"500ms\""));
    let client = client(proxy.front());
    client.send(b"subscribe").unwrap();
    let (_, flow) = receive_from(&backend);
    for _ in 0..8 {
        // Four times as long as the time-out, and only the backend speaks.
        within(Duration::from_millis(200), || false);
        backend.send_to(b"news", flow).unwrap();
        assert_eq!(receive(&client), b"news");
    }
    // Now only the client does: a backend silent for so long is given up.
    let moved = within(Duration::from_secs(10), || {
        client.send(b"hello?").unwrap();
        receive_from(&backend).1 != flow
    });
    assert!(moved, "the client alone keeps the flow alive");
    proxy.finish();
}

#[test]
fn udp_14_with_one_answer_a_oneshot_flow_is_over() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let config = Config::udp(axis, &[backend.local_addr().unwrap()]);
        let config = config
            .flows("session = \"oneshot\"")
            .flows("idle_timeout = \"10s\"");
        let proxy = Proxy::start(&config);
        let client = client(proxy.front());
        client.send(b"query").unwrap();
        let (_, flow) = receive_from(&backend);
        backend.send_to(b"answer", flow).unwrap();
        assert_eq!(receive(&client), b"answer");
        proxy.wait_quiet();
        // The late one finds nobody, and its sender may be told so.
        drop(backend.send_to(b"late", flow));
        is_silent_for(&client, Duration::from_millis(100));
        proxy.finish();
    });
}

#[test]
fn udp_15_a_new_flow_after_so_many_requests() {
    let (_backends, addresses) = several(3);
    let config = Config::udp(Axis::PLAIN, &addresses).pool("balance = \"round_robin\"");
    let proxy = Proxy::start(&config.flows("requests = 2"));
    let client = client(proxy.front());
    let served: Vec<u8> = (0..12).map(|_| ask(&client, b"x")[0]).collect();
    for pair in served.chunks(2) {
        assert_eq!(pair[0], pair[1], "{served:?}");
    }
    let different: HashSet<_> = served.iter().collect();
    assert_eq!(different.len(), 3, "{served:?}");
    assert_eq!(proxy.finish().front("accepted"), 6);
}

#[test]
fn udp_16_one_way_flows_hold_no_descriptor() {
    let backend = socket(Family::V4);
    let config = Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()]);
    let config = config
        .flows("session = \"oneway\"")
        .flows("idle_timeout = \"2s\"");
    let proxy = Proxy::start(&config);
    let before = proxy.open_descriptors();
    let clients: Vec<UdpSocket> = (0..50).map(|_| client(proxy.front())).collect();
    for client in &clients {
        client.send(b"<14>a line of syslog").unwrap();
        assert_eq!(receive(&backend), b"<14>a line of syslog");
    }
    let during = proxy.open_descriptors();
    assert!(
        during <= before + 1,
        "{during} descriptors, {before} before"
    );
    assert_eq!(proxy.finish().front("accepted"), 50);
}

#[test]
fn udp_17_every_answer_to_every_request_arrives() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let config = Config::udp(axis, &[backend.local_addr().unwrap()]);
        let proxy = Proxy::start(
            &config
                .flows("responses = 3")
                .flows("idle_timeout = \"10s\""),
        );
        let client = client(proxy.front());
        for request in 0..5u8 {
            client.send(&[request]).unwrap();
        }
        let requests: Vec<_> = (0..5).map(|_| receive_from(&backend)).collect();
        for answer in 0..3u8 {
            for (request, flow) in &requests {
                backend.send_to(&[request[0], answer], flow).unwrap();
            }
        }
        let mut answers: Vec<_> = (0..15).map(|_| receive(&client)).collect();
        answers.sort_unstable();
        let expected: Vec<Vec<u8>> = (0..5)
            .flat_map(|request| (0..3).map(move |answer| vec![request, answer]))
            .collect();
        assert_eq!(answers, expected);
        proxy.finish();
    });
}

#[test]
fn udp_20_beyond_max_flows_new_ones_are_dropped_and_live_ones_are_not() {
    on_every_axis(|axis| {
        let backend = Echo::start(b'a', axis.family.any());
        let config = Config::udp(axis, &[backend.address]).flows("max_flows = 10");
        let mut proxy = Proxy::start(&config.flows("idle_timeout = \"1s\""));
        proxy.expect("new flows are dropped");
        let live: Vec<UdpSocket> = (0..10).map(|_| client(proxy.front())).collect();
        for client in &live {
            ask(client, b"hello");
        }
        let late = client(proxy.front());
        late.send(b"let me in").unwrap();
        for client in &live {
            assert_eq!(ask(client, b"still here"), b"astill here");
        }
        is_silent_for(&late, Duration::from_millis(50));
        // When others have ended there is room again.
        proxy.wait_quiet();
        assert_eq!(ask(&late, b"now"), b"anow");
        let totals = proxy.finish();
        assert_eq!(totals.front("dropped full:"), 1);
    });
}

#[test]
fn new_flows_per_second_are_bounded() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address]).flows("new_flows_per_second = 20");
    let proxy = Proxy::start(&config);
    let clients: Vec<UdpSocket> = (0..200).map(|_| client(proxy.front())).collect();
    for client in &clients {
        client.send(b"x").unwrap();
    }
    proxy.wait_quiet();
    let totals = proxy.finish();
    let (begun, dropped) = (totals.front("accepted"), totals.front("dropped rate:"));
    assert_eq!(begun + dropped, 200);
    assert!((20..100).contains(&begun), "{begun} flows began");
}

#[test]
fn descriptors_bound_the_flows_that_wait_for_answers_and_no_others() {
    let backend = Echo::start(b'a', Family::V4.any());
    for session in ["dialog", "oneway"] {
        let config = Config::udp(Axis::PLAIN, &[backend.address])
            .flows(&format!("session = \"{session}\""))
            .flows("idle_timeout = \"3s\"");
        let mut proxy = Proxy::start_with(&config, |command| with_descriptors(&command, 256));
        proxy.expect("the limit on open files is reached, new flows are dropped");
        let room = proxy.log.wait(0, "with the room", |line| {
            let (_, flows) = line.split_once(" sessions or ")?;
            flows.split_once(" flows")?.0.parse::<u64>().ok()
        });
        assert!((128..256).contains(&room), "{room}");
        let clients: Vec<_> = (0..room + 20).map(|_| client(proxy.front())).collect();
        for client in &clients {
            client.send(b"x").unwrap();
        }
        proxy.wait_quiet();
        let totals = proxy.finish();
        let dropped = totals.listeners["front"].get("dropped full:").copied();
        let begun = totals.front("accepted");
        match session {
            "dialog" => assert_eq!((begun, dropped), (room, Some(20))),
            _ => assert_eq!((begun, dropped), (room + 20, None)),
        }
    }
}

#[test]
fn udp_25_a_client_stays_where_its_hash_says() {
    let (_backends, addresses) = several(4);
    let config = Config::udp(Axis::PLAIN, &addresses).pool("hash_key = [\"source_ip\"]");
    let proxy = Proxy::start(&config);
    let mut shares = [0u32; 4];
    for host in 0..200u8 {
        let source = Ipv4Addr::new(127, 1, 0, host);
        let served: HashSet<u8> = (0..3)
            .map(|_| {
                let client = socket_at((source, 0).into());
                client.connect(proxy.front()).unwrap();
                ask(&client, b"x")[0]
            })
            .collect();
        assert_eq!(served.len(), 1, "{source} went to {served:?}");
        shares[usize::from(served.into_iter().next().unwrap() - b'a')] += 1;
    }
    assert!(
        shares.iter().all(|share| (25..=75).contains(share)),
        "{shares:?}"
    );
    proxy.finish();
}

#[test]
fn udp_26_a_new_backend_takes_its_share_of_new_flows_and_no_old_one() {
    let (_backends, addresses) = several(11);
    for session in ["dialog", "oneshot"] {
        let config = |count| {
            Config::udp(Axis::PLAIN, &addresses[..count])
                .pool("balance = \"rendezvous\"")
                .flows(&format!("session = \"{session}\""))
                .flows("idle_timeout = \"3s\"")
        };
        let proxy = Proxy::start(&config(10));
        let clients: Vec<_> = (0..300).map(|_| client(proxy.front())).collect();
        let serving = || -> Vec<u8> { clients.iter().map(|it| ask(it, b"x")[0]).collect() };
        let before = serving();
        assert_eq!(serving(), before, "{session}");
        proxy.reload(&config(11)).unwrap();
        let after = serving();
        let moved = before.iter().zip(&after).filter(|(old, new)| old != new);
        let moved: Vec<u8> = moved.map(|(_, &new)| new).collect();
        if session == "dialog" {
            assert!(moved.is_empty(), "their flows go on");
        } else {
            // Each answer has ended a flow: these are new ones.
            assert!(moved.iter().all(|&new| new == b'k'), "{moved:?}");
            assert!((5..=60).contains(&moved.len()), "{} of 300", moved.len());
        }
        proxy.finish();
    }
}

#[test]
fn udp_27_one_flow_is_one_flow_whatever_the_workers() {
    let backend = socket(Family::V4);
    let axis = Axis {
        workers: 4,
        ..Axis::PLAIN
    };
    let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
    // All at once: a port that is free again may be the next client's, whose flow is the same then.
    let clients: Vec<_> = (0..20).map(|_| client(proxy.front())).collect();
    for client in &clients {
        let mut ports = HashSet::new();
        for _ in 0..20 {
            client.send(b"x").unwrap();
            ports.insert(receive_from(&backend).1);
        }
        assert_eq!(ports.len(), 1);
    }
    assert_eq!(proxy.finish().front("accepted"), 20);
}

#[test]
fn udp_34_a_datagram_from_ourselves_or_a_backend_starts_no_storm() {
    // A backend that answers everything, also what looks like a question from its own address: each
    // answer would be the next question.
    let backend = Echo::start(b'a', Family::V4.any());
    let other = socket(Family::V4);
    let addresses = [backend.address, other.local_addr().unwrap()];
    let more =
        "[[listener]]\nname = \"more\"\nbind = \"0.0.0.0:0\"\nprotocol = \"udp\"\npool = \"pool\"";
    let config = Config::udp(Axis::PLAIN, &addresses)
        .pool("balance = \"first\"")
        .more(more);
    let proxy = Proxy::start(&config);
    other.send_to(b"from a backend", proxy.front()).unwrap();
    // The wildcard listener does not take what is sent to this address: it is bound here by name.
    let port = proxy.address("more").port();
    let own = shared_socket((Ipv4Addr::LOCALHOST, port).into());
    own.send_to(b"from ourselves", (Ipv4Addr::new(127, 0, 0, 2), port))
        .unwrap();
    own.send_to(b"from another listener", proxy.front())
        .unwrap();
    is_silent_for(&other, Duration::from_millis(100));
    let totals = proxy.finish();
    assert_eq!(backend.count.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(totals.front("dropped source:"), 2);
    assert_eq!(totals.listeners["more"]["dropped source:"], 1);
}

/// A socket on an address that others are bound to as well.
fn shared_socket(address: SocketAddr) -> UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.into()
}

#[test]
fn a_drain_lets_flows_end_and_begins_none() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address]).flows("idle_timeout = \"1s\"");
    let mut proxy = Proxy::start(&config);
    let (live, late) = (client(proxy.front()), client(proxy.front()));
    ask(&live, b"before");
    proxy.signal(Signal::SIGTERM);
    proxy.log.wait_text("sessions have");
    until("the drain has reached the worker", || {
        ask(&live, b"during") == b"aduring"
    });
    late.send(b"too late").unwrap();
    is_silent_for(&late, Duration::from_millis(100));
    assert!(proxy.wait_exit(crate::harness::DEADLINE).success());
    let totals = proxy.check_end();
    assert_eq!(totals.front("accepted"), 1);
}

#[test]
fn udp_34_a_datagram_between_two_addresses_of_ours_starts_no_storm() {
    let addresses = "ip addr add 10.7.0.1/32 dev lo
                     ip addr add 10.7.0.2/32 dev lo";
    in_namespace("udp_34", addresses, || {
        let backend = Echo::start(b'a', Family::V4.any());
        let config = Config::udp(Axis::PLAIN, &[backend.address]);
        let proxy = Proxy::start(&config.listener("bind = \"0.0.0.0:0\""));
        let port = proxy.front().port();
        let own = shared_socket((Ipv4Addr::new(10, 7, 0, 2), port).into());
        let asked = SocketAddr::from((Ipv4Addr::new(10, 7, 0, 1), port));
        own.send_to(b"from ourselves", asked).unwrap();
        // Somebody else may have that port.
        let other = socket_at((Ipv4Addr::new(10, 7, 0, 2), 0).into());
        other.connect(asked).unwrap();
        assert_eq!(ask(&other, b"somebody"), b"asomebody");
        let totals = proxy.finish();
        assert_eq!(totals.front("dropped source:"), 1);
        assert_eq!(totals.front("accepted"), 1);
    });
}
