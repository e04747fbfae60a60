//! When to probe next: spread over the backends, and jittered, so that a thousand backends are
//! never probed in the same moment, neither at the start nor after a reload.

use std::time::Duration;

use super::counter::Counter;
use crate::lb::rng::Rng;

/// Times between probes of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intervals {
    /// In a settled state.
    pub settled: Duration,
    /// While the state is changing.
    pub changing: Duration,
    /// While it is down.
    pub down: Duration,
}

impl Intervals {
    /// The one for a backend in this state.
    fn suiting(&self, counter: &Counter) -> Duration {
        if !counter.is_settled() {
            self.changing
        } else if counter.is_up() {
            self.settled
        } else {
            self.down
        }
    }
}

/// The time to the next probe, a tenth more or less, of what these counters go by: the one that
/// waits for it most decides.
pub fn next_delay<'a>(
    intervals: &Intervals,
    counters: impl IntoIterator<Item = &'a Counter>,
    rng: &mut Rng,
) -> Duration {
    let suiting = counters
        .into_iter()
        .map(|counter| intervals.suiting(counter));
    let interval = suiting.min().unwrap_or(intervals.settled);
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.unit())
}

/// The time to the first probe of backend `index` of `count`: evenly spread over an interval.
pub fn first_delay(interval: Duration, index: usize, count: usize, rng: &mut Rng) -> Duration {
    let share = interval / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let place = u32::try_from(index % count.max(1)).unwrap_or(0);
    share * place + share.mul_f64(rng.unit())
}

/// Spreads probes that had to wait for others to end: these would begin as they end, all in the
/// moments in which the first ones timed out, and then again and again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the next may begin, since the same epoch as `now`.
    next: Duration,
}

impl Pace {
    /// How long a probe has to wait yet that may go on for `timeout`, one of `slots` at once.
    pub fn wait(&mut self, now: Duration, timeout: Duration, slots: u32) -> Duration {
        let at = self.next.max(now);
        self.next = at + timeout / slots.max(1);
        at - now
    }
}

/// The share of an interval by which it varies.
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_backends_are_probed_evenly_at_the_start_and_later() {
        let second = Duration::from_secs(1);
        let intervals = Intervals {
            settled: second,
            changing: second,
            down: second,
        };
        let counter = Counter::new(2, 3, true);
        for seed in 0..10 {
            let mut rng = Rng::new(seed);
            let mut per_100_ms = [0u32; 200];
            for index in 0..1_000 {
                let mut at = first_delay(second, index, 1_000, &mut rng);
                while at < Duration::from_secs(20) {
                    per_100_ms[usize::try_from(at.as_millis() / 100).unwrap()] += 1;
                    at += next_delay(&intervals, [&counter], &mut rng);
                }
            }
            let peak = per_100_ms.iter().max().expect("not empty");
            assert!(*peak <= 2 * 100, "seed {seed}: {per_100_ms:?}");
        }
    }

    /// A thousand backends that swallow every probe need 500 slots at once, and have 256.
    #[test]
    fn probes_that_wait_for_each_other_are_spread_as_well() {
        let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
        let intervals = Intervals {
            settled: interval,
            changing: interval,
            down: interval,
        };
        let counter = Counter::new(2, 3, false);
        let mut rng = Rng::new(1);
        let mut due: Vec<Duration> = (0..1_000)
            .map(|index| first_delay(interval, index, 1_000, &mut rng))
            .collect();
        let mut free = vec![Duration::ZERO; 256];
        let mut pace = Pace::default();
        let mut per_100_ms = [0u32; 200];
        loop {
            due.sort_unstable();
            free.sort_unstable();
            let (at, slot) = (due[0], free[0]);
            let begun = match slot > at {
                true => slot + pace.wait(slot, timeout, 256),
                false => at,
            };
            let Some(count) = per_100_ms.get_mut(begun.as_millis() as usize / 100) else {
                break;
            };
            *count += 1;
            free[0] = begun + timeout;
            due[0] = begun + timeout + next_delay(&intervals, [&counter], &mut rng);
        }
        let later = &per_100_ms[20..];
        let (peak, sum) = (later.iter().max().expect("some"), later.iter().sum::<u32>());
        assert!(
            u64::from(*peak) * 180 * 2 <= u64::from(sum) * 3,
            "{per_100_ms:?}"
        );
    }

    #[test]
    fn the_state_chooses_the_interval() {
        let intervals = Intervals {
            settled: Duration::from_secs(2),
            changing: Duration::from_millis(500),
            down: Duration::from_secs(5),
        };
        let mut rng = Rng::new(1);
        let mut counter = Counter::new(2, 2, true);
        let mut near = |counter: &Counter, middle: f64| {
            let delay = next_delay(&intervals, [counter], &mut rng).as_secs_f64();
            assert!(
                (delay / middle - 1.0).abs() <= JITTER + 1e-9,
                "{delay} for {middle}"
            );
        };
        near(&counter, 2.0);
        counter.observe(false);
        near(&counter, 0.5);
        counter.observe(false);
        near(&counter, 5.0);
        counter.observe(true);
        near(&counter, 0.5);
    }

    #[test]
    fn the_backend_that_waits_most_decides() {
        let intervals = Intervals {
            settled: Duration::from_secs(2),
            changing: Duration::from_millis(500),
            down: Duration::from_secs(5),
        };
        let mut rng = Rng::new(1);
        let (up, down) = (Counter::new(2, 2, true), Counter::new(2, 2, false));
        let delay = next_delay(&intervals, [&down, &up], &mut rng);
        assert!(delay < Duration::from_secs(3), "{delay:?}");
        let mut changing = Counter::new(2, 2, true);
        changing.observe(false);
        let delay = next_delay(&intervals, [&down, &up, &changing], &mut rng);
        assert!(delay < Duration::from_secs(1), "{delay:?}");
    }
}
