//! The time of a worker: one look at the clock when a turn begins and one when it waits, how long that
//! may be, and what is counted once in a turn.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{EVENTS_PER_TURN, Worker};
use crate::data::token::session_of;
use crate::data::udp::TURNS_PER_BUFFER;
use crate::lb::time::Tick;

impl Worker {
    /// Whether the kernel may hold more news that came before this turn, one with so many events.
    /// Within enough full turns every socket comes up, so no load puts deadlines off for long.
    pub(super) fn is_behind(&mut self, events: usize) -> bool {
        let is_full = events >= EVENTS_PER_TURN || self.datagrams.is_ready();
        self.full_turns_left = match self.full_turns_left {
            _ if !is_full => 0,
            0 => self.turns_to_catch_up(),
            left => left - 1,
        };
        self.full_turns_left > 0
    }

    /// Full turns after which all news have been heard that are there now.
    fn turns_to_catch_up(&self) -> usize {
        let sockets = 2 * self.sessions.len() + self.arrivals.len() + self.datagrams.len();
        let turns = sockets / EVENTS_PER_TURN + 1;
        if self.datagrams.is_empty() {
            return turns;
        }
        // One socket holds datagrams of many flows.
        turns + TURNS_PER_BUFFER
    }

    pub(super) fn clock(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// A turn begins, after a wait of so long at most. The turn before ended when that began, or just
    /// now where nothing was waited for.
    pub(super) fn read_clock(&mut self, wait: Duration) {
        let now = self.clock();
        let ended = if wait.is_zero() {
            now
        } else {
            self.waits_since
        };
        let busy = ended.saturating_sub(self.kit.now_exactly);
        self.shared.workers[self.index].busy.observe_alone(busy);
        self.kit.now = Tick::ZERO.after(now);
        self.kit.now_exactly = now;
    }

    /// The number of this turn. Nobody else counts them.
    pub(super) fn count_turn(&self) -> u64 {
        let turns = &self.shared.workers[self.index].turns;
        let turn = turns.load(Relaxed);
        turns.store(turn + 1, Relaxed);
        turn
    }

    /// Adds to the counters what sessions and flows have moved.
    pub(super) fn count_moved(&mut self) {
        let mut nth = 0;
        while let Some(id) = self.kit.tally.take(nth, self.kit.now) {
            if let Some(session) = self.sessions.get_mut(session_of(id)) {
                session.count();
            }
            nth += 1;
        }
        self.datagrams.count_moved(self.kit.now);
    }

    /// How long to wait for events. Never longer than a second: a worker that turns is alive.
    pub(super) fn wait(&mut self) -> Duration {
        let datagrams = &self.datagrams;
        let is_cut_short = !self.ready.is_empty() || self.may_call_more || self.kit.tally.has_due();
        if is_cut_short || datagrams.is_ready() || datagrams.has_due() {
            return Duration::ZERO;
        }
        self.waits_since = self.clock();
        let now = Tick::ZERO.after(self.waits_since);
        let arrivals = self.arrivals.next();
        [
            self.kit.wheel.next(),
            datagrams.next(),
            arrivals,
            self.resume,
        ]
        .into_iter()
        .flatten()
        .map(|next| next.since(now))
        .fold(TURN_TIME_MAX, Duration::min)
    }
}

/// The longest wait for events.
const TURN_TIME_MAX: Duration = Duration::from_secs(1);
