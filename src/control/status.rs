//! How everything is at one moment: what `evenkeel status`, the metrics and the dashboard show.
//!
//! One snapshot of counters that go on counting meanwhile, so two of them need not agree to the last
//! session. Ratios, rates and words for people are left to those who show it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};

use super::access_log::Writers;
use super::handle::Outcome;
use super::prober::Probers;
use super::reload::Registry;
use super::sockets::Sockets;
use crate::config::plan::{self, Plan};
use crate::data::mailbox::{self, Barred, Dropped, Ended, Left, Shared, Unserved};
use crate::lb::admin::Admin;
use crate::lb::backend::BackendState;
use crate::lb::balance::pick::Member;
use crate::lb::health::finding::Outcome as Probed;
use crate::lb::histogram::{Histogram, Snapshot};
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
    /// Lines of the access log that were lost since the start.
    pub access_log_lost: u64,
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
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    /// Its place among them.
    pub index: usize,
    /// Sessions and flows it holds now.
    pub sessions: u32,
    /// Turns of its loop since the start.
    pub turns: u64,
    /// How long they took, without the wait for something to do.
    pub busy: Durations,
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
    /// Whether it takes clients: it does not while a limit is reached or descriptors are lacking.
    pub is_accepting: bool,
    /// Sessions or flows open now.
    pub open: u32,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Of them, refused.
    pub refused: u64,
    /// Those that were not let in or got no backend, by reason.
    pub refused_by: BTreeMap<&'static str, u64>,
    /// Of those accepted, the others that are over, by how they ended.
    pub ended: BTreeMap<&'static str, u64>,
    /// Sent to backends.
    pub bytes_to_backend: u64,
    /// Sent to clients.
    pub bytes_to_client: u64,
    /// Datagrams sent to backends.
    pub datagrams_to_backend: u64,
    /// Datagrams sent to clients.
    pub datagrams_to_client: u64,
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
    /// How long those have waited who wait no more.
    pub waited: Durations,
}

/// One backend of a pool.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it is, as the configuration says it.
    pub address: String,
    /// What its operator has said of it.
    pub admin: AdminState,
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
    /// Those of them that are busy.
    pub busy: u32,
    /// How many there may be at most, of the open ones or of the busy ones; 0 = no limit.
    pub max_connections: u32,
    /// Sessions established since the start.
    pub sessions: u64,
    /// Connects that failed or timed out since the start.
    pub connect_failures: u64,
    /// How long connects took that succeeded.
    pub connected: Durations,
    /// From the first byte of a question to the first of its answer, in whole milliseconds.
    pub first_byte: Durations,
    /// Between one chunk of an answer and the next, where it is a millisecond or more.
    pub gap: Durations,
    /// Sent to it.
    pub bytes_to_backend: u64,
    /// Sent to clients by it.
    pub bytes_to_client: u64,
    /// Datagrams sent to it.
    pub datagrams_to_backend: u64,
    /// Datagrams sent to clients by it.
    pub datagrams_to_client: u64,
    /// Probes that have ended, by how.
    pub probes: BTreeMap<&'static str, u64>,
    /// The last of them, the newest at the end: `+` passed, `-` failed, `t` timed out, `?` inconclusive.
    pub recent_probes: String,
    /// What the last probe found; `None` = it is not probed, or not yet.
    pub last_probe: Option<LastProbe>,
}

/// What an operator has said of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// Nothing.
    Ready,
    /// No new sessions.
    Drain,
    /// No sessions.
    Down,
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
    /// Its operator lets it keep the sessions that it has.
    Draining,
    /// Its operator lets it have none.
    Disabled,
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

/// Durations that were counted.
#[derive(Clone, Copy, Debug)]
pub struct Durations(pub Snapshot);

impl Durations {
    fn of(histogram: &Histogram) -> Self {
        Self(histogram.snapshot())
    }
}

/// How many there were, what they come to, and how many fell into each bucket, by its upper bound in
/// seconds, without those into which none fell.
impl Serialize for Durations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        let buckets = self.0.cumulative().filter_map(|(bound, total)| {
            let count = total - std::mem::replace(&mut before, total);
            let bound = if bound.is_finite() {
                bound.to_string()
            } else {
                "+Inf".to_owned()
            };
            (count > 0).then_some((bound, count))
        });
        let buckets: Vec<_> = buckets.collect();
        let mut fields = serializer.serialize_struct("Durations", 3)?;
        fields.serialize_field("count", &self.0.count())?;
        fields.serialize_field("sum_s", &self.0.sum_seconds())?;
        fields.serialize_field("buckets", &Pairs(&buckets))?;
        fields.end()
    }
}

