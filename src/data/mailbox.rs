//! Where the control plane and the workers meet: [`Command`] down, [`Report`] up, and what both
//! read: [`Active`], replaced whole, and [`Shared`], a few atomics.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;

pub use super::access_log::{AccessLog, Record};
pub use super::counters::{Dropped, Ended, ListenerCounters, Unserved};
pub use super::entry::Barred;
use super::listen::Admission;
pub use super::listing::{Listed, Listing, Open, State};
pub use super::queue::{Left, PoolQueue};
use super::refuse::Refused;
pub use super::sticky::Sticky;
use super::token::ArrivalKey;
use crate::config::plan;
use crate::lb::admission::access::Access;
use crate::lb::backend::BackendState;
use crate::lb::balance::key::said;
use crate::lb::balance::pick::{Balancer, Client, Picked, Refusal};
use crate::lb::histogram::Histogram;
use crate::lb::rng::Rng;
use crate::lb::time::Tick;
use crate::sys::socket::{Listening, Target};
use crate::sys::source::Source;
use crate::wire::proxy_header::{Ends, Header, Transport};
use crate::wire::quic::ServerId;

/// The configuration in force, immutable, one pointer, replaced whole.
#[derive(Debug, Default)]
pub struct Active {
    /// Counts installed configurations, from 1.
    pub generation: u64,
    /// What each listening socket does now.
    pub routes: Vec<Route>,
    /// The pools they go to, each once.
    pub pools: Vec<Arc<Pool>>,
    /// Where those who end are told of; `None` = nowhere.
    pub access_log: Option<AccessLog>,
}

impl Active {
    /// Where a client goes now that came by `listener` for `pool`, maybe under an earlier
    /// configuration: a limit that was lowered since then binds it too, and a backend that went is
    /// not for it. `None` if neither of them is there any more.
    pub(super) fn pool_of(&self, admission: &Admission, pool: &Pool) -> Option<&Arc<Pool>> {
        let of_listener =
            |route: &&Route| Arc::ptr_eq(&route.listener.counters, admission.listener());
        let route = self.routes.iter().find(of_listener);
        // Whom its first bytes led here is not for the pool of those whom they lead nowhere.
        let Some(route) = route.filter(|_| !admission.is_routed) else {
            return named(&self.pools, pool);
        };
        Some(named(&route.listener.routed, pool).unwrap_or(&route.pool))
    }

    /// The same, for a client whose pool goes on without a configuration.
    pub(super) fn pool_now<'a>(
        &'a self,
        admission: &Admission,
        pool: &'a Arc<Pool>,
    ) -> &'a Arc<Pool> {
        self.pool_of(admission, pool).unwrap_or(pool)
    }

    /// The pool that has the name of `pool` now.
    pub(super) fn of_name<'a>(&'a self, pool: &'a Arc<Pool>) -> &'a Arc<Pool> {
        named(&self.pools, pool).unwrap_or(pool)
    }
}

/// The one of `pools` that has the name of `pool`.
fn named<'a>(pools: &'a [Arc<Pool>], pool: &Pool) -> Option<&'a Arc<Pool>> {
    pools.iter().find(|other| other.plan.name == pool.plan.name)
}

/// One listening address and what happens to its connections.
#[derive(Clone, Debug)]
pub struct Route {
    /// The listening socket, the same number on every worker.
    pub socket: SocketId,
    /// The listener it belongs to.
    pub listener: Arc<Listener>,
    /// Where its connections go.
    pub pool: Arc<Pool>,
}

/// The number of a listening address, never used twice in the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(pub u32);

/// A listener and what it counts; keyed by name, so the counters outlive every reload.
#[derive(Debug)]
pub struct Listener {
    /// Its settings.
    pub plan: Arc<plan::Listener>,
    /// Who may connect; `None` = everyone.
    pub access: Option<Access>,
    /// Who may say on whose behalf it connects; `None` = everyone.
    pub trusted: Option<Access>,
    /// Where its routes lead, in their order.
    pub routed: Vec<Arc<Pool>>,
    /// Whether what clients say first is looked at: by the routes, or by the keys of a pool.
    pub reads_first_bytes: bool,
    /// Its counters.
    pub counters: Arc<ListenerCounters>,
}

