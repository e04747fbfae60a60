//! Active health checks: one task per backend, at most so many probes under way at once.
//!
//! A probe that fails for a reason of our own (no descriptor, no port) says nothing about the
//! backend and is not counted.

mod connection;
mod exec;
mod grpc;
mod http;
mod look;
mod send_expect;
mod tls;
mod udp;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, LocalSet};

use self::look::{Outcome, Sight};
use super::trust::Trust;
use crate::config::plan::{Address, Health, OnDown, Probe, SendProxy};
use crate::data::mailbox::{Command, Mailbox, Pool};
use crate::lb::backend::BackendState;
use crate::lb::health::counter::{Counter, Transition};
use crate::lb::health::schedule::{Intervals, first_delay, next_delay};
use crate::lb::rng::Rng;
use crate::lb::time::Tick;
use crate::sys::socket::Target;

/// The probers of all backends.
#[derive(Debug)]
pub(super) struct Probers {
    running: HashMap<Identity, Running>,
    slots: Arc<Semaphore>,
    workers: Arc<Vec<Mailbox>>,
    /// What all count their time from.
    epoch: Instant,
    rng: Rng,
}

type Identity = (String, String);

/// What a prober was started for; another one starts when it changes.
#[derive(Clone, Debug, PartialEq)]
struct Subject {
    sight: Sight,
    on_down: OnDown,
}

#[derive(Debug)]
struct Running {
    subject: Subject,
    early: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probers {
    /// None yet; at most `slots` probes will be under way at once.
    pub(super) fn new(slots: u32, workers: Arc<Vec<Mailbox>>, epoch: Instant, seed: u64) -> Self {
        let slots = Arc::new(Semaphore::new(slots as usize));
        Self {
            running: HashMap::new(),
            slots,
            workers,
            epoch,
            rng: Rng::new(seed),
        }
    }

    /// Probes the backends of `pools` from now on, and no others, which trust whom `trust` says. A
    /// prober whose backend and settings did not change goes on undisturbed.
    pub(super) fn follow(
        &mut self,
        pools: &[Arc<Pool>],
        trust: &[Option<Trust>],
        tasks: &LocalSet,
    ) {
        let mut next = HashMap::new();
        let count = pools.iter().map(|pool| pool.targets.len()).sum();
        let mut index = 0;
        for (pool, trust) in pools.iter().zip(trust) {
            let Health::Probed(probe) = &pool.plan.health else {
                continue;
            };
            let places = pool.plan.backends.iter().zip(&pool.targets);
            for (member, (backend, target)) in pool.balancer.members().iter().zip(places) {
                let state = &member.state;
                let identity = (state.pool().to_owned(), state.name().to_owned());
                let target = probed(target, probe.port);
                let subject = Subject {
                    sight: Sight {
                        send_proxy: match probe.port {
                            0 => pool.plan.send_proxy,
                            _ => SendProxy::Off, // that is another service
                        },
                        source: pool.source(None),
                        pool: state.pool().to_owned(),
                        backend: state.name().to_owned(),
                        host: host(&backend.address, &target),
                        target,
                        probe: probe.clone(),
                        trust: trust.clone(),
                    },
                    on_down: pool.plan.on_down,
                };
                let running = match self.running.remove(&identity) {
                    Some(running) if running.subject == subject => running,
                    _ => {
                        let delay = first_delay(probe.interval, index, count, &mut self.rng);
                        self.start(subject, Arc::clone(state), delay, tasks)
                    }
                };
                next.insert(identity, running);
                index += 1;
            }
        }
        self.running = next;
    }

    /// Probes a backend now, because real traffic has failed on it.
    pub(super) fn look_early(&self, backend: &BackendState) {
        let identity = (backend.pool().to_owned(), backend.name().to_owned());
        match self.running.get(&identity) {
            Some(running) => running.early.notify_one(),
            None => backend.clear_suspicion(),
        }
    }

    fn start(
        &mut self,
        subject: Subject,
        state: Arc<BackendState>,
        delay: Duration,
        tasks: &LocalSet,
    ) -> Running {
        let early = Arc::new(Notify::new());
        let probe = &subject.sight.probe;
        let prober = Prober {
            counter: Counter::new(probe.rise, probe.fall, state.is_up()),
            subject: subject.clone(),
            state,
            early: Arc::clone(&early),
            slots: Arc::clone(&self.slots),
            workers: Arc::clone(&self.workers),
            epoch: self.epoch,
            rng: Rng::new(self.rng.next_u64()),
            told_of_end: None,
            cut: None,
        };
        Running {
            subject,
            early,
            task: tasks.spawn_local(prober.run(delay)),
        }
    }
}

struct Prober {
    subject: Subject,
    state: Arc<BackendState>,
    counter: Counter,
    early: Arc<Notify>,
    slots: Arc<Semaphore>,
    workers: Arc<Vec<Mailbox>>,
    epoch: Instant,
    rng: Rng,
    /// When a certificate that ends soon was last told of.
    told_of_end: Option<Instant>,
    /// Ends the backend's sessions when its time to come back is over.
    cut: Option<JoinHandle<()>>,
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.keep_sessions();
    }
}