/// A map in the order that it is written in.
struct Pairs<'a>(&'a [(String, u64)]);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(bound, count)| (bound, count)))
    }
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
    pub(super) access_log: &'a Writers,
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
            access_log_lost: self.access_log.lost(),
            workers: workers(self.shared),
            listeners: listeners.filter_map(|plan| self.listener(plan)).collect(),
            pools: pools
                .filter_map(|plan| Some(self.pool(self.registry.pool(&plan.name)?, now)))
                .collect(),
        }
    }

    fn listener(&self, plan: &plan::Listener) -> Option<Listener> {
        let counters = self.registry.counters(&plan.name)?;
        let barred = Barred::ALL.map(Barred::name).into_iter();
        let barred = barred.zip(counters.barred.iter().map(load));
        let unserved = Unserved::ALL.map(Unserved::name).into_iter();
        let unserved = unserved.zip(counters.unserved.iter().map(load));
        let [bytes_to_backend, bytes_to_client] = counters.bytes.each_ref().map(load);
        let [datagrams_to_backend, datagrams_to_client] = counters.datagrams.each_ref().map(load);
        let bound = self.sockets.addresses(self.plan, plan);
        Some(Listener {
            name: plan.name.clone(),
            protocol: if plan.is_udp() { "udp" } else { "tcp" },
            bind: bound.map(ToString::to_string).collect(),
            pool: plan.pool.clone(),
            open: counters.open.load(Relaxed),
            accepted: counters.accepted.load(Relaxed),
            is_accepting: counters.paused.load(Relaxed) == 0,
            refused: counters.refused(),
            refused_by: barred.chain(unserved).collect(),
            ended: by_name(Ended::ALL.map(Ended::name), &counters.ended),
            bytes_to_backend,
            bytes_to_client,
            datagrams_to_backend,
            datagrams_to_client,
            dropped: by_name(Dropped::ALL.map(Dropped::name), &counters.dropped),
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
                waited: Durations::of(&pool.queue.wait_time),
            },
            backends: members
                .map(|(plan, member)| self.backend(plan, member, now))
                .collect(),
        }
    }

    fn backend(&self, plan: &plan::Backend, member: &Member, now: Tick) -> Backend {
        let state = &member.state;
        let now_on_it = state.load();
        let (first_byte, gap) = state.meters.snapshot();
        let is_ejected = state.traffic.is_ejected(now);
        let ejected_for = || state.traffic.ejected_until().since(now).as_secs_f64();
        let [bytes_to_backend, bytes_to_client] = state.bytes.each_ref().map(load);
        let [datagrams_to_backend, datagrams_to_client] = state.datagrams.each_ref().map(load);
        Backend {
            name: plan.name.clone(),
            address: plan.address.to_string(),
            admin: match state.orders.admin() {
                Admin::Ready => AdminState::Ready,
                Admin::Drain => AdminState::Drain,
                Admin::Down => AdminState::Down,
            },
            state: State::of(state, now),
            is_up: state.is_up(),
            since_s: now.since(state.changed()).as_secs_f64(),
            ejected_for_s: is_ejected.then(ejected_for),
            weight: member.weight,
            weight_configured: plan.weight,
            open: now_on_it.open,
            busy: now_on_it.busy,
            max_connections: member.max_connections,
            sessions: state.sessions.load(Relaxed),
            connect_failures: state.connect_failures.load(Relaxed),
            connected: Durations::of(&state.connect_time),
            first_byte: Durations(first_byte),
            gap: Durations(gap),
            bytes_to_backend,
            bytes_to_client,
            datagrams_to_backend,
            datagrams_to_client,
            probes: by_name(Probed::ALL.map(Probed::name), &state.probes),
            recent_probes: self.probers.recent(state),
            last_probe: self.last_probe(state),
        }
    }

    fn last_probe(&self, state: &Arc<BackendState>) -> Option<LastProbe> {
        let (finding, ago) = self.probers.last(state)?;
        Some(LastProbe {
            ago_s: ago.as_secs_f64(),
            took_ms: ms(finding.took.as_millis()),
            result: finding.found.outcome().name(),
            text: finding.to_string(),
        })
    }
}

impl State {
    fn of(state: &BackendState, now: Tick) -> Self {
        match state.orders.admin() {
            Admin::Drain => return Self::Draining,
            Admin::Down => return Self::Disabled,
            Admin::Ready => {}
        }
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
            busy: Durations::of(&state.busy),
        })
        .collect()
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Relaxed)
}

fn by_name<const N: usize>(
    names: [&'static str; N],
    counts: &[AtomicU64; N],
) -> BTreeMap<&'static str, u64> {
    names.into_iter().zip(counts.iter().map(load)).collect()
}

fn ms(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_name_the_buckets_that_hold_some() {
        let histogram = Histogram::default();
        for ms in [1, 2, 2, 5_000_000] {
            histogram.observe(std::time::Duration::from_millis(ms));
        }
        assert_eq!(
            serde_json::to_string(&Durations::of(&histogram)).unwrap(),
            r#"{"count":4,"sum_s":5000.005,"buckets":{"0.001":1,"0.0025":2,"+Inf":1}}"#
        );
    }
}
