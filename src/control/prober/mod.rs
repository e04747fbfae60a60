//! Active health checks: one task for each thing to look at, at most so many probes under way at
//! once. Backends at the same address that are looked at in the same way share the result, whichever
//! pools they are of; each makes its own of it.
//!
//! A probe that fails for a reason of our own (no descriptor, no port) says nothing about the
//! backend and is not counted.

mod connection;
mod exec;
mod grpc;
mod http;
mod look;
mod member;
mod send_expect;
mod tls;
mod udp;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Notify, Semaphore, SemaphorePermit};
use tokio::task::{JoinHandle, LocalSet};

use self::look::Sight;
use self::member::Member;
use super::trust::Trust;
use crate::config::plan::{self, Address, Health, Probe, ProbeKind, SendProxy};
use crate::data::mailbox::{Mailbox, Pool};
use crate::lb::backend::BackendState;
use crate::lb::health::finding::Finding;
use crate::lb::health::schedule::{Intervals, Pace, Rate, first_delay, jittered, next_interval};
use crate::lb::rng::Rng;
use crate::lb::time::Tick;
use crate::sys::socket::Target;

/// The probers of all backends.
#[derive(Debug)]
pub(super) struct Probers {
    running: HashMap<Target, Vec<Running>>,
    /// Who looks at each backend.
    watches: HashMap<Identity, Rc<Watch>>,
    tools: Tools,
}

type Identity = (String, String);

/// What every prober needs.
#[derive(Clone, Debug)]
struct Tools {
    slots: Rc<Semaphore>,
    slots_max: u32,
    pace: Rc<Mutex<Pace>>,
    /// How often all of them are to begin.
    rate: Rc<Cell<Rate>>,
    workers: Arc<Vec<Mailbox>>,
    /// What time is counted from.
    epoch: Instant,
    rng: Rng,
}

/// What is looked at, and who wants to know.
#[derive(Debug)]
struct Watch {
    sight: Sight,
    early: Notify,
    members: RefCell<Vec<Member>>,
}

#[derive(Debug)]
struct Running {
    watch: Rc<Watch>,
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
        Self {
            running: HashMap::new(),
            watches: HashMap::new(),
            tools: Tools {
                slots: Rc::new(Semaphore::new(slots as usize)),
                slots_max: slots,
                pace: Rc::default(),
                rate: Rc::default(),
                workers,
                epoch,
                rng: Rng::new(seed),
            },
        }
    }

    /// Probes the backends of `pools` from now on, and no others, which trust whom `trust` says. What
    /// is looked at as before goes on undisturbed, and so does a backend for which that holds.
    pub(super) fn follow(
        &mut self,
        pools: &[Arc<Pool>],
        trust: &[Option<Trust>],
        tasks: &LocalSet,
    ) {
        let mut wanted = Wanted::default();
        for (pool, trust) in pools.iter().zip(trust) {
            let Health::Probed(probe) = &pool.plan.health else {
                continue;
            };
            let places = pool.plan.backends.iter().zip(&pool.targets);
            for (member, (backend, target)) in pool.balancer.members().iter().zip(places) {
                let sight = sight(pool, probe, (backend, target), trust.as_ref());
                let member = self.member(&sight, &member.state, pool);
                wanted.add(sight, member);
            }
        }
        let mut before = std::mem::take(&mut self.running);
        self.watches.clear();
        let count = wanted.sights.len();
        for (index, (sight, members)) in wanted.sights.into_iter().enumerate() {
            let running = before.get_mut(&sight.target).and_then(|running| {
                let place = running.iter().position(|it| it.watch.sight == sight)?;
                Some(running.swap_remove(place))
            });
            let running = running.unwrap_or_else(|| {
                let interval = sight.probe.interval;
                let delay = first_delay(interval, index, count, &mut self.tools.rng);
                self.start(sight, delay, tasks)
            });
            for member in &members {
                let watch = Rc::clone(&running.watch);
                self.watches.insert(identity(&member.state), watch);
            }
            running.watch.members.replace(members);
            let of_target = self.running.entry(running.watch.sight.target.clone());
            of_target.or_default().push(running);
        }
    }

    /// Probes a backend now, because real traffic has failed on it.
    pub(super) fn look_early(&self, backend: &BackendState) {
        match self.watches.get(&identity(backend)) {
            Some(watch) => watch.early.notify_one(),
            None => backend.clear_suspicion(),
        }
    }

    /// What the last probe of a backend found, and how long ago it began; `None` = nothing yet.
    pub(super) fn last(&self, backend: &BackendState) -> Option<(Finding, Duration)> {
        let finding = self.of_member(backend, |member| member.last.clone())??;
        let ago = self.tools.now().since(finding.began);
        Some((finding, ago))
    }

    /// How its last probes have ended, in signs, the newest at the end.
    pub(super) fn recent(&self, backend: &BackendState) -> String {
        let recent = self.of_member(backend, |member| member.recent.iter().collect());
        recent.unwrap_or_default()
    }

    fn of_member<T>(&self, backend: &BackendState, ask: impl FnOnce(&Member) -> T) -> Option<T> {
        let watch = self.watches.get(&identity(backend))?;
        let members = watch.members.borrow();
        let mut members = members.iter();
        let member = members.find(|member| std::ptr::eq(&*member.state, backend))?;
        Some(ask(member))
    }

    /// The member for a backend: the one that it had if it is looked at as before, or another one.
    fn member(&self, sight: &Sight, state: &Arc<BackendState>, pool: &Pool) -> Member {
        let on_down = pool.plan.on_down;
        let before = self.watches.get(&identity(state)).and_then(|watch| {
            let mut members = watch.members.borrow_mut();
            let is_it = |member: &Member| Arc::ptr_eq(&member.state, state);
            let place = members.iter().position(is_it)?;
            (watch.sight == *sight && members[place].acts(on_down))
                .then(|| members.swap_remove(place))
        });
        before.unwrap_or_else(|| Member::new(state, &sight.probe, on_down, &self.tools.workers))
    }

    fn start(&mut self, sight: Sight, delay: Duration, tasks: &LocalSet) -> Running {
        let watch = Rc::new(Watch {
            sight,
            early: Notify::new(),
            members: RefCell::default(),
        });
        let tools = Tools {
            rng: Rng::new(self.tools.rng.next_u64()),
            ..self.tools.clone()
        };
        Running {
            task: tasks.spawn_local(Rc::clone(&watch).run(delay, tools)),
            watch,
        }
    }
}

