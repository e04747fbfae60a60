//! The control plane's life: start the workers, put plans in force, answer requests, drain, stop.

use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use super::access_log::{Next, Writers};
use super::aside::aside;
use super::capacity::{max_connections, spend};
use super::ejection;
use super::handle::{Event, Request, Requests};
use super::loader::{LoadError, Loaded, Source, load};
use super::prober::Probers;
use super::reload::Registry;
use super::sockets::Sockets;
use super::sources;
use crate::config::diff::{Change, diff, summary};
use crate::config::plan::Plan;
use crate::data::mailbox::{Command, Report, Reports, Shared};
use crate::data::worker::{self, Handle};
use crate::lb::admission::budget::Budget;
use crate::lb::time::Tick;
use crate::sys::socket::Listening;

/// Told of what happens; must not block.
pub type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Called once when all sockets are bound and before anything is served: drops privileges.
pub type OnBound = Box<dyn FnOnce(&Plan) -> Result<(), String> + Send>;

/// What the control plane is started with.
pub struct Settings {
    /// Where the configuration comes from.
    pub source: Source,
    /// The first plan, loaded from there already.
    pub plan: Plan,
    /// Listening sockets bound by the service manager.
    pub inherited: Vec<Listening>,
    /// RLIMIT_NOFILE.
    pub descriptors: u64,
    /// Called when all sockets are bound.
    pub on_bound: OnBound,
    /// Told of what happens.
    pub observer: Observer,
    /// How often to say that all workers turn, if anybody wants to know.
    pub alive_every: Option<Duration>,
    /// Seeds all random choices.
    pub seed: u64,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Why the process cannot go on. Displayed on one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs the control plane until it is asked to stop. The calling thread becomes its runtime.
pub fn run(settings: Settings, requests: Requests) -> Result<(), Failure> {
    let failed = |error| Failure(format!("cannot start the control plane: {error}"));
    // The runtime takes five descriptors, and panics where it does not get those for signals.
    let pairs = (0..3).map(|_| UnixStream::pair());
    drop(pairs.collect::<io::Result<Vec<_>>>().map_err(failed)?);
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(failed)?;
    let tasks = LocalSet::new();
    let ended = tasks.block_on(&runtime, async {
        let mut supervisor = Supervisor::start(settings, &tasks).await?;
        supervisor.serve(requests, &tasks).await;
        Ok(())
    });
    // A thread that hangs in a file or in the resolver must not hold back the end.
    runtime.shutdown_background();
    ended
}

struct Supervisor {
    source: Source,
    plan: Plan,
    generation: u64,
    registry: Registry,
    sockets: Sockets,
    probers: Probers,
    budget: Budget,
    access_log: Writers,
    shared: Arc<Shared>,
    workers: Vec<Handle>,
    reports: UnboundedReceiver<Report>,
    observer: Observer,
    alive_every: Option<Duration>,
    turns_seen: Vec<u64>,
}

impl Supervisor {
    async fn start(settings: Settings, tasks: &LocalSet) -> Result<Self, Failure> {
        let fail = |what: &str, error: io::Error| Failure(format!("{what}: {error}"));
        let loaded = resolve(settings.plan).await?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = loaded.plan.global.workers.unwrap_or_else(cores);
        let mut sockets = Sockets::new(count, settings.inherited)
            .map_err(|error| fail("inherited sockets", error))?;
        if let Some(bind) = sockets.unused(&loaded.plan).next() {
            return Err(Failure(format!(
                "inherited socket {bind}: no listener binds it"
            )));
        }
        let budget = spend(settings.descriptors, count, &loaded.plan)?;
        let max = max_connections(&loaded.plan, &budget)?;
        let opened = sockets
            .open(&loaded.plan)
            .map_err(|error| Failure(error.to_string()))?;
        let shared = Arc::new(Shared::new(count, max, budget.open));
        let mut access_log = Writers::default();
        let bound = (settings.on_bound)(&loaded.plan).and_then(|()| sources::check(&loaded));
        let wanted = loaded.plan.global.access_log.as_ref();
        let writer = match bound {
            Ok(()) => access_log.next(wanted, shared.epoch).await,
            Err(error) => Err(error),
        };
        let writer = match writer {
            Ok(writer) => writer,
            Err(error) => {
                opened.abandon();
                return Err(Failure(error));
            }
        };
        let (sender, reports) = unbounded_channel();
        let to_us: Reports = Arc::new(move |report| drop(sender.send(report)));
        let workers = worker::start(count, |index| worker::Settings {
            index,
            shared: Arc::clone(&shared),
            reports: Arc::clone(&to_us),
            splice: loaded.plan.global.splice,
            pipes: budget.pipes_per_worker,
            seed: settings.seed.wrapping_add(index as u64),
        })
        .map_err(|error| fail("cannot start a worker", error))?;
        let mailboxes = Arc::new(workers.iter().map(|w| w.mailbox.clone()).collect());
        let probers = Probers::new(budget.probes, mailboxes, shared.epoch, settings.seed);
        log::info!("{count} workers; {budget}");
        let mut supervisor = Self {
            source: settings.source,
            plan: loaded.plan.clone(),
            generation: 0,
            registry: Registry::new(Arc::clone(&shared.waiting)),
            sockets,
            probers,
            budget,
            access_log,
            shared,
            workers,
            reports,
            observer: settings.observer,
            alive_every: settings.alive_every,
            turns_seen: vec![0; count],
        };
        supervisor.install(loaded, opened, writer, tasks).await?;
        log::info!("serving: generation {} in force", supervisor.generation);
        (supervisor.observer)(Event::Ready);
        Ok(supervisor)
    }

