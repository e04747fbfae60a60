//! How much is answered to a client, measured by what it has sent: anyone may write anyone's address on
//! a question. Where an answer must not arrive, one that may arrive is sent behind it.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use evenkeel::sys::batch::{Towards, Train, send};
use evenkeel::sys::datagram::{connect_udp, listen_udp};
use evenkeel::sys::source::Source;

use super::data::{collect, on_every_axis};
use crate::harness::udp::{Echo, ask, client, receive, receive_from, socket};
use crate::harness::{Axis, Config, Family, Payload, Proxy};

/// The count of answers that were too much.
const DROPPED: &str = "dropped amplification:";

fn limited(axis: Axis, backend: &UdpSocket, limit: u32) -> Config {
    Config::udp(axis, &[backend.local_addr().unwrap()])
        .flows("idle_timeout = \"2s\"")
        .flows(&format!("amplification_limit = {limit}"))
}

/// Sends so many bytes to the backend, which learns the flow by them.
fn question(client: &UdpSocket, backend: &UdpSocket, bytes: usize) -> SocketAddr {
    client.send(&vec![b'?'; bytes]).unwrap();
    let (got, flow) = receive_from(backend);
    assert_eq!(got.len(), bytes);
    flow
}

#[test]
fn udp_36_a_small_question_does_not_bring_a_large_answer() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&limited(axis, &backend, 3));
        for answers in [vec![1_400; 40], vec![60_000], vec![4]] {
            let victim = client(proxy.front());
            let flow = question(&victim, &backend, 1);
            for bytes in answers {
                backend.send_to(&vec![0; bytes], flow).unwrap();
            }
            backend.send_to(b"end", flow).unwrap();
            assert_eq!(receive(&victim), b"end");
            backend.send_to(b"x", flow).unwrap();
            assert_eq!(question(&victim, &backend, 1), flow);
            backend.send_to(b"more", flow).unwrap();
            backend.send_to(b"", flow).unwrap();
            backend.send_to(b"end", flow).unwrap();
            assert_eq!(receive(&victim), b"", "what is empty amplifies nothing");
            assert_eq!(receive(&victim), b"end");
        }
        let totals = proxy.finish();
        assert_eq!(totals.front(DROPPED), 42 + 3 * 2);
        assert_eq!(totals.backend("a", "bytes to client"), 3 * 6);
    });
}

#[test]
fn udp_36_who_sends_more_is_answered_more() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&limited(axis, &backend, 3));
        let client = client(proxy.front());
        let flow = question(&client, &backend, 500);
        let answer = |size: usize| assert_eq!(backend.send_to(&vec![0; size], flow).unwrap(), size);
        for size in [1_400, 1_400, 100] {
            answer(size);
        }
        assert_eq!(receive(&client).len(), 1_400);
        assert_eq!(receive(&client).len(), 100, "the second was too much");
        question(&client, &backend, 500);
        answer(1_400);
        assert_eq!(receive(&client).len(), 1_400);
        assert_eq!(proxy.finish().front(DROPPED), 1);
    });
}

#[test]
fn udp_36_without_a_limit_everything_arrives() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&limited(axis, &backend, 0));
        let client = client(proxy.front());
        let flow = question(&client, &backend, 1);
        for number in 0..40 {
            backend.send_to(&[number; 1_400], flow).unwrap();
        }
        for number in 0..40 {
            assert!(receive(&client) == [number; 1_400]);
        }
        backend.send_to(&[0; 60_000], flow).unwrap();
        assert_eq!(receive(&client).len(), 60_000);
        assert!(!proxy.finish().listeners["front"].contains_key(DROPPED));
    });
}