impl Listener {
    /// A listener with these settings, which goes on counting; `pool` is where clients go whom no route
    /// leads elsewhere.
    pub fn new(
        plan: Arc<plan::Listener>,
        pool: &Arc<Pool>,
        routed: Vec<Arc<Pool>>,
        counters: Arc<ListenerCounters>,
    ) -> Self {
        let is_open = plan.allow.is_empty() && plan.deny.is_empty();
        let is_keyed = |pool: &Arc<Pool>| pool.plan.keys().any(|key| said(key).next().is_some());
        Self {
            access: (!is_open).then(|| Access::new(&plan.allow, &plan.deny)),
            trusted: (!plan.trusted.is_empty()).then(|| Access::new(&plan.trusted, &[])),
            reads_first_bytes: !routed.is_empty() || is_keyed(pool),
            routed,
            plan,
            counters,
        }
    }
}

/// A pool as the workers use it.
#[derive(Debug)]
pub struct Pool {
    /// Its settings.
    pub plan: Arc<plan::Pool>,
    /// Chooses a member.
    pub balancer: Balancer,
    /// Where each member is, in the order of the balancer's members.
    pub targets: Vec<Target>,
    /// The addresses among them.
    pub services: HashSet<SocketAddr>,
    /// The member that each server id stands for.
    pub server_ids: HashMap<ServerId, u16>,
    /// Those who wait for it.
    pub queue: Arc<PoolQueue>,
    /// Where its clients stay; `None` = nowhere in particular.
    pub sticky: Option<Arc<Sticky>>,
}

impl Pool {
    /// Where connections to backends come from: those of a client, or of nobody but us.
    pub fn source(&self, client: Option<&Client>) -> Source {
        match (self.plan.source, client) {
            (plan::Source::Any, _) | (plan::Source::Client, None) => Source::Any,
            (plan::Source::Address(address), _) => Source::Own(address),
            (plan::Source::Client, Some(client)) => Source::Client(client.source.ip()),
        }
    }

    /// What backends are told of a client before anything else; `None` = it has no address.
    pub(super) fn introduction(
        &self,
        transport: Transport,
        client: Option<&Client>,
    ) -> Option<Header> {
        let ends = client.map(|client| Ends {
            source: client.source,
            destination: client.destination,
        });
        self.plan.send_proxy.header(transport, ends)
    }

    /// Chooses a backend for `client` as it is set, and reserves a slot on it.
    pub(super) fn pick(
        &self,
        client: &Client,
        tried: &[u16],
        now: Tick,
        rng: &mut Rng,
    ) -> Result<Picked, Refusal> {
        match &self.sticky {
            Some(sticky) => sticky.pick(&self.balancer, client, tried, now, rng),
            None => self.balancer.pick(client, tried, now, rng),
        }
    }

    /// Whether a client that gets no backend for this reason may wait for one.
    pub(super) fn may_queue(&self, refused: &Refused) -> bool {
        matches!(refused, Refused::Balancer(Refusal::AllFull)) && self.plan.queue.limits.all > 0
    }

    /// The places in `other` of those members that are at `places` here, as far as they are in both.
    pub(super) fn places_in(&self, other: &Self, places: &[u16]) -> Vec<u16> {
        let members = |place: &u16| &self.balancer.members()[usize::from(*place)].state;
        let place_of = |state: &Arc<BackendState>| {
            let mut others = (0..).zip(other.balancer.members());
            others.find_map(|(place, member)| Arc::ptr_eq(&member.state, state).then_some(place))
        };
        places.iter().map(members).filter_map(place_of).collect()
    }
}

/// What all workers share beside the plan.
#[derive(Debug)]
pub struct Shared {
    /// What every worker counts its time from.
    pub epoch: Instant,
    /// Sessions and flows open now, over all workers.
    pub open: AtomicU32,
    /// How many of them may be; 0 = as many as the descriptors allow.
    pub max_connections: AtomicU32,
    /// Descriptors that they hold: a session two, a flow one or none.
    pub descriptors: AtomicU32,
    /// Descriptors that they may hold.
    pub descriptors_max: u32,
    /// Clients that wait in the queue of a pool, over all pools and workers.
    pub waiting: Arc<AtomicU32>,
    /// Each worker's load, in the order of the workers.
    pub workers: Vec<WorkerState>,
}