    /// Answers requests until the workers have stopped.
    async fn serve(&mut self, mut requests: Requests, tasks: &LocalSet) {
        let mut alive = tokio::time::interval(self.alive_every.unwrap_or(NEVER));
        // Between two looks the workers must have had time to turn, also after the process stood still.
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drain: Option<Drain> = None;
        let mut loading: Option<Loading> = None;
        loop {
            let until = drain.as_ref().map_or_else(far, |drain| drain.until);
            tokio::select! {
                request = requests.next() => match (request, &drain) {
                    (Request::Reload, None) => self.ask_for_reload(&mut loading),
                    (Request::Reload, Some(_)) => log::warn!("reload refused: the process stops"),
                    (Request::Reopen, _) => self.access_log.reopen(),
                    (Request::Drain, None) => {
                        if loading.take().is_some() {
                            log::warn!("reload given up: the process stops");
                        }
                        drain = Some(self.drain());
                    }
                    (Request::Drain, Some(_)) | (Request::Stop, _) => break,
                },
                loaded = next_loaded(&mut loading) => {
                    if let Some(Loading { since, is_asked_again, .. }) = loading.take() {
                        self.reload(loaded, since, tasks).await;
                        loading = is_asked_again.then(|| self.start_loading());
                    }
                }
                Some(report) = self.reports.recv() => match (report, &mut drain) {
                    (Report::Drained { worker }, Some(drain)) => {
                        drain.drained[worker] = true;
                        // A session that is open now is on its way from one worker to another.
                        let is_left = self.shared.open.load(Relaxed) > 0;
                        if !is_left && drain.drained.iter().all(|&drained| drained) {
                            break;
                        }
                    }
                    (report, _) => self.hear(report, tasks),
                },
                () = tokio::time::sleep_until(until.into()) => break,
                _ = alive.tick(), if self.alive_every.is_some() => self.say_alive(),
            }
        }
        self.stop(drain.is_none());
    }

    /// Takes in what workers say that nobody waits for.
    fn hear(&self, report: Report, tasks: &LocalSet) {
        match report {
            Report::ConnectFailed(backend) => self.probers.look_early(&backend),
            Report::Ejected { backend, until } => {
                ejection::watch(&backend, until, self.shared.epoch, tasks);
            }
            Report::Installed { .. } | Report::Drained { .. } => {}
        }
    }

