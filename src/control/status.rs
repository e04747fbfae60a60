//! How everything is at one moment: what `evenkeel status`, the metrics and the dashboard show.
//!
//! One snapshot of counters that go on counting meanwhile, so two of them need not agree to the last
//! session. Ratios, rates and words for people are left to those who show it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::handle::Outcome;
use super::prober::Probers;
use super::reload::Registry;
use super::sockets::Sockets;
use crate::config::plan::{self, Plan};
use crate::data::mailbox::{self, Barred, Dropped, Left, Shared};
use crate::lb::backend::BackendState;
use crate::lb::balance::pick::Member;
use crate::lb::health::finding::Found;
use crate::lb::time::Tick;

/// The whole process.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Of the program.
    pub version: &'static str,
    /// Of the process.
    pub pid: u32,
    /// Since its start.
    pub uptime_s: f64,
    /// Counts the configurations that were put in force.
    pub generation: u64,
    /// What it does.
    pub state: Activity,
    /// Sessions and flows of all listeners.
    pub connections: Connections,
    /// What became of reloads.
    pub reloads: Reloads,
    /// In their order.
    pub workers: Vec<Worker>,
    /// In the order of the configuration.
    pub listeners: Vec<Listener>,
    /// By name.
    pub pools: Vec<Pool>,
}

/// What the process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It takes new clients.
    Serving,
    /// It stops, and lets sessions end.
    Draining,
}

/// Sessions and flows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connections {
    /// Open now.
    pub open: u32,
    /// Open at most; 0 = as many as the descriptors allow.
    pub max: u32,
    /// Clients that wait in queues.
    pub waiting: u32,
}

/// What became of reloads since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reloads {
    /// Put in force.
    pub succeeded: u64,
    /// Refused.
    pub failed: u64,
    /// What was said of the last one.
    pub last: Option<String>,
}

/// One worker.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Worker {
    /// Its place among them.
    pub index: usize,
    /// Sessions and flows it holds now.
    pub sessions: u32,
    /// Turns of its loop since the start.
    pub turns: u64,
}

/// One listener.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Where it listens, with the ports that the kernel has chosen.
    pub bind: Vec<String>,
    /// Its pool.
    pub pool: String,
    /// Sessions or flows open now.
    pub open: u32,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Of them, refused.
    pub refused: u64,
    /// Those that were not let in, by reason.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// Datagrams that went nowhere, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

/// One pool.
#[derive(Clone, Debug, Serialize)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How it chooses.
    pub balance: &'static str,
    /// Whether so few are well that all are used.
    pub is_in_panic: bool,
    /// Who waits.
    pub queue: Queue,
    /// In the order of the configuration.
    pub backends: Vec<Backend>,
}

/// The queue of a pool.
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    /// How many wait.
    pub length: u32,
    /// How many may.
    pub limit: u32,
    /// How long the first one has waited; 0 = nobody waits.
    pub oldest_ms: u64,
    /// What became of those who have waited, or wanted to.
    pub left: BTreeMap<&'static str, u64>,
}

/// One backend of a pool.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it is, as the configuration says it.
    pub address: String,
    /// What follows from all that is known of it, in one word.
    pub state: State,
    /// What health says.
    pub is_up: bool,
    /// For how long health has said so.
    pub since_s: f64,
    /// For how much longer it is ejected; `None` = it is not.
    pub ejected_for_s: Option<f64>,
    /// In force.
    pub weight: u16,
    /// What the configuration says.
    pub weight_configured: u16,
    /// Sessions open or reserved now.
    pub open: u32,
    /// Open at most; 0 = no limit.
    pub max_connections: u32,
    /// Sessions established since the start.
    pub sessions: u64,
    /// Connects that failed or timed out since the start.
    pub connect_failures: u64,
    /// Bytes of sessions that have ended.
    pub bytes_to_backend: u64,
    /// The same, the other way.
    pub bytes_to_client: u64,
    /// What the last probe found; `None` = it is not probed, or not yet.
    pub last_probe: Option<LastProbe>,
}

/// How a backend is, in one word: what keeps new sessions from it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It takes new sessions.
    Up,
    /// Probes have failed.
    Down,
    /// Traffic has failed.
    Ejected,
}

/// What a probe found.
#[derive(Clone, Debug, Serialize)]
pub struct LastProbe {
    /// Since it began.
    pub ago_s: f64,
    /// How long it took.
    pub took_ms: u64,
    /// Its end in one word.
    pub result: &'static str,
    /// For people, on one line.
    pub text: String,
}

/// What the supervisor knows.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) generation: u64,
    pub(super) activity: Activity,
    pub(super) plan: &'a Plan,
    pub(super) registry: &'a Registry,
    pub(super) sockets: &'a Sockets,
    pub(super) probers: &'a Probers,
    pub(super) shared: &'a Shared,
    pub(super) reloads: &'a Reloads,
}

