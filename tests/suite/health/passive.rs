//! What real traffic says of backends: those on which it fails are ejected.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use evenkeel::sys::socket::unacknowledged;

use super::quick;
use crate::harness::backend::dead;
use crate::harness::stream::reset_on_close;
use crate::harness::udp::{self, Echo};
use crate::harness::{
    Axis, Config, End, Family, Listening, Proxy, Served, connect, on_every_axis, read_all, refused,
    served, until,
};

#[test]
fn hlt_15_failed_connects_eject_for_a_time_that_grows() {
    let (dead, _port) = dead(Family::V4);
    let live = Served::echo(Family::V4);
    let config = ejecting(Axis::PLAIN, &[dead, live.address]).outlier("eject_time = \"1s\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\"");
    for (times, time) in ["1s", "2s"].into_iter().enumerate() {
        let line = format!(
            "backend \"pool/a\" is ejected for {time}: connect failed: \
             Connection refused (os error 111) (3 failures in a row)"
        );
        until(&line, || {
            served(proxy.front());
            proxy.log.has(&line)
        });
        // Nobody need come by for it to be told.
        let again = "backend \"pool/a\" is used again";
        until(again, || proxy.log.count(again) > times);
    }
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 2 * 3);
    assert_eq!(totals.front("refused"), 0);
}

#[test]
fn hlt_15_resets_before_the_first_byte_eject() {
    on_every_axis(|axis| {
        let broken = resetting(axis.family, b"");
        let live = Served::echo(axis.family);
        let mut proxy = Proxy::start(&ejecting(axis, &[broken.address, live.address]));
        proxy.expect("backend \"pool/a\"");
        for _ in 0..3 {
            let mut client = connect(proxy.front());
            client.write_all(b"ping").unwrap();
            assert_eq!(read_all(&mut client), (vec![], End::Reset));
        }
        proxy.log.wait_text(
            "backend \"pool/a\" is ejected for 3600s: \
             reset before its first byte (3 failures in a row)",
        );
        for _ in 0..5 {
            served(proxy.front());
        }
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "sessions"), 3);
        assert_eq!(totals.backend("b", "sessions"), 5);
    });
}

#[test]
fn hlt_15_a_reset_after_a_byte_or_after_the_clients_end_is_none_of_the_backends_failures() {
    let late = resetting(Family::V4, b"x");
    let idle = Served::echo(Family::V4);
    let proxy = Proxy::start(&ejecting(Axis::PLAIN, &[late.address, idle.address]));
    for _ in 0..10 {
        let mut client = connect(proxy.front());
        client.write_all(b"ping").unwrap();
        assert_eq!(read_all(&mut client), (b"x".to_vec(), End::Reset));
    }
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 10);

    let listening = Listening::start(Family::V4);
    let proxy = Proxy::start(&ejecting(Axis::PLAIN, &[listening.address, idle.address]));
    for _ in 0..10 {
        let (mut client, mut server) = listening.pair(proxy.front());
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap(), 0, "it has the client's end");
        reset_on_close(&server);
        drop(server);
        assert_eq!(read_all(&mut client), (vec![], End::Reset));
    }
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 10);
}

#[test]
fn hlt_15_a_byte_ends_the_row() {
    let count = AtomicU64::new(0);
    // Two of three are reset.
    let shaky = Served::start(Family::V4.any(), move |mut stream| {
        stream.read_exact(&mut [0; 4])?;
        if count.fetch_add(1, SeqCst) % 3 == 2 {
            return stream.write_all(b"x");
        }
        reset_on_close(&stream);
        Ok(())
    });
    let idle = Served::echo(Family::V4);
    let proxy = Proxy::start(&ejecting(Axis::PLAIN, &[shaky.address, idle.address]));
    for n in 0..12 {
        let mut client = connect(proxy.front());
        client.write_all(b"ping").unwrap();
        let (bytes, _) = read_all(&mut client);
        assert_eq!(bytes.len(), usize::from(n % 3 == 2));
    }
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 12);
}

#[test]
fn hlt_15_no_more_than_max_ejected_are_and_a_single_one_never_is() {
    let ports: Vec<_> = (0..4).map(|_| dead(Family::V4)).collect();
    let addresses: Vec<SocketAddr> = ports.iter().map(|(address, _)| *address).collect();
    let config = ejecting(Axis::PLAIN, &addresses).pool("retries = 3");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused");
    for _ in 0..10 {
        refused(proxy.front());
    }
    assert_eq!(proxy.log.count("is ejected for 3600s"), 2);
    let totals = proxy.finish();
    // The first two as often as it takes, or later for want of anybody else; the others each time.
    assert_eq!(totals.backend("c", "connect failures"), 10);
    assert_eq!(totals.backend("d", "connect failures"), 10);

    let mut only = Served::echo(Family::V4);
    only.kill();
    let mut proxy = Proxy::start(&ejecting(Axis::PLAIN, &[only.address]));
    proxy.expect("backend \"pool/a\": connect failed");
    proxy.expect("client refused");
    for _ in 0..10 {
        refused(proxy.front());
    }
    only.revive();
    served(proxy.front());
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 10);
}

