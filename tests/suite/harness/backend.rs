//! Backends: one whose connections the case takes itself, and one that serves by itself.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use socket2::{Domain, SockRef, Socket, Type};

use super::stream::{bounded, reset_on_close, uninterrupted};
use super::wait::until;

/// A listening socket.
pub fn listen(address: SocketAddr) -> TcpListener {
    listen_with_backlog(address, 4096)
}

/// A listening socket whose queue holds few connections.
pub fn listen_with_backlog(address: SocketAddr, backlog: i32) -> TcpListener {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket
        .bind(&address.into())
        .unwrap_or_else(|error| panic!("bind {address}: {error}"));
    socket.listen(backlog).expect("a bound socket");
    socket.into()
}

/// An address on which nobody listens, and nobody else of this suite will.
pub fn dead(family: super::Family) -> (SocketAddr, TcpListener) {
    // Bound and not listening: a connect is refused.
    let socket =
        Socket::new(Domain::for_address(family.any()), Type::STREAM, None).expect("a socket");
    socket.bind(&family.any().into()).expect("a free port");
    let listener: TcpListener = socket.into();
    (listener.local_addr().expect("bound"), listener)
}

/// A backend whose connections the case accepts.
#[derive(Debug)]
pub struct Listening {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Listening {
    pub fn start(family: super::Family) -> Self {
        Self::at(family.any())
    }

    pub fn at(address: SocketAddr) -> Self {
        Self::of(listen(address))
    }

    /// One that many connections can wait at.
    pub fn with_backlog(address: SocketAddr, backlog: i32) -> Self {
        Self::of(listen_with_backlog(address, backlog))
    }

    fn of(listener: TcpListener) -> Self {
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    /// The next connection; fails if none comes.
    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        let mut accepted = None;
        until("a connection at the backend", || {
            accepted = self.try_accept();
            accepted.is_some()
        });
        accepted.expect("just seen")
    }

    /// A connection that waits already.
    pub fn try_accept(&self) -> Option<TcpStream> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a socket");
                Some(bounded(stream))
            }
            Err(_) => None,
        }
    }

    /// A client connected through the proxy at `front`, and its connection here.
    #[track_caller]
    pub fn pair(&self, front: SocketAddr) -> (TcpStream, TcpStream) {
        (super::connect(front), self.accept())
    }

    /// Many of them, for a proxy with one worker, which keeps their order.
    #[track_caller]
    pub fn pairs(&self, front: SocketAddr, count: usize) -> Vec<(TcpStream, TcpStream)> {
        let mut pairs = Vec::with_capacity(count);
        while pairs.len() < count {
            let at_once = PAIRS_AT_ONCE.min(count - pairs.len());
            let clients: Vec<_> = (0..at_once).map(|_| super::connect(front)).collect();
            pairs.extend(clients.into_iter().map(|client| (client, self.accept())));
        }
        pairs
    }
}

/// How many sessions a backend has: never more than the proxy has on it.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    pub now: Arc<AtomicU64>,
    pub most: Arc<AtomicU64>,
}

impl Gauge {
    /// A backend that sends back whatever comes, and is counted here.
    pub fn echo(&self) -> Served {
        let Self { now, most } = self.clone();
        Served::start((Ipv4Addr::LOCALHOST, 0).into(), move |mut stream| {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            let echoed = io::copy(&mut stream.try_clone()?, &mut stream);
            // Before the proxy sees the end.
            now.fetch_sub(1, SeqCst);
            echoed.map(drop)
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        stop_listening(&self.listener);
    }
}

/// Refuses connections from now on. Closing would do, but a process that is just being started still
/// has a copy of every descriptor for a moment.
fn stop_listening(listener: &TcpListener) {
    drop(SockRef::from(listener).shutdown(Shutdown::Both));
}

/// What a [`Served`] backend does with each connection, on a thread of its own.
pub type Service = Arc<dyn Fn(TcpStream) -> io::Result<()> + Send + Sync>;

/// A backend that serves by itself until it is stopped or dropped. It can die and come back on the
/// same address.
pub struct Served {
    pub address: SocketAddr,
    service: Service,
    /// Connections served since the start.
    pub count: Arc<AtomicU64>,
    running: Option<Running>,
    /// Bound and not listening: keeps the port while the backend is dead.
    _port: Socket,
}

struct Running {
    stop: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<Option<TcpStream>>>>,
    acceptor: JoinHandle<()>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Served {
    pub fn start(
        address: SocketAddr,
        service: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let port = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let port = port.expect("a socket");
        port.set_reuse_address(true).expect("an option");
        port.bind(&address.into()).expect("a free port");
        let address = port.local_addr().expect("bound");
        let mut served = Self {
            address: address.as_socket().expect("an IP address"),
            service: Arc::new(service),
            count: Arc::new(AtomicU64::new(0)),
            running: None,
            _port: port,
        };
        served.revive();
        served
    }

    /// Sends back whatever comes, until the end.
    pub fn echo(family: super::Family) -> Self {
        Self::echo_at(family.any())
    }

    /// The same at a given address.
    pub fn echo_at(address: SocketAddr) -> Self {
        Self::start(address, |mut stream| {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let count = uninterrupted(|| stream.read(&mut buffer))?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..count])?;
            }
        })
    }

