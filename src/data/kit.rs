//! What a worker lends to the session it is working on.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use log::Level;

use super::access_log::{Ending, History};
use super::mailbox::{Active, Barred, Reports};
use super::pipes::Pipes;
use super::tally::Tally;
use super::worker::Settings;
use crate::config::plan::Splice;
use crate::lb::log_rate::{Admit, LogRate};
use crate::lb::rng::Rng;
use crate::lb::time::Tick;
use crate::lb::traffic::cause::Cause;
use crate::lb::traffic::deadline::Wheel;
use crate::lb::traffic::relay::{COPY_BYTES_MAX, Carriage};
use crate::wire::proxy_header::Transport;

/// A worker's tools, one of each.
pub(super) struct Kit {
    /// The place of the worker among all.
    pub(super) worker: usize,
    /// Read once a turn.
    pub(super) now: Tick,
    /// The same, exactly: for what takes less than a tick.
    pub(super) now_exactly: Duration,
    /// The configuration in force.
    pub(super) active: Arc<Active>,
    /// Whatever came until then has been handled, so it is what deadlines go by. The process may
    /// stand still at any moment, also between the last events and the clock, and sessions that
    /// spoke in the meantime have not been silent.
    pub(super) heard: Tick,
    pub(super) rng: Rng,
    pub(super) wheel: Wheel,
    pub(super) pipes: Pipes,
    /// Where bytes are copied through.
    pub(super) scratch: Box<[u8]>,
    pub(super) reports: Reports,
    pub(super) carriage: Carriage,
    pub(super) drain: Option<Drain>,
    pub(super) notices: Notices,
    /// Sessions that have moved bytes.
    pub(super) tally: Tally,
}

impl Kit {
    pub(super) fn new(settings: &Settings) -> Self {
        let carriage = match settings.splice {
            Splice::Auto => Carriage::Adaptive,
            Splice::Always => Carriage::Splice,
            Splice::Off => Carriage::Copy,
        };
        Self {
            worker: settings.index,
            now: Tick::ZERO,
            now_exactly: Duration::ZERO,
            active: Arc::default(),
            heard: Tick::ZERO,
            rng: Rng::new(settings.seed),
            wheel: Wheel::new(Tick::ZERO),
            pipes: Pipes::new(settings.pipes),
            scratch: vec![0; COPY_BYTES_MAX as usize].into_boxed_slice(),
            reports: Arc::clone(&settings.reports),
            carriage,
            drain: None,
            notices: Notices::default(),
            tally: Tally::default(),
        }
    }

    /// What is remembered for the access log, if there is one, of someone who came at `since` and whom
    /// a backend is looked for now.
    pub(super) fn history(
        &self,
        transport: Transport,
        client: Option<SocketAddr>,
        since: Tick,
    ) -> Option<Box<History>> {
        let is_logged = self.active.access_log.is_some();
        is_logged.then(|| History::new(transport, client, since, self.now))
    }

    /// Tells the access log, if there is one, of a session or a flow that is over.
    pub(super) fn log_end(&self, history: &History, cause: Cause, ending: Ending<'_>) {
        if let Some(log) = &self.active.access_log {
            log.write(history.record(self.now, cause, ending));
        }
    }
}

/// The end that a stopping process has set its sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    /// When whatever is left is reset.
    pub(super) until: Tick,
    /// From when on idle sessions are reset one by one, so that their clients do not all come back
    /// in the same moment.
    pub(super) spread_from: Tick,
}

impl Drain {
    pub(super) fn new(now: Tick, within: Duration) -> Self {
        Self {
            until: now.after(within),
            spread_from: now.after(within - within / SPREAD_SHARE),
        }
    }

    /// When a session is reset if it is idle by then; `place` spreads the sessions.
    pub(super) fn cut_of(&self, place: u64) -> Tick {
        let span_ms = self.until.since(self.spread_from).as_millis();
        let span_ms = u64::try_from(span_ms).unwrap_or(u64::MAX);
        self.spread_from
            .after(Duration::from_millis(Rng::new(place).below(span_ms)))
    }
}

/// The share of the drain time over which idle sessions are reset: the last fifth.
const SPREAD_SHARE: u32 = 5;

/// The worker's log lines that a flood could cause, each with a rate of its own.
#[derive(Debug)]
pub(super) struct Notices {
    pub(super) accept: Notice,
    pub(super) full: Notice,
    barred: [Notice; Barred::ALL.len()],
    pub(super) refused: Notice,
    pub(super) queue: Notice,
    pub(super) connect: Notice,
    pub(super) local: Notice,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            accept: Notice::new(Level::Warn),
            full: Notice::new(Level::Warn),
            // To be denied is what was asked for, to reach a limit may be too low a limit.
            barred: Barred::ALL.map(|reason| match reason {
                Barred::Denied => Notice::new(Level::Info),
                Barred::Limit | Barred::Rate | Barred::Untrusted | Barred::Unintroduced => {
                    Notice::new(Level::Warn)
                }
            }),
            refused: Notice::new(Level::Warn),
            queue: Notice::new(Level::Warn),
            connect: Notice::new(Level::Warn),
            local: Notice::new(Level::Warn),
        }
    }
}

impl Notices {
    /// A client of this listener is not let in.
    pub(super) fn barred(&mut self, now: Tick, listener: &str, client: IpAddr, reason: Barred) {
        self.barred_for(now, listener, client, (reason, &reason.describe()));
    }

    /// The same, with more to say about why.
    pub(super) fn barred_for(
        &mut self,
        now: Tick,
        listener: &str,
        client: IpAddr,
        (reason, what): (Barred, &dyn fmt::Display),
    ) {
        let line = format_args!("listener \"{listener}\": client {client} refused: {what}");
        self.barred[reason as usize].log(now, line);
    }
}

/// One kind of log line.
#[derive(Debug)]
pub(super) struct Notice {
    level: Level,
    rate: LogRate,
}

impl Notice {
    const fn new(level: Level) -> Self {
        Self {
            level,
            rate: LogRate::new(NOTICES, NOTICE_WINDOW),
        }
    }

    /// Logs the line, unless too many like it were logged just now.
    pub(super) fn log(&mut self, now: Tick, line: fmt::Arguments<'_>) {
        match self.rate.admit(now) {
            Admit::Print { suppressed: 0 } => log::log!(self.level, "{line}"),
            Admit::Print { suppressed } => {
                log::log!(
                    self.level,
                    "{line} (and {suppressed} more like it, suppressed)"
                );
            }
            Admit::Drop => {}
        }
    }
}

/// Lines of one kind in a window, per worker.
const NOTICES: u32 = 1;
/// The window.
const NOTICE_WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_sessions_are_cut_evenly_over_the_last_fifth() {
        let drain = Drain::new(Tick::from_ms(1_000), Duration::from_secs(10));
        let mut per_100_ms = [0u32; 20];
        for place in 0..50_000 {
            let at = drain.cut_of(place).as_ms();
            assert!((9_000..11_000).contains(&at));
            per_100_ms[usize::try_from((at - 9_000) / 100).unwrap()] += 1;
        }
        assert!(
            per_100_ms.iter().all(|&count| count <= 2 * 2_500),
            "{per_100_ms:?}"
        );
    }
}
