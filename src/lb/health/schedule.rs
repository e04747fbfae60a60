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