    /// Connections served since the start.
    pub fn served(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// Listens again on the same address.
    pub fn revive(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let listener = listen(self.address);
        let stop = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(Vec::new()));
        let acceptor = std::thread::spawn({
            let (stop, open) = (Arc::clone(&stop), Arc::clone(&open));
            let (service, count) = (Arc::clone(&self.service), Arc::clone(&self.count));
            move || accept_all(&listener, &stop, &open, &service, &count)
        });
        self.running = Some(Running {
            stop,
            open,
            acceptor,
        });
    }

    /// Stops listening; open connections are reset, as when the process is killed.
    pub fn kill(&mut self) {
        let Some(Running {
            stop,
            open,
            acceptor,
        }) = self.running.take()
        else {
            return;
        };
        stop.store(true, SeqCst);
        // Wakes the acceptor, which closes the listening socket before it ends.
        drop(TcpStream::connect(self.address));
        acceptor.join().expect("the acceptor does not fail");
        for stream in open.lock().expect("not poisoned").drain(..).flatten() {
            reset_on_close(&stream);
            drop(stream.shutdown(Shutdown::Read)); // wakes its thread, which drops the last copy
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Fewer than any queue of connections holds.
const PAIRS_AT_ONCE: usize = 256;

fn accept_all(
    listener: &TcpListener,
    stop: &AtomicBool,
    open: &Arc<Mutex<Vec<Option<TcpStream>>>>,
    service: &Service,
    count: &AtomicU64,
) {
    for stream in listener.incoming() {
        if stop.load(SeqCst) {
            stop_listening(listener);
            return;
        }
        let Ok(stream) = stream else { continue };
        count.fetch_add(1, SeqCst);
        let Ok(copy) = stream.try_clone() else {
            continue;
        };
        let place = {
            let mut open = open.lock().expect("not poisoned");
            let free = open.iter().position(Option::is_none).unwrap_or(open.len());
            if free == open.len() {
                open.push(None);
            }
            open[free] = Some(copy);
            free
        };
        let (service, open) = (Arc::clone(service), Arc::clone(open));
        std::thread::spawn(move || {
            // A client that goes away in the middle is none of the backend's business.
            drop(service(bounded(stream)));
            if let Some(copy) = open.lock().expect("not poisoned").get_mut(place) {
                *copy = None;
            }
        });
    }
}

/// Backends that say who they are: each sends its own letter to every connection, then waits for the
/// end. So a case knows who served it without knowing the policy.
#[derive(Debug)]
pub struct Tagged {
    pub backends: Vec<Served>,
}

impl Tagged {
    /// `count` of them, at 127.0.0.1.
    pub fn start(count: u8) -> Self {
        let backends = (0..count)
            .map(|n| {
                let tag = b'a' + n;
                Served::start((Ipv4Addr::LOCALHOST, 0).into(), move |mut stream| {
                    stream.write_all(&[tag])?;
                    io::copy(&mut stream, &mut io::sink()).map(drop)
                })
            })
            .collect();
        Self { backends }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.backends
            .iter()
            .map(|backend| backend.address)
            .collect()
    }

    /// Who serves a new connection to `front`, and the connection.
    #[track_caller]
    pub fn ask(front: SocketAddr) -> (usize, TcpStream) {
        let mut stream = super::connect(front);
        (Self::read_tag(&mut stream), stream)
    }

    /// Who serves this connection.
    #[track_caller]
    pub fn read_tag(stream: &mut TcpStream) -> usize {
        let mut tag = [0];
        stream.read_exact(&mut tag).expect("the backend's letter");
        usize::from(tag[0] - b'a')
    }

    /// How many of `connections` made one after the other each backend serves.
    #[track_caller]
    pub fn shares(&self, front: SocketAddr, connections: usize) -> Vec<u64> {
        let mut shares = vec![0; self.backends.len()];
        for _ in 0..connections {
            shares[Self::ask(front).0] += 1;
        }
        shares
    }
}
