//! From a loaded plan to what the workers use, keeping everything that did not change: an unchanged
//! pool stays the very object it was (its tables, its position), an unchanged backend keeps its
//! health and counters, and so does a listener.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::loader::Loaded;
use crate::config::plan::{self, Health};
use crate::data::mailbox::{
    AccessLog, Active, Barred, Dropped, Left, Listener, ListenerCounters, Pool, PoolQueue, Route,
    SocketId, Sticky, Unserved,
};
use crate::lb::backend::BackendState;
use crate::lb::balance::pick::{Balancer, Member};
use crate::lb::health::finding::Finding;
use crate::lb::time::Tick;
use crate::sys::socket::Target;
use crate::wire::quic::ServerId;

/// What outlives plans, by name.
#[derive(Debug, Default)]
pub(super) struct Registry {
    backends: HashMap<(String, String), Arc<BackendState>>,
    listeners: HashMap<String, Arc<ListenerCounters>>,
    pools: HashMap<String, Arc<Pool>>,
    queues: HashMap<String, Arc<PoolQueue>>,
    sticky: HashMap<String, Arc<Sticky>>,
    /// Who was forgotten, so that counters go on where they have ended if the name comes back.
    gone: Gone,
    /// Counts who waits in any of them.
    waiting: Arc<AtomicU32>,
}

impl Registry {
    /// Nothing is known yet; `waiting` counts clients in queues.
    pub(super) fn new(waiting: Arc<AtomicU32>) -> Self {
        Self {
            waiting,
            ..Self::default()
        }
    }

    /// The pools of `loaded`. Tables are built here, which takes milliseconds per changed pool.
    pub(super) fn pools(&mut self, loaded: &Loaded, now: Tick) -> Vec<Arc<Pool>> {
        let pairs = loaded.plan.pools.iter().zip(&loaded.targets);
        pairs
            .map(|(plan, targets)| match self.pools.get(&plan.name) {
                Some(pool) if is_same(pool, plan, targets) => Arc::clone(pool),
                before => {
                    let before = before.map(Arc::clone);
                    let members = plan
                        .backends
                        .iter()
                        .map(|backend| self.member(plan, backend, now));
                    let mut balancer = Balancer::new(plan.balance.clone(), members.collect());
                    if let Some(before) = before {
                        balancer = balancer.in_place_of(&before.balancer);
                    }
                    Arc::new(Pool {
                        plan: Arc::clone(plan),
                        balancer,
                        targets: targets.clone(),
                        services: targets.iter().filter_map(Target::address).collect(),
                        server_ids: server_ids(plan),
                        queue: self.queue(&plan.name),
                        sticky: self.sticky(plan, now),
                    })
                }
            })
            .collect()
    }

    /// What the workers get: a route for each address of each listener.
    pub(super) fn active(
        &mut self,
        generation: u64,
        plan: &plan::Plan,
        pools: &[Arc<Pool>],
        ids: &[Vec<SocketId>],
        access_log: Option<AccessLog>,
    ) -> Active {
        let mut routes = Vec::new();
        for (listener, ids) in plan.listeners.iter().zip(ids) {
            let counters = self.listener(&listener.name);
            let find = |name: &str| {
                let pool = pools.iter().find(|pool| pool.plan.name == name);
                pool.expect("the plan was checked: its listeners' pools exist")
            };
            let pool = find(&listener.pool);
            let routed = listener.routes.iter().map(|route| find(&route.pool));
            let routed = routed.map(Arc::clone).collect();
            let runtime = Listener::new(Arc::clone(listener), pool, routed, counters);
            let runtime = Arc::new(runtime);
            routes.extend(ids.iter().map(|&socket| Route {
                socket,
                listener: Arc::clone(&runtime),
                pool: Arc::clone(pool),
            }));
        }
        Active {
            generation,
            routes,
            pools: pools.to_vec(),
            access_log,
        }
    }

    /// Makes `pools` the ones a later plan is compared with, sets the health of backends that are
    /// not probed, and forgets who is neither in the plan nor in use.
    pub(super) fn commit(&mut self, plan: &plan::Plan, pools: &[Arc<Pool>], now: Tick) {
        self.pools = pools
            .iter()
            .map(|p| (p.plan.name.clone(), Arc::clone(p)))
            .collect();
        for pool in pools {
            if pool.plan.health == Health::None {
                for member in pool.balancer.members() {
                    member.state.set_up(true, now);
                }
            }
        }
        self.forget_unused(plan);
    }

