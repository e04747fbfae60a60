//! Backends that are not there, and kernels that refuse.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use evenkeel::sys::batch::{Towards, Train, send};
use evenkeel::sys::datagram::{connect_udp, listen_udp};
use evenkeel::sys::source::Source;
use socket2::{Domain, Protocol, Socket, Type};

use super::data::{collect, on_every_axis};
use crate::harness::backend::listen;
use crate::harness::namespace::{Host, has, in_namespace, run, run_each};
use crate::harness::scale::skip;
use crate::harness::stream::uninterrupted;
use crate::harness::tamper::tamper;
use crate::harness::udp::{
    Echo, ask, client, is_silent_for, receive, receive_from, socket, socket_at,
};
use crate::harness::{Axis, Config, Family, Payload, Proxy, until};

/// An address where nobody listens, to the end of this process: a socket that listens to itself alone
/// keeps the port.
pub(super) fn nowhere(family: Family) -> SocketAddr {
    let socket = socket(family);
    let address = socket.local_addr().unwrap();
    socket.connect(address).unwrap();
    std::mem::forget(socket);
    address
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

/// A flow's socket draws its port from a range, in which the port of a dead backend may be.
#[test]
fn con_01_a_dead_backend_of_datagrams_is_not_found_in_ourselves() {
    in_namespace("con_01_udp", "", || {
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(ports, "40000 40015").unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 40_010));
        let config = Config::udp(Axis::PLAIN, &[address])
            .listener("bind = \"127.0.0.1:39000\"")
            .flows("idle_timeout = \"2s\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("no socket for a flow");
        proxy.expect("is down");
        proxy.expect("connect failed");
        // Flows enough for every port but that one, which the next ones draw again and again.
        let clients: Vec<_> = (1..=32)
            .map(|last| {
                let client = socket_at(([127, 0, 1, last], 20_000).into());
                client.connect(proxy.front()).unwrap();
                client.send(b"anybody?").unwrap();
                client
            })
            .collect();
        proxy.log.wait_text("no socket for a flow");
        // Nor is it found by a probe.
        let probed = config
            .health("type = \"udp\"")
            .health("send = \"k\"")
            .health("expect_bytes = \"k\"")
            .health("fall = 1")
            .health("rise = 1")
            .health("interval = \"50ms\"")
            .health("down_interval = \"50ms\"");
        proxy.reload(&probed).unwrap();
        let down = "backend \"pool/a\" is down: Connection refused";
        proxy.log.wait_text(down);
        for client in &clients {
            is_silent_for(client, Duration::from_millis(1));
        }
        // Nobody is in the way of the backend when that comes.
        let _backend = Echo::start(b'a', address);
        until("the backend answers", || {
            clients[31].send(b"now?").unwrap();
            clients[31]
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            let mut answer = [0; 16];
            clients[31]
                .recv(&mut answer)
                .is_ok_and(|count| &answer[..count] == b"anow?")
        });
        proxy.finish();
    });
}

