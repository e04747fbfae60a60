//! Reloads while a client's connect is under way: whoever has to try again does so under the plan in
//! force.

use std::io::Write as _;
use std::net::TcpStream;

use crate::harness::faults::Swallowing;
use crate::harness::stream::is_silent_for;
use crate::harness::{Config, End, Listening, Proxy, connect, on_every_axis, read_all};

/// A client that is on its way to a hole when the reload comes.
fn under_way(proxy: &Proxy) -> TcpStream {
    let before = proxy.open_descriptors();
    let mut client = connect(proxy.front());
    client.write_all(b"first").unwrap();
    proxy.wait_open(before + 2); // its connect is under way
    client
}

#[test]
fn a_client_under_way_goes_to_a_backend_that_came_and_not_to_one_that_went() {
    on_every_axis(|axis| {
        let hole = Swallowing::start(axis.family);
        let (went, came) = (Listening::start(axis.family), Listening::start(axis.family));
        let first = |others: &Listening| {
            Config::of(axis, &[hole.address, others.address])
                .with(&format!("name = \"b-{}\"", others.address.port()))
                .pool("balance = \"first\"")
                .pool("connect_timeout = \"1500ms\"")
        };
        let mut proxy = Proxy::start(&first(&went));
        proxy.expect("connect failed");
        let client = under_way(&proxy);
        proxy.reload(&first(&came)).unwrap();
        let server = came.accept();
        assert!(went.try_accept().is_none());
        drop((client, server));
        proxy.finish();
    });
}

#[test]
fn a_client_under_way_finds_the_limit_in_force() {
    on_every_axis(|axis| {
        let hole = Swallowing::start(axis.family);
        let backend = Listening::start(axis.family);
        let limited = |limit: u32| {
            Config::of(axis, &[backend.address])
                .with(&format!("max_connections = {limit}"))
                .pool("queue = { limit = 0 }")
                .pool("balance = \"first\"")
                .pool("connect_timeout = \"1500ms\"")
        };
        let mut proxy = Proxy::start(&limited(2));
        proxy.expect("connect failed");
        proxy.expect("client refused");
        let session = backend.pair(proxy.front());
        let hole = hole.address.to_string();
        // The hole has next to nothing open for its weight, so the client goes there first.
        let with_hole = |limit: u32| {
            limited(limit)
                .pool("balance = \"least_connections\"")
                .backend(&hole)
                .with("weight = 65535")
        };
        proxy.reload(&with_hole(2)).unwrap();
        let mut client = under_way(&proxy);
        proxy.reload(&with_hole(1)).unwrap();
        is_silent_for(&mut client, std::time::Duration::from_millis(1));
        assert_eq!(read_all(&mut client), (vec![], End::Reset));
        assert!(backend.try_accept().is_none(), "one session is the limit");
        drop(session);
        proxy.finish();
    });
}
