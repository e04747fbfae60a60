//! Listening sockets: accepting within a budget and within the limits, and what an accepted
//! connection counts as.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use mio::net::{TcpListener, UnixListener};
use mio::{Registry, Token};

use super::counters::{Ended, Unserved};
use super::mailbox::{self, Barred, ListenerCounters, Pool, Route, Shared};
use super::request::{Caller, Request};
use super::stream::Stream;
use crate::config::plan::SendProxy;
use crate::lb::admission::source::Source;
use crate::lb::balance::key::KeyPart;
use crate::lb::balance::pick::Client;
use crate::lb::time::Tick;
use crate::sys::socket::{self, canonical};

/// A listening socket of one worker and where its connections go.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    pub(super) route: Route,
    destination: Destination,
    /// Numbers the clients of a Unix socket, which have no address.
    unnamed: u16,
    token: Token,
    /// Whether the worker is told of connections that wait. It is not while it has no room for them
    /// under a limit, or no descriptors: it would be told in every turn.
    is_watched: bool,
    /// The last turn in which connections waited, and how many it was to accept.
    last: (u64, usize),
}

/// A listening socket of streams.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
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
    /// A client that is not let in, and has been told so.
    Barred(IpAddr, Barred),
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
    /// Watches a socket that control has bound.
    pub(super) fn new(
        socket: Socket,
        route: Route,
        token: Token,
        registry: &Registry,
    ) -> io::Result<Self> {
        let destination = destination(&socket, &route);
        route.listener.counters.paused.fetch_add(1, Relaxed);
        let mut listener = Self {
            socket,
            route,
            destination,
            unnamed: 0,
            token,
            is_watched: false,
            last: (0, 0),
        };
        listener.resume(registry)?;
        Ok(listener)
    }

    /// How many connections to accept in `turn`, in which some wait: one, and more where some are
    /// left from the turn before. Most often one waits, and an accept that finds nobody costs as much
    /// as one that finds somebody.
    pub(super) fn budget(&mut self, turn: u64) -> usize {
        let budget = match self.last {
            (last, budget) if last + 1 == turn => (2 * budget).clamp(1, ACCEPTS_PER_TURN),
            _ => 1,
        };
        self.last = (turn, budget);
        budget
    }

    /// Asks to be told of connections that wait, if that is not so already.
    pub(super) fn resume(&mut self, registry: &Registry) -> io::Result<()> {
        if !self.is_watched {
            socket::watch_waiting(registry, &self.socket, self.token.0 as u64)?;
            self.is_watched = true;
            self.route.listener.counters.paused.fetch_sub(1, Relaxed);
        }
        Ok(())
    }

    /// Asks to be told no more. A socket that is to be closed needs it too: a Unix socket has
    /// duplicates in other workers, which would keep its registration alive.
    pub(super) fn pause(&mut self, registry: &Registry) {
        if self.is_watched {
            let gone = socket::unwatch(registry, &self.socket);
            debug_assert!(gone.is_ok(), "what is watched can be let alone");
            self.is_watched = false;
            self.route.listener.counters.paused.fetch_add(1, Relaxed);
        }
    }

    /// Gives it a new route.
    pub(super) fn redirect(&mut self, route: Route) {
        self.destination = destination(&self.socket, &route);
        if !self.is_watched {
            route.listener.counters.paused.fetch_add(1, Relaxed);
            self.route.listener.counters.paused.fetch_sub(1, Relaxed);
        }
        self.route = route;
    }

    /// Accepts one connection. Its place under every limit is taken before, so that no limit is
    /// ever passed, by any number of workers.
    pub(super) fn accept(&mut self, shared: &Arc<Shared>, worker: usize, now: Tick) -> Accept {
        let most = self.route.listener.plan.max_connections;
        let limit = Limit::new("listener.max_connections", most);
        let listener = &self.route.listener;
        let mut admission = match Admission::take(shared, listener, limit, OF_SESSION, worker) {
            Ok(admission) => admission,
            Err(limit) => return Accept::Full(limit),
        };
        match self.accept_one() {
            Ok((stream, client)) => {
                admission.listener.accepted.fetch_add(1, Relaxed);
                let address = client.source.ip();
                let listener = &self.route.listener;
                let entered = match listener.plan.accept_proxy {
                    Some(_) => listener.trust(address),
                    None => admission.enter(listener, address, now),
                };
                if let Err(reason) = entered {
                    admission.on_barred(reason);
                    stream.reset_on_close();
                    return Accept::Barred(address, reason);
                }
                let pool = Arc::clone(&self.route.pool);
                let is_read = listener.plan.accept_proxy.is_some() || listener.reads_first_bytes;
                Accept::Client(Box::new(Request {
                    caller: Caller {
                        client,
                        is_named: matches!(stream, Stream::Tcp(_)),
                        extensions: Vec::new(),
                        is_own: false,
                        since: now,
                        ticket: None,
                        tried: Vec::new(),
                    },
                    unread: is_read.then(|| Arc::clone(listener)),
                    stream,
                    pool,
                    admission,
                    history: None,
                }))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Accept::Empty,
            Err(error) if is_of_connection(&error) => Accept::Gone,
            Err(error) => Accept::Failed(error),
        }
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
                    Client::new(canonical(source), destination),
                ))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept()?;
                self.unnamed = self.unnamed.wrapping_add(1);
                let source = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.unnamed));
                Ok((Stream::Unix(stream), Client::new(source, NOWHERE)))
            }
        }
    }
}

