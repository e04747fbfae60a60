//! Where connections to backends come from.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::process::Command;

use crate::harness::namespace::{Host, run};
use crate::harness::proxy::Folder;
use crate::harness::scale::skip;
use crate::harness::{
    Axis, Config, EVENKEEL, Family, Listening, Proxy, connect, connect_from, in_namespace,
    on_every_axis, ping, refused, served, udp, until,
};

/// Sends bytes both ways.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"question").unwrap();
    let mut question = [0; 8];
    server.read_exact(&mut question).unwrap();
    server.write_all(&question).unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"question");
}

/// Sends a datagram each way; who sent the one that the backend got.
fn ask(client: &UdpSocket, backend: &UdpSocket) -> SocketAddr {
    client.send(b"question").unwrap();
    let (question, from) = udp::receive_from(backend);
    assert_eq!(question, b"question");
    backend.send_to(b"answer", from).unwrap();
    assert_eq!(udp::receive(client), b"answer");
    from
}

#[test]
fn con_19_backends_see_the_source_that_is_configured() {
    in_namespace("con_19", "ip addr add fd00::9/128 dev lo nodad", || {
        on_every_axis(|axis| {
            let source: IpAddr = own(axis.family);
            let backend = Listening::start(axis.family);
            let config = Config::of(axis, &[backend.address])
                .pool(&format!("source = \"{source}\""))
                .pool("retries = 0")
                .health("interval = \"10ms\"");
            let proxy = Proxy::start(&config);
            // Probes come from there as well; a session says something first.
            for _ in 0..3 {
                assert_eq!(backend.accept().peer_addr().unwrap().ip(), source);
            }
            let config = config.health("type = \"none\"");
            proxy.reload(&config).unwrap();
            while backend.try_accept().is_some() {}
            let (mut client, mut server) = backend.pair(proxy.front());
            assert_eq!(server.peer_addr().unwrap().ip(), source);
            exchange(&mut client, &mut server);
            drop((client, server));
            // What a reload says holds for those who come then.
            proxy.reload(&config.pool("source = \"\"")).unwrap();
            let (mut client, mut server) = backend.pair(proxy.front());
            assert_eq!(server.peer_addr().unwrap().ip(), axis.family.ip());
            exchange(&mut client, &mut server);
            drop((client, server));
            proxy.finish();
        });
    });
}

/// An address of this host that no route would suggest.
fn own(family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => "127.0.0.9",
        Family::V6 => "fd00::9",
    };
    text.parse().unwrap()
}

#[test]
fn con_19_so_do_backends_of_datagrams_and_probes_by_datagrams() {
    in_namespace("con_19", "ip addr add fd00::9/128 dev lo nodad", || {
        for family in [Family::V4, Family::V6] {
            for session in ["dialog", "oneway"] {
                let axis = Axis::plain(family);
                let backend = udp::socket(family);
                let config = Config::udp(axis, &[backend.local_addr().unwrap()])
                    .flows(&format!("session = \"{session}\""))
                    .pool(&format!("source = \"{}\"", own(family)))
                    .health("type = \"udp\"")
                    .health("send = \"probe\"")
                    .health("interval = \"10ms\"")
                    .health("initial = \"up\"");
                let proxy = Proxy::start(&config);
                let client = udp::client(proxy.front());
                client.send(b"question").unwrap();
                let mut seen = [false; 2];
                until("a probe and a datagram", || {
                    let (bytes, from) = udp::receive_from(&backend);
                    assert_eq!(from.ip(), own(family));
                    if bytes == b"question" && session == "dialog" {
                        backend.send_to(b"answer", from).unwrap();
                        assert_eq!(udp::receive(&client), b"answer");
                    }
                    seen[usize::from(bytes == b"question")] = true;
                    seen == [true; 2]
                });
                proxy.finish();
            }
        }
    });
}

