//! A flow's half towards its backend: a connected socket, through which answers and what the network
//! says about the backend come back.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use mio::event::Source;
use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use crate::config::plan;
use crate::data::access_log::{Ending, History};
use crate::data::counters::Ended;
use crate::data::dial::on_connect_failed;
use crate::data::kit::Kit;
use crate::data::listen::Admission;
use crate::data::listing::{self, View};
use crate::data::mailbox::{Pool, Shared};
use crate::lb::backend::{BackendState, Lease};
use crate::lb::balance::pick::{Client, Member, Picked};
use crate::lb::time::Tick;
use crate::lb::traffic::cause::{By, Cause, State};
use crate::lb::traffic::flow::Answers;
use crate::lb::traffic::relay::Side;
use crate::sys::batch::{self, Batch, Sent, Towards, Train, Unsent};
use crate::sys::datagram;
use crate::sys::socket::Target;
use crate::sys::source;

/// What a flow keeps with it.
#[derive(Debug)]
pub(super) struct Leg {
    wire: Rc<Wire>,
    lease: Lease,
    pool: Arc<Pool>,
    /// The backend's place among the pool's members.
    index: u16,
    /// The network has said that nobody listens there.
    is_refused: bool,
    /// An answer has come since something went wrong, or since the beginning.
    is_answered: bool,
    /// Sent to the backend and to the client, and not yet added to the counters.
    moved: [Moved; 2],
    admission: Admission,
    /// For the access log, if there is one.
    history: Option<Box<History>>,
    /// When it began.
    since: Tick,
}

/// What has gone one way.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    bytes: u64,
    datagrams: u64,
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Wire {
    socket: UdpSocket,
    is_v4: bool,
    /// Its network takes trains.
    trains: Cell<bool>,
    shared: Arc<Shared>,
}

/// Opens sockets. Flows that expect no answers have none of their own: those from one source to one
/// backend share one.
#[derive(Debug)]
pub(super) struct Wires {
    shared: Arc<Shared>,
    by_ends: HashMap<(source::Source, SocketAddr), Weak<Wire>>,
}

/// What became of a train, or of the end of it that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Sent(Sent),
    /// Not sent: the network reports that something sent before has been refused.
    Refused,
    /// The kernel did not take it.
    Lost,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.descriptors.fetch_sub(1, Relaxed);
    }
}

/// Whether each flow of a pool has a socket of its own: it waits for answers, or its source is its
/// client.
pub(super) fn has_own_socket(pool: &Pool) -> bool {
    pool.plan.udp.rules.answers != Answers::None || matches!(pool.plan.source, plan::Source::Client)
}

impl Wires {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            by_ends: HashMap::new(),
        }
    }

    /// A socket counts as a descriptor while it is open. Whether one is left was asked before; the
    /// budget has one more for each worker, for a flow that moves and has two sockets for a moment.
    fn open(&self, source: source::Source, address: SocketAddr) -> io::Result<Rc<Wire>> {
        let socket = UdpSocket::from_std(datagram::connect_udp(address, source)?);
        self.shared.descriptors.fetch_add(1, Relaxed);
        Ok(Rc::new(Wire {
            socket,
            is_v4: address.is_ipv4(),
            trains: Cell::new(true),
            shared: Arc::clone(&self.shared),
        }))
    }

    /// A socket to the member of this place.
    pub(super) fn wire(
        &mut self,
        pool: &Pool,
        index: u16,
        client: &Client,
    ) -> io::Result<Rc<Wire>> {
        if !has_own_socket(pool) {
            let shared = self.by_ends.get(&ends(pool, index, client)?);
            if let Some(wire) = shared.and_then(Weak::upgrade) {
                return Ok(wire);
            }
        }
        self.fresh(pool, index, client)
    }

    /// A new socket to the member of this place.
    pub(super) fn fresh(
        &mut self,
        pool: &Pool,
        index: u16,
        client: &Client,
    ) -> io::Result<Rc<Wire>> {
        let ends @ (source, address) = ends(pool, index, client)?;
        if has_own_socket(pool) {
            return self.open(source, address);
        }
        self.by_ends.retain(|_, wire| wire.strong_count() > 0);
        let wire = self.open(source, address)?;
        self.by_ends.insert(ends, Rc::downgrade(&wire));
        Ok(wire)
    }
}

