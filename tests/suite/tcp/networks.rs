//! Other networks than a loopback without faults, and other sockets than TCP.

use std::io::{IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::harness::scale::amount;
use crate::harness::{
    Axis, Config, DEADLINE, End, Family, Listening, Payload, Proxy, Served, connect, in_namespace,
    on_every_axis, process, read_all, until,
};

/// Sends `count` bytes each way through a proxy and checks them.
fn both_ways(axis: Axis, count: usize) {
    let backend = Listening::start(axis.family);
    // The first segments get lost as others do, and a connect waits for them.
    let patient = format!("connect_timeout = \"{}s\"", DEADLINE.as_secs());
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]).pool(&patient));
    let (client, server) = backend.pair(proxy.front());
    std::thread::scope(|threads| {
        for (mut stream, own, other) in [(client, 1, 2), (server, 2, 1)] {
            threads.spawn(move || {
                // Lost segments make a stream wait for longer than any other case does.
                stream.set_read_timeout(Some(DEADLINE * 4)).unwrap();
                stream.set_write_timeout(Some(DEADLINE * 4)).unwrap();
                let mut writer = stream.try_clone().unwrap();
                let writing = std::thread::spawn(move || {
                    writer.write_all(&Payload::new(own).bytes(count)).unwrap();
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                let (bytes, end) = read_all(&mut stream);
                writing.join().unwrap();
                assert_eq!((bytes.len(), end), (count, End::Fin));
                Payload::new(other).check(0, &bytes);
            });
        }
    });
    proxy.finish();
}

#[test]
fn tcp_21_small_segments() {
    in_namespace("tcp_21", "ip link set lo mtu 576", || {
        for splice in ["off", "always"] {
            let axis = Axis {
                splice,
                ..Axis::PLAIN
            };
            both_ways(axis, 4 * 1024 * 1024);
        }
    });
}

#[test]
fn tcp_22_one_segment_in_twenty_lost() {
    let bytes = usize::try_from(amount(2, 100)).unwrap() * 1024 * 1024;
    let loss = "nft add table inet faults
                nft add chain inet faults input { type filter hook input priority 0 ; }
                nft add rule inet faults input numgen random mod 100 < 5 drop";
    in_namespace("tcp_22", loss, || {
        for splice in ["off", "always"] {
            both_ways(
                Axis {
                    splice,
                    ..Axis::PLAIN
                },
                bytes,
            );
        }
    });
}

/// The timer of the socket between two ports.
fn timer(local: u16, other: u16) -> Option<u8> {
    process::tcp_sockets()
        .get(&(local, other))
        .map(|socket| socket.timer)
}

#[test]
fn tcp_28_silent_clients_are_probed_by_keep_alive() {
    const KEEP_ALIVE: u8 = 2;
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (client, server) = backend.pair(proxy.front());
        let (front, client_port) = (proxy.front().port(), client.local_addr().unwrap().port());
        until(
            "the timer of the proxy's socket to the client is keep-alive",
            || timer(front, client_port) == Some(KEEP_ALIVE),
        );
        // Towards a backend the idle time-out and the probes do it.
        let leg = server.peer_addr().unwrap().port();
        until("no timer towards the backend", || {
            timer(leg, backend.address.port()) == Some(0)
        });
        drop((client, server));
        proxy.finish();
    });
}

#[test]
fn tcp_29_unix_sockets_on_either_side() {
    for splice in ["off", "always"] {
        for workers in [1, 2] {
            let axis = Axis {
                splice,
                workers,
                ..Axis::PLAIN
            };
            unix_client(axis);
            unix_backend(axis);
            descriptors_in_a_stream(axis);
        }
    }
}

/// Sends three megabytes and a FIN from one end and expects them at the other.
fn arrives_whole(mut sender: impl Write + Send + 'static, receiver: &mut impl Read) {
    let payload = Payload::new(29);
    let writer = std::thread::spawn(move || sender.write_all(&payload.bytes(3_000_000)).unwrap());
    let (bytes, end) = read_all(receiver);
    writer.join().unwrap();
    assert_eq!((bytes.len(), end), (3_000_000, End::Fin));
    payload.check(0, &bytes);
}

/// A client of a Unix socket, a backend of TCP.
fn unix_client(axis: Axis) {
    let backend = Listening::start(axis.family);
    let folder = crate::harness::proxy::Folder::new();
    let path = folder.path().join("front.sock");
    let listener = format!("bind = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]).listener(&listener));
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut server = backend.accept();
    client.write_all(b"request").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server), (b"request".to_vec(), End::Fin));
    arrives_whole(server, &mut client);
    proxy.finish();
    assert!(
        !path.exists(),
        "the file of the socket goes with the process"
    );
}

