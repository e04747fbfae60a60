//! What would become of a client: the choices that workers make, asked for and not made.

use std::net::SocketAddr;

use super::Supervisor;
use crate::config::plan::Listener;
use crate::control::admin::messages::{Explained, Verdict};
use crate::control::handle::Newcomer;
use crate::data::mailbox::Pool;
use crate::lb::admin::Admin;
use crate::lb::admission::access::Access;
use crate::lb::balance::pick::{Client, Explanation, Member, Objection, Policy, Reason, Refusal};
use crate::lb::balance::route::route;
use crate::lb::balance::said::Silent;
use crate::lb::time::Tick;

impl Supervisor {
    /// What would become of a client that says nothing.
    pub(super) fn explain(&mut self, newcomer: &Newcomer) -> Result<Explained, String> {
        let Newcomer {
            listener: name,
            source,
            ..
        } = newcomer;
        let mut listeners = self.loaded.plan.listeners.iter();
        let listener = listeners.find(|listener| listener.name == *name);
        let listener = listener.ok_or_else(|| format!("there is no listener \"{name}\""))?;
        let destination = match newcomer.destination {
            Some(destination) => destination,
            None => self.destination(listener)?,
        };
        let client = Client::new(*source, destination);
        let silent = Silent(source.ip());
        let place = route(listener.routes.iter().map(|route| &route.rule), &silent).flatten();
        let pool_name = place.map_or(&listener.pool, |place| &listener.routes[place].pool);
        let pool = self.registry.pool(pool_name);
        let pool = pool.ok_or_else(|| format!("pool \"{pool_name}\" is not in force"))?;
        let now = Tick::ZERO.after(self.shared.epoch.elapsed());
        let again =
            (pool.sticky.as_ref()).and_then(|sticky| sticky.place(&pool.balancer, &client, now));
        let explanation = match again {
            Some(place) => pool.balancer.explain_again(place),
            None => pool.balancer.explain(&client, &[], now, &mut self.rng),
        };
        let is_let_in = is_let_in(listener, source);
        let members = pool.balancer.members().iter().zip(&explanation.members);
        let chosen = explanation.chosen.ok().filter(|_| is_let_in);
        Ok(Explained {
            listener: name.clone(),
            source: *source,
            destination,
            pool: pool_name.clone(),
            balance: pool.plan.balance.policy.name().to_owned(),
            backend: chosen.map(|place| pool.plan.backends[usize::from(place)].name.clone()),
            because: if is_let_in {
                because(pool, &explanation, again.is_some())
            } else {
                "it is not let in, by `allow` or `deny`".to_owned()
            },
            backends: members
                .map(|(member, reason)| Verdict {
                    backend: member.state.name().to_owned(),
                    is_chosen: *reason == Reason::Chosen && is_let_in,
                    because: words(member, *reason, now),
                })
                .collect(),
        })
    }

    /// The first address that a listener has. One of all addresses stands for none of them.
    fn destination(&self, listener: &Listener) -> Result<SocketAddr, String> {
        let mut bound = self.sockets.addresses(&self.loaded.plan, listener);
        let address = bound.find_map(|bind| bind.address());
        let is_one = |address: &SocketAddr| !address.ip().is_unspecified();
        address.filter(is_one).ok_or_else(|| {
            let name = &listener.name;
            format!("listener \"{name}\" has no address of its own; name one as destination")
        })
    }
}

fn is_let_in(listener: &Listener, source: &SocketAddr) -> bool {
    let is_open = listener.allow.is_empty() && listener.deny.is_empty();
    is_open || Access::new(&listener.allow, &listener.deny).allows(source.ip())
}

/// Why a client gets the backend that it does, or none.
fn because(pool: &Pool, explanation: &Explanation, is_again: bool) -> String {
    let waits = pool.queue.len();
    match explanation.chosen {
        Ok(_) if waits > 0 => format!("after {waits} that wait in the queue before it"),
        Ok(_) if is_again => "it has been there before (`sticky`)".to_owned(),
        Ok(_) => match pool.plan.balance.policy {
            Policy::Hash | Policy::Rendezvous => "its key leads there",
            Policy::First => "it is the first that can take it",
            Policy::RoundRobin => "it is next",
            Policy::LeastConnections => "it has the fewest sessions for its weight",
            Policy::LeastBusy => "it has the fewest busy sessions for its weight",
            Policy::LeastLatency => "it is expected to answer first",
            Policy::PowerOfTwo | Policy::Random => {
                "chance has it now, and may have another one next"
            }
        }
        .to_owned(),
        Err(Refusal::AllFull) => match pool.plan.queue.limits.all {
            0 => "all are full, and there is no queue".to_owned(),
            limit => format!("all are full: it waits in the queue, where {waits} of {limit} are"),
        },
        Err(Refusal::NoneAvailable) => "none of them takes clients".to_owned(),
        Err(Refusal::AllTried) => "all of them have failed for it".to_owned(),
    }
}

/// What there is to say of a backend.
fn words(member: &Member, reason: Reason, now: Tick) -> String {
    let state = &member.state;
    match reason {
        Reason::Chosen => "chosen".to_owned(),
        Reason::Other => "it could take the client".to_owned(),
        Reason::Weightless => "its weight is 0".to_owned(),
        Reason::NotNeeded => "it is a backup, and there is no need of one".to_owned(),
        Reason::OverBound => "it has more than its bound of the load".to_owned(),
        Reason::Objection(objection) => match objection {
            Objection::Ordered => match state.orders.admin() {
                Admin::Down => "it is down by order".to_owned(),
                Admin::Drain | Admin::Ready => "it is draining by order".to_owned(),
            },
            Objection::Down => {
                let seconds = now.since(state.changed()).as_secs();
                format!("it is down, for {seconds} s now")
            }
            Objection::Ejected => {
                let left = state.traffic.ejected_until().since(now).as_secs_f64();
                format!("it is ejected, for another {left:.1} s")
            }
            Objection::Tried => "it has failed for this client".to_owned(),
            Objection::Full => {
                let load = state.load();
                let limit = member.max_connections;
                format!(
                    "it is full: {} open, {} busy, limit {limit}",
                    load.open, load.busy
                )
            }
            Objection::AboveCeiling => "others have less than `soft_connections`".to_owned(),
            Objection::ComesBack => "it comes back by and by (`slow_start`)".to_owned(),
        },
    }
}