/// One that is gone takes nobody, and is not missed.
impl Drop for Listener {
    fn drop(&mut self) {
        if !self.is_watched {
            self.route.listener.counters.paused.fetch_sub(1, Relaxed);
        }
    }
}

/// What a listener may hold open at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// Where it is set.
    pub(super) name: &'static str,
    /// 0 = no limit.
    pub(super) most: u32,
}

impl Limit {
    pub(super) const fn new(name: &'static str, most: u32) -> Self {
        Self { name, most }
    }

    /// What the descriptors of this process allow.
    pub(super) fn of_descriptors(shared: &Shared) -> Self {
        Self::new("the limit on open files", shared.descriptors_max)
    }
}

/// A place under the limits of a connection or a flow, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    shared: Arc<Shared>,
    listener: Arc<ListenerCounters>,
    /// Whom the listener counts it for, where it has a limit per source.
    source: Option<Source>,
    worker: usize,
    descriptors: u32,
    /// A route of the listener has chosen its pool.
    pub(super) is_routed: bool,
}

impl Admission {
    /// Takes a place under the global and the listener's limit, and so many descriptors; or says what
    /// is in the way.
    pub(super) fn take(
        shared: &Arc<Shared>,
        listener: &mailbox::Listener,
        limit: Limit,
        descriptors: u32,
        worker: usize,
    ) -> Result<Self, &'static str> {
        let of_process = Limit::of_descriptors(shared);
        if !take(&shared.descriptors, descriptors, of_process.most) {
            return Err(of_process.name);
        }
        let give_back = || shared.descriptors.fetch_sub(descriptors, Relaxed);
        if !take(&shared.open, 1, shared.max_connections.load(Relaxed)) {
            give_back();
            return Err("global.max_connections");
        }
        if !take(&listener.counters.open, 1, limit.most) {
            give_back();
            shared.open.fetch_sub(1, Relaxed);
            return Err(limit.name);
        }
        shared.workers[worker].sessions.fetch_add(1, Relaxed);
        let listener = Arc::clone(&listener.counters);
        Ok(Self {
            shared: Arc::clone(shared),
            listener,
            source: None,
            worker,
            descriptors,
            is_routed: false,
        })
    }

    /// Lets its client in by the rules of the listener, or says why not.
    pub(super) fn enter(
        &mut self,
        listener: &mailbox::Listener,
        client: IpAddr,
        now: Tick,
    ) -> Result<(), Barred> {
        self.source = listener.enter(client, now)?;
        Ok(())
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

    /// The client is not let in.
    pub(super) fn on_barred(&self, reason: Barred) {
        self.listener.barred[reason as usize].fetch_add(1, Relaxed);
    }

    /// The client gets no backend.
    pub(super) fn on_unserved(&self, reason: Unserved) {
        self.listener.unserved[reason as usize].fetch_add(1, Relaxed);
    }

    /// It is over, and was not refused.
    pub(super) fn on_ended(&self, how: Ended) {
        self.listener.ended[how as usize].fetch_add(1, Relaxed);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.descriptors > 0 {
            self.shared.descriptors.fetch_sub(self.descriptors, Relaxed);
        }
        if let (Some(source), Some(sources)) = (self.source, self.listener.sources.get()) {
            sources.leave(source);
        }
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

/// Adds so many unless that would pass `limit` (0 = no limit).
fn take(count: &AtomicU32, many: u32, limit: u32) -> bool {
    many == 0
        || count
            .fetch_update(Relaxed, Relaxed, |open| {
                let more = open.checked_add(many)?;
                (limit == 0 || more <= limit).then_some(more)
            })
            .is_ok()
}

fn destination(socket: &Socket, route: &Route) -> Destination {
    let Socket::Tcp(listener) = socket else {
        return Destination::Known(NOWHERE);
    };
    let address = listener.local_addr().map_or(NOWHERE, canonical);
    let asks = |pool: &Arc<Pool>| {
        let plan = &pool.plan;
        let mut parts = plan.keys().flatten();
        parts.any(|part| *part == KeyPart::DestinationIp) || plan.send_proxy != SendProxy::Off
    };
    let mut pools = std::iter::once(&route.pool).chain(&route.listener.routed);
    if pools.any(asks) && address.ip().is_unspecified() {
        Destination::Ask(address)
    } else {
        Destination::Known(address)
    }
}

/// Connections accepted on one listener in a turn. Few, so that each is still in the cache when its
/// first bytes come; a larger budget costs rate.
const ACCEPTS_PER_TURN: usize = 4;

/// Descriptors of a session: one on each side.
const OF_SESSION: u32 = 2;

/// Where a client of a Unix socket connected to, as far as a hash is concerned.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