/// A client of TCP, a backend of a Unix socket.
fn unix_backend(axis: Axis) {
    let folder = crate::harness::proxy::Folder::new();
    let path = folder.path().join("backend.sock");
    let backend = UnixListener::bind(&path).unwrap();
    let config = Config::new(axis).backend(&format!("unix:{}", path.display()));
    let proxy = Proxy::start(&config);
    let mut client = connect(proxy.front());
    let (mut server, _) = backend.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    server.write_all(b"greeting").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), (b"greeting".to_vec(), End::Fin));
    arrives_whole(client, &mut server);
    proxy.finish();
}

/// A read of a Unix socket ends behind a message with descriptors, but nothing behind it is lost.
fn descriptors_in_a_stream(axis: Axis) {
    let backend = Listening::start(axis.family);
    let folder = crate::harness::proxy::Folder::new();
    let path = folder.path().join("front.sock");
    let listener = format!("bind = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    let proxy = Proxy::start(&Config::of(axis, &[backend.address]).listener(&listener));
    let mut client = UnixStream::connect(&path).unwrap();
    let mut server = backend.accept();
    let send_both = |mut client: &UnixStream| {
        let descriptors = [client.as_raw_fd()];
        let attached = [ControlMessage::ScmRights(&descriptors)];
        let bytes = [IoSlice::new(b"one")];
        let sent = sendmsg::<()>(
            client.as_raw_fd(),
            &bytes,
            &attached,
            MsgFlags::empty(),
            None,
        );
        assert_eq!(sent, Ok(3));
        client.write_all(b"two").unwrap();
    };
    // Both messages wait before the proxy looks.
    proxy.signal(Signal::SIGSTOP);
    send_both(&client);
    proxy.signal(Signal::SIGCONT);
    let mut got = [0; 6];
    server.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"onetwo");
    proxy.signal(Signal::SIGSTOP);
    send_both(&client);
    client.shutdown(Shutdown::Write).unwrap();
    proxy.signal(Signal::SIGCONT);
    assert_eq!(read_all(&mut server), (b"onetwo".to_vec(), End::Fin));
    drop(server);
    assert_eq!(read_all(&mut client), (vec![], End::Fin));
    drop(client);
    proxy.finish();
}

#[test]
fn tcp_30_one_family_to_the_other() {
    for (front, behind) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let backend = Served::echo(behind);
        let axis = Axis::plain(front);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        echoes(connect(proxy.front()));
        proxy.finish();
    }
    // An IPv6 wildcard alone takes IPv4 clients too.
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).listener("bind = \"[::]:0\"");
    let proxy = Proxy::start(&config);
    let port = proxy.front().port();
    for family in [Family::V4, Family::V6] {
        echoes(connect(SocketAddr::new(family.ip(), port)));
    }
    proxy.finish();
}

fn echoes(mut client: TcpStream) {
    client.write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut client), (b"hello".to_vec(), End::Fin));
}

#[test]
fn tcp_31_a_link_local_backend_on_a_named_interface() {
    // Two interfaces with the same address: only the name says which is meant.
    let links = "ip link add name left type veth peer name left-far
                 ip link add name right type veth peer name right-far
                 ip link set left-far up
                 ip link set right-far up
                 ip addr add fe80::1/64 dev left nodad
                 ip addr add fe80::1/64 dev right nodad
                 ip link set left up
                 ip link set right up";
    in_namespace("tcp_31", links, || {
        let scope = |name: &str| nix::net::if_::if_nametoindex(name).expect("an interface");
        let at = |name: &str| {
            let ip = "fe80::1".parse().expect("an address");
            SocketAddr::V6(std::net::SocketAddrV6::new(ip, 0, 0, scope(name)))
        };
        // The kernel takes a while to find that a link is up.
        for name in ["left", "right"] {
            until("the link is up", || {
                let listener =
                    TcpListener::bind(at(name)).and_then(|it| Ok((it.local_addr()?, it)));
                listener.is_ok_and(|(address, _listener)| TcpStream::connect(address).is_ok())
            });
        }
        let (left, right) = (Listening::at(at("left")), Listening::at(at("right")));
        let address = format!("[fe80::1%right]:{}", right.address.port());
        let proxy = Proxy::start(&Config::new(Axis::PLAIN).backend(&address));
        let (mut client, mut server) = right.pair(proxy.front());
        server.write_all(b"right").unwrap();
        let mut got = [0; 5];
        client.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"right");
        assert!(left.try_accept().is_none());
        drop((client, server));
        proxy.finish();
    });
}

#[test]
fn a_wildcard_listener_serves_every_local_address() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).listener("bind = \"0.0.0.0:0\"");
    let proxy = Proxy::start(&config);
    let port = proxy.front().port();
    for last in 1..5 {
        let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port));
        echoes(connect(address));
    }
    proxy.finish();
}
