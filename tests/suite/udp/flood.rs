//! A flood of sources that nobody will hear of again, while others talk. Everybody sends at a fixed
//! rate, whatever becomes of it: who waits for the proxy would spare it.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use evenkeel::sys::batch::{Batch, Towards, Train, send};
use evenkeel::sys::datagram::listen_udp;

use crate::harness::scale::amount;
use crate::harness::udp::{self, Echo};
use crate::harness::wait::{until, within};
use crate::harness::{Axis, Config, Family, Proxy, process};

/// What has come from each of the live ones, in their order.
struct Heard {
    last: Vec<u32>,
    count: u64,
}

impl Heard {
    fn new(count: usize) -> Self {
        Self {
            last: vec![0; count],
            count: 0,
        }
    }

    fn note(&mut self, message: &[u8]) {
        let (member, number) = message.split_at(4);
        let number_of =
            |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("as it was sent"));
        let member = usize::try_from(number_of(member)).unwrap();
        let number = number_of(number);
        assert!(number > self.last[member], "late or twice: {number}");
        self.last[member] = number;
        self.count += 1;
    }
}

/// Takes all datagrams that are there, and waits a millisecond for the first.
fn take_all(socket: &UdpSocket, batch: &mut Batch, mut take: impl FnMut(&[u8])) {
    // What it says does not matter: the batch tells.
    drop(socket.peek(&mut [0; 8]));
    loop {
        let count = match batch.receive(socket.as_fd()) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        };
        for nth in 0..count {
            for single in batch.get(nth).train.singles() {
                take(single.bytes);
            }
        }
    }
}

/// A socket with room for much, on which a read waits a millisecond.
fn roomy_socket(address: Ipv4Addr) -> UdpSocket {
    let socket = listen_udp((address, 0).into(), false).unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(MILLISECOND)).unwrap();
    socket
}

/// Many clients on one socket: each has an address of 127/8 of its own.
struct Crowd {
    socket: UdpSocket,
    front: SocketAddr,
    first: u32,
}

