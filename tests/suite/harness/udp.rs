//! Datagram sockets: clients, and backends that say who they are.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Family;
use super::stream::uninterrupted;
use super::wait::{DEADLINE, until};

/// A socket on a free port; receiving fails after [`DEADLINE`].
pub fn socket(family: Family) -> UdpSocket {
    socket_at(family.any())
}

/// A socket on a given address.
pub fn socket_at(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.set_read_timeout(Some(DEADLINE)).expect("not zero");
    socket
}

/// An address that nobody has just now, for datagrams and for streams.
pub fn free_for_both(family: Family) -> SocketAddr {
    let mut found = None;
    until("a free port", || {
        let datagrams = UdpSocket::bind(family.any()).expect("a free port");
        let address = datagrams.local_addr().expect("bound");
        found = TcpListener::bind(address).is_ok().then_some(address);
        found.is_some()
    });
    found.expect("until it is found")
}

/// A client of `front`. With IPv4 each has an address of its own: a port that an earlier client has
/// closed may come again, and would belong to the same flow.
pub fn client(front: SocketAddr) -> UdpSocket {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let socket = match front.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let [_, _, high, low] = NEXT.fetch_add(1, Relaxed).to_be_bytes();
            socket_at((Ipv4Addr::new(127, 200, high, low), 0).into())
        }
        IpAddr::V4(_) => socket_at((Ipv4Addr::UNSPECIFIED, 0).into()),
        IpAddr::V6(_) => socket(Family::V6),
    };
    socket.connect(front).expect("a route");
    socket
}

/// The next datagram; fails if none comes.
#[track_caller]
pub fn receive(socket: &UdpSocket) -> Vec<u8> {
    receive_from(socket).0
}

/// The next datagram and who sent it.
#[track_caller]
pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let received = uninterrupted(|| socket.recv_from(&mut buffer));
    let (count, from) = received.expect("a datagram");
    buffer.truncate(count);
    (buffer, from)
}

/// Sends and returns the answer.
#[track_caller]
pub fn ask(socket: &UdpSocket, question: &[u8]) -> Vec<u8> {
    socket.send(question).expect("room to send");
    receive(socket)
}

/// Fails if anything comes within `time`.
#[track_caller]
pub fn is_silent_for(socket: &UdpSocket, time: Duration) {
    socket.set_read_timeout(Some(time)).expect("not zero");
    let mut buffer = [0; 64];
    match uninterrupted(|| socket.recv_from(&mut buffer)) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        other => panic!("not silent: {other:?}"),
    }
    socket.set_read_timeout(Some(DEADLINE)).expect("not zero");
}

/// Datagrams to an IPv4 address of a listening socket that the kernel has dropped: its receive buffer
/// was full.
pub fn unseen(address: SocketAddr) -> u64 {
    let port = format!(":{:04X}", address.port());
    let sockets = std::fs::read_to_string("/proc/net/udp").expect("sockets");
    let drops = sockets.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let is_it = fields.nth(1)?.ends_with(&port);
        is_it.then(|| fields.last()?.parse::<u64>().ok()).flatten()
    });
    drops.sum()
}

/// A backend that answers each datagram with its letter and the datagram itself.
#[derive(Debug)]
pub struct Echo {
    pub address: SocketAddr,
    /// Datagrams received.
    pub count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(tag: u8, address: SocketAddr) -> Self {
        let socket = socket_at(address);
        // What a burst brings waits here: a backend's own losses would look like the proxy's.
        socket2::SockRef::from(&socket)
            .set_recv_buffer_size(4 * 1024 * 1024)
            .expect("the kernel takes what it allows");
        let address = socket.local_addr().expect("bound");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("not zero");
        let (count, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let thread = std::thread::spawn({
            let (count, stop) = (Arc::clone(&count), Arc::clone(&stop));
            move || {
                let mut buffer = vec![tag; 70_000];
                while !stop.load(SeqCst) {
                    // Refusals of clients that have gone are no concern of a backend.
                    let Ok((length, from)) = socket.recv_from(&mut buffer[1..]) else {
                        continue;
                    };
                    count.fetch_add(1, SeqCst);
                    drop(socket.send_to(&buffer[..=length], from));
                }
            }
        });
        Self {
            address,
            count,
            stop,
            thread: Some(thread),
        }
    }

    /// `count` of them, named from "a" on.
    pub fn several(count: u8, family: Family) -> Vec<Self> {
        (0..count)
            .map(|n| Self::start(b'a' + n, family.any()))
            .collect()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it does not fail");
        }
    }
}
