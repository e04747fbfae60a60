//! Backends that are told who their client is.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;

use evenkeel::sys::batch::{Sent, Towards, Train, send};
use evenkeel::sys::datagram::{connect_udp, listen_udp};
use evenkeel::sys::source::Source;

use super::data::on_every_axis;
use crate::harness::faults::Injected;
use crate::harness::proxy_protocol::{self, DATAGRAMS};
use crate::harness::scale::skip;
use crate::harness::udp::{client, receive, receive_from, socket, socket_at};
use crate::harness::{Axis, Config, Family, Payload, Proxy, until};

/// The header of a datagram.
fn header(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    proxy_protocol::v2(DATAGRAMS, source, destination)
}

fn config(axis: Axis, backend: SocketAddr) -> Config {
    Config::udp(axis, &[backend]).pool("send_proxy = \"v2\"")
}

#[test]
fn ppx_24_every_datagram_has_the_header_and_its_payload() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&config(axis, backend.local_addr().unwrap()));
        let client = client(proxy.front());
        let header = header(client.local_addr().unwrap(), proxy.front());
        for size in [0, 1, 1_200, 1_472, 9_000, 65_507 - header.len()] {
            let payload = Payload::new(size as u64).bytes(size);
            client.send(&payload).unwrap();
            assert!(
                receive(&backend) == [&header[..], &payload].concat(),
                "{size}"
            );
        }
        // What does not fit with its header is dropped, and nothing else with it.
        client.send(&vec![0; 65_508 - header.len()]).unwrap();
        client.send(b"next").unwrap();
        assert_eq!(receive(&backend), [&header[..], b"next"].concat());
        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 1);
        assert_eq!(totals.front("dropped cut:"), 1);
    });
}

#[test]
fn ppx_24_each_car_of_a_train_has_the_header() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&config(axis, backend.local_addr().unwrap()));
        let client = connect_udp(proxy.front(), Source::Any).unwrap();
        let header = header(client.local_addr().unwrap(), proxy.front());
        let bytes = Payload::new(24).bytes(20 * 1_200 + 7);
        let train = Train {
            bytes: &bytes,
            segment: 1_200,
            ecn: 0,
        };
        let is_v4 = axis.family == Family::V4;
        send(client.as_fd(), train, true, Towards::Connected { is_v4 }).unwrap();
        for car in bytes.chunks(1_200) {
            assert!(receive(&backend) == [&header[..], car].concat());
        }
        proxy.finish();
    });
}

#[test]
fn ppx_24_trains_that_are_taken_apart_leave_others_their_turn() {
    let backend = listen_udp(Family::V4.any(), true).unwrap();
    let address = backend.local_addr().unwrap();
    let config = config(Axis::PLAIN, address).flows("idle_timeout = \"2s\"");
    let proxy = Proxy::start(&config);
    let client = connect_udp(proxy.front(), Source::Any).unwrap();
    // Each look at what has come is late: all the trains have come when the worker takes the first.
    let late = "epoll_wait:delay_exit=200000";
    let Some(watched) = Injected::watching(&proxy, late, ",sendto,sendmsg") else {
        return skip("ppx_24", "strace is not installed or may not trace");
    };
    let train = Train {
        bytes: &[7; 60 * 10],
        segment: 10,
        ecn: 0,
    };
    for _ in 0..64 {
        let towards = Towards::Connected { is_v4: true };
        assert_eq!(
            send(client.as_fd(), train, true, towards).unwrap(),
            Sent::Whole
        );
    }
    let sent = || {
        let calls = watched.calls();
        let sends = |line: &str| line.contains("sendmsg(");
        let last = calls.lines().rfind(|line| sends(line))?;
        let (worker, _) = last.split_once(' ')?;
        let of_worker = calls.lines().filter(|line| line.starts_with(worker));
        let turns = of_worker.fold(vec![0], |mut turns, line| {
            match turns.last_mut() {
                Some(turn) if sends(line) => *turn += 1,
                _ if line.contains("epoll_wait(") => turns.push(0),
                _ => {}
            }
            turns
        });
        (turns.iter().sum::<usize>() == 64 * 60).then_some(turns)
    };
    let mut turns = None;
    until("all have gone", || {
        turns = sent();
        turns.is_some()
    });
    let longest = turns.into_iter().flatten().max().unwrap();
    // Two batches of sixteen trains at most: a turn ends between them.
    assert!(longest <= 2 * 16 * 60, "{longest} in a turn");
    drop(watched);
    proxy.finish();
}

#[test]
fn ppx_24_an_ipv4_client_of_an_ipv6_wildcard_is_one_of_ipv4() {
    let backend = socket(Family::V4);
    let config = config(Axis::PLAIN, backend.local_addr().unwrap()).listener("bind = \"[::]:0\"");
    let proxy = Proxy::start(&config);
    let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), proxy.front().port()));
    let client = socket_at(Family::V4.any());
    client.send_to(b"who", asked).unwrap();
    let header = header(client.local_addr().unwrap(), asked);
    assert_eq!(receive(&backend), [&header[..], b"who"].concat());
    proxy.finish();
}

#[test]
fn ppx_25_an_answer_never_gets_a_header() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&config(axis, backend.local_addr().unwrap()));
        let client = client(proxy.front());
        client.send(b"question").unwrap();
        let (question, from) = receive_from(&backend);
        assert!(question.ends_with(b"question"));
        for size in [0, 1, 65_507] {
            let answer = Payload::new(size as u64).bytes(size);
            backend.send_to(&answer, from).unwrap();
            assert!(receive(&client) == answer, "{size}");
        }
        // Not even one that looks like a header.
        backend.send_to(&question, from).unwrap();
        assert_eq!(receive(&client), question);
        proxy.finish();
    });
}

#[test]
fn a_live_flow_gets_and_loses_the_header_by_a_reload() {
    let backend = socket(Family::V4);
    let without =
        Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()]).flows("idle_timeout = \"3s\"");
    let with = without.clone().pool("send_proxy = \"v2\"");
    let proxy = Proxy::start(&without);
    let client = client(proxy.front());
    let header = header(client.local_addr().unwrap(), proxy.front());
    let next = |expected: &[u8]| {
        until("a datagram of the new kind", || {
            client.send(b"datagram").unwrap();
            receive(&backend) == expected
        });
    };
    next(b"datagram");
    proxy.reload(&with).unwrap();
    next(&[&header[..], b"datagram"].concat());
    proxy.reload(&without).unwrap();
    next(b"datagram");
    assert_eq!(proxy.finish().front("accepted"), 1);
}
