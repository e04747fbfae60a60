//! What a reload would change, found without a reload: nothing is bound, and no name is resolved.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::task::LocalSet;

use super::Supervisor;
use crate::config;
use crate::config::diff::{self, diff, summary};
use crate::config::plan::{self, Bind, Plan};
use crate::control::admin::messages::{Change, Moved, Planned};
use crate::control::aside::aside;
use crate::control::discovery::{Answers, extended_plan};
use crate::control::handle::{File, Reply};
use crate::data::mailbox::Pool;
use crate::lb::backend::BackendState;
use crate::lb::balance::client::Digests;
use crate::lb::balance::pick::{Balancer, Client, Member};
use crate::lb::rng::Rng;
use crate::lb::time::Tick;

impl Supervisor {
    /// Answers once all is found, on another thread: tables take milliseconds, long files more.
    pub(super) fn tell_plan(
        &mut self,
        file: File,
        reply: Reply<Result<Planned, String>>,
        tasks: &LocalSet,
    ) {
        let plan = &self.loaded.plan;
        let pools = plan.pools.iter();
        let pools = pools.filter_map(|pool| self.registry.pool(&pool.name).map(Arc::clone));
        let listeners = plan.listeners.iter().filter_map(|listener| {
            let counters = self.registry.counters(&listener.name)?;
            Some((listener.name.clone(), counters.open.load(Relaxed)))
        });
        let now = Now {
            plan: plan.clone(),
            found: self.discovery.answers().clone(),
            pools: pools.map(|pool| (pool.plan.name.clone(), pool)).collect(),
            listeners: listeners.collect(),
            tick: Tick::ZERO.after(self.shared.epoch.elapsed()),
            rng: Rng::new(self.rng.next_u64()),
        };
        tasks.spawn_local(async move {
            let planned = aside(move || now.compare(&file)).await;
            let planned = planned.unwrap_or_else(|error| Err(error.to_string()));
            // Who has gone meanwhile needs no answer.
            drop(reply.send(planned));
        });
    }
}

/// What is in force.
struct Now {
    plan: Plan,
    /// Backends that were found, which a reload goes by as well.
    found: Answers,
    pools: HashMap<String, Arc<Pool>>,
    /// What each has open.
    listeners: HashMap<String, u32>,
    tick: Tick,
    rng: Rng,
}

impl Now {
    fn compare(mut self, file: &File) -> Result<Planned, String> {
        let next =
            config::load_bytes(&file.text, &file.name).map_err(|errors| errors.to_string())?;
        let next = extended_plan(&next, &self.found);
        let changes = diff(&self.plan, &next);
        Ok(Planned {
            summary: summary(&changes),
            needs_restart: changes.iter().any(diff::Change::needs_restart),
            moved: (next.pools.iter())
                .filter_map(|pool| self.moved(pool))
                .collect(),
            changes: (changes.iter())
                .map(|change| Change {
                    what: change.to_string(),
                    needs_restart: change.needs_restart(),
                    sessions: self.sessions(change),
                })
                .collect(),
        })
    }

    /// What is open on what changes.
    fn sessions(&self, change: &diff::Change) -> u32 {
        use diff::Change as C;
        let of_listener = |name: &String| self.listeners.get(name).copied().unwrap_or(0);
        let of_pool = |name: &String| self.states(name).map(|state| state.open()).sum();
        match change {
            C::Global(_)
            | C::ListenerAdded(_)
            | C::AddressBound(_)
            | C::PoolAdded(_)
            | C::BackendAdded(_) => 0,
            C::ListenerRemoved(name) | C::ListenerChanged(name, _) => of_listener(name),
            C::AddressClosed(bind) | C::AddressRebound(bind) => {
                let holds = |listener: &&Arc<plan::Listener>| holds(listener, bind);
                let listener = self.plan.listeners.iter().find(holds);
                listener.map_or(0, |listener| of_listener(&listener.name))
            }
            C::PoolRemoved(name) | C::PoolChanged(name, _) => of_pool(name),
            C::BackendRemoved(identity) | C::BackendChanged(identity, _) => {
                let mut states = self.states(&identity.pool);
                let state = states.find(|state| state.name() == identity.backend);
                state.map_or(0, |state| state.open())
            }
        }
    }

    fn states(&self, pool: &str) -> impl Iterator<Item = &Arc<BackendState>> {
        let pool = self.pools.get(pool).into_iter();
        pool.flat_map(|pool| pool.balancer.members().iter().map(|member| &member.state))
    }

    /// The share of keys that lead elsewhere in the `next` pool, with backends as well as they are now
    /// and new ones well; `None` where nothing changes, or no key decides.
    fn moved(&mut self, next: &plan::Pool) -> Option<Moved> {
        let pool = Arc::clone(self.pools.get(&next.name)?);
        let is_by_key = |pool: &plan::Pool| pool.balance.policy.is_by_hash();
        if *pool.plan == *next || !is_by_key(next) || !is_by_key(&pool.plan) {
            return None;
        }
        let member = |backend: &plan::Backend| {
            let state = self
                .states(&next.name)
                .find(|state| state.name() == backend.name);
            let new = || Arc::new(BackendState::new(&next.name, &backend.name, true));
            let state = state.map_or_else(new, Arc::clone);
            Member {
                weight: state.orders.weight(backend.weight),
                max_connections: backend.max_connections,
                backup: backend.backup,
                state,
            }
        };
        let members = next.backends.iter().map(member).collect();
        let balancer = Balancer::new(next.balance.clone(), members);
        let mut moved = 0;
        for _ in 0..KEYS_TRIED {
            let client = anybody(&mut self.rng);
            let mut owner = |balancer: &Balancer| {
                let place = balancer
                    .would_pick(&client, self.tick, &mut self.rng)
                    .ok()?;
                let state = &balancer.members()[usize::from(place)].state;
                Some(state.name().to_owned())
            };
            moved += u32::from(owner(&pool.balancer) != owner(&balancer));
        }
        let share = f64::from(moved) / f64::from(KEYS_TRIED);
        let pool = next.name.clone();
        Some(Moved { pool, share })
    }
}

fn holds(listener: &plan::Listener, bind: &Bind) -> bool {
    listener.bind.contains(bind)
}

/// A client that might come, with any key.
fn anybody(rng: &mut Rng) -> Client {
    let mut address = || {
        let [a, b, c, d, high, low, ..] = rng.next_u64().to_be_bytes();
        SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
    };
    let (source, destination) = (address(), address());
    let said = Some(rng.next_u64());
    Client {
        digests: Digests {
            balance: said,
            sticky: said,
        },
        ..Client::new(source, destination)
    }
}

/// Keys that are tried: enough to know a share to a percent.
const KEYS_TRIED: u32 = 1 << 14;