    /// Drops what neither the plan nor a session uses.
    fn forget_unused(&mut self, plan: &plan::Plan) {
        let in_plan: std::collections::HashSet<(&str, &str)> = plan
            .pools
            .iter()
            .flat_map(|pool| {
                pool.backends
                    .iter()
                    .map(|b| (pool.name.as_str(), b.name.as_str()))
            })
            .collect();
        self.backends.retain(|identity, state| {
            let (pool, name) = identity;
            let is_used = in_plan.contains(&(pool.as_str(), name.as_str())) || state.open() > 0;
            if !is_used {
                log_backend(identity, state, None);
                self.gone.backends.keep(identity.clone(), state);
            }
            is_used
        });
        let pools = &self.pools;
        let is_sticky = |pool: &str| pools.get(pool).is_some_and(|pool| pool.sticky.is_some());
        self.sticky.retain(|pool, _| is_sticky(pool));
        self.queues.retain(|pool, queue| {
            let is_used = self.pools.contains_key(pool) || !queue.is_empty();
            if !is_used {
                log_queue(pool, queue);
                self.gone.queues.keep(pool.clone(), queue);
            }
            is_used
        });
        let listeners: std::collections::HashSet<&str> = plan
            .listeners
            .iter()
            .map(|listener| listener.name.as_str())
            .collect();
        self.listeners.retain(|name, counters| {
            let is_used = listeners.contains(name.as_str()) || counters.open.load(Relaxed) > 0;
            if !is_used {
                log_listener(counters);
                self.gone.listeners.keep(name.clone(), counters);
            }
            is_used
        });
    }

    /// The totals of every backend, listener and queue known. Those of the others were logged when they
    /// were forgotten.
    pub(super) fn log_totals(
        &self,
        last_probe: impl Fn(&BackendState) -> Option<(Finding, Duration)>,
    ) {
        let mut listeners: Vec<_> = self.listeners.values().collect();
        listeners.sort_by_key(|counters| &counters.name);
        for counters in listeners {
            log_listener(counters);
        }
        let mut queues: Vec<_> = self.queues.iter().collect();
        queues.sort_by_key(|(pool, _)| *pool);
        for (pool, queue) in queues {
            log_queue(pool, queue);
        }
        let mut backends: Vec<_> = self.backends.iter().collect();
        backends.sort_by_key(|(identity, _)| *identity);
        for (identity, state) in backends {
            log_backend(identity, state, last_probe(state));
        }
    }

    /// The pool in force that has this name.
    pub(super) fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.pools.get(name)
    }

    /// What the listener of this name counts.
    pub(super) fn counters(&self, listener: &str) -> Option<&Arc<ListenerCounters>> {
        self.listeners.get(listener)
    }

    fn listener(&mut self, name: &str) -> Arc<ListenerCounters> {
        let entry = self.listeners.entry(name.to_owned());
        let gone = &mut self.gone.listeners;
        let new = || Arc::new(ListenerCounters::new(name));
        Arc::clone(entry.or_insert_with(|| gone.take(&name.to_owned()).unwrap_or_else(new)))
    }

    fn sticky(&mut self, pool: &plan::Pool, now: Tick) -> Option<Arc<Sticky>> {
        let plan = pool.sticky.as_ref()?;
        let before = self.sticky.get(&pool.name);
        let kept = before.filter(|sticky| sticky.follow(plan, now));
        let sticky = kept.map_or_else(|| Arc::new(Sticky::new(plan)), Arc::clone);
        self.sticky.insert(pool.name.clone(), Arc::clone(&sticky));
        Some(sticky)
    }

    fn queue(&mut self, pool: &str) -> Arc<PoolQueue> {
        let entry = self.queues.entry(pool.to_owned());
        let gone = &mut self.gone.queues;
        let new = || Arc::new(PoolQueue::new(Arc::clone(&self.waiting)));
        Arc::clone(entry.or_insert_with(|| gone.take(&pool.to_owned()).unwrap_or_else(new)))
    }

    fn member(&mut self, pool: &plan::Pool, backend: &plan::Backend, now: Tick) -> Member {
        let identity = (pool.name.clone(), backend.name.clone());
        let is_up = match &pool.health {
            Health::None => true,
            Health::Probed(probe) => probe.initial_up,
        };
        let of_name = identity.clone();
        let is_pool_new = !self.pools.contains_key(&pool.name);
        let new = || {
            let state = BackendState::new(&pool.name, &backend.name, is_up);
            state.begin(now);
            if !is_pool_new {
                state.come_back(now); // the others have work, and this one begins
            }
            if let Some(before) = self.gone.backends.take(&of_name) {
                state.count_on_from(&before);
            }
            Arc::new(state)
        };
        let state = self.backends.entry(identity).or_insert_with(new);
        Member {
            state: Arc::clone(state),
            weight: state.orders.weight(backend.weight),
            max_connections: backend.max_connections,
            backup: backend.backup,
        }
    }
}

