//! Putting plans in force: the first one and each reload, all or nothing.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::task::LocalSet;

use super::{Failure, Others, Supervisor};
use crate::config::diff::{Change, diff, summary};
use crate::control::aside::aside;
use crate::control::capacity::max_connections;
use crate::control::discovery::{Answers, ask, extended};
use crate::control::handle::{Event, Outcome, Reply};
use crate::control::loader::{LoadError, Loaded, load};
use crate::control::reload::Registry;
use crate::control::sockets::Opened;
use crate::control::sources;
use crate::control::{access_log, admin, http};
use crate::data::mailbox::{Command, Pool, Report};
use crate::lb::time::Tick;

/// A reload under way: the file is being read or names are being resolved, which may take long, so
/// that requests are answered meanwhile.
pub(super) struct Loading {
    since: Instant,
    loaded: Pin<Box<dyn Future<Output = Result<Found, LoadError>>>>,
    /// Who waits for its end.
    asked: Vec<Reply<Outcome>>,
    /// Who has asked since then, if anybody has: the file may have changed after it was read.
    asked_again: Option<Vec<Reply<Outcome>>>,
}

/// What was loaded, and what those say whom it asks for backends.
pub(super) type Found = (Loaded, Answers);

/// What is loaded, once it is; never ends while nothing is.
pub(super) async fn next_loaded(loading: &mut Option<Loading>) -> Result<Found, LoadError> {
    match loading {
        Some(loading) => loading.loaded.as_mut().await,
        None => pending().await,
    }
}

/// What was opened for a plan, before that is put in force.
pub(super) struct Opening {
    pub(super) sockets: Opened,
    pub(super) writer: access_log::Next,
    pub(super) socket: admin::Next,
    pub(super) http: http::Next,
}

impl Opening {
    pub(super) fn new(sockets: Opened, (writer, socket, http): Others) -> Self {
        Self {
            sockets,
            writer,
            socket,
            http,
        }
    }
}

impl Supervisor {
    /// Loads the configuration again, unless that is under way: then once more after it.
    pub(super) fn ask_for_reload(&mut self, reply: Option<Reply<Outcome>>) {
        if self.drain.is_some() {
            const REFUSED: &str = "reload refused: the process stops";
            log::warn!("{REFUSED}");
            if let Some(reply) = reply {
                drop(reply.send(Err(REFUSED.to_owned())));
            }
            return;
        }
        match &mut self.loading {
            Some(loading) => loading.asked_again.get_or_insert_default().extend(reply),
            None => self.start_loading(reply.into_iter().collect()),
        }
    }

    fn start_loading(&mut self, asked: Vec<Reply<Outcome>>) {
        (self.observer)(Event::Reloading);
        let source = self.source.clone();
        let known = self.discovery.answers().clone();
        self.loading = Some(Loading {
            since: Instant::now(),
            loaded: Box::pin(async move {
                let loaded = load(&source).await?;
                let answers = ask(&loaded.plan, known).await;
                Ok((loaded, answers))
            }),
            asked,
            asked_again: None,
        });
    }

    /// Leaves what is being loaded: the process stops.
    pub(super) fn give_up_loading(&mut self) {
        let Some(loading) = self.loading.take() else {
            return;
        };
        const GIVEN_UP: &str = "reload given up: the process stops";
        log::warn!("{GIVEN_UP}");
        let again = loading.asked_again.into_iter().flatten();
        for reply in loading.asked.into_iter().chain(again) {
            drop(reply.send(Err(GIVEN_UP.to_owned())));
        }
    }

    /// Puts in force what was loaded, and begins again if that was asked for meanwhile.
    pub(super) async fn on_loaded(&mut self, loaded: Result<Found, LoadError>, tasks: &LocalSet) {
        let Some(loading) = self.loading.take() else {
            return;
        };
        let outcome = self.reload(loaded, loading.since, tasks).await;
        for reply in loading.asked {
            drop(reply.send(outcome.clone()));
        }
        if let Some(asked) = loading.asked_again {
            self.start_loading(asked);
        }
    }