impl Shared {
    /// Nothing is open yet.
    pub fn new(workers: usize, max_connections: u32, descriptors_max: u32) -> Self {
        Self {
            epoch: Instant::now(),
            open: AtomicU32::new(0),
            max_connections: AtomicU32::new(max_connections),
            descriptors: AtomicU32::new(0),
            descriptors_max,
            waiting: Arc::default(),
            workers: (0..workers).map(|_| WorkerState::default()).collect(),
        }
    }
}

/// What one worker shows to the others and to the control plane.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WorkerState {
    /// Sessions and flows it holds now.
    pub sessions: AtomicU32,
    /// Turns of its loop; stands still only if the worker hangs (it turns whenever it is woken).
    pub turns: AtomicU64,
    /// How long its turns take, without the wait for events. Written by the worker alone.
    pub busy: Histogram,
}

/// From the control plane to a worker (and between workers: [`Command::Adopt`], [`Command::Call`]).
#[derive(Debug)]
pub enum Command {
    /// Take a new configuration. Sockets in `add` are this worker's own; a socket that the new
    /// configuration has no route for is emptied and closed. Answered by [`Report::Installed`].
    Install {
        /// The configuration.
        active: Arc<Active>,
        /// New listening sockets of this worker.
        add: Vec<(SocketId, Listening)>,
    },
    /// Tell who is open.
    List(Listing),
    /// Reset the sessions of a backend.
    Cut(Arc<BackendState>),
    /// Stop accepting, let sessions end, reset the rest at `within` from now; then answer
    /// [`Report::Drained`] and go on turning.
    Drain {
        /// From now.
        within: Duration,
    },
    /// Reset every session and end the thread.
    Stop,
    /// A connection another worker accepted.
    Adopt(Box<crate::data::worker::Accepted>),
    /// A client in the queue has its turn.
    Call(Box<Called>),
}

/// A client whose turn it is in the queue of its pool.
#[derive(Debug)]
pub struct Called {
    /// Its name on the worker that has it.
    pub(super) key: ArrivalKey,
    /// The pool that called it, and the backends in it that have failed for it.
    pub(super) pool: Arc<Pool>,
    pub(super) tried: Vec<u16>,
    /// What it gets.
    pub(super) outcome: Result<Picked, Refusal>,
}

/// From a worker to the control plane.
#[derive(Debug)]
pub enum Report {
    /// The configuration of this generation is in force on the worker.
    Installed {
        /// Which worker.
        worker: usize,
        /// Which configuration.
        generation: u64,
    },
    /// Real traffic failed; sent once until a probe clears the suspicion.
    ConnectFailed(Arc<BackendState>),
    /// Traffic has failed on a backend so often that it is ejected.
    Ejected {
        /// The backend.
        backend: Arc<BackendState>,
        /// Until when.
        until: Tick,
    },
    /// The worker has no session left after [`Command::Drain`]; said again if another worker has
    /// given it one after that.
    Drained {
        /// Which worker.
        worker: usize,
    },
}

/// Where workers put reports; must not block.
pub type Reports = Arc<dyn Fn(Report) + Send + Sync>;

/// The way to one worker.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Command>,
    waker: Arc<mio::Waker>,
}

impl Mailbox {
    /// A mailbox whose worker reads the other end of `sender` when `waker` wakes it.
    pub fn new(sender: Sender<Command>, waker: Arc<mio::Waker>) -> Self {
        Self { sender, waker }
    }

    /// Posts a command and wakes the worker; an error if the worker has ended.
    pub fn post(&self, command: Command) -> io::Result<()> {
        self.sender
            .send(command)
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.waker.wake()
    }

    /// Makes the worker turn, which a worker that has nothing to do rarely does.
    pub fn wake(&self) -> io::Result<()> {
        self.waker.wake()
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("waiting", &self.sender.len())
            .finish_non_exhaustive()
    }
}