    /// Loads the configuration again, unless that is under way: then once more after it.
    fn ask_for_reload(&self, loading: &mut Option<Loading>) {
        match loading {
            Some(loading) => loading.is_asked_again = true,
            None => *loading = Some(self.start_loading()),
        }
    }

    fn start_loading(&self) -> Loading {
        (self.observer)(Event::Reloading);
        let source = self.source.clone();
        Loading {
            since: Instant::now(),
            loaded: Box::pin(async move { load(&source).await }),
            is_asked_again: false,
        }
    }

    /// Puts in force what was loaded; on any error nothing has changed.
    async fn reload(
        &mut self,
        loaded: Result<Loaded, LoadError>,
        since: Instant,
        tasks: &LocalSet,
    ) {
        let loaded = loaded.map_err(|error| Failure(error.to_string()));
        let outcome = match self.try_reload(loaded, tasks).await {
            Ok(changed) => {
                let line = format!(
                    "reload: generation {} in force: {changed} ({} ms)",
                    self.generation,
                    since.elapsed().as_millis()
                );
                log::info!("{line}");
                line
            }
            Err(error) => {
                let line = format!(
                    "reload failed, generation {} stays in force",
                    self.generation
                );
                log::error!("{line}: {error}");
                format!("{line}: {error}")
            }
        };
        (self.observer)(Event::Reloaded(&outcome));
    }

    async fn try_reload(
        &mut self,
        loaded: Result<Loaded, Failure>,
        tasks: &LocalSet,
    ) -> Result<String, Failure> {
        let loaded = loaded?;
        let changes = diff(&self.plan, &loaded.plan);
        if let Some(change) = changes.iter().find(|change| change.needs_restart()) {
            return Err(Failure(change.to_string()));
        }
        let max = max_connections(&loaded.plan, &self.budget)?;
        sources::check(&loaded).map_err(Failure)?;
        let wanted = loaded.plan.global.access_log.as_ref();
        let writer = self.access_log.next(wanted, self.shared.epoch).await;
        let writer = writer.map_err(Failure)?;
        let opened = self
            .sockets
            .open(&loaded.plan)
            .map_err(|error| Failure(error.to_string()))?;
        self.install(loaded, opened, writer, tasks).await?;
        self.shared.max_connections.store(max, Relaxed);
        for change in &changes {
            log::debug!("reload: {change}");
        }
        Ok(describe(&changes))
    }

    /// Puts a plan in force whose sockets are bound: from here on only a worker that has ended, or
    /// a thread that cannot be had to build tables, can be in the way.
    async fn install(
        &mut self,
        loaded: Loaded,
        opened: super::sockets::Opened,
        writer: Next,
        tasks: &LocalSet,
    ) -> Result<(), Failure> {
        let now = Tick::ZERO.after(self.shared.epoch.elapsed());
        let registry = std::mem::take(&mut self.registry);
        let (registry, loaded, pools) = build(registry, loaded, now).await?;
        self.registry = registry;
        self.generation += 1;
        let log = self.access_log.log(&writer);
        let active = self
            .registry
            .active(self.generation, &loaded.plan, &pools, &opened.ids, log);
        let active = Arc::new(active);
        let news = opened.news.clone();
        let sockets = self.sockets.commit(opened);
        for (worker, add) in self.workers.iter().zip(sockets) {
            let active = Arc::clone(&active);
            worker
                .mailbox
                .post(Command::Install { active, add })
                .map_err(|error| Failure(format!("a worker has ended: {error}")))?;
        }
        let mut left = self.workers.len();
        while left > 0 {
            match self.reports.recv().await {
                Some(Report::Installed { generation, .. }) if generation == self.generation => {
                    left -= 1;
                }
                Some(report) => self.hear(report, tasks),
                None => return Err(Failure("all workers have ended".to_owned())),
            }
        }
        for (listener, bind) in news {
            log::info!("listener \"{listener}\" listening on {bind}");
        }
        self.registry.commit(&loaded.plan, &pools, now);
        self.probers.follow(&pools, &loaded.trust, tasks);
        self.plan = loaded.plan;
        self.access_log.put_in_force(writer);
        Ok(())
    }

