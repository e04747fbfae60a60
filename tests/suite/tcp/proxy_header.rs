//! Backends of streams that are told who their client is.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::harness::proxy_protocol::{SIGNATURE, STREAMS, v1, v2};
use crate::harness::{
    Axis, Config, End, Listening, Payload, Proxy, connect, on_every_axis, read_all,
};

type Header = fn(SocketAddr, SocketAddr) -> Vec<u8>;

/// Each version's name and what it says.
const VERSIONS: [(&str, Header); 2] = [
    ("v1", v1),
    ("v2", |source, destination| v2(STREAMS, source, destination)),
];

fn config(axis: Axis, version: &str, backends: &[SocketAddr]) -> Config {
    Config::of(axis, backends).pool(&format!("send_proxy = \"{version}\""))
}

/// Fails unless `expected` comes next.
#[track_caller]
fn gets(server: &mut TcpStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(
        got.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
}

#[test]
fn ppx_20_the_header_comes_once_and_before_all_that_the_client_sends() {
    on_every_axis(|axis| {
        for (version, header) in VERSIONS {
            let backend = Listening::start(axis.family);
            let proxy = Proxy::start(&config(axis, version, &[backend.address]));
            let (mut client, mut server) = backend.pair(proxy.front());
            let header = header(client.local_addr().unwrap(), proxy.front());
            // A backend that speaks first knows to whom.
            gets(&mut server, &header);
            server.write_all(b"hello").unwrap();
            let mut greeting = [0; 5];
            client.read_exact(&mut greeting).unwrap();
            assert_eq!(&greeting, b"hello");

            let payload = Payload::new(u64::from(axis.workers)).bytes(300_000);
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    client.write_all(&payload).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                });
                assert!(read_all(&mut server) == (payload.clone(), End::Fin));
            });
            server.write_all(b"bye").unwrap();
            drop(server);
            assert_eq!(read_all(&mut client), (b"bye".to_vec(), End::Fin));
            let totals = proxy.finish();
            assert_eq!(
                totals.backend("a", "bytes to backend"),
                300_000 + header.len() as u64
            );
            assert_eq!(totals.backend("a", "bytes to client"), 8);
        }
    });
}

#[test]
fn ppx_20_the_destination_is_the_address_that_the_client_asked_for() {
    let backend = Listening::start(Axis::PLAIN.family);
    for (version, header) in VERSIONS {
        let config = config(Axis::PLAIN, version, &[backend.address]);
        let proxy = Proxy::start(&config.listener("bind = \"0.0.0.0:0\""));
        let asked = SocketAddr::from((Ipv4Addr::new(127, 9, 8, 7), proxy.front().port()));
        let (client, mut server) = backend.pair(asked);
        gets(&mut server, &header(client.local_addr().unwrap(), asked));
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn ppx_20_a_client_that_says_nothing_is_told_of_all_the_same() {
    for (version, header) in VERSIONS {
        let backend = Listening::start(Axis::PLAIN.family);
        let proxy = Proxy::start(&config(Axis::PLAIN, version, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        let header = header(client.local_addr().unwrap(), proxy.front());
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), (header, End::Fin));
        drop(server);
        assert_eq!(read_all(&mut client), (vec![], End::Fin));
        proxy.finish();
    }
}

#[test]
fn ppx_21_a_retry_sends_no_second_header() {
    for (version, header) in VERSIONS {
        let (dead, _port) = crate::harness::backend::dead(Axis::PLAIN.family);
        let backend = Listening::start(Axis::PLAIN.family);
        let config = config(Axis::PLAIN, version, &[dead, backend.address]);
        let mut proxy = Proxy::start(&config.pool("balance = \"first\""));
        proxy.expect("connect failed");
        let (mut client, mut server) = backend.pair(proxy.front());
        gets(
            &mut server,
            &header(client.local_addr().unwrap(), proxy.front()),
        );
        client.write_all(b"payload").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), (b"payload".to_vec(), End::Fin));
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn ppx_23_a_mapped_client_is_one_of_ipv4() {
    let backend = Listening::start(Axis::PLAIN.family);
    for (version, header) in VERSIONS {
        let config = config(Axis::PLAIN, version, &[backend.address]);
        let proxy = Proxy::start(&config.listener("bind = \"[::]:0\""));
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy.front().port()));
        let client = connect(asked);
        let mut server = backend.accept();
        gets(&mut server, &header(client.local_addr().unwrap(), asked));
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn a_client_of_a_unix_socket_has_no_address_to_tell() {
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    for (version, expected) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", local)] {
        let backend = Listening::start(Axis::PLAIN.family);
        let folder = crate::harness::proxy::Folder::new();
        let path = folder.path().join("front.sock");
        let listener = format!("bind = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
        let config = config(Axis::PLAIN, version, &[backend.address]).listener(&listener);
        let proxy = Proxy::start(&config);
        let client = UnixStream::connect(&path).unwrap();
        let mut server = backend.accept();
        gets(&mut server, &expected);
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn a_reload_changes_what_new_sessions_begin_with() {
    let backend = Listening::start(Axis::PLAIN.family);
    let plain = config(Axis::PLAIN, "off", &[backend.address]);
    let proxy = Proxy::start(&plain);
    let (mut client, mut server) = backend.pair(proxy.front());
    proxy
        .reload(&config(Axis::PLAIN, "v2", &[backend.address]))
        .unwrap();
    client.write_all(b"old").unwrap();
    gets(&mut server, b"old");
    let (newer, mut its) = backend.pair(proxy.front());
    gets(
        &mut its,
        &v2(STREAMS, newer.local_addr().unwrap(), proxy.front()),
    );
    drop((client, server, newer, its));
    proxy.finish();
}
