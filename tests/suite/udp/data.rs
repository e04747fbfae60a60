//! A datagram arrives as it was sent, or not at all.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use evenkeel::sys::batch::{Batch, Towards, Train, send};
use evenkeel::sys::datagram::{connect_udp, listen_udp};
use evenkeel::sys::source::Source;

use crate::harness::namespace::{Host, in_namespace, run};
use crate::harness::scale::amount;
use crate::harness::udp::{
    Echo, ask, client, is_silent_for, receive, receive_from, socket, socket_at,
};
use crate::harness::{Axis, Config, Family, Payload, Proxy, until};

/// {IPv4, IPv6} × {1, 2 workers}.
pub(super) fn on_every_axis(case: impl Fn(Axis)) {
    for axis in Axis::all().filter(|axis| axis.splice == "off") {
        println!("axis: {:?}, {} workers", axis.family, axis.workers);
        case(axis);
    }
}

#[test]
fn udp_01_one_question_one_answer() {
    on_every_axis(|axis| {
        let backend = Echo::start(b'a', axis.family.any());
        let proxy = Proxy::start(&Config::udp(axis, &[backend.address]));
        let client = client(proxy.front());
        assert_eq!(ask(&client, b"question"), b"aquestion");
        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 1);
        assert_eq!(totals.backend("a", "bytes to backend"), 8);
        assert_eq!(totals.backend("a", "bytes to client"), 9);
    });
}

#[test]
fn udp_02_clients_do_not_hear_each_other() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
        let clients: Vec<UdpSocket> = (0..20).map(|_| client(proxy.front())).collect();
        for (number, client) in clients.iter().enumerate() {
            client.send(&number.to_le_bytes()).unwrap();
        }
        let questions: Vec<_> = clients.iter().map(|_| receive_from(&backend)).collect();
        let mut sources: Vec<_> = questions.iter().map(|(_, from)| *from).collect();
        sources.sort_unstable();
        sources.dedup();
        assert_eq!(sources.len(), clients.len(), "a port of its own for each");
        for (question, from) in questions.iter().rev() {
            backend.send_to(question, from).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(receive(client), number.to_le_bytes());
        }
        proxy.finish();
    });
}

#[test]
fn udp_03_an_empty_datagram_is_a_datagram() {
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
        let client = client(proxy.front());
        client.send(b"").unwrap();
        let (question, from) = receive_from(&backend);
        assert!(question.is_empty());
        backend.send_to(b"", from).unwrap();
        assert!(receive(&client).is_empty());
        is_silent_for(&client, Duration::from_millis(50));
        is_silent_for(&backend, Duration::from_millis(50));
        proxy.finish();
    });
}

#[test]
fn udp_04_every_size_arrives_whole_both_ways() {
    let sizes = [
        0, 1, 508, 1_200, 1_472, 1_473, 8_972, 9_000, 16_384, 16_385, 32_768, 65_000, 65_506,
    ];
    on_every_axis(|axis| {
        let backend = Echo::start(b'a', axis.family.any());
        let proxy = Proxy::start(&Config::udp(axis, &[backend.address]));
        let client = client(proxy.front());
        for size in sizes {
            let payload = Payload::new(size as u64).bytes(size);
            let answer = ask(&client, &payload);
            assert_eq!((answer.len(), answer.first()), (size + 1, Some(&b'a')));
            assert!(answer[1..] == payload, "size {size}");
        }
        let totals = proxy.finish();
        assert_eq!(
            totals.backend("a", "bytes to backend"),
            sizes.iter().sum::<usize>() as u64
        );
    });
}

#[test]
fn udp_05_nothing_is_ever_cut() {
    // The largest payload that IPv4 has fits; what does not fit cannot be sent, by anyone.
    let backend = socket(Family::V4);
    let proxy = Proxy::start(&Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()]));
    let client = client(proxy.front());
    let largest = Payload::new(5).bytes(65_507);
    client.send(&largest).unwrap();
    let (question, from) = receive_from(&backend);
    assert!(question == largest);
    backend.send_to(&largest, from).unwrap();
    assert!(receive(&client) == largest);
    assert!(client.send(&[0; 65_508]).is_err());
    let totals = proxy.finish();
    assert!(!totals.listeners["front"].contains_key("dropped cut:"));
}