    fn drain(&self) -> Drain {
        let within = self.plan.global.drain_timeout;
        let open = self.shared.open.load(Relaxed);
        log::info!("stopping: {open} sessions have {within:?} to end");
        (self.observer)(Event::Stopping);
        self.sockets.unlink_all();
        for worker in &self.workers {
            if worker.mailbox.post(Command::Drain { within }).is_err() {
                log::error!("a worker has ended");
            }
        }
        Drain {
            until: Instant::now() + within + DRAIN_GRACE,
            drained: vec![false; self.workers.len()],
        }
    }

    fn stop(&mut self, is_sudden: bool) {
        if is_sudden {
            (self.observer)(Event::Stopping);
            self.sockets.unlink_all();
        }
        // All at once: a worker that goes on gives some of its connections to others.
        let told = self.workers.drain(..);
        let told = told.map(|worker| (worker.mailbox.post(Command::Stop), worker.thread));
        for (told, thread) in told.collect::<Vec<_>>() {
            if told.is_err() || thread.join().is_err() {
                log::error!("a worker had ended before it was stopped");
            }
        }
        self.access_log.finish();
        self.registry
            .log_totals(|backend| self.probers.last(backend));
        log::info!("stopped");
    }

    /// Says so if every worker has turned since the last time, and wakes them for the next time.
    fn say_alive(&mut self) {
        let turns: Vec<u64> = self
            .shared
            .workers
            .iter()
            .map(|worker| worker.turns.load(Relaxed))
            .collect();
        if turns
            .iter()
            .zip(&self.turns_seen)
            .all(|(now, before)| now > before)
        {
            (self.observer)(Event::Alive);
            self.turns_seen = turns;
        } else {
            log::warn!("a worker has not turned for a while");
        }
        for worker in &self.workers {
            if let Err(error) = worker.mailbox.wake() {
                log::error!("a worker cannot be woken: {error}");
            }
        }
    }
}

/// A stop under way.
struct Drain {
    until: Instant,
    /// Which workers have had no session left.
    drained: Vec<bool>,
}

/// A reload under way: the file is being read or names are being resolved, which may take long, so
/// that requests are answered meanwhile.
struct Loading {
    since: Instant,
    loaded: Pin<Box<dyn Future<Output = Result<Loaded, LoadError>>>>,
    /// The file may have changed since it was read.
    is_asked_again: bool,
}

/// What is loaded, once it is; never ends while nothing is.
async fn next_loaded(loading: &mut Option<Loading>) -> Result<Loaded, LoadError> {
    match loading {
        Some(loading) => loading.loaded.as_mut().await,
        None => pending().await,
    }
}

async fn resolve(plan: Plan) -> Result<Loaded, Failure> {
    load(&Source::Fixed(Box::new(plan)))
        .await
        .map_err(|error| Failure(error.to_string()))
}

/// Builds pools off this thread, because a large table takes milliseconds that probes would wait.
async fn build(
    mut registry: Registry,
    loaded: Loaded,
    now: Tick,
) -> Result<(Registry, Loaded, Vec<Arc<crate::data::mailbox::Pool>>), Failure> {
    aside(move || {
        let pools = registry.pools(&loaded, now);
        (registry, loaded, pools)
    })
    .await
    .map_err(|error| Failure(format!("tables cannot be built: {error}")))
}

/// All changes, named as long as they are few.
fn describe(changes: &[Change]) -> String {
    if changes.is_empty() || changes.len() > CHANGES_NAMED {
        return summary(changes);
    }
    let named: Vec<String> = changes.iter().map(Change::to_string).collect();
    format!("{} ({})", summary(changes), named.join("; "))
}

fn far() -> Instant {
    Instant::now() + NEVER
}

/// More changes than this are counted in the log's line, not named.
const CHANGES_NAMED: usize = 4;

/// How much longer than the drain time the workers get to report its end.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// A time nobody waits for.
const NEVER: Duration = Duration::from_secs(86_400 * 365);
