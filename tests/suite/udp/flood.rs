//! A flood of sources that nobody will hear of again, while others talk.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use evenkeel::sys::batch::{Batch, Towards, Train, send};
use evenkeel::sys::datagram::listen_udp;

use crate::harness::scale::amount;
use crate::harness::udp::{self, Echo};
use crate::harness::wait::within;
use crate::harness::{Axis, Config, Family, Proxy, process};

/// Many clients on one socket: each has an address of 127/8 of its own.
struct Crowd {
    socket: UdpSocket,
    front: SocketAddr,
    first: u32,
}

impl Crowd {
    fn new(front: SocketAddr, first: u32) -> Self {
        let socket = listen_udp(([0, 0, 0, 0], 0).into(), false).unwrap();
        socket.set_nonblocking(false).unwrap();
        let time = Duration::from_millis(1);
        socket.set_read_timeout(Some(time)).unwrap();
        Self {
            socket,
            front,
            first,
        }
    }

    fn send(&self, member: u32, bytes: &[u8]) {
        let train = Train {
            bytes,
            segment: usize::MAX,
            ecn: 0,
        };
        let from = IpAddr::V4(Ipv4Addr::from_bits(self.first + member));
        let towards = Towards::Client {
            from: Some(from),
            to: self.front,
        };
        send(self.socket.as_fd(), train, false, towards).expect("room to send");
    }
}

/// Clients that number what they send.
struct Live {
    crowd: Crowd,
    batch: Batch,
    sent: Vec<u32>,
    /// The number of the last answer of each.
    heard: Vec<u32>,
    received: u64,
    next: usize,
}

impl Live {
    fn new(front: SocketAddr, count: usize) -> Self {
        Self {
            crowd: Crowd::new(front, FIRST_LIVE),
            batch: Batch::new(),
            sent: vec![0; count],
            heard: vec![0; count],
            received: 0,
            next: 0,
        }
    }

    fn speak(&mut self) {
        let member = self.next;
        self.next = (member + 1) % self.sent.len();
        self.sent[member] += 1;
        let number = self.sent[member].to_le_bytes();
        self.crowd.send(u32::try_from(member).unwrap(), &number);
    }

    /// Takes all answers that are there, and waits a moment for the first if `wait`.
    fn hear(&mut self, wait: bool) {
        if wait {
            // What it says does not matter: the batch tells.
            drop(self.crowd.socket.peek(&mut [0; 8]));
        }
        loop {
            let count = match self.batch.receive(self.crowd.socket.as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            };
            for nth in 0..count {
                let received = self.batch.get(nth);
                let Some(IpAddr::V4(to)) = received.to else {
                    panic!("an answer to nobody");
                };
                let member = usize::try_from(to.to_bits() - FIRST_LIVE).unwrap();
                for answer in received.train.singles() {
                    let [b'a', number @ ..] = answer.bytes else {
                        panic!("{answer:?}");
                    };
                    let number = u32::from_le_bytes(number.try_into().expect("as it was sent"));
                    assert!(number > self.heard[member], "late or twice: {number}");
                    self.heard[member] = number;
                    self.received += 1;
                }
            }
        }
    }

    fn total(&self) -> u64 {
        self.sent.iter().map(|&sent| u64::from(sent)).sum()
    }
}

/// The table is bounded by the smaller of `max_flows` (65,536 by default) and what the descriptors
/// allow, one to a flow: usually the latter.
#[test]
fn udp_21_a_flood_of_sources_is_bounded_and_live_flows_do_not_notice() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address]).flows("idle_timeout = \"2s\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("is reached, new flows are dropped");
    let count = usize::try_from(amount(200, 1_000)).unwrap();
    let mut live = Live::new(proxy.front(), count);
    for _ in 0..count {
        live.speak();
    }
    let all_here = within(Duration::from_secs(10), || {
        live.hear(true);
        live.received == live.total()
    });
    assert!(all_here, "before the flood: {} answers", live.received);

    let before = process::resident(proxy.id());
    let mut most = before;
    let flood = Crowd::new(proxy.front(), FIRST_OF_FLOOD);
    let sources = u32::try_from(amount(100_000, 1_000_000)).unwrap();
    let start = Instant::now();
    let mut source = 0;
    while source < sources {
        // By the clock, but never far ahead of a proxy that is off its core: what then is in its
        // receive buffer fits that of a process without privileges.
        let is_ahead = live.total() - live.received > AHEAD;
        assert!(start.elapsed() < Duration::from_secs(300), "stuck");
        let passed = u32::try_from(start.elapsed().as_millis()).unwrap();
        let burst = if is_ahead { 0 } else { BURST };
        let due = (passed * PER_MILLISECOND).min(source + burst).min(sources);
        for member in source..due {
            flood.send(member, b"spoofed");
            if member % SHARE == 0 {
                live.speak();
            }
            if member % 4_096 == 0 {
                most = most.max(process::resident(proxy.id()));
            }
        }
        live.hear(is_ahead || source == due);
        source = due;
    }
    println!("{sources} sources in {:?}", start.elapsed());
    let allowed = live.total() / 1_000;
    within(Duration::from_secs(5), || {
        live.hear(true);
        live.received == live.total()
    });
    let lost = live.total() - live.received;
    println!(
        "{lost} of {} lost, {} bytes more",
        live.total(),
        most - before
    );
    assert!(lost <= allowed, "{lost} of {} lost", live.total());
    most = most.max(process::resident(proxy.id()));
    assert!(most - before <= MEMORY_MAX, "{} bytes more", most - before);

    proxy.wait_quiet();
    let used = process::processor_time(proxy.id());
    udp::is_silent_for(&udp::client(proxy.front()), Duration::from_millis(500));
    let used = process::processor_time(proxy.id()) - used;
    assert!(used <= Duration::from_millis(50), "{used:?} while idle");
    let totals = proxy.finish();
    println!("{:?}", totals.listeners["front"]);
}

/// 127.1.0.0 and the next ones.
const FIRST_LIVE: u32 = 0x7F01_0000;
/// 127.16.0.0 and the next million.
const FIRST_OF_FLOOD: u32 = 0x7F10_0000;
/// Spoofed datagrams: a million of them take 50 s.
const PER_MILLISECOND: u32 = 20;
/// Spoofed datagrams sent without looking at answers.
const BURST: u32 = 64;
/// Datagrams of live flows whose answers may be missing before the flood waits.
const AHEAD: u64 = 100;
/// Spoofed datagrams to one of a live flow.
const SHARE: u32 = 4;
/// Bytes that flows may take in the proxy.
const MEMORY_MAX: u64 = 32 * 1024 * 1024;