#[test]
fn hlt_15_the_ejected_are_used_when_the_last_one_goes_down() {
    let shaky = resetting(Family::V4, b"");
    let probed = Served::echo(Family::V4);
    let port = probed.address.port();
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let live = Served::echo_at((other, 0).into());
    let mut probed_too = Served::echo_at((other, port).into());
    let config = quick(ejecting(Axis::PLAIN, &[shaky.address, live.address]))
        .health(&format!("port = {port}"))
        .pool("fail_open = false");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is ejected");
    proxy.expect("backend \"pool/b\" is down");
    eject_first(&proxy);
    served(proxy.front());
    probed_too.kill();
    proxy.log.wait_text("backend \"pool/b\" is down");
    let mut client = connect(proxy.front());
    client.write_all(b"ping").unwrap();
    assert_eq!(read_all(&mut client), (vec![], End::Reset));
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 4);
    assert_eq!(totals.backend("b", "sessions"), 1);
}

#[test]
fn hlt_15_a_reset_brings_the_next_probe_forward_but_a_probe_that_passes_ends_nothing() {
    let probed = Listening::start(Family::V4);
    let shaky = resetting(Family::V4, b"");
    let live = Served::echo(Family::V4);
    let config = ejecting(Axis::PLAIN, &[shaky.address, live.address])
        .health(&format!("port = {}", probed.address.port()))
        .health("interval = \"1d\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is ejected");
    assert!(probed.try_accept().is_none());
    for _ in 0..3 {
        let mut client = connect(proxy.front());
        client.write_all(b"ping").unwrap();
        assert_eq!(read_all(&mut client), (vec![], End::Reset));
        drop(probed.accept());
    }
    proxy.log.wait_text("backend \"pool/a\" is ejected");
    for _ in 0..10 {
        served(proxy.front());
    }
    let totals = proxy.finish();
    assert_eq!(totals.backend("b", "sessions"), 10);
}

#[test]
fn hlt_15_coming_up_ends_an_ejection() {
    let mut first = Served::echo(Family::V4);
    let second = Served::echo(Family::V4);
    let config = quick(ejecting(Axis::PLAIN, &[first.address, second.address]));
    let mut proxy = Proxy::start(&config.outlier("consecutive_failures = 1"));
    proxy.expect("backend \"pool/a\"");
    first.kill();
    served(proxy.front());
    assert!(proxy.log.has("backend \"pool/a\" is ejected for 3600s"));
    proxy.log.wait_text("backend \"pool/a\" is down");
    first.revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    served(proxy.front());
    assert!(!proxy.log.has("is used again"));
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 1);
    assert_eq!(totals.backend("b", "sessions"), 1);
}

#[test]
fn hlt_15_an_ejection_outlives_a_reload() {
    let shaky = resetting(Family::V4, b"");
    let live = Served::echo(Family::V4);
    let config = ejecting(Axis::PLAIN, &[shaky.address, live.address]);
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is ejected");
    eject_first(&proxy);
    for change in [
        config.clone().listener("max_connections = 100"),
        config.clone().pool("retries = 1"),
        config.clone().outlier("eject_time = \"1s\""),
    ] {
        proxy.reload(&change).unwrap();
        served(proxy.front());
    }
    // Unless none is wanted any more.
    proxy
        .reload(&config.outlier("consecutive_failures = 0"))
        .unwrap();
    let mut client = connect(proxy.front());
    client.write_all(b"ping").unwrap();
    assert_eq!(read_all(&mut client), (vec![], End::Reset));
    assert_eq!(proxy.log.count("is ejected"), 1);
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 4);
    assert_eq!(totals.backend("b", "sessions"), 3);
}

#[test]
fn hlt_15_refusals_by_the_network_eject_a_backend_of_datagrams() {
    for family in [Family::V4, Family::V6] {
        let nobody = udp::socket(family);
        let gone = nobody.local_addr().unwrap();
        drop(nobody);
        let live = Echo::start(b'b', family.any());
        let config = Config::udp(Axis::plain(family), &[gone, live.address])
            .pool("balance = \"first\"")
            .outlier("consecutive_failures = 3")
            .outlier("eject_time = \"1h\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\"");
        for _ in 0..3 {
            let client = udp::client(proxy.front());
            client
                .set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            // Its first datagram meets nobody.
            until("the flow has moved", || {
                client.send(b"question").unwrap();
                client.recv(&mut [0; 16]).is_ok()
            });
        }
        proxy.log.wait_text(
            "backend \"pool/a\" is ejected for 3600s: connect failed: Connection refused",
        );
        // Now not even the first one is lost.
        let client = udp::client(proxy.front());
        assert_eq!(udp::ask(&client, b"question"), b"bquestion");
        drop(client);
        let totals = proxy.finish();
        assert_eq!(totals.backend("a", "sessions"), 3);
    }
}

/// A first backend that is used as long as it may be, and is ejected for good after three failures.
fn ejecting(axis: Axis, backends: &[SocketAddr]) -> Config {
    Config::of(axis, backends)
        .pool("balance = \"first\"")
        .outlier("consecutive_failures = 3")
        .outlier("eject_time = \"1h\"")
}

/// Resets each connection once something has come, after it has sent `answer`.
fn resetting(family: Family, answer: &'static [u8]) -> Served {
    Served::start(family.any(), move |mut stream| {
        stream.read_exact(&mut [0; 4])?;
        stream.write_all(answer)?;
        if !answer.is_empty() {
            // What it has sent is to arrive before the reset.
            until("an acknowledgement", || {
                unacknowledged(stream.as_fd()).unwrap() == 0
            });
        }
        reset_on_close(&stream);
        Ok(())
    })
}

/// Three clients that the first backend resets.
fn eject_first(proxy: &Proxy) {
    for _ in 0..3 {
        let mut client = connect(proxy.front());
        client.write_all(b"ping").unwrap();
        assert_eq!(read_all(&mut client), (vec![], End::Reset));
    }
    proxy.log.wait_text("backend \"pool/a\" is ejected");
}
