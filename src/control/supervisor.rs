//! The control plane's life: start the workers, put plans in force, answer requests, drain, stop.

mod answers;
mod discovering;
mod explain;
mod orders;
mod planning;
mod reloading;
mod sessions;
mod settings;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

use self::reloading::{Loading, Opening, next_loaded};
pub use self::settings::{Failure, Observer, OnBound, Settings};
use super::access_log::{self, Writers};
use super::admin::{self, Admin};
use super::capacity::{max_connections, spend};
use super::discovery::{Answers, Discovery, ask, extended};
use super::ejection;
use super::handle::{Event, Handle, Post, Request, Requests};
use super::http;
use super::loader::{Loaded, Source, load};
use super::prober::Probers;
use super::reload::Registry;
use super::sandbox::Confinement;
use super::sockets::Sockets;
use super::sources;
use super::status::Reloads;
use crate::config::plan::{Plan, Splice};
use crate::data::mailbox::{Command, Report, Reports, Shared};
use crate::data::worker;
use crate::lb::admission::budget::Budget;
use crate::lb::rng::Rng;
use crate::sys::socket::Listening;

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
        let mut supervisor = Supervisor::start(settings, requests.handle(), &tasks).await?;
        supervisor.serve(requests, &tasks).await;
        Ok(())
    });
    // A thread that hangs in a file or in the resolver must not hold back the end.
    runtime.shutdown_background();
    ended
}

struct Supervisor {
    source: Source,
    confinement: Confinement,
    /// As it was loaded.
    configured: Loaded,
    /// The same with all backends that were found: in force.
    loaded: Loaded,
    discovery: Discovery,
    generation: u64,
    registry: Registry,
    sockets: Sockets,
    probers: Probers,
    budget: Budget,
    access_log: Writers,
    admin: Admin,
    http: http::Server,
    shared: Arc<Shared>,
    workers: Vec<worker::Handle>,
    reports: UnboundedReceiver<Report>,
    observer: Observer,
    alive_every: Option<Duration>,
    turns_seen: Vec<u64>,
    reloads: Reloads,
    loading: Option<Loading>,
    drain: Option<Drain>,
    /// For choices that nothing comes of.
    rng: Rng,
}

impl Supervisor {
    async fn start(settings: Settings, handle: Handle, tasks: &LocalSet) -> Result<Self, Failure> {
        let configured = resolve(settings.plan).await?;
        let answers = ask(&configured.plan, Answers::new()).await;
        let loaded = extended(&configured, &answers);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let count = loaded.plan.global.workers.unwrap_or_else(cores);
        let mut sockets = take_over(settings.inherited, count, &loaded.plan)?;
        let budget = spend(settings.descriptors, count, &loaded.plan)?;
        let max = max_connections(&loaded.plan, &budget)?;
        let opened = sockets.open(&loaded.plan);
        let opened = opened.map_err(|error| Failure(error.to_string()))?;
        let shared = Arc::new(Shared::new(count, max, budget.open));
        let mut access_log = Writers::default();
        let admin = Admin::new(handle.clone());
        let http = http::Server::new(handle, budget.visitors);
        let servers = (&mut access_log, &admin, &http);
        let others = open_others(&loaded, settings.on_bound, servers, shared.epoch);
        let others = others.await.inspect_err(|_| opened.abandon());
        let (confinement, others) = others.map_err(Failure)?;
        let opening = Opening::new(opened, others);
        let (workers, reports) =
            start_workers(&shared, &budget, loaded.plan.global.splice, settings.seed)
                .map_err(|error| Failure(format!("cannot start a worker: {error}")))?;
        let mailboxes = Arc::new(workers.iter().map(|w| w.mailbox.clone()).collect());
        let probers = Probers::new(budget.probes, mailboxes, shared.epoch, settings.seed);
        log::info!("{count} workers; {budget}");
        let mut supervisor = Self {
            source: settings.source,
            confinement,
            configured,
            loaded: loaded.clone(),
            discovery: Discovery::new(),
            generation: 0,
            registry: Registry::new(Arc::clone(&shared.waiting)),
            sockets,
            probers,
            budget,
            access_log,
            admin,
            http,
            shared,
            workers,
            reports,
            observer: settings.observer,
            alive_every: settings.alive_every,
            turns_seen: vec![0; count],
            reloads: Reloads::default(),
            loading: None,
            drain: None,
            rng: Rng::new(settings.seed),
        };
        supervisor.install(loaded, opening, tasks).await?;
        supervisor.discovery.follow(answers, tasks);
        log::info!("serving: generation {} in force", supervisor.generation);
        (supervisor.observer)(Event::Ready);
        Ok(supervisor)
    }

