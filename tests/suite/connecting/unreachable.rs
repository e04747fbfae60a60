//! Backends that the network says cannot be reached, and clients for whom the kernel has no room.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Instant;

use crate::harness::backend::listen;
use crate::harness::{Axis, Config, DEADLINE, Family, Proxy, Served, in_namespace, ping, served};

#[test]
fn con_04_a_backend_that_cannot_be_reached_is_passed_over_at_once() {
    const AT: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
    for (reason, told) in [
        ("icmp type host-unreachable", "No route to host"),
        ("icmp type admin-prohibited", "No route to host"),
        ("icmp type net-unreachable", "Network is unreachable"),
        ("tcp reset", "Connection refused"),
    ] {
        let setup = format!(
            "nft add table ip faults
             nft add chain ip faults input {{ type filter hook input priority 0 ; }}
             nft add rule ip faults input ip daddr {AT} tcp dport 1-65535 reject with {reason}"
        );
        in_namespace("con_04", &setup, || {
            let unreachable = listen(SocketAddr::from((AT, 0)));
            let backend = Served::echo(Family::V4);
            let addresses = [unreachable.local_addr().unwrap(), backend.address];
            let config = Config::of(Axis::PLAIN, &addresses)
                .pool("balance = \"first\"")
                .pool("connect_timeout = \"1m\"");
            let mut proxy = Proxy::start(&config);
            proxy.expect(&format!("backend \"pool/a\": connect failed: {told}"));
            let start = Instant::now();
            for _ in 0..8 {
                drop(served(proxy.front()));
            }
            assert!(start.elapsed() < DEADLINE, "nothing waits for a time-out");
            proxy.log.wait_text(told);
            let totals = proxy.finish();
            assert_eq!(totals.backend("b", "sessions"), 8);
        });
    }
}

#[test]
fn res_15_clients_beyond_the_kernels_queue_are_served_a_little_later() {
    in_namespace("res_15", "", || {
        // The backend has room already.
        let backend = Served::echo(Family::V4);
        std::fs::write("/proc/sys/net/core/somaxconn", "8").expect("root may set it");
        let proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
        let front = proxy.front();
        // A handshake that finds no room is tried again by the kernels, after a second, then after two …
        std::thread::scope(|threads| {
            for _ in 0..100 {
                threads.spawn(move || {
                    let mut client = TcpStream::connect_timeout(&front, DEADLINE * 3).unwrap();
                    client.set_read_timeout(Some(DEADLINE * 3)).unwrap();
                    ping(&mut client).unwrap();
                });
            }
        });
        let totals = proxy.finish();
        assert_eq!(totals.front("accepted"), 100);
    });
}