/// A proxy that listens on every address of IPv4, and its backend.
fn on_every_address() -> (Echo, Proxy) {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address]).listener("bind = \"0.0.0.0:0\"");
    let proxy = Proxy::start(&config);
    (backend, proxy)
}

#[test]
fn udp_09_answers_come_from_the_address_that_was_asked() {
    let (_backend, proxy) = on_every_address();
    let port = proxy.front().port();
    for last in 1..6 {
        let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        let client = socket_at((Ipv4Addr::UNSPECIFIED, 0).into());
        client.send_to(b"who", asked).unwrap();
        assert_eq!(receive_from(&client), (b"awho".to_vec(), asked));
    }
    proxy.finish();
}

#[test]
fn udp_09_a_broadcast_is_answered_from_the_address_of_its_network() {
    let (_backend, proxy) = on_every_address();
    let port = proxy.front().port();
    let client = socket(Family::V4);
    client.set_broadcast(true).unwrap();
    let everybody = SocketAddr::from((Ipv4Addr::new(127, 255, 255, 255), port));
    client.send_to(b"who", everybody).unwrap();
    let one = SocketAddr::new(Family::V4.ip(), port);
    assert_eq!(receive_from(&client), (b"awho".to_vec(), one));
    proxy.finish();
}

#[test]
fn udp_10_an_ipv6_wildcard_serves_ipv4_too() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address]).listener("bind = \"[::]:0\"");
    let proxy = Proxy::start(&config);
    let port = proxy.front().port();
    let asked = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), port));
    let client = socket_at((Ipv4Addr::UNSPECIFIED, 0).into());
    client.send_to(b"four", asked).unwrap();
    assert_eq!(receive_from(&client), (b"afour".to_vec(), asked));
    let asked = SocketAddr::new(Family::V6.ip(), port);
    let client = socket(Family::V6);
    client.send_to(b"six", asked).unwrap();
    assert_eq!(receive_from(&client), (b"asix".to_vec(), asked));
    proxy.finish();
}

#[test]
fn udp_10_a_neighbour_is_answered_on_its_own_link() {
    in_namespace("udp_10_link_local", "", || {
        let backend = Echo::start(b'a', Family::V4.any());
        let config = Config::udp(Axis::PLAIN, &[backend.address]).listener("bind = \"[::]:0\"");
        let proxy = Proxy::start(&config);
        let port = proxy.front().port();
        let hosts = [1, 2].map(|link| {
            let host = Host::new(&format!("near{link}"), "far");
            run(&format!("ip addr add fe80::a/64 dev near{link}"));
            host.run(|| run("ip addr add fe80::b/64 dev far"));
            host
        });
        // The same addresses and ports on two links.
        let clients = hosts.each_ref().map(|host| {
            host.run(|| {
                let link = nix::net::if_::if_nametoindex("far").unwrap();
                let at = |ip: &str, port| SocketAddrV6::new(ip.parse().unwrap(), port, 0, link);
                let client = socket_at(at("fe80::b", 20_000).into());
                client
                    .connect(SocketAddr::from(at("fe80::a", port)))
                    .unwrap();
                client
            })
        });
        for (client, question) in clients.iter().zip([b"one", b"two"]) {
            assert_eq!(ask(client, question), [&b"a"[..], question].concat());
        }
        assert_eq!(proxy.finish().front("accepted"), 2);
    });
}