#[test]
fn udp_12_the_words_of_a_firewall_on_the_way_are_a_refusal() {
    let rules = "
        nft add table inet t
        nft add chain inet t input { type filter hook input priority 0 ; }
        nft add rule inet t input udp dport 9000 reject with icmpv6 type admin-prohibited";
    in_namespace("udp_12_firewall", "", || {
        let host = Host::new("near", "far");
        run("ip addr add fd12::1/64 dev near");
        host.run(|| {
            run("ip addr add fd12::2/64 dev far");
            run_each(rules);
        });
        // The kernel takes a while to find that a link is up.
        let (near, far) = (socket_at("[fd12::1]:0".parse().unwrap()), || {
            socket_at("[fd12::2]:0".parse().unwrap())
        });
        let far = host.run(far);
        far.set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        until("the link is up", || {
            let sent = near.send_to(b"anybody?", far.local_addr().unwrap());
            sent.is_ok() && uninterrupted(|| far.recv(&mut [0; 16])).is_ok()
        });
        let forbidden: SocketAddr = "[fd12::2]:9000".parse().unwrap();
        let alive = Echo::start(b'b', Family::V6.any());
        let config = Config::udp(Axis::PLAIN, &[forbidden, alive.address])
            .pool("balance = \"first\"")
            .flows("idle_timeout = \"2s\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("connect failed: Permission denied");
        let client = client(proxy.front());
        client.send(b"lost").unwrap();
        proxy.log.wait_text("connect failed: Permission denied");
        assert_eq!(ask(&client, b"again"), b"bagain", "the flow has moved");
        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 1);
        assert_eq!(totals.backend("a", "connect failures"), 1);
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

#[test]
fn udp_08_a_network_of_small_packets_costs_no_other_datagram() {
    in_namespace("udp_08", "", || {
        // With "oneway" nobody hears of the report but the next datagram.
        for session in ["dialog", "oneway"] {
            let backend = socket(Family::V4);
            let address = backend.local_addr().unwrap();
            let config = Config::udp(Axis::PLAIN, &[address])
                .flows(&format!("session = \"{session}\""))
                .flows("idle_timeout = \"3s\"");
            let proxy = Proxy::start(&config);
            let client = client(proxy.front());
            client.send(b"first").unwrap();
            let (_, flow) = receive_from(&backend);
            for size in [64, 8_000, 65_507] {
                println!("{session}, {size} bytes");
                report_small_packets(flow, address);
                let payload = Payload::new(size as u64).bytes(size);
                client.send(&payload).unwrap();
                assert!(receive(&backend) == payload);
            }
            assert_eq!(proxy.finish().front("accepted"), 1, "{session}");
        }
    });
}

/// Tells `from` what a router does that could not pass its datagram on to `to`: it was larger than
/// the packets of the network behind (ICMP, "fragmentation needed").
fn report_small_packets(from: SocketAddr, to: SocketAddr) {
    const SIZE: u16 = 1_280;
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => panic!("{ip}"),
    };
    let mut report = vec![3, 4, 0, 0, 0, 0];
    report.extend(SIZE.to_be_bytes());
    // The beginning of the datagram that did not fit: its IP header and its UDP header.
    report.extend([0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    report.extend(octets(from).into_iter().chain(octets(to)));
    report.extend(
        [from.port(), to.port(), 1_480, 0]
            .map(u16::to_be_bytes)
            .concat(),
    );
    let words = report.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).expect("few words");
    report[2..4].copy_from_slice(&(!folded).to_be_bytes());
    let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("root may");
    raw.send_to(&report, &SocketAddr::new(from.ip(), 0).into())
        .unwrap();
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

#[test]
fn udp_30_what_the_kernel_does_not_take_is_counted_and_the_flow_lives_on() {
    if !has("strace") {
        return skip("udp_30", "needs strace and the right to trace");
    }
    // A refusal by the network is answered with another attempt, up to three in all.
    for (error, times) in [("ENOBUFS", "1"), ("EPERM", "1"), ("ENETUNREACH", "1..3")] {
        let backend = Echo::start(b'a', Family::V4.any());
        let config = Config::udp(Axis::PLAIN, &[backend.address]).flows("idle_timeout = \"2s\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("connect failed");
        let client = client(proxy.front());
        assert_eq!(ask(&client, b"before"), b"abefore");
        let how = format!("error={error}:when={times}");
        let tampered = tamper(proxy.id(), "worker-0", "sendto,sendmsg", &how);
        client.send(b"lost").unwrap();
        assert_eq!(ask(&client, b"kept"), b"akept", "{error}");
        drop(tampered);
        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 1, "{error}: the same flow");
        assert_eq!(totals.front("dropped local:"), 1, "{error}");
    }
}

/// Two datagrams of a train have gone when the kernel does not take the third.
#[test]
fn udp_30_a_train_goes_on_where_it_was_interrupted_and_the_count_of_its_loss_is_exact() {
    if !has("strace") {
        return skip("udp_30", "needs strace and the right to trace");
    }
    let bytes = Payload::new(30).bytes(20 * 100);
    let train = Train {
        bytes: &bytes,
        segment: 100,
        ecn: 0,
    };
    let cars: Vec<&[u8]> = bytes.chunks(100).collect();
    // What an earlier datagram has met is no reason to lose this one.
    for (error, arrive) in [("EMSGSIZE", 20), ("ECONNREFUSED", 20), ("ENOBUFS", 2)] {
        println!("{error}");
        let backend = listen_udp(Family::V4.any(), true).unwrap();
        let address = backend.local_addr().unwrap();
        let config = Config::udp(Axis::PLAIN, &[address]).flows("idle_timeout = \"2s\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("connect failed");
        let client = connect_udp(proxy.front(), Source::Any).unwrap();
        let question = Towards::Connected { is_v4: true };
        let ask = || assert!(send(client.as_fd(), train, true, question).is_ok());

        // From now on trains go one by one, both ways: no checksum offload, says the kernel.
        let tampered = tamper(proxy.id(), "worker-0", "sendmsg", "error=EIO");
        ask();
        let (datagrams, from) = collect(&backend, bytes.len());
        assert!(datagrams == cars);
        let answer = Towards::Client {
            from: None,
            to: from,
        };
        let reply = || assert!(send(backend.as_fd(), train, true, answer).is_ok());
        reply();
        assert!(collect(&client, bytes.len()).0 == cars);
        drop(tampered);

        // The mark at the end arrives behind everything that was sent before it.
        let marked = |arrive: usize| [&cars[..arrive], &[b"end"]].concat();
        let how = format!("error={error}:when=3");
        let tampered = tamper(proxy.id(), "worker-0", "sendto", &how);
        ask();
        client.send(b"end").unwrap();
        let (datagrams, _) = collect(&backend, arrive * 100 + 3);
        assert!(datagrams == marked(arrive), "{} arrive", datagrams.len());
        drop(tampered);

        let tampered = tamper(proxy.id(), "worker-0", "sendto", "error=EAGAIN:when=3");
        reply();
        backend.send_to(b"end", from).unwrap();
        let (datagrams, _) = collect(&client, 2 * 100 + 3);
        assert!(datagrams == marked(2), "{} come back", datagrams.len());
        drop(tampered);

        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 1);
        let lost = 18 + (20 - arrive) as u64;
        assert_eq!(totals.front("dropped local:"), lost);
        let sent = (20 + arrive) * 100 + 3;
        assert_eq!(totals.backend("a", "bytes to backend"), sent as u64);
        assert_eq!(totals.backend("a", "bytes to client"), 2_203);
    }
}

#[test]
fn udp_31_without_a_descriptor_a_flow_does_not_begin() {
    if !has("prlimit") {
        return skip("udp_31", "prlimit is not installed");
    }
    let backend = Echo::start(b'a', Family::V4.any());
    let mut proxy = Proxy::start(&Config::udp(Axis::PLAIN, &[backend.address]));
    proxy.expect("no socket for a flow");
    let limit = |soft: u64| {
        let id = proxy.id();
        run(&format!("prlimit --pid {id} --nofile={soft}:"));
    };
    let client = client(proxy.front());
    limit(3); // standard input, output and error have these
    client.send(b"lost").unwrap();
    proxy.log.wait_text("no socket for a flow");
    limit(256);
    // For a moment no new flow is tried.
    let mut sent = 1;
    client
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    until("there is a flow", || {
        client.send(b"again").unwrap();
        sent += 1;
        uninterrupted(|| client.recv(&mut [0; 16])).is_ok()
    });
    until("each is answered or dropped", || {
        uninterrupted(|| client.recv(&mut [0; 16])).is_err()
    });
    let totals = proxy.finish();
    let answered = backend.count.load(SeqCst);
    assert!(answered >= 1);
    assert_eq!(totals.front("dropped local:"), sent - answered);
    assert_eq!(totals.front("refused"), 1);
}

#[test]
fn udp_35_a_source_that_nobody_can_answer_is_dropped() {
    let Ok(raw) = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP)) else {
        return skip("udp_35", "only root can send from port 0");
    };
    let backend = Echo::start(b'a', Family::V4.any());
    let proxy = Proxy::start(&Config::udp(Axis::PLAIN, &[backend.address]));
    let front = proxy.front();
    // A UDP header of its own: from port 0, 12 bytes with it, no checksum.
    let [high, low] = front.port().to_be_bytes();
    let datagram = [0, 0, high, low, 0, 12, 0, 0, b'n', b'o', b'n', b'e'];
    raw.send_to(&datagram, &front.into()).unwrap();
    assert_eq!(ask(&client(front), b"somebody"), b"asomebody");
    let totals = proxy.finish();
    assert_eq!(totals.front("dropped source:"), 1);
    assert_eq!(totals.front("accepted"), 1);
    assert_eq!(backend.count.load(SeqCst), 1);
}

#[test]
fn udp_31_without_a_port_left_live_flows_go_on() {
    in_namespace("udp_31", "", || {
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(ports, "40000 40063").unwrap();
        let backends = [41_000, 41_001, 41_002]
            .map(|port| Echo::start(b'a', (Ipv4Addr::LOCALHOST, port).into()));
        let addresses = backends.each_ref().map(|backend| backend.address);
        // No flow ends while this goes on.
        let config = Config::udp(Axis::PLAIN, &addresses)
            .listener("bind = \"127.0.0.1:39000\"")
            .flows("idle_timeout = \"1m\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("no socket for a flow: Resource temporarily unavailable");
        let at = |port: u16| {
            let client = socket_at((Ipv4Addr::LOCALHOST, port).into());
            client.connect(proxy.front()).unwrap();
            client
        };
        let live = at(30_000);
        assert_eq!(ask(&live, b"live"), b"alive");
        for nth in 0..500 {
            at(30_001 + nth).send(b"another").unwrap();
            assert_eq!(ask(&live, b"live"), b"alive");
        }
        // That ends all of them.
        proxy.reload(&config.flows("session = \"oneway\"")).unwrap();
        let totals = proxy.finish();
        assert_eq!(
            totals.front("accepted") + totals.front("dropped local:"),
            501 + totals.front("refused")
        );
        assert!(totals.front("dropped local:") >= 500 - 64);
        // Not one in each, and not one for each backend.
        assert!(totals.front("refused") < 400, "{}", totals.front("refused"));
    });
}

#[test]
fn udp_31_a_flow_outlives_the_address_that_its_socket_had() {
    in_namespace("udp_31", "", || {
        let far = Host::new("near", "eth0");
        for session in ["dialog", "oneway"] {
            run("ip addr add 10.7.0.1/24 dev near");
            let backend = far.run(|| {
                run("ip addr replace 10.7.0.9/24 dev eth0");
                socket_at((Ipv4Addr::new(10, 7, 0, 9), 0).into())
            });
            let config = Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()]);
            let mut proxy = Proxy::start(&config.flows(&format!("session = \"{session}\"")));
            proxy.expect("connect failed");
            let client = client(proxy.front());
            client.send(b"before").unwrap();
            let (_, from) = receive_from(&backend);
            assert_eq!(from.ip(), Ipv4Addr::new(10, 7, 0, 1));
            run("ip addr del 10.7.0.1/24 dev near");
            run("ip addr add 10.7.0.2/24 dev near");
            client.send(b"after").unwrap();
            let (bytes, from) = receive_from(&backend);
            assert_eq!(bytes, b"after");
            assert_eq!(from.ip(), Ipv4Addr::new(10, 7, 0, 2));
            proxy.finish();
            run("ip addr del 10.7.0.2/24 dev near");
        }
    });
}
