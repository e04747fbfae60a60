//! Probes of backends that are told who their client is: they say that they are nobody's.

use std::io::{Read as _, Write as _};

use super::{often, probed};
use crate::harness::udp::socket;
use crate::harness::{Axis, Config, DEADLINE, Family, Proxy, Served, proxy_protocol};

#[test]
fn ppx_22_probes_say_that_they_are_the_proxys_own() {
    for family in [Family::V4, Family::V6] {
        for (version, header) in [
            ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
            ("v2", proxy_protocol::v2_local()),
        ] {
            let backend = Served::start(family.any(), move |mut stream| {
                let mut start = vec![0; header.len() + 4];
                stream.read_exact(&mut start)?;
                let is_right = start == [&header[..], b"PING"].concat();
                stream.write_all(if is_right { b"PONG" } else { b"What?" })
            });
            let axis = Axis::plain(family);
            let config = probed(axis, "send_expect", &[&backend])
                .health("send = \"PING\"")
                .health("expect_bytes = \"PONG\"")
                .health("initial = \"down\"")
                .pool(&format!("send_proxy = \"{version}\""));
            let mut proxy = Proxy::start(&config);
            proxy.log.wait_text("backend \"pool/a\" is up");

            // To another port goes no header: who knows what serves there.
            proxy.expect("backend \"pool/a\" is down: another answer than the expected one");
            proxy.expect("backend \"pool/a\" is down: no answer within");
            let port = backend.address.port();
            proxy
                .reload(&config.health(&format!("port = {port}")))
                .unwrap();
            proxy.log.wait_text("backend \"pool/a\" is down");
            drop(backend);
            proxy.finish();
        }
    }
}

#[test]
fn ppx_22_a_datagram_says_that_it_is_the_proxys_own() {
    for family in [Family::V4, Family::V6] {
        let server = socket(family);
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        let axis = Axis::plain(family);
        let config = Config::udp(axis, &[server.local_addr().unwrap()]);
        let config = often(config, "udp")
            .pool("send_proxy = \"v2\"")
            .health("send = \"k\"");
        let proxy = Proxy::start(&config);
        let mut datagram = [0; 64];
        let (count, _) = server.recv_from(&mut datagram).unwrap();
        let expected = [&proxy_protocol::v2_local()[..], b"k"].concat();
        assert_eq!(datagram[..count], expected);
        proxy.finish();
    }
}
