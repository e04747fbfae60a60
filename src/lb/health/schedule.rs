//! When to probe next: spread over the backends, jittered and paced, so that a thousand backends are
//! never probed in the same moment, neither at the start, nor after a reload, nor when the machine has
//! stood still.

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

/// The interval until the next probe of what these counters go by: the one that waits for it most
/// decides.
pub fn next_interval<'a>(
    intervals: &Intervals,
    counters: impl IntoIterator<Item = &'a Counter>,
) -> Duration {
    let suiting = counters
        .into_iter()
        .map(|counter| intervals.suiting(counter));
    suiting.min().unwrap_or(intervals.settled)
}

/// An interval, a tenth more or less.
pub fn jittered(interval: Duration, rng: &mut Rng) -> Duration {
    interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * rng.unit())
}

/// The time to the first probe of backend `index` of `count`: evenly spread over an interval.
pub fn first_delay(interval: Duration, index: usize, count: usize, rng: &mut Rng) -> Duration {
    let share = interval / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let place = u32::try_from(index % count.max(1)).unwrap_or(0);
    share * place + share.mul_f64(rng.unit())
}

/// How often probes are to begin, all together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    /// Probes in a million seconds: whole, so that what is added and taken away comes to nothing.
    per_megasecond: u64,
}

impl Rate {
    /// One probe in each `time`.
    pub fn once_in(time: Duration) -> Self {
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            per_megasecond: 1_000_000_000 / time_ms.max(1),
        }
    }

    /// With another one in the place of one that is part of it.
    pub const fn replaced(self, before: Self, after: Self) -> Self {
        let others = self.per_megasecond.saturating_sub(before.per_megasecond);
        Self {
            per_megasecond: others.saturating_add(after.per_megasecond),
        }
    }

    /// The least time between the beginnings of two probes: half of them more would fit in.
    fn gap(self) -> Duration {
        let paced = (self.per_megasecond as f64 * HEADROOM).max(1.0);
        Duration::from_secs_f64(1e6 / paced).min(GAP_MAX)
    }
}

/// Keeps probes from beginning all at once: those that are late because nothing ran for a while, and
/// those that had to wait for others to end, which would begin as these end, all in the moments in
/// which the first ones timed out, and then again and again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the next may begin, since the same epoch as `now`.
    next: Duration,
}

impl Pace {
    /// Begins a probe, of those that begin so often, unless it is too early: then it is to ask again
    /// after this time. `waited`: it has had to wait for one of so many slots, and may keep it for such a
    /// time.
    pub fn begin(
        &mut self,
        now: Duration,
        rate: Rate,
        waited: Option<(u32, Duration)>,
    ) -> Result<(), Duration> {
        if let Some(wait) = self.next.checked_sub(now).filter(|wait| !wait.is_zero()) {
            return Err(wait);
        }
        let of_slots = waited.map_or(Duration::ZERO, |(slots, time)| time / slots.max(1));
        let at = self.next.max(now.saturating_sub(TIMER_STEP));
        self.next = at + rate.gap().max(of_slots);
        Ok(())
    }
}

/// Whoever waits is woken so much too late: that is made up for, or those who must begin more often could
/// not. Longer delays are not.
const TIMER_STEP: Duration = Duration::from_millis(2);

/// How much faster than usual probes begin to make up for a delay.
const HEADROOM: f64 = 1.5;

/// Few probes need no more than this between two of them.
const GAP_MAX: Duration = Duration::from_millis(5);

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
                    at += jittered(next_interval(&intervals, [&counter]), &mut rng);
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
        let rate = (0..1_000).fold(Rate::default(), |rate, _| {
            rate.replaced(Rate::default(), Rate::once_in(interval + timeout))
        });
        let mut per_100_ms = [0u32; 200];
        loop {
            due.sort_unstable();
            free.sort_unstable();
            let (at, slot) = (due[0], free[0]);
            let waited = (slot > at).then_some((256, timeout));
            let begun = begin(&mut pace, slot.max(at), rate, waited);
            let Some(count) = per_100_ms.get_mut(begun.as_millis() as usize / 100) else {
                break;
            };
            *count += 1;
            free[0] = begun + timeout;
            due[0] = begun + timeout + jittered(next_interval(&intervals, [&counter]), &mut rng);
        }
        let later = &per_100_ms[20..];
        let (peak, sum) = (later.iter().max().expect("some"), later.iter().sum::<u32>());
        assert!(
            u64::from(*peak) * 180 * 2 <= u64::from(sum) * 3,
            "{per_100_ms:?}"
        );
    }

    /// When a probe begins that is to begin at `at`.
    fn begin(
        pace: &mut Pace,
        at: Duration,
        rate: Rate,
        waited: Option<(u32, Duration)>,
    ) -> Duration {
        let mut now = at;
        while let Err(wait) = pace.begin(now, rate, waited) {
            now += wait;
        }
        now
    }

    /// Half a second in which nothing runs, at 500 probes a second.
    #[test]
    fn probes_that_are_late_are_made_up_for_little_by_little() {
        let interval = Duration::from_secs(2);
        let mut rate = Rate::default();
        for _ in 0..1_000 {
            rate = rate.replaced(Rate::default(), Rate::once_in(interval));
        }
        let mut pace = Pace::default();
        let mut per_100_ms = [0u32; 60];
        let mut last = Duration::ZERO;
        for at_ms in (0..5_000).step_by(2) {
            let is_stall = (1_000..1_500).contains(&at_ms);
            let at = Duration::from_millis(if is_stall { 1_500 } else { at_ms });
            // Whoever asks first is first.
            let begun = begin(&mut pace, at.max(last), rate, None);
            last = begun;
            per_100_ms[begun.as_millis() as usize / 100] += 1;
        }
        let peak = per_100_ms.iter().max().expect("some");
        assert!(*peak <= 77, "{per_100_ms:?}");
        assert_eq!(
            per_100_ms[40], 50,
            "and then all is as before: {per_100_ms:?}"
        );

        // What is taken away comes to nothing, and a few probes do not wait for each other.
        for _ in 0..1_000 {
            rate = rate.replaced(Rate::once_in(interval), Rate::default());
        }
        assert_eq!(rate.per_megasecond, 0);
        let now = Duration::from_secs(9);
        assert_eq!(pace.begin(now, rate, None), Ok(()));
        assert_eq!(pace.begin(now, rate, None), Err(GAP_MAX - TIMER_STEP));
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
            let delay = jittered(next_interval(&intervals, [counter]), &mut rng).as_secs_f64();
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
        let (up, down) = (Counter::new(2, 2, true), Counter::new(2, 2, false));
        let delay = next_interval(&intervals, [&down, &up]);
        assert_eq!(delay, intervals.settled);
        let mut changing = Counter::new(2, 2, true);
        changing.observe(false);
        let delay = next_interval(&intervals, [&down, &up, &changing]);
        assert_eq!(delay, intervals.changing);
    }
}