/// Everything to look at, each thing once.
#[derive(Default)]
struct Wanted {
    sights: Vec<(Sight, Vec<Member>)>,
    /// Places of those with this target.
    places: HashMap<Target, Vec<usize>>,
}

impl Wanted {
    fn add(&mut self, sight: Sight, member: Member) {
        let places = self.places.entry(sight.target.clone()).or_default();
        let same = (places.iter()).find(|&&place| self.sights[place].0 == sight);
        if let Some(&place) = same {
            return self.sights[place].1.push(member);
        }
        places.push(self.sights.len());
        self.sights.push((sight, vec![member]));
    }
}

impl Tools {
    /// Waits for the turn of a probe that may go on for `timeout`.
    async fn turn(&self, timeout: Duration) -> Option<SemaphorePermit<'_>> {
        let (slot, waited) = match self.slots.try_acquire() {
            Ok(slot) => (Ok(slot), None),
            Err(_) => (self.slots.acquire().await, Some((self.slots_max, timeout))),
        };
        // One at a time, in the order in which they have come.
        let mut pace = self.pace.lock().await;
        while let Err(wait) = pace.begin(self.epoch.elapsed(), self.rate.get(), waited) {
            tokio::time::sleep(wait).await;
        }
        slot.ok() // it is never closed
    }

    fn now(&self) -> Tick {
        Tick::ZERO.after(self.epoch.elapsed())
    }
}

/// The part that one prober has in the rate of all.
struct Share {
    all: Rc<Cell<Rate>>,
    own: Rate,
}

impl Share {
    /// It begins once in each `time` from now on.
    fn set(&mut self, time: Duration) {
        let own = Rate::once_in(time);
        self.all.set(self.all.get().replaced(self.own, own));
        self.own = own;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let all = self.all.get().replaced(self.own, Rate::default());
        self.all.set(all);
    }
}

impl Watch {
    async fn run(self: Rc<Self>, first: Duration, mut tools: Tools) {
        let Probe {
            interval,
            fast_interval,
            down_interval,
            ..
        } = self.sight.probe;
        let intervals = Intervals {
            settled: interval,
            changing: fast_interval,
            down: down_interval,
        };
        let mut share = Share {
            all: Rc::clone(&tools.rate),
            own: Rate::default(),
        };
        share.set(interval);
        let mut delay = first;
        loop {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.early.notified() => {}
            }
            let slot = tools.turn(self.sight.probe.timeout).await;
            let began = tools.now();
            let seen = self.sight.look().await;
            drop(slot);
            let now = tools.now();
            let finding = Finding {
                began,
                took: now.since(began),
                found: seen.found,
            };
            let mut members = self.members.borrow_mut();
            for member in members.iter_mut() {
                member.take_in(&finding, seen.certificate_ends, now);
            }
            let counters = members.iter().map(|member| &member.counter);
            let interval = next_interval(&intervals, counters);
            share.set(interval + finding.took);
            delay = jittered(interval, &mut tools.rng);
        }
    }
}

fn identity(backend: &BackendState) -> Identity {
    (backend.pool().to_owned(), backend.name().to_owned())
}

/// What to look at for a backend.
fn sight(
    pool: &Pool,
    probe: &Probe,
    (backend, target): (&plan::Backend, &Target),
    trust: Option<&Trust>,
) -> Sight {
    let is_elsewhere = probe.port != 0 || probe.address.is_some();
    let target = probed(target, probe);
    let is_told = matches!(probe.kind, ProbeKind::Exec(_));
    Sight {
        told: is_told.then(|| (pool.plan.name.clone(), backend.name.clone())),
        source: pool.source(None),
        send_proxy: match is_elsewhere {
            false => pool.plan.send_proxy,
            true => SendProxy::Off, // that is another service
        },
        host: match probe.address {
            None => host(&backend.address, &target),
            Some(address) => address.to_string(),
        },
        target,
        probe: probe.clone(),
        trust: trust.cloned(),
    }
}

/// The host of a backend's address, without its port and the scope of an IPv6 address.
fn host(address: &Address, target: &Target) -> String {
    match (address, target) {
        (Address::Host(host, _), _) if !host.contains('%') => host.clone(),
        (_, Target::Tcp(address)) => address.ip().to_string(),
        (_, Target::Unix(_)) => "localhost".to_owned(),
    }
}

/// What to probe for a backend at `target`: itself, or another address or port.
fn probed(target: &Target, probe: &Probe) -> Target {
    let port = match (probe.port, target.address()) {
        (0, own) => own.map(|own| own.port()),
        (port, _) => Some(port),
    };
    match (probe.address, target, port) {
        (Some(address), _, Some(port)) => Target::Tcp((address, port).into()),
        (None, Target::Tcp(own), Some(port)) => {
            let mut address: SocketAddr = *own; // with its scope
            address.set_port(port);
            Target::Tcp(address)
        }
        // The plan was checked: another address has a port.
        (_, Target::Tcp(_) | Target::Unix(_), _) => target.clone(),
    }
}