impl Prober {
    async fn run(mut self, first: Duration) {
        let Probe {
            interval,
            fast_interval,
            down_interval,
            ..
        } = self.subject.sight.probe;
        let intervals = Intervals {
            settled: interval,
            changing: fast_interval,
            down: down_interval,
        };
        let mut delay = first;
        loop {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.early.notified() => {}
            }
            let slots = Arc::clone(&self.slots);
            let slot = slots.acquire().await;
            let outcome = self.subject.sight.look().await;
            drop(slot);
            self.state.clear_suspicion();
            self.take_in(outcome);
            delay = next_delay(&intervals, &self.counter, &mut self.rng);
        }
    }

    fn take_in(&mut self, outcome: Outcome) {
        let name = format!("{}/{}", self.state.pool(), self.state.name());
        let (transition, error) = match outcome {
            Outcome::Passed(passed) => {
                self.look_at_end(passed.certificate_ends, &name);
                (self.counter.observe(true), None)
            }
            Outcome::Failed(error) => (self.counter.observe(false), Some(error)),
            Outcome::Inconclusive(error) => {
                log::debug!("backend \"{name}\": cannot be probed: {error}");
                return;
            }
        };
        match transition {
            Some(Transition::Up) => {
                self.state.set_up(true, self.now());
                self.keep_sessions();
                log::info!("backend \"{name}\" is up");
            }
            Some(Transition::Down) => {
                self.state.set_up(false, self.now());
                let error = error.map_or_else(String::new, |error| error.to_string());
                let fall = self.subject.sight.probe.fall;
                log::warn!("backend \"{name}\" is down: {error} ({fall} probes in a row failed)");
                self.end_sessions();
            }
            None => return,
        }
        // Clients that wait for a backend may have one now, or none to wait for. Any worker serves all.
        if let Some(worker) = self.workers.first()
            && worker.wake().is_err()
        {
            log::error!("a worker cannot be woken");
        }
    }

    fn now(&self) -> Tick {
        Tick::ZERO.after(self.epoch.elapsed())
    }

    /// Tells of a certificate that ends soon, or has ended.
    fn look_at_end(&mut self, certificate_ends: Option<u64>, name: &str) {
        let Some(ends) = certificate_ends else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let left = ends.saturating_sub(now.unwrap_or_default().as_secs());
        let is_told = self.told_of_end.is_some_and(|told| told.elapsed() < DAY);
        if left < CERTIFICATE_SOON.as_secs() && !is_told {
            self.told_of_end = Some(Instant::now());
            match left / DAY.as_secs() {
                0 if left == 0 => log::warn!("backend \"{name}\": its certificate has ended"),
                days => log::warn!("backend \"{name}\": its certificate ends in {days} days"),
            }
        }
    }

    fn end_sessions(&mut self) {
        let after = match self.subject.on_down {
            OnDown::Keep => return,
            OnDown::Reset => Duration::ZERO,
            OnDown::Drain(after) => after,
        };
        let (state, workers) = (Arc::clone(&self.state), Arc::clone(&self.workers));
        self.cut = Some(tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            for worker in workers.iter() {
                if worker.post(Command::Cut(Arc::clone(&state))).is_err() {
                    log::error!("a worker has ended");
                }
            }
        }));
    }

    fn keep_sessions(&mut self) {
        if let Some(cut) = self.cut.take() {
            cut.abort();
        }
    }
}

/// A certificate that ends within this time is told of.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How often it is told.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The host of a backend's address, without its port and the scope of an IPv6 address.
fn host(address: &Address, target: &Target) -> String {
    match (address, target) {
        (Address::Host(host, _), _) if !host.contains('%') => host.clone(),
        (_, Target::Tcp(address)) => address.ip().to_string(),
        (_, Target::Unix(_)) => "localhost".to_owned(),
    }
}

/// What to probe for a backend at `target`: itself, or another port of it.
fn probed(target: &Target, port: u16) -> Target {
    match target {
        Target::Tcp(address) if port != 0 => {
            let mut address: SocketAddr = *address;
            address.set_port(port);
            Target::Tcp(address)
        }
        Target::Tcp(_) | Target::Unix(_) => target.clone(),
    }
}