    /// Answers requests until the workers have stopped.
    async fn serve(&mut self, mut requests: Requests, tasks: &LocalSet) {
        let mut alive = tokio::time::interval(self.alive_every.unwrap_or(NEVER));
        // Between two looks the workers must have had time to turn, also after the process stood still.
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let until = self.drain.as_ref().map_or_else(far, |drain| drain.until);
            tokio::select! {
                post = requests.next() => match post {
                    Post::Request(Request::Reload) => self.ask_for_reload(None),
                    Post::Request(Request::Reopen) => self.access_log.reopen(),
                    Post::Request(Request::Drain) if self.drain.is_none() => self.start_drain(),
                    Post::Request(Request::Drain | Request::Stop) => break,
                    Post::Question(question) => self.answer(question, tasks).await,
                },
                loaded = next_loaded(&mut self.loading) => self.on_loaded(loaded, tasks).await,
                news = self.discovery.next() => self.on_news(news, tasks).await,
                Some(report) = self.reports.recv() => match (report, &mut self.drain) {
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
        self.stop(self.drain.is_none());
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

    fn start_drain(&mut self) {
        self.give_up_loading();
        let within = self.loaded.plan.global.drain_timeout;
        let open = self.shared.open.load(Relaxed);
        log::info!("stopping: {open} sessions have {within:?} to end");
        (self.observer)(Event::Stopping);
        self.sockets.unlink_all();
        for worker in &self.workers {
            if worker.mailbox.post(Command::Drain { within }).is_err() {
                log::error!("a worker has ended");
            }
        }
        self.drain = Some(Drain {
            until: Instant::now() + within + DRAIN_GRACE,
            drained: vec![false; self.workers.len()],
        });
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
        self.admin.end();
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

/// Takes the sockets of the service manager, each of which a listener must bind.
fn take_over(inherited: Vec<Listening>, workers: usize, plan: &Plan) -> Result<Sockets, Failure> {
    let sockets = Sockets::new(workers, inherited)
        .map_err(|error| Failure(format!("inherited sockets: {error}")))?;
    let unused = sockets.unused(plan).next();
    unused.map_or(Ok(()), |bind| {
        let error = format!("inherited socket {bind}: no listener binds it");
        Err(Failure(error))
    })?;
    Ok(sockets)
}

/// Starts a worker for each that there is to be; what they report.
fn start_workers(
    shared: &Arc<Shared>,
    budget: &Budget,
    splice: Splice,
    seed: u64,
) -> io::Result<(Vec<worker::Handle>, UnboundedReceiver<Report>)> {
    let (sender, reports) = unbounded_channel();
    let to_us: Reports = Arc::new(move |report| drop(sender.send(report)));
    let workers = worker::start(shared.workers.len(), |index| worker::Settings {
        index,
        shared: Arc::clone(shared),
        reports: Arc::clone(&to_us),
        splice,
        pipes: budget.pipes_per_worker,
        seed: seed.wrapping_add(index as u64),
    })?;
    Ok((workers, reports))
}

/// What is opened beside listeners.
type Others = (access_log::Next, admin::Next, http::Next);

/// Opens what a first plan asks for beside its listeners, and gives up privileges in between.
async fn open_others(
    loaded: &Loaded,
    on_bound: OnBound,
    (access_log, admin, http): (&mut Writers, &Admin, &http::Server),
    epoch: Instant,
) -> Result<(Confinement, Others), String> {
    let global = &loaded.plan.global;
    let socket = admin.next(global)?;
    let http = http.next(global.http)?;
    let confinement = on_bound(&loaded.plan)?;
    sources::check(loaded)?;
    let writer = access_log.next(global.access_log.as_ref(), epoch).await?;
    Ok((confinement, (writer, socket, http)))
}

async fn resolve(plan: Plan) -> Result<Loaded, Failure> {
    load(&Source::Fixed(Box::new(plan)))
        .await
        .map_err(|error| Failure(error.to_string()))
}

fn far() -> Instant {
    Instant::now() + NEVER
}

/// How much longer than the drain time the workers get to report its end.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// A time nobody waits for.
const NEVER: Duration = Duration::from_secs(86_400 * 365);