    /// Puts in force what was loaded; on any error nothing has changed.
    async fn reload(
        &mut self,
        loaded: Result<Found, LoadError>,
        since: Instant,
        tasks: &LocalSet,
    ) -> Outcome {
        let loaded = loaded.map_err(|error| Failure(error.to_string()));
        let outcome = match self.try_reload(loaded, tasks).await {
            Ok(changed) => {
                let line = format!(
                    "reload: generation {} in force: {changed} ({} ms)",
                    self.generation,
                    since.elapsed().as_millis()
                );
                log::info!("{line}");
                Ok(line)
            }
            Err(Failure(error)) => {
                let error = self.confinement.explain(error);
                let line = format!(
                    "reload failed, generation {} stays in force: {error}",
                    self.generation
                );
                log::error!("{line}");
                Err(line)
            }
        };
        self.reloads.take_in(&outcome);
        let (Ok(line) | Err(line)) = &outcome;
        (self.observer)(Event::Reloaded(line));
        outcome
    }

    async fn try_reload(
        &mut self,
        loaded: Result<Found, Failure>,
        tasks: &LocalSet,
    ) -> Result<String, Failure> {
        let (configured, answers) = loaded?;
        let answers = self.discovery.newest(answers);
        let loaded = extended(&configured, &answers);
        let changes = diff(&self.loaded.plan, &loaded.plan);
        if let Some(change) = changes.iter().find(|change| change.needs_restart()) {
            return Err(Failure(change.to_string()));
        }
        self.confinement.admits(&loaded.plan).map_err(Failure)?;
        let max = max_connections(&loaded.plan, &self.budget)?;
        sources::check(&loaded).map_err(Failure)?;
        let wanted = loaded.plan.global.access_log.as_ref();
        let writer = self.access_log.next(wanted, self.shared.epoch).await;
        let writer = writer.map_err(Failure)?;
        let socket = self.admin.next(&loaded.plan.global).map_err(Failure)?;
        let http = self.http.next(loaded.plan.global.http).map_err(Failure)?;
        let opened = self.sockets.open(&loaded.plan);
        let opened = opened.map_err(|error| Failure(error.to_string()))?;
        let opening = Opening::new(opened, (writer, socket, http));
        self.install(loaded, opening, tasks).await?;
        self.configured = configured;
        self.discovery.follow(answers, tasks);
        self.shared.max_connections.store(max, Relaxed);
        for change in &changes {
            log::debug!("reload: {change}");
        }
        Ok(describe(&changes))
    }

    /// Puts in force what differs from what is in force in nothing but its backends.
    pub(super) async fn renew(&mut self, loaded: Loaded, tasks: &LocalSet) -> Result<(), Failure> {
        let opened = self.sockets.open(&loaded.plan);
        let opened = opened.map_err(|error| Failure(error.to_string()))?;
        let others = (access_log::Next::Same, admin::Next::Same, http::Next::Same);
        let opening = Opening::new(opened, others);
        self.install(loaded, opening, tasks).await
    }

    /// Puts a plan in force whose sockets are bound: from here on only a worker that has ended, or
    /// a thread that cannot be had to build tables, can be in the way.
    pub(super) async fn install(
        &mut self,
        loaded: Loaded,
        opening: Opening,
        tasks: &LocalSet,
    ) -> Result<(), Failure> {
        let Opening {
            sockets: opened,
            writer,
            socket,
            http,
        } = opening;
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
        self.loaded = loaded;
        self.access_log.put_in_force(writer);
        self.admin.put_in_force(socket, tasks);
        if let Some(address) = self.http.put_in_force(http, tasks) {
            (self.observer)(Event::Http(address));
        }
        Ok(())
    }
}

/// Builds pools off this thread, because a large table takes milliseconds that probes would wait.
async fn build(
    mut registry: Registry,
    loaded: Loaded,
    now: Tick,
) -> Result<(Registry, Loaded, Vec<Arc<Pool>>), Failure> {
    aside(move || {
        let pools = registry.pools(&loaded, now);
        (registry, loaded, pools)
    })
    .await
    .map_err(|error| Failure(format!("tables cannot be built: {error}")))
}

/// All changes, named as long as they are few.
pub(super) fn describe(changes: &[Change]) -> String {
    if changes.is_empty() || changes.len() > CHANGES_NAMED {
        return summary(changes);
    }
    let named: Vec<String> = changes.iter().map(Change::to_string).collect();
    format!("{} ({})", summary(changes), named.join("; "))
}

/// More changes than this are counted in the log's line, not named.
const CHANGES_NAMED: usize = 4;