#[test]
fn udp_36_a_train_is_as_good_as_its_datagrams_alone() {
    on_every_axis(|axis| {
        let backend = listen_udp(axis.family.any(), true).unwrap();
        let proxy = Proxy::start(&limited(axis, &backend, 3));
        let client = connect_udp(proxy.front(), Source::Any).unwrap();
        let mut dropped = 0;
        // So many bytes are asked with, and answered by a train: what of it arrives.
        let cases: [(usize, usize, usize, &[usize]); 4] = [
            (500, 1_400, 9 * 1_400 + 100, &[1_400, 100]),
            (1_000, 1_000, 5 * 1_000 + 7, &[1_000; 3]),
            (2_000, 1_200, 5 * 1_200, &[1_200; 5]),
            (100, 1_200, 40 * 1_200 + 300, &[300]),
        ];
        for (asked, segment, answered, arrives) in cases {
            let to_proxy = Towards::Connected {
                is_v4: axis.family == Family::V4,
            };
            let bytes = Payload::new(36).bytes(answered);
            // The question is a train, too: all of it counts.
            let questions = Train {
                bytes: &bytes[..asked],
                segment: asked / 5,
                ecn: 0,
            };
            send(client.as_fd(), questions, true, to_proxy).unwrap();
            let (_, flow) = collect(&backend, asked);
            let train = Train {
                bytes: &bytes,
                segment,
                ecn: 0,
            };
            let back = Towards::Client {
                from: None,
                to: flow,
            };
            send(backend.as_fd(), train, true, back).unwrap();
            let (got, _) = collect(&client, arrives.iter().sum());
            let sizes: Vec<usize> = got.iter().map(Vec::len).collect();
            assert_eq!(sizes, arrives, "{asked} bytes were asked with");
            for (nth, datagram) in got.iter().enumerate() {
                let is_last = datagram.len() < segment;
                let start = if is_last {
                    answered - datagram.len()
                } else {
                    nth * segment
                };
                assert!(*datagram == bytes[start..start + datagram.len()]);
            }
            dropped += u64::from(train.count()) - arrives.len() as u64;
        }
        assert_eq!(proxy.finish().front(DROPPED), dropped);
    });
}

#[test]
fn udp_36_a_header_for_the_backend_is_not_what_the_client_has_sent() {
    let backend = socket(Family::V4);
    let config = limited(Axis::PLAIN, &backend, 1).pool("send_proxy = \"v2\"");
    let proxy = Proxy::start(&config);
    let client = client(proxy.front());
    client.send(&[b'?'; 10]).unwrap();
    let (question, flow) = receive_from(&backend);
    assert!(question.len() > 10);
    backend.send_to(&[0; 11], flow).unwrap();
    backend.send_to(&[0; 10], flow).unwrap();
    assert_eq!(receive(&client).len(), 10);
    assert_eq!(proxy.finish().front(DROPPED), 1);
}

#[test]
fn udp_36_a_flow_that_moves_keeps_its_limit_and_what_is_left_of_it() {
    let (a, b) = (socket(Family::V4), socket(Family::V4));
    let config = limited(Axis::PLAIN, &a, 1)
        .pool("balance = \"first\"")
        .backend(&b.local_addr().unwrap().to_string());
    let proxy = Proxy::start(&config);
    let old = client(proxy.front());
    let flow = question(&old, &a, 100);
    a.send_to(&[0; 60], flow).unwrap();
    assert_eq!(receive(&old).len(), 60);
    let next = config.without("a").flows("amplification_limit = 2");
    proxy.reload(&next).unwrap();
    for (asked, may_be) in [(10, 50), (10, 10)] {
        let flow = question(&old, &b, asked);
        b.send_to(&vec![0; may_be + 1], flow).unwrap();
        b.send_to(&vec![0; may_be], flow).unwrap();
        assert_eq!(receive(&old).len(), may_be);
    }
    // Those that begin now have the new one.
    let new = client(proxy.front());
    let flow = question(&new, &b, 10);
    b.send_to(&[0; 20], flow).unwrap();
    assert_eq!(receive(&new).len(), 20);
    let totals = proxy.finish();
    assert_eq!(totals.front("accepted"), 2);
    assert_eq!(totals.front(DROPPED), 2);
}

#[test]
fn udp_36_an_answer_that_is_dropped_was_an_answer() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address])
        .flows("session = \"oneshot\"")
        .flows("idle_timeout = \"10s\"")
        .flows("amplification_limit = 1");
    let proxy = Proxy::start(&config);
    let client = client(proxy.front());
    // One byte more than was asked comes back, and with it the flow is over.
    client.send(b"question").unwrap();
    proxy.wait_quiet();
    proxy
        .reload(&config.flows("amplification_limit = 2"))
        .unwrap();
    assert_eq!(ask(&client, b"question"), b"aquestion");
    let totals = proxy.finish();
    assert_eq!(totals.front("accepted"), 2);
    assert_eq!(totals.front(DROPPED), 1);
}