impl Crowd {
    fn new(front: SocketAddr, first: u32) -> Self {
        Self {
            socket: roomy_socket(Ipv4Addr::UNSPECIFIED),
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
    sent: Vec<u32>,
    next: usize,
}

impl Live {
    fn new(front: SocketAddr, count: usize) -> Self {
        Self {
            crowd: Crowd::new(front, FIRST_LIVE),
            sent: vec![0; count],
            next: 0,
        }
    }

    fn speak(&mut self) {
        let member = self.next;
        self.next = (member + 1) % self.sent.len();
        self.sent[member] += 1;
        let name = u32::try_from(member).unwrap();
        let mut message = name.to_le_bytes().to_vec();
        message.extend(self.sent[member].to_le_bytes());
        self.crowd.send(name, &message);
    }

    fn speak_until(&mut self, is_over: &AtomicBool) {
        let mut pace = Pace::new(LIVE_PER_SECOND);
        while !is_over.load(SeqCst) {
            for _ in 0..pace.due() {
                self.speak();
            }
            park_timeout(MILLISECOND);
        }
    }

    fn total(&self) -> u64 {
        self.sent.iter().map(|&sent| u64::from(sent)).sum()
    }
}

/// How many are due at a rate: by the clock, and after a pause of the machine not all at once.
struct Pace {
    start: Instant,
    per_second: u64,
    done: u64,
}

impl Pace {
    fn new(per_second: u64) -> Self {
        Self {
            start: Instant::now(),
            per_second,
            done: 0,
        }
    }

    fn due(&mut self) -> u64 {
        let passed = u64::try_from(self.start.elapsed().as_millis()).unwrap();
        let due = (passed * self.per_second / 1_000 - self.done).min(BURST);
        self.done += due;
        due
    }
}

/// What flood and live ones came to.
struct Outcome {
    sent: u64,
    heard: u64,
    /// Resident bytes of the proxy beyond those before the flood.
    memory: u64,
    took: Duration,
}

fn pour(crowd: &Crowd, sources: u64) {
    let (mut pace, mut source) = (Pace::new(SPOOFED_PER_SECOND), 0);
    while u64::from(source) < sources {
        for _ in 0..pace.due().min(sources - u64::from(source)) {
            crowd.send(source, SPOOFED);
            source += 1;
        }
        park_timeout(MILLISECOND);
    }
}

/// Floods while the live ones speak; `backend` is where what they say is heard, if it is not answered.
fn flood(proxy: &Proxy, live: &mut Live, sources: u64, backend: Option<&UdpSocket>) -> Outcome {
    let listening = match backend {
        Some(backend) => backend.try_clone().unwrap(),
        None => live.crowd.socket.try_clone().unwrap(),
    };
    let mut heard = Heard::new(live.sent.len());
    let mut batch = Batch::new();
    let message = usize::from(backend.is_none()); // an answer begins with the backend's letter
    let mut hear = |heard: &mut Heard| {
        take_all(&listening, &mut batch, |bytes| {
            if bytes != SPOOFED {
                heard.note(&bytes[message..]);
            }
        });
    };
    for _ in 0..live.sent.len() {
        live.speak();
    }
    let all = live.total();
    until("all are heard before the flood", || {
        hear(&mut heard);
        heard.count == all
    });

    let before = process::resident(proxy.id());
    let mut most = before;
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    let crowd = Crowd::new(proxy.front(), FIRST_OF_FLOOD);
    std::thread::scope(|scope| {
        let is_over = &is_over;
        scope.spawn(move || {
            pour(&crowd, sources);
            is_over.store(true, SeqCst);
        });
        let live = &mut *live;
        scope.spawn(move || live.speak_until(is_over));
        let mut measured = start;
        while !is_over.load(SeqCst) {
            hear(&mut heard);
            if measured.elapsed() > Duration::from_millis(50) {
                measured = Instant::now();
                most = most.max(process::resident(proxy.id()));
            }
        }
    });
    let took = start.elapsed();
    let sent = live.total();
    within(Duration::from_secs(5), || {
        hear(&mut heard);
        heard.count == sent
    });
    most = most.max(process::resident(proxy.id()));
    Outcome {
        sent,
        heard: heard.count,
        memory: most - before,
        took,
    }
}

/// Floods, and checks that it was bounded, hurt nobody and left nothing behind.
fn survives(config: &Config, flows: &str, backend: Option<&UdpSocket>) {
    let mut proxy = Proxy::start(config);
    proxy.expect("new flows are dropped");
    let count = amount(200, 1_000);
    let sources = amount(60_000, 1_000_000);
    let mut live = Live::new(proxy.front(), usize::try_from(count).unwrap());
    let Outcome {
        sent,
        heard,
        memory,
        took,
    } = flood(&proxy, &mut live, sources, backend);
    let unseen = udp::unseen(proxy.front());
    let lost = sent - heard;
    println!(
        "{flows}: {sources} sources in {took:?}: {lost} of {sent} live datagrams lost, {unseen} \
         dropped before the proxy, {memory} bytes more"
    );
    assert!(memory <= MEMORY_MAX, "{memory} bytes more");

    proxy.wait_quiet();
    let used = process::processor_time(proxy.id());
    udp::is_silent_for(&udp::client(proxy.front()), Duration::from_millis(500));
    let used = process::processor_time(proxy.id()) - used;
    assert!(used <= Duration::from_millis(50), "{used:?} while idle");
    let totals = proxy.finish();
    println!("{:?}", totals.listeners["front"]);
    // Each spoofed datagram has begun a flow or is counted as dropped, by the proxy or the kernel.
    let begun = totals.front("accepted") - count;
    let dropped = |reason: &str| totals.listeners["front"].get(reason).copied().unwrap_or(0);
    let told = begun + dropped("dropped full:") + dropped("dropped busy:") + unseen;
    let range = sources..=sources + lost;
    assert!(range.contains(&told), "{told} of {sources} told of");
    assert!(lost <= sent / 1_000, "{lost} of {sent} lost");
}

/// The table is bounded by `max_flows`, or by the descriptors: one to a flow.
#[test]
fn udp_21_a_flood_of_sources_is_bounded_and_live_flows_do_not_notice() {
    let backend = Echo::start(b'a', Family::V4.any());
    let config = Config::udp(Axis::PLAIN, &[backend.address])
        .flows("idle_timeout = \"2s\"")
        .flows(&format!("max_flows = {}", amount(4_000, 65_536)));
    survives(&config, "dialogs", None);
}

/// Flows that expect no answers hold no descriptor each: `max_flows` is what bounds them.
#[test]
fn udp_21_a_flood_of_one_way_sources_is_bounded_and_live_flows_do_not_notice() {
    let backend = roomy_socket(Ipv4Addr::LOCALHOST);
    let config = Config::udp(Axis::PLAIN, &[backend.local_addr().unwrap()])
        .flows("session = \"oneway\"")
        .flows("idle_timeout = \"5s\"")
        .flows(&format!("max_flows = {}", amount(30_000, 65_536)));
    survives(&config, "one-way", Some(&backend));
}

#[test]
fn a_flow_costs_a_few_hundred_bytes() {
    let backend = Echo::start(b'a', Family::V4.any());
    for session in ["dialog", "oneway"] {
        let config = Config::udp(Axis::PLAIN, &[backend.address])
            .flows(&format!("session = \"{session}\""))
            .flows("idle_timeout = \"3s\"");
        let proxy = Proxy::start(&config);
        let heard = backend.count.load(SeqCst) + 1;
        udp::client(proxy.front()).send(b"the first").unwrap();
        until("the first", || backend.count.load(SeqCst) == heard);
        let memory = process::private_dirty(proxy.id());
        let crowd = Crowd::new(proxy.front(), FIRST_OF_FLOOD);
        for flow in 0..FLOWS {
            crowd.send(u32::try_from(flow).unwrap(), SPOOFED);
            // Few enough at a time that none is dropped.
            if flow % 100 == 99 {
                let so_far = heard + flow + 1;
                until("these flows", || backend.count.load(SeqCst) == so_far);
            }
        }
        let memory = process::private_dirty(proxy.id()).saturating_sub(memory);
        let each = memory / FLOWS;
        println!("{session}: {each} bytes for each flow");
        assert!(
            (100..=600).contains(&each),
            "{session}: {each} bytes for each flow"
        );
        proxy.finish();
    }
}

/// 127.1.0.0 and the next ones.
const FIRST_LIVE: u32 = 0x7F01_0000;
/// 127.16.0.0 and the next million.
const FIRST_OF_FLOOD: u32 = 0x7F10_0000;
/// What the flood says.
const SPOOFED: &[u8] = b"spoofed";
/// A million of them take 50 s.
const SPOOFED_PER_SECOND: u64 = 20_000;
/// Over all live flows.
const LIVE_PER_SECOND: u64 = 5_000;
/// Datagrams sent in a millisecond at most, to make up for a pause.
const BURST: u64 = 64;
/// Flows whose memory is measured.
const FLOWS: u64 = 5_000;
/// Bytes that flows may take in the proxy.
const MEMORY_MAX: u64 = 32 * 1024 * 1024;
/// The tick of who sends.
const MILLISECOND: Duration = Duration::from_millis(1);
