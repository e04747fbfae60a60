//! A backend that is probed: what results make of its state, and what follows from that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinHandle;

use crate::config::plan::{OnDown, Probe};
use crate::data::mailbox::{Command, Mailbox};
use crate::lb::backend::BackendState;
use crate::lb::health::counter::{Counter, Transition};
use crate::lb::health::finding::{Finding, Found};
use crate::lb::log_rate::{Admit, LogRate};
use crate::lb::time::Tick;

/// One backend, and how it is. Several may go by the results of the same probes.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) state: Arc<BackendState>,
    pub(super) counter: Counter,
    /// What the last probe found.
    pub(super) last: Option<Finding>,
    /// How the last probes have ended, in signs, the newest at the end.
    pub(super) recent: VecDeque<char>,
    on_down: OnDown,
    progress_is_alive: bool,
    workers: Arc<Vec<Mailbox>>,
    told: Told,
    /// When a certificate that ends soon was last told of.
    told_of_end: Option<Instant>,
    /// Ends its sessions when its time to come back is over.
    cut: Option<JoinHandle<()>>,
}

/// What the log says of its state, which may change more often than anybody wants to read.
#[derive(Debug)]
struct Told {
    is_up: bool,
    rate: LogRate,
    /// Changes since that was told.
    changes: u32,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.keep_sessions();
    }
}

impl Member {
    /// A backend that is as it is until probes say otherwise.
    pub(super) fn new(
        state: &Arc<BackendState>,
        probe: &Probe,
        on_down: OnDown,
        workers: &Arc<Vec<Mailbox>>,
    ) -> Self {
        Self {
            counter: Counter::new(probe.rise, probe.fall, state.is_up()),
            last: None,
            recent: VecDeque::with_capacity(RECENT_MAX),
            on_down,
            progress_is_alive: probe.progress_is_alive,
            workers: Arc::clone(workers),
            told: Told {
                is_up: state.is_up(),
                rate: LogRate::new(CHANGES_TOLD, CHANGES_WINDOW),
                changes: 0,
            },
            told_of_end: None,
            cut: None,
            state: Arc::clone(state),
        }
    }

    /// Whether it does the same when it goes down.
    pub(super) fn acts(&self, on_down: OnDown) -> bool {
        self.on_down == on_down
    }

    /// Takes in what a probe has found that ended `now`.
    pub(super) fn take_in(&mut self, finding: &Finding, certificate_ends: Option<u64>, now: Tick) {
        self.state.clear_suspicion();
        let outcome = finding.found.outcome();
        self.state.probes[outcome as usize].fetch_add(1, Relaxed);
        self.last = Some(finding.clone());
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(outcome.sign());
        self.look_at_end(certificate_ends);
        let has_progressed =
            self.progress_is_alive && self.state.has_progressed_since(finding.began);
        let Some(is_well) = finding.verdict(has_progressed) else {
            let what = match finding.found {
                Found::TimedOut(..) => ", but it sends bytes",
                _ => "",
            };
            return log::debug!("backend \"{}\": {finding}{what}", self.name());
        };
        let transition = self.counter.observe(is_well);
        match transition {
            Some(Transition::Up) => {
                self.state.set_up(true, now);
                self.keep_sessions();
            }
            Some(Transition::Down) => {
                self.state.set_up(false, now);
                self.end_sessions();
            }
            None => {}
        }
        if transition.is_some() {
            self.wake_a_worker();
        }
        self.told.changes += u32::from(transition.is_some());
        if is_well == self.counter.is_up() {
            self.tell(finding, now);
        }
    }

    /// Logs its state, unless that is known or the log has enough of it: then later.
    fn tell(&mut self, finding: &Finding, now: Tick) {
        let is_up = self.counter.is_up();
        if self.told.is_up == is_up || self.told.rate.admit(now) == Admit::Drop {
            return;
        }
        let name = self.name();
        let more = match std::mem::take(&mut self.told.changes) {
            0 | 1 => String::new(),
            changes => format!("; the last of {changes} changes"),
        };
        self.told.is_up = is_up;
        let streak = self.counter.streak(is_up);
        if is_up {
            log::info!("backend \"{name}\" is up ({streak} probes in a row passed{more})");
        } else {
            log::warn!(
                "backend \"{name}\" is down: {finding} ({streak} probes in a row failed{more})"
            );
        }
    }

    /// Tells of a certificate that ends soon, or has ended.
    fn look_at_end(&mut self, certificate_ends: Option<u64>) {
        let Some(ends) = certificate_ends else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let left = ends.saturating_sub(now.unwrap_or_default().as_secs());
        let is_told = self.told_of_end.is_some_and(|told| told.elapsed() < DAY);
        if left < CERTIFICATE_SOON.as_secs() && !is_told {
            self.told_of_end = Some(Instant::now());
            let name = self.name();
            match left / DAY.as_secs() {
                0 if left == 0 => log::warn!("backend \"{name}\": its certificate has ended"),
                days => log::warn!("backend \"{name}\": its certificate ends in {days} days"),
            }
        }
    }

    fn end_sessions(&mut self) {
        let after = match self.on_down {
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

    /// Clients that wait for a backend may have one now, or none to wait for. Any worker serves all.
    fn wake_a_worker(&self) {
        if let Some(worker) = self.workers.first()
            && worker.wake().is_err()
        {
            log::error!("a worker cannot be woken");
        }
    }

    fn keep_sessions(&mut self) {
        if let Some(cut) = self.cut.take() {
            cut.abort();
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.state.pool(), self.state.name())
    }
}

/// Probes remembered for those who look: a minute or two of them, as a line of little squares.
const RECENT_MAX: usize = 40;

/// So many changes of one backend are logged within a window; of more, the last one is.
const CHANGES_TOLD: u32 = 20;

/// The window.
const CHANGES_WINDOW: Duration = Duration::from_secs(60);

/// A certificate that ends within this time is told of.
const CERTIFICATE_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// How often it is told.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
