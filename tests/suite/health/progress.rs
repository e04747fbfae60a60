//! Backends that send bytes while probes of them time out.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::harness::backend::dead;
use crate::harness::{Axis, Config, Family, Proxy, Served, connect, on_every_axis, udp, until};

/// A backend too busy to answer probes. Who asks it for bytes gets one after the other.
struct Busy {
    served: Served,
    /// Probes so far.
    probes: Arc<AtomicU64>,
}

impl Busy {
    fn start(family: Family) -> Self {
        let probes = Arc::new(AtomicU64::new(0));
        let served = Served::start(family.any(), {
            let probes = Arc::clone(&probes);
            move |mut stream| {
                let mut question = [0; 4];
                stream.read_exact(&mut question)?;
                if question == *b"PING" {
                    probes.fetch_add(1, SeqCst);
                    return io::copy(&mut stream, &mut io::sink()).map(drop);
                }
                send_slowly(stream)
            }
        });
        Self { served, probes }
    }
}

/// A byte now and then, until the other side has enough.
fn send_slowly(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PACE))?;
    loop {
        stream.write_all(b"x")?;
        match stream.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

const PACE: Duration = Duration::from_millis(20);

/// As many probes as would take it down, and some more.
const PROBES: u64 = 5;

fn asking(config: Config, kind: &str) -> Config {
    config
        .health(&format!("type = \"{kind}\""))
        .health("send = \"PING\"")
        .health("expect_bytes = \"PONG\"")
        .health("interval = \"500ms\"")
        .health("timeout = \"500ms\"")
        .health("fast_interval = \"20ms\"")
        .health("fall = 3")
        .health(super::DOWN_FOR_GOOD)
}

/// A client that reads what comes, until it is shut down.
fn reading(proxy: &Proxy) -> TcpStream {
    let mut client = connect(proxy.front());
    client.write_all(b"more").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let mut copy = client.try_clone().unwrap();
    std::thread::spawn(move || io::copy(&mut copy, &mut io::sink()));
    client
}

#[test]
fn hlt_03_a_backend_that_sends_bytes_is_not_failed_by_silence() {
    on_every_axis(|axis| {
        // One of each is enough here: the others move bytes by the same calls.
        if (axis.workers == 2) != (axis.splice == "always") {
            return;
        }
        let busy = Busy::start(axis.family);
        let config = asking(Config::of(axis, &[busy.served.address]), "send_expect");
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\" is down: no answer within 500ms, at the answer");
        let client = reading(&proxy);
        until("probes", || busy.probes.load(SeqCst) >= PROBES);
        assert!(!proxy.log.has("is down"), "it sends bytes");
        client.shutdown(Shutdown::Both).unwrap();
        proxy.log.wait_text("is down: no answer within 500ms");
        proxy.finish();
    });
}

#[test]
fn hlt_03_silence_counts_where_it_is_told_to() {
    let busy = Busy::start(Family::V4);
    let config = asking(
        Config::of(Axis::PLAIN, &[busy.served.address]),
        "send_expect",
    )
    .health("progress_is_alive = false");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    let client = reading(&proxy);
    proxy
        .log
        .wait_text("backend \"pool/a\" is down: no answer within 500ms");
    client.shutdown(Shutdown::Both).unwrap();
    proxy.finish();
}

#[test]
fn hlt_03_a_backend_that_sends_bytes_and_refuses_is_down() {
    let busy = Busy::start(Family::V4);
    let (refusing, _port) = dead(Family::V4);
    let config = super::quick(Config::of(Axis::PLAIN, &[busy.served.address]))
        .health(&format!("port = {}", refusing.port()));
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    let client = reading(&proxy);
    proxy
        .log
        .wait_text("backend \"pool/a\" is down: Connection refused");
    client.shutdown(Shutdown::Both).unwrap();
    proxy.finish();
}

#[test]
fn hlt_21_a_backend_that_sends_datagrams_is_not_failed_by_silence() {
    let server = udp::socket(Family::V4);
    let address = server.local_addr().unwrap();
    let probes = Arc::new(AtomicU64::new(0));
    let config = asking(Config::udp(Axis::PLAIN, &[address]), "udp");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down: no answer within 500ms");
    std::thread::scope(|scope| {
        scope.spawn(|| answer_all_but_probes(&server, &probes));
        let client = udp::client(proxy.front());
        until("probes", || {
            assert_eq!(udp::ask(&client, b"more"), b"more");
            probes.load(SeqCst) >= PROBES
        });
        assert!(!proxy.log.has("is down"), "it sends datagrams");
        proxy.log.wait_text("is down: no answer within 500ms");
        udp::socket(Family::V4).send_to(b"stop", address).unwrap();
    });
    proxy.finish();
}

fn answer_all_but_probes(server: &UdpSocket, probes: &AtomicU64) {
    let mut question = [0; 4];
    loop {
        let (_, from) = server.recv_from(&mut question).unwrap();
        match &question {
            b"PING" => drop(probes.fetch_add(1, SeqCst)),
            b"stop" => return,
            _ => drop(server.send_to(&question, from)),
        }
    }
}
