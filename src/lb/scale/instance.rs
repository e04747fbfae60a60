//! One instance from its start to its end, and what is learned from starts.

use std::collections::VecDeque;
use std::time::Duration;

use crate::lb::time::Tick;

/// What an instance is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does not run, and may be started.
    Stopped,
    /// It has been told to start, and takes no clients yet.
    Starting {
        /// Since when.
        since: Tick,
    },
    /// It takes clients.
    Ready {
        /// Since when.
        since: Tick,
    },
    /// It takes no new clients, and serves those it has. It can be made ready again at once.
    Draining {
        /// Since when.
        since: Tick,
        /// Since when it had been ready.
        ready_since: Tick,
    },
    /// It has been told to stop, and may still hold what the next one needs.
    Stopping {
        /// It has failed, and not been stopped because it was not needed.
        has_failed: bool,
    },
    /// It has failed, and is not started before some time.
    Resting {
        /// Until then.
        until: Tick,
    },
    /// It has failed too often in a row, and is left alone until somebody asks for it.
    Failed,
}

/// An instance, and how often it has failed in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    pub(super) state: State,
    failures: u32,
}

impl Instance {
    pub(super) const fn new() -> Self {
        Self {
            state: State::Stopped,
            failures: 0,
        }
    }

    /// What it is at.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it may be told to start.
    pub(super) fn is_startable(&self, now: Tick) -> bool {
        match self.state {
            State::Stopped => true,
            State::Resting { until } => until <= now,
            _ => false,
        }
    }

    /// It runs no longer. Without `has_failed` that is what it was told.
    pub(super) fn on_end(&mut self, has_failed: bool, now: Tick) {
        if !has_failed {
            self.state = State::Stopped;
            return;
        }
        if let State::Ready { since } = self.state
            && now.since(since) >= WELL_AFTER
        {
            self.failures = 0;
        }
        self.failures += 1;
        self.state = if self.failures >= FAILURES_MAX {
            State::Failed
        } else {
            let pause = PAUSE_MIN * 2u32.pow(self.failures - 1);
            State::Resting {
                until: now.after(pause.min(PAUSE_MAX)),
            }
        };
    }

    /// It has been of use for so long that its failures before count no more.
    pub(super) fn forget_failures(&mut self, now: Tick) {
        if let State::Ready { since } = self.state
            && now.since(since) >= WELL_AFTER
        {
            self.failures = 0;
        }
    }

    /// Somebody asks for it: it is tried again as if it had never failed.
    pub(super) fn forgive(&mut self) {
        self.failures = 0;
        if matches!(self.state, State::Failed | State::Resting { .. }) {
            self.state = State::Stopped;
        }
    }
}

/// How long the last starts took, from the command to the first client that could come.
#[derive(Clone, Debug, Default)]
pub struct StartTimes(VecDeque<Duration>);

impl StartTimes {
    pub(super) fn observe(&mut self, time: Duration) {
        if self.0.len() == STARTS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back(time);
    }

    /// What nine of ten starts take at most; zero as long as nothing is known.
    pub fn most(&self) -> Duration {
        let mut times: Vec<_> = self.0.iter().copied().collect();
        times.sort_unstable();
        let place = (times.len() * 9).div_ceil(10);
        (place.checked_sub(1)).map_or(Duration::ZERO, |place| times[place])
    }
}

/// Failures in a row after which an instance is left alone: its command is wrong, or what it needs is
/// not there.
pub const FAILURES_MAX: u32 = 5;

/// The pause after a first failure; each further one doubles it.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// An instance that has been ready for so long does not fail at its start.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// Starts that are remembered: of the last ones the conditions are those of now.
const STARTS_KEPT: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn second(number: u64) -> Tick {
        Tick::from_ms(1_000 * number)
    }

    #[test]
    fn each_failure_in_a_row_doubles_the_pause_until_it_is_left_alone() {
        let mut instance = Instance::new();
        for pause in [1, 2, 4, 8] {
            instance.state = State::Starting { since: second(9) };
            instance.on_end(true, second(10));
            let until = second(10 + pause);
            assert_eq!(instance.state, State::Resting { until });
            assert!(!instance.is_startable(second(9 + pause)) && instance.is_startable(until));
        }
        instance.on_end(true, second(99));
        assert_eq!(instance.state, State::Failed);
        assert!(!instance.is_startable(second(999_999)));
        instance.forgive();
        assert!(instance.is_startable(second(99)));
    }

    #[test]
    fn who_was_well_for_a_while_begins_anew() {
        let mut instance = Instance::new();
        for (ready, end, pause) in [(0, 59, 1), (100, 159, 2), (200, 260, 1)] {
            instance.state = State::Ready {
                since: second(ready),
            };
            instance.on_end(true, second(end));
            assert_eq!(
                instance.state,
                State::Resting {
                    until: second(end + pause)
                }
            );
        }
        instance.state = State::Stopping { has_failed: false };
        instance.on_end(false, second(300));
        assert_eq!(instance.state, State::Stopped);
    }

    #[test]
    fn nine_of_ten_starts_take_no_longer() {
        let mut times = StartTimes::default();
        assert_eq!(times.most(), Duration::ZERO);
        for seconds in 1..=10 {
            times.observe(Duration::from_secs(seconds));
        }
        assert_eq!(times.most(), Duration::from_secs(9));
        (0..STARTS_KEPT).for_each(|_| times.observe(Duration::from_secs(2)));
        assert_eq!(times.most(), Duration::from_secs(2));
    }
}