#[test]
fn udp_18_a_burst_keeps_its_order_and_its_loss_is_the_kernels() {
    let burst = amount(5_000, 100_000);
    on_every_axis(|axis| {
        let backend = socket(axis.family);
        let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
        let client = client(proxy.front());
        let is_over = Arc::new(AtomicBool::new(false));
        let sender = std::thread::spawn({
            let is_over = Arc::clone(&is_over);
            move || {
                for number in 0..burst {
                    client.send(&number.to_le_bytes()).unwrap();
                }
                // It may be lost as everything else.
                until("the end has arrived", || {
                    client.send(&burst.to_le_bytes()).unwrap();
                    is_over.load(SeqCst)
                });
                client
            }
        });
        let (mut next, mut got) = (0, 0u64);
        while next < burst {
            let number = u64::from_le_bytes(receive(&backend).try_into().unwrap());
            assert!(number >= next, "{number} after {next}");
            next = number + u64::from(number < burst);
            got += 1;
        }
        is_over.store(true, SeqCst);
        drop(sender.join().unwrap());
        assert!(got > burst / 20, "only {got} of {burst} arrived");
        proxy.finish();
    });
}

#[test]
fn udp_28_a_train_keeps_its_cars() {
    on_every_axis(|axis| {
        let backend = listen_udp(axis.family.any(), true).unwrap();
        let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
        let client = connect_udp(proxy.front(), Source::Any).unwrap();
        let towards = Towards::Connected {
            is_v4: axis.family == Family::V4,
        };
        for (segment, length) in [
            (1_200, 64 * 1_200),
            (1_200, 20 * 1_200 + 7),
            (1, 60),
            (9_000, 63_001),
        ] {
            let length = length.min(65_000 / segment * segment + length % segment);
            let bytes = Payload::new(segment as u64).bytes(length);
            let train = Train {
                bytes: &bytes,
                segment,
                ecn: 0,
            };
            send(client.as_fd(), train, true, towards).unwrap();
            let (datagrams, from) = collect(&backend, length);
            check_cars(&datagrams, &bytes, segment);
            // And back, to a client that does not take trains.
            let back = Towards::Client {
                from: None,
                to: from,
            };
            send(backend.as_fd(), train, true, back).unwrap();
            let (datagrams, _) = collect(&client, length);
            check_cars(&datagrams, &bytes, segment);
        }
        proxy.finish();
    });
}

/// The datagrams that make up `length` bytes, one by one, and who sent them.
pub(super) fn collect(socket: &UdpSocket, length: usize) -> (Vec<Vec<u8>>, SocketAddr) {
    let mut batch = Batch::new();
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    let mut from = None;
    until("the whole train", || {
        if let Ok(count) = batch.receive(socket.as_fd()) {
            for nth in 0..count {
                let received = batch.get(nth);
                from = Some(received.from);
                datagrams.extend(received.train.singles().map(|single| single.bytes.to_vec()));
            }
        }
        datagrams.iter().map(Vec::len).sum::<usize>() >= length
    });
    (datagrams, from.unwrap())
}

fn check_cars(datagrams: &[Vec<u8>], bytes: &[u8], segment: usize) {
    let expected: Vec<&[u8]> = bytes.chunks(segment).collect();
    let sizes: Vec<_> = datagrams.iter().map(Vec::len).collect();
    assert!(datagrams == expected, "segments of {segment}: {sizes:?}");
}

#[test]
fn udp_29_congestion_marks_are_kept_and_other_marks_are_not() {
    on_every_axis(|axis| {
        let backend = listen_udp(axis.family.any(), true).unwrap();
        let proxy = Proxy::start(&Config::udp(axis, &[backend.local_addr().unwrap()]));
        let client = connect_udp(proxy.front(), Source::Any).unwrap();
        let mut batch = Batch::new();
        let mut receive = |socket: &UdpSocket| {
            until("a datagram", || batch.receive(socket.as_fd()).is_ok());
            let received = batch.get(0);
            (received.train.ecn, received.from)
        };
        for ecn in [1, 2, 3, 0] {
            let towards = Towards::Connected {
                is_v4: axis.family == Family::V4,
            };
            let train = Train {
                bytes: b"marked",
                segment: usize::MAX,
                ecn,
            };
            send(client.as_fd(), train, true, towards).unwrap();
            let (mark, from) = receive(&backend);
            assert_eq!(mark, ecn, "to the backend");
            let back = Towards::Client {
                from: None,
                to: from,
            };
            send(backend.as_fd(), train, true, back).unwrap();
            assert_eq!(receive(&client).0, ecn, "to the client");
        }
        proxy.finish();
    });
}