/// Whether a pool is what it would be with these settings, and the weights that hold now.
fn is_same(pool: &Pool, plan: &plan::Pool, targets: &[Target]) -> bool {
    let mut members = pool.balancer.members().iter().zip(&plan.backends);
    *pool.plan == *plan
        && pool.targets == targets
        && members.all(|(member, plan)| member.weight == member.state.orders.weight(plan.weight))
}

/// Who was forgotten, by name.
#[derive(Debug, Default)]
struct Gone {
    backends: Last<(String, String), BackendState>,
    listeners: Last<String, ListenerCounters>,
    queues: Last<String, PoolQueue>,
}

/// The last of them.
#[derive(Debug)]
struct Last<N, T>(VecDeque<(N, Arc<T>)>);

impl<N, T> Default for Last<N, T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<N: PartialEq, T> Last<N, T> {
    fn keep(&mut self, name: N, one: &Arc<T>) {
        if self.0.len() == GONE_MAX {
            self.0.pop_front();
        }
        self.0.push_back((name, Arc::clone(one)));
    }

    fn take(&mut self, name: &N) -> Option<Arc<T>> {
        let place = self.0.iter().position(|(other, _)| other == name)?;
        self.0.remove(place).map(|(_, one)| one)
    }
}

/// Names remembered of each kind: 2 MB of them at most.
const GONE_MAX: usize = 1024;

fn log_listener(counters: &ListenerCounters) {
    let name = &counters.name;
    let barred = Barred::ALL.map(|reason| {
        let count = counters.barred[reason as usize].load(Relaxed);
        (count > 0).then(|| format!(", refused {}: {count}", reason.name()))
    });
    let unserved = Unserved::ALL.map(|reason| {
        let count = counters.unserved[reason as usize].load(Relaxed);
        (count > 0).then(|| format!(", refused {}: {count}", reason.name()))
    });
    let dropped = Dropped::ALL.map(|reason| {
        let count = counters.dropped[reason as usize].load(Relaxed);
        (count > 0).then(|| format!(", dropped {}: {count}", reason.name()))
    });
    let unkeyed = match counters.unkeyed.load(Relaxed) {
        0 => String::new(),
        count => format!(", without a key {count}"),
    };
    log::info!(
        "listener \"{name}\": accepted {}, refused {}, open {}{}{}",
        counters.accepted.load(Relaxed),
        counters.refused(),
        counters.open.load(Relaxed),
        unkeyed,
        barred
            .into_iter()
            .chain(unserved)
            .chain(dropped)
            .flatten()
            .collect::<String>()
    );
}

/// Says nothing of a queue that nobody ever stood in.
fn log_queue(pool: &str, queue: &PoolQueue) {
    let counts = Left::ALL.map(|left| {
        let count = queue.count(left);
        (count > 0).then(|| format!("{} {count}", left.name()))
    });
    let mut counts: Vec<_> = counts.into_iter().flatten().collect();
    if counts.is_empty() && queue.is_empty() {
        return;
    }
    counts.push(format!("waiting {}", queue.len()));
    log::info!("queue of pool \"{pool}\": {}", counts.join(", "));
}

fn log_backend(
    (pool, name): &(String, String),
    state: &BackendState,
    last_probe: Option<(Finding, Duration)>,
) {
    let last_probe = last_probe.map_or_else(String::new, |(finding, ago)| {
        format!(", last probe {} ms ago: {finding}", ago.as_millis())
    });
    let load = state.load();
    log::info!(
        "backend \"{pool}/{name}\": sessions {}, connect failures {}, bytes to backend {}, \
         bytes to client {}, answers {}, busy {}, open {}{last_probe}",
        state.sessions.load(Relaxed),
        state.connect_failures.load(Relaxed),
        state.bytes[0].load(Relaxed),
        state.bytes[1].load(Relaxed),
        state.meters.snapshot().0.count(),
        load.busy,
        load.open
    );
}

/// The member that each server id stands for.
fn server_ids(plan: &plan::Pool) -> HashMap<ServerId, u16> {
    let places = (0..).zip(&plan.backends);
    places
        .filter_map(|(place, backend)| Some((backend.server_id?, place)))
        .collect()
}