/// From where to where a socket to the member of this place goes.
fn ends(pool: &Pool, index: u16, client: &Client) -> io::Result<(source::Source, SocketAddr)> {
    match pool.targets[usize::from(index)] {
        Target::Tcp(address) => Ok((pool.source(Some(client)), address)),
        // The plan was checked: pools of UDP listeners have no Unix sockets.
        Target::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

impl Leg {
    pub(super) fn new(
        wire: Rc<Wire>,
        picked: Picked,
        pool: &Arc<Pool>,
        admission: Admission,
        history: Option<Box<History>>,
        since: Tick,
    ) -> Self {
        picked.lease.backend().sessions.fetch_add(1, Relaxed);
        Self {
            wire,
            lease: picked.lease,
            pool: Arc::clone(pool),
            index: picked.index,
            is_refused: false,
            is_answered: false,
            moved: [Moved::default(); 2],
            admission,
            history,
            since,
        }
    }

    /// What there is to tell of it.
    pub(super) fn view(&self, client: SocketAddr) -> View<'_> {
        View {
            state: listing::State::Flow,
            listener: self.admission.listener(),
            pool: &self.pool,
            backend: Some(self.lease.backend()),
            client: Some(client),
            since: self.since,
            bytes: None,
        }
    }

    /// Watches its socket for answers, unless it is shared by flows that expect none.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        if self.pool.plan.udp.rules.answers == Answers::None {
            return Ok(());
        }
        let wire = Rc::get_mut(&mut self.wire).ok_or(io::ErrorKind::Unsupported)?;
        wire.socket.register(registry, token, Interest::READABLE)
    }

    /// Goes on with another backend; the socket to the one before is closed.
    pub(super) fn move_to(&mut self, wire: Rc<Wire>, picked: Picked, pool: &Arc<Pool>) {
        self.count();
        if let Some(history) = &mut self.history {
            history.on_attempts(1);
        }
        picked.lease.backend().sessions.fetch_add(1, Relaxed);
        self.wire = wire;
        self.lease = picked.lease;
        self.pool = Arc::clone(pool);
        self.index = picked.index;
        self.is_refused = false;
        self.is_answered = false;
    }

    /// Goes on with another socket to the same backend.
    pub(super) fn rewire(&mut self, wire: Rc<Wire>) {
        self.wire = wire;
        self.is_refused = false;
    }

    /// Whether it sends to this address.
    pub(super) fn is_towards(&self, target: &Target) -> bool {
        self.pool.targets[usize::from(self.index)] == *target
    }

    /// There is no better backend: goes on with this one.
    pub(super) const fn forgive(&mut self) {
        self.is_refused = false;
    }

    /// Whether its backend is in `pool`, at the address that it has, and well, or used all the same.
    pub(super) fn is_well(&mut self, pool: &Arc<Pool>) -> bool {
        if !Arc::ptr_eq(&self.pool, pool) {
            let Some(index) = self.place_in(pool) else {
                return false;
            };
            if !self.is_towards(&pool.targets[usize::from(index)]) {
                return false;
            }
            self.pool = Arc::clone(pool);
            self.index = index;
        }
        !self.is_refused && (self.lease.backend().is_up() || pool.balancer.is_in_panic())
    }

    /// The place of its backend in `pool`.
    pub(super) fn place_in(&self, pool: &Arc<Pool>) -> Option<u16> {
        let is_it = |(_, member): &(u16, &Member)| Arc::ptr_eq(&member.state, self.lease.backend());
        let mut places = (0..).zip(pool.balancer.members());
        places.find(is_it).map(|(place, _)| place)
    }

    /// Whether it is on this backend.
    pub(super) fn is_on(&self, backend: &Arc<BackendState>) -> bool {
        Arc::ptr_eq(self.lease.backend(), backend)
    }

    /// Sends a train, or a single datagram behind a header. `train` is then what has not been sent.
    pub(super) fn send(&mut self, header: &[u8], train: &mut Train<'_>, kit: &mut Kit) -> Outcome {
        let towards = Towards::Connected {
            is_v4: self.wire.is_v4,
        };
        let socket = self.wire.socket.as_fd();
        let sent = if header.is_empty() {
            batch::send(socket, *train, self.wire.trains.get(), towards)
        } else {
            let sent = batch::send_headed(socket, header, *train, towards);
            let unsent = |error| Unsent {
                rest: *train,
                error,
            };
            sent.map(|()| Sent::Whole).map_err(unsent)
        };
        let rest = sent.as_ref().err().map(|unsent| unsent.rest);
        self.on_moved(Side::Client, *train, rest);
        match sent {
            Ok(sent) => {
                let trains = &self.wire.trains;
                trains.set(sent != Sent::WithoutTrains && trains.get());
                Outcome::Sent(sent)
            }
            Err(Unsent { rest, error }) => {
                *train = rest;
                if !is_refusal(&error) {
                    return Outcome::Lost;
                }
                self.on_refusal(&error, kit);
                Outcome::Refused
            }
        }
    }

    pub(super) fn receive(&mut self, batch: &mut Batch, kit: &mut Kit) -> io::Result<usize> {
        let received = batch.receive(self.wire.socket.as_fd());
        // Where something is received, this host's own rules have no say: others have.
        if let Err(error) = &received
            && (is_refusal(error) || error.raw_os_error() == Some(libc::EACCES))
        {
            self.on_refusal(error, kit);
        }
        received
    }

    /// Answers have gone to the client, but for `rest`.
    pub(super) fn on_answer(&mut self, train: Train<'_>, rest: Option<Train<'_>>, now: Tick) {
        self.on_moved(Side::Backend, train, rest);
        self.lease.backend().progress(now);
        if !self.is_answered {
            self.is_answered = true;
            self.lease.backend().traffic.on_success();
        }
        if let Some(history) = &mut self.history {
            history.on_answer(now);
        }
    }

    /// The flow is over.
    pub(super) fn end(mut self, ended: Ended, kit: &Kit) {
        self.count();
        self.admission.on_ended(ended);
        if let Some(history) = &self.history {
            let ending = Ending {
                listener: self.admission.listener(),
                pool: &self.pool,
                backend: Some(self.lease.backend()),
                bytes: [0; 2], // it has counted them
            };
            kit.log_end(history, cause(ended), ending);
        }
    }

    /// Whether it has moved something that has not been added to the counters.
    pub(super) fn is_uncounted(&self) -> bool {
        self.moved.iter().any(|moved| moved.datagrams > 0)
    }

    /// Adds to the counters what it has moved since that was done before.
    pub(super) fn count(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        if let Some(history) = &mut self.history {
            history.on_counted(moved.map(|moved| moved.bytes));
        }
        let (backend, listener) = (self.lease.backend(), self.admission.listener());
        for (side, Moved { bytes, datagrams }) in moved.into_iter().enumerate() {
            if datagrams > 0 {
                backend.bytes[side].fetch_add(bytes, Relaxed);
                backend.datagrams[side].fetch_add(datagrams, Relaxed);
                listener.bytes[side].fetch_add(bytes, Relaxed);
                listener.datagrams[side].fetch_add(datagrams, Relaxed);
            }
        }
    }

    /// A train of this side has gone, but for `rest`.
    fn on_moved(&mut self, from: Side, train: Train<'_>, rest: Option<Train<'_>>) {
        let moved = &mut self.moved[from as usize];
        let (left, bytes_left) = rest.map_or((0, 0), |rest| (rest.count(), rest.bytes.len()));
        moved.datagrams += u64::from(train.count() - left);
        moved.bytes += (train.bytes.len() - bytes_left) as u64;
    }

    fn on_refusal(&mut self, error: &io::Error, kit: &mut Kit) {
        self.is_refused = true;
        self.is_answered = false;
        on_connect_failed(&self.pool, self.lease.backend(), error, kit);
    }
}

/// What the access log says of a flow that has ended so.
const fn cause(ended: Ended) -> Cause {
    match ended {
        Ended::Idle => Cause::new(By::Evenkeel, State::Idle),
        Ended::Finished => Cause::new(By::Backend, State::Normal),
        Ended::Local => Cause::new(By::Kernel, State::Data),
        _ => Cause::new(By::Evenkeel, State::Data),
    }
}

/// Whether the network, not this host, says that a backend cannot be reached (ICMP).
fn is_refusal(error: &io::Error) -> bool {
    use libc::{ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, ENETUNREACH, ENONET, ENOPROTOOPT, EPROTO};
    const REFUSALS: [i32; 7] = [
        ECONNREFUSED,
        EHOSTUNREACH,
        ENETUNREACH,
        EHOSTDOWN,
        ENONET,
        ENOPROTOOPT,
        EPROTO,
    ];
    let number = error.raw_os_error();
    number.is_some_and(|number| REFUSALS.contains(&number))
}