impl Reloads {
    /// Takes in the end of a reload.
    pub(super) fn take_in(&mut self, outcome: &Outcome) {
        let (count, line) = match outcome {
            Ok(line) => (&mut self.succeeded, line),
            Err(line) => (&mut self.failed, line),
        };
        *count += 1;
        self.last = Some(line.clone());
    }
}

impl View<'_> {
    /// How everything is now.
    pub(super) fn status(&self) -> Status {
        let uptime = self.shared.epoch.elapsed();
        let now = Tick::ZERO.after(uptime);
        let listeners = self.plan.listeners.iter();
        let pools = self.plan.pools.iter();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_s: uptime.as_secs_f64(),
            generation: self.generation,
            state: self.activity,
            connections: Connections {
                open: self.shared.open.load(Relaxed),
                max: self.shared.max_connections.load(Relaxed),
                waiting: self.shared.waiting.load(Relaxed),
            },
            reloads: self.reloads.clone(),
            workers: workers(self.shared),
            listeners: listeners.filter_map(|plan| self.listener(plan)).collect(),
            pools: pools
                .filter_map(|plan| Some(self.pool(self.registry.pool(&plan.name)?, now)))
                .collect(),
        }
    }

    fn listener(&self, plan: &plan::Listener) -> Option<Listener> {
        let counters = self.registry.counters(&plan.name)?;
        let barred = Barred::ALL.map(|reason| {
            let count = counters.barred[reason as usize].load(Relaxed);
            (reason.name(), count)
        });
        let dropped = Dropped::ALL.map(|reason| {
            let count = counters.dropped[reason as usize].load(Relaxed);
            (reason.name(), count)
        });
        let bound = self.sockets.addresses(self.plan, plan);
        Some(Listener {
            name: plan.name.clone(),
            protocol: if plan.is_udp() { "udp" } else { "tcp" },
            bind: bound.map(ToString::to_string).collect(),
            pool: plan.pool.clone(),
            open: counters.open.load(Relaxed),
            accepted: counters.accepted.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            refused_by: barred.into(),
            dropped: dropped.into(),
        })
    }

    fn pool(&self, pool: &mailbox::Pool, now: Tick) -> Pool {
        let oldest = pool.queue.oldest().map(|since| now.since(since));
        let members = pool.plan.backends.iter().zip(pool.balancer.members());
        Pool {
            name: pool.plan.name.clone(),
            balance: pool.plan.balance.policy.name(),
            is_in_panic: pool.balancer.is_in_panic(),
            queue: Queue {
                length: pool.queue.len(),
                limit: pool.plan.queue.limits.all,
                oldest_ms: oldest.map_or(0, |oldest| ms(oldest.as_millis())),
                left: Left::ALL
                    .map(|left| (left.name(), pool.queue.count(left)))
                    .into(),
            },
            backends: members
                .map(|(plan, member)| self.backend(plan, member, now))
                .collect(),
        }
    }

    fn backend(&self, plan: &plan::Backend, member: &Member, now: Tick) -> Backend {
        let state = &member.state;
        let is_ejected = state.traffic.is_ejected(now);
        let ejected_for = || state.traffic.ejected_until().since(now).as_secs_f64();
        Backend {
            name: plan.name.clone(),
            address: plan.address.to_string(),
            state: State::of(state, now),
            is_up: state.is_up(),
            since_s: now.since(state.changed()).as_secs_f64(),
            ejected_for_s: is_ejected.then(ejected_for),
            weight: member.weight,
            weight_configured: plan.weight,
            open: state.open(),
            max_connections: member.max_connections,
            sessions: state.sessions.load(Relaxed),
            connect_failures: state.connect_failures.load(Relaxed),
            bytes_to_backend: state.bytes_to_backend.load(Relaxed),
            bytes_to_client: state.bytes_to_client.load(Relaxed),
            last_probe: self.last_probe(state),
        }
    }

    fn last_probe(&self, state: &Arc<BackendState>) -> Option<LastProbe> {
        let (finding, ago) = self.probers.last(state)?;
        Some(LastProbe {
            ago_s: ago.as_secs_f64(),
            took_ms: ms(finding.took.as_millis()),
            result: match finding.found {
                Found::Passed => "passed",
                Found::Failed(..) => "failed",
                Found::TimedOut(..) => "timed_out",
                Found::Inconclusive(_) => "inconclusive",
            },
            text: finding.to_string(),
        })
    }
}

impl State {
    fn of(state: &BackendState, now: Tick) -> Self {
        if !state.is_up() {
            Self::Down
        } else if state.traffic.is_ejected(now) {
            Self::Ejected
        } else {
            Self::Up
        }
    }
}

fn workers(shared: &Shared) -> Vec<Worker> {
    let states = shared.workers.iter().enumerate();
    states
        .map(|(index, state)| Worker {
            index,
            sessions: state.sessions.load(Relaxed),
            turns: state.turns.load(Relaxed),
        })
        .collect()
}

fn ms(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}
