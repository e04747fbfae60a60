//! Probes of another address than that of the service.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use super::{often, quick, request};
use crate::harness::{Axis, Config, Family, Listening, Proxy, Served, until};

/// Fails unless with this `setting` the probes of a service come to `probed`, and it is down with it.
#[track_caller]
pub(super) fn is_probed(service: &Served, probed: Listening, setting: &str, axis: Axis) {
    let config = quick(Config::of(axis, &[service.address])).health(setting);
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    for _ in 0..2 {
        probed.accept();
    }
    assert_eq!(service.served(), 0, "the service itself is not probed");
    drop(probed);
    proxy
        .log
        .wait_text("is down: Connection refused (os error 111), at the connect after ");
    proxy.finish();
}

#[test]
fn hlt_06_another_address_can_be_probed_at_the_port_of_the_service() {
    let service = Served::echo(Family::V4);
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let probed = Listening::at((other, service.address.port()).into());
    let address = format!("address = \"{other}\"");
    is_probed(&service, probed, &address, Axis::PLAIN);
}

#[test]
fn hlt_06_an_address_of_the_other_family_can_be_probed_and_is_asked_by_its_name() {
    for (of_service, of_probes) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
        let service = Served::echo(of_service);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let probed = Served::start(of_probes.any(), {
            let asked = Arc::clone(&asked);
            move |mut stream| {
                asked.lock().unwrap().push(request(&stream)?);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            }
        });
        let axis = Axis::plain(of_service);
        let config = often(Config::of(axis, &[service.address]), "http")
            .health("initial = \"down\"")
            // No header of the PROXY protocol goes there: who knows what serves it.
            .pool("send_proxy = \"v1\"")
            .health(&format!("address = \"{}\"", probed.address.ip()))
            .health(&format!("port = {}", probed.address.port()));
        let proxy = Proxy::start(&config);
        proxy.log.wait_text("backend \"pool/a\" is up");
        until("a request", || !asked.lock().unwrap().is_empty());
        let first = asked.lock().unwrap()[0].clone();
        assert!(
            first.contains(&format!("host: {}\r\n", probed.address)),
            "{first}"
        );
        assert_eq!(service.served(), 0, "the service itself is not probed");
        proxy.finish();
    }
}
