//! Listening sockets: accepting within a budget and within the limits, and what an accepted
//! connection counts as.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use mio::event::Source;
use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};

use super::mailbox::{ListenerCounters, Route, Shared};
use super::stream::Stream;
use super::tcp::Request;
use crate::lb::balance::key::KeyPart;
use crate::lb::balance::pick::Client;
use crate::sys::socket::{Listening, canonical};

/// A listening socket of one worker and where its connections go.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    pub(super) route: Route,
    destination: Destination,
    /// Numbers the clients of a Unix socket, which have no address.
    unnamed: u16,
    /// Why it is not accepting although connections may be waiting.
    pub(super) state: State,
}

/// What a listening socket waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The next event.
    Waiting,
    /// Its next turn: connections may be left.
    Ready,
    /// Room under a limit, or descriptors.
    Paused,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// How the address a client connected to is known.
#[derive(Clone, Copy, Debug)]
enum Destination {
    /// It is the listener's, or nobody asks.
    Known(SocketAddr),
    /// A wildcard listener whose pool hashes the destination: one system call per connection.
    Ask(SocketAddr),
}

/// What one accept brought.
pub(super) enum Accept {
    /// A connection within all limits.
    Client(Box<Request>),
    /// It was gone before we came.
    Gone,
    /// Nothing is waiting.
    Empty,
    /// The process or the listener holds as many sessions as it may.
    Full(&'static str),
    /// The kernel has no descriptor or memory for one more, or the socket itself is broken.
    Failed(io::Error),
}

impl Listener {
    /// Registers a socket that control has bound. A connection may be waiting already.
    pub(super) fn new(
        socket: Listening,
        route: Route,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut socket = match socket {
            Listening::Tcp(listener) => Socket::Tcp(TcpListener::from_std(listener)),
            Listening::Unix(listener) => Socket::Unix(UnixListener::from_std(listener)),
        };
        match &mut socket {
            Socket::Tcp(listener) => listener.register(registry, token, Interest::READABLE)?,
            Socket::Unix(listener) => listener.register(registry, token, Interest::READABLE)?,
        }
        let destination = destination(&socket, &route);
        Ok(Self {
            socket,
            route,
            destination,
            unnamed: 0,
            state: State::Ready,
        })
    }

    /// Gives it a new route.
    pub(super) fn redirect(&mut self, route: Route) {
        self.destination = destination(&self.socket, &route);
        self.route = route;
    }

    /// Accepts one connection. Its place under every limit is taken before, so that no limit is
    /// ever passed, by any number of workers.
    pub(super) fn accept(&mut self, shared: &Arc<Shared>, worker: usize) -> Accept {
        let admission = match Admission::take(shared, &self.route, worker) {
            Ok(admission) => admission,
            Err(limit) => return Accept::Full(limit),
        };
        match self.accept_one() {
            Ok((stream, client)) => {
                admission.listener.accepted.fetch_add(1, Relaxed);
                let pool = Arc::clone(&self.route.pool);
                Accept::Client(Box::new(Request {
                    stream,
                    client,
                    pool,
                    admission,
                }))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Accept::Empty,
            Err(error) if is_of_connection(&error) => Accept::Gone,
            Err(error) => Accept::Failed(error),
        }
    }

    /// Takes the socket out of the poll before it is closed: a Unix socket has duplicates in other
    /// workers, which would keep its registration alive.
    pub(super) fn close(mut self, registry: &Registry) {
        let gone = match &mut self.socket {
            Socket::Tcp(listener) => listener.deregister(registry),
            Socket::Unix(listener) => listener.deregister(registry),
        };
        debug_assert!(gone.is_ok(), "a registered socket can be deregistered");
    }

    fn accept_one(&mut self) -> io::Result<(Stream, Client)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, source) = listener.accept()?;
                let destination = match self.destination {
                    Destination::Known(address) => address,
                    Destination::Ask(fallback) => stream.local_addr().map_or(fallback, canonical),
                };
                Ok((
                    Stream::Tcp(stream),
                    Client {
                        source: canonical(source),
                        destination,
                    },
                ))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                self.unnamed = self.unnamed.wrapping_add(1);
                let source = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.unnamed));
                Ok((
                    Stream::Unix(stream),
                    Client {
                        source,
                        destination: NOWHERE,
                    },
                ))
            }
        }
    }
}

/// A connection's place under the limits, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    shared: Arc<Shared>,
    listener: Arc<ListenerCounters>,
    worker: usize,
}

impl Admission {
    /// Takes a place under the global and the listener's limit, or says which one is reached.
    fn take(shared: &Arc<Shared>, route: &Route, worker: usize) -> Result<Self, &'static str> {
        let listener = &route.listener;
        if !take_one(&shared.open, shared.max_connections.load(Relaxed)) {
            return Err("global.max_connections");
        }
        if !take_one(&listener.counters.open, listener.plan.max_connections) {
            shared.open.fetch_sub(1, Relaxed);
            return Err("listener.max_connections");
        }
        shared.workers[worker].sessions.fetch_add(1, Relaxed);
        let listener = Arc::clone(&listener.counters);
        Ok(Self {
            shared: Arc::clone(shared),
            listener,
            worker,
        })
    }

    /// The listener it came by.
    pub(super) const fn listener(&self) -> &Arc<ListenerCounters> {
        &self.listener
    }

    /// Counts it on another worker from now on.
    pub(super) fn move_to(&mut self, worker: usize) {
        self.shared.workers[self.worker]
            .sessions
            .fetch_sub(1, Relaxed);
        self.shared.workers[worker].sessions.fetch_add(1, Relaxed);
        self.worker = worker;
    }

    /// The client gets no backend.
    pub(super) fn on_refused(&self) {
        self.listener.refused.fetch_add(1, Relaxed);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Relaxed);
        self.listener.open.fetch_sub(1, Relaxed);
        self.shared.workers[self.worker]
            .sessions
            .fetch_sub(1, Relaxed);
    }
}

/// Whether accept(2) passes on an error of the connection itself, which is gone with it. Any other
/// error stays, and trying again at once would never end.
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::EINTR
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EPERM
                | libc::EPROTO
                | libc::ETIMEDOUT
        )
    )
}

/// Adds one unless `limit` is reached (0 = no limit).
fn take_one(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Relaxed, Relaxed, |open| {
            if limit != 0 && open >= limit {
                None
            } else {
                open.checked_add(1)
            }
        })
        .is_ok()
}

fn destination(socket: &Socket, route: &Route) -> Destination {
    let Socket::Tcp(listener) = socket else {
        return Destination::Known(NOWHERE);
    };
    let address = listener.local_addr().map_or(NOWHERE, canonical);
    let is_asked = route
        .pool
        .plan
        .balance
        .hash_key
        .contains(&KeyPart::DestinationIp);
    if is_asked && address.ip().is_unspecified() {
        Destination::Ask(address)
    } else {
        Destination::Known(address)
    }
}

/// Where a client of a Unix socket connected to, as far as a hash is concerned.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