/// One port of the source serves several backends at once.
#[test]
fn con_19_a_source_has_its_ports_once_for_each_backend() {
    in_namespace("con_19", "", || {
        let ports = "/proc/sys/net/ipv4/ip_local_port_range";
        std::fs::write(ports, "40000 40015").unwrap();
        let backends = [20_001, 20_002].map(|port| Listening::at(([127, 0, 0, 1], port).into()));
        let config = Config::of(Axis::PLAIN, &backends.each_ref().map(|one| one.address))
            .pool("source = \"127.0.0.9\"")
            .pool("balance = \"round_robin\"")
            .pool("retries = 0")
            .listener("bind = \"127.0.0.1:30000\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("client refused: Cannot assign requested address");
        let front = proxy.front();
        let clients: Vec<_> = (0..32_u8)
            .map(|n| connect_from([127, 0, 1, n / 8].into(), front).unwrap())
            .collect();
        let sessions: Vec<_> = (0..32).map(|n| backends[n % 2].accept()).collect();
        // Beyond them, it is nobody's fault but ours. The reset may come before the connect returns.
        let more: Vec<_> = (0..4)
            .map(|_| connect_from([127, 0, 2, 1].into(), front))
            .collect();
        proxy.log.wait(0, "that ports have run out", |line| {
            line.contains("client refused: Cannot assign").then_some(())
        });
        drop((clients, sessions, more));
        let totals = proxy.finish();
        assert_eq!(totals.backends("connect failures"), 0);
        assert_eq!(totals.front("refused"), 4);
    });
}

#[test]
fn con_19_a_source_that_is_not_of_this_host_is_refused() {
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let wrong = config.clone().pool("source = \"192.0.2.1\"");
    let reason = "pool \"pool\": source \"192.0.2.1\": Cannot assign requested address (os error 99); \
                  no interface of this host has it";
    let (code, log) = fails(&wrong, |command| command);
    assert!(log.contains(reason), "{log}");
    assert_eq!(code, Some(1));
    let mut proxy = Proxy::start(&config);
    proxy.expect("reload failed, generation 1 stays in force");
    let error = proxy.reload(&wrong).unwrap_err();
    assert!(error.contains(reason), "{error}");
    let (mut client, mut server) = backend.pair(proxy.front());
    exchange(&mut client, &mut server);
    drop((client, server));
    proxy.finish();
}

/// A start that fails: its exit code and what it says.
fn fails(config: &Config, change: impl FnOnce(Command) -> Command) -> (Option<i32>, String) {
    let folder = Folder::new();
    std::fs::write(folder.config(), config.text()).unwrap();
    let mut command = Command::new(EVENKEEL);
    command.arg("run").arg("-c").arg(folder.config());
    let output = change(command).output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// What the README says a host needs to take in answers to its clients.
fn take_answers() {
    let text = include_str!("../../../README.md");
    let (_, rest) = text.split_once("<!-- answers:begin -->\n```sh\n").unwrap();
    let (commands, _) = rest.split_once("```\n<!-- answers:end -->").unwrap();
    let status = Command::new("sh").arg("-ec").arg(commands).status();
    assert!(status.unwrap().success());
}

/// Runs a case between a host of clients and a host of backends, as the README describes it. Nobody
/// there knows a way but through here.
fn between_hosts(case: impl Fn(Axis, &Host, &Host) + Sync) {
    in_namespace("con_20", "nft list ruleset", || {
        let (clients, backends) = (Host::new("clients", "eth0"), Host::new("backends", "eth0"));
        for line in [
            "ip addr add 10.1.0.1/24 dev clients",
            "ip addr add 10.2.0.1/24 dev backends",
            "ip addr add fd01::1/64 dev clients nodad",
            "ip addr add fd02::1/64 dev backends nodad",
        ] {
            run(line);
        }
        take_answers();
        for (host, net) in [(&clients, 1), (&backends, 2)] {
            host.run(|| {
                run(&format!("ip addr add 10.{net}.0.2/24 dev eth0"));
                run(&format!("ip addr add fd0{net}::2/64 dev eth0 nodad"));
                run(&format!("ip route add default via 10.{net}.0.1"));
                run(&format!("ip -6 route add default via fd0{net}::1"));
            });
        }
        for family in [Family::V4, Family::V6] {
            for workers in [1, 2] {
                let axis = Axis {
                    family,
                    workers,
                    ..Axis::PLAIN
                };
                case(axis, &clients, &backends);
            }
        }
    });
}

/// An address on one of the networks: 1 has the clients, 2 the backends.
fn on(family: Family, net: u8, host: u8) -> SocketAddr {
    let text = match family {
        Family::V4 => format!("10.{net}.0.{host}:0"),
        Family::V6 => format!("[fd0{net}::{host}]:0"),
    };
    text.parse().unwrap()
}

#[test]
fn con_20_backends_see_the_address_of_the_client() {
    between_hosts(|axis, clients, backends| {
        let backend = backends.run(|| Listening::at(on(axis.family, 2, 2)));
        let config = Config::of(axis, &[backend.address])
            .listener(&format!("bind = \"{}\"", on(axis.family, 1, 1)))
            .pool("source = \"client\"");
        let probed = config.clone().health("interval = \"10ms\"");
        let proxy = Proxy::start(&probed);
        let own = on(axis.family, 2, 1).ip();
        assert_eq!(
            backend.accept().peer_addr().unwrap().ip(),
            own,
            "of a probe"
        );
        proxy.reload(&config).unwrap();
        while backend.try_accept().is_some() {}
        let client = on(axis.family, 1, 2).ip();
        let mut sessions: Vec<_> = (0..10)
            .map(|_| {
                let front = proxy.front();
                let client = clients.run(|| connect(front));
                (client, backend.accept())
            })
            .collect();
        for (stream, server) in &mut sessions {
            assert_eq!(server.peer_addr().unwrap().ip(), client);
            exchange(stream, server);
        }
        drop(sessions);
        proxy.finish();
    });
}

#[test]
fn con_20_backends_of_datagrams_see_the_address_of_the_client() {
    between_hosts(|axis, clients, backends| {
        let backend = backends.run(|| udp::socket_at(on(axis.family, 2, 2)));
        let config = Config::udp(axis, &[backend.local_addr().unwrap()])
            .listener(&format!("bind = \"{}\"", on(axis.family, 1, 1)))
            .pool("source = \"client\"");
        let proxy = Proxy::start(&config);
        let front = proxy.front();
        let client = on(axis.family, 1, 2);
        let connected = || {
            clients.run(|| {
                let socket = udp::socket_at(client);
                socket.connect(front).unwrap();
                socket
            })
        };
        let (one, other) = (connected(), connected());
        for _ in 0..3 {
            let (of_one, of_other) = (ask(&one, &backend), ask(&other, &backend));
            assert_eq!([of_one.ip(), of_other.ip()], [client.ip(); 2]);
            assert_ne!(of_one, of_other, "flows are told apart");
        }
        proxy.reload(&config.flows("session = \"oneway\"")).unwrap();
        let third = connected();
        third.send(b"question").unwrap();
        assert_eq!(udp::receive_from(&backend).1.ip(), client.ip());
        proxy.finish();
    });
}

#[test]
fn con_20_a_client_that_cannot_be_the_source_is_refused() {
    in_namespace("con_20", "", || {
        let backend = Listening::start(Family::V4);
        let datagrams = udp::socket(Family::V4);
        let config = Config::of(Axis::PLAIN, &[backend.address])
            .listener("bind = \"[::]:30000\"")
            .pool("source = \"client\"")
            .more(&format!(
                "[[listener]]\nname = \"datagrams\"\nbind = \"[::]:30000\"\nprotocol = \"udp\"\n\
                 pool = \"datagrams\"\n[pool.datagrams]\nsource = \"client\"\n\
                 udp = {{ idle_timeout = \"300ms\" }}\n[[pool.datagrams.backend]]\naddress = \"{}\"",
                datagrams.local_addr().unwrap()
            ));
        let mut proxy = Proxy::start(&config);
        let reason = "cannot connect from ::1 to 127.0.0.1:";
        proxy.expect(&format!("client refused: {reason}"));
        let front = |family: Family| SocketAddr::new(family.ip(), 30_000);
        refused(front(Family::V6));
        udp::client(front(Family::V6)).send(b"lost").unwrap();
        let (mut client, mut server) = backend.pair(front(Family::V4));
        exchange(&mut client, &mut server);
        ask(&udp::client(front(Family::V4)), &datagrams);
        drop((client, server));
        let totals = proxy.finish();
        assert_eq!(totals.front("refused"), 1);
        assert_eq!(totals.listeners["datagrams"]["dropped local:"], 1);
        assert_eq!(totals.backends("connect failures"), 0);
    });
}

/// Which interface it is on is not known any more.
#[test]
fn con_20_a_client_with_a_link_local_address_is_refused() {
    in_namespace("con_20", "ip addr add fe80::9/64 dev lo nodad", || {
        let backend = Listening::start(Family::V6);
        let config = Config::of(Axis::PLAIN, &[backend.address])
            .listener("bind = \"[::]:30000\"")
            .pool("source = \"client\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("client refused: cannot connect from fe80::9: Invalid argument");
        let loopback = 1;
        let front = SocketAddrV6::new("fe80::9".parse().unwrap(), 30_000, 0, loopback);
        refused(front.into());
        assert!(backend.try_accept().is_none());
        let totals = proxy.finish();
        assert_eq!(totals.front("refused"), 1);
        assert_eq!(totals.backends("connect failures"), 0);
    });
}

/// What says so that the capability is missing.
const NEEDS: &str = "pool \"pool\": source \"client\": Operation not permitted (os error 1); it needs \
                     CAP_NET_ADMIN or CAP_NET_RAW: ";

#[test]
fn con_20_without_the_capability_it_does_not_start() {
    if !nix::unistd::geteuid().is_root() {
        return skip("con_20", "only root has capabilities to lose");
    }
    let config = Config::new(Axis::PLAIN)
        .backend("127.0.0.1:1")
        .pool("source = \"client\"");
    for config in [config.clone(), config.global("user = \"nobody\"")] {
        let (code, log) = fails(&config, |command| {
            let mut inside = Command::new("setpriv");
            inside.arg("--bounding-set=-net_admin,-net_raw");
            inside.arg(command.get_program()).args(command.get_args());
            inside
        });
        assert!(log.contains(NEEDS), "{log}");
        assert_eq!(log.matches("ERROR").count(), 1, "{log}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn con_20_a_reload_cannot_have_what_the_start_has_given_up() {
    if !nix::unistd::geteuid().is_root() {
        return skip("con_20", "only root has capabilities to lose");
    }
    let backend = crate::harness::Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).global("user = \"nobody\"");
    let mut proxy = Proxy::start(&config);
    let mut session = served(proxy.front());
    proxy.expect("reload failed, generation 1 stays in force");
    let error = proxy
        .reload(&config.pool("source = \"client\""))
        .unwrap_err();
    assert!(error.contains(NEEDS), "{error}");
    ping(&mut session).unwrap();
    served(proxy.front());
    drop(session);
    proxy.finish();
}
