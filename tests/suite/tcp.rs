//! The data path of TCP: conformance A.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use crate::harness::{Config, End, Listening, Payload, Proxy, on_every_axis, read_all, reset};

#[test]
fn tcp_01_backend_speaks_first() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        server.write_all(b"220 ready").unwrap();
        let mut greeting = [0; 9];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ready");
        drop((client, server));
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "bytes to client"), 9);
        assert_eq!(totals.backend("a", "bytes to backend"), 0);
    });
}

#[test]
fn tcp_05_client_finishes_first_and_gets_the_whole_answer() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), (b"request".to_vec(), End::Fin));
        let answer = Payload::new(5);
        let writer = std::thread::spawn(move || {
            server.write_all(&answer.bytes(TEN_MIB)).unwrap();
        });
        let (bytes, end) = read_all(&mut client);
        writer.join().unwrap();
        assert_eq!((bytes.len(), end), (TEN_MIB, End::Fin));
        answer.check(0, &bytes);
        proxy.finish();
    });
}

#[test]
fn tcp_10_client_reset_is_passed_on() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&Config::of(axis, &[backend.address]));
        let (mut client, mut server) = backend.pair(proxy.front());
        client.write_all(b"half a requ").unwrap();
        let mut got = [0; 11];
        server.read_exact(&mut got).unwrap();
        reset(client);
        assert_eq!(read_all(&mut server), (vec![], End::Reset));
        proxy.finish();
    });
}

const TEN_MIB: usize = 10 * 1024 * 1024;
