//! How a backend answers: histograms for those who look on, and one number for those who choose.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::super::histogram::{Histogram, Snapshot};
use super::super::time::Tick;

/// Histograms of one backend, one pair for each worker up to some number, so that workers seldom write
/// the same cache line. Made when a worker first has something to count.
#[derive(Debug, Default)]
pub struct Meters([OnceLock<Box<Meter>>; METERS]);

/// What a worker has seen of one backend. Time is what the worker's turns tell, in milliseconds.
#[derive(Debug, Default)]
#[repr(align(128))] // cache lines are fetched in pairs
pub struct Meter {
    /// From the first byte of a question to the first of its answer.
    pub first_byte: Histogram,
    /// Between one chunk of an answer and the next, where they are at least a millisecond apart: a
    /// session is observed a thousand times in a second at most.
    pub gap: Histogram,
}

impl Meters {
    /// That of a worker.
    #[inline]
    pub fn of_worker(&self, index: usize) -> &Meter {
        self.0[index % METERS].get_or_init(Box::default)
    }

    /// Counts on from where others have ended.
    pub fn count_on_from(&self, before: &Self) {
        let (first_byte, gap) = before.snapshot();
        let own = self.of_worker(0);
        own.first_byte.add(&first_byte);
        own.gap.add(&gap);
    }

    /// What all have seen: first bytes, and gaps.
    pub fn snapshot(&self) -> (Snapshot, Snapshot) {
        let (mut first_byte, mut gap) = (Snapshot::default(), Snapshot::default());
        for meter in self.0.iter().filter_map(OnceLock::get) {
            first_byte.merge(&meter.first_byte.snapshot());
            gap.merge(&meter.gap.snapshot());
        }
        (first_byte, gap)
    }
}

/// An exponentially weighted average of times to the first byte that follows peaks at once: who has
/// been slow a moment ago is taken for slow. Of several threads that observe at once one may be lost.
#[derive(Debug, Default)]
pub struct Latency {
    /// The average in microseconds (high half; 0 = nothing observed), and when it was made, in
    /// milliseconds without the high bits.
    word: AtomicU64,
}

impl Latency {
    /// Takes in one time to the first byte.
    pub fn observe(&self, time: Duration, now: Tick) {
        let time_us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1);
        let (average_us, age) = self.read(now);
        let average_us = if time_us >= average_us {
            time_us
        } else {
            let weight = (-age.as_secs_f64() / DECAY.as_secs_f64()).exp();
            let fall = f64::from(average_us - time_us) * (1.0 - weight);
            // Rounded up, so that many small steps do not stand still.
            average_us - to_u32(fall.ceil())
        };
        let word = u64::from(average_us) << 32 | now.as_ms() & u64::from(u32::MAX);
        self.word.store(word, Relaxed);
    }

    /// The average in microseconds; `None` = nothing has been observed for so long that it says
    /// nothing any more.
    pub fn average_us(&self, now: Tick) -> Option<u32> {
        let (average_us, age) = self.read(now);
        (average_us > 0 && age < FORGET).then_some(average_us)
    }

    fn read(&self, now: Tick) -> (u32, Duration) {
        let word = self.word.load(Relaxed);
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("masked to 32 bits");
        let age_ms = low(now.as_ms()).wrapping_sub(low(word));
        // Another worker's clock may be a little ahead.
        let age_ms = if age_ms > u32::MAX - AHEAD_MS {
            0
        } else {
            age_ms
        };
        (low(word >> 32), Duration::from_millis(age_ms.into()))
    }
}

fn to_u32(number: f64) -> u32 {
    // A cast from a float saturates.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 0 and a number of 32 bits"
    )]
    let whole = number as u32;
    whole
}

/// Workers with histograms of their own; more of them share.
const METERS: usize = 8;

/// The time in which an average has come down by two thirds of the way to what is observed.
const DECAY: Duration = Duration::from_secs(10);

/// A backend that has answered nobody for so long is given somebody to see how it is now.
const FORGET: Duration = Duration::from_secs(60);

/// By how much one worker's clock may be ahead of another's: far more than a turn takes. Once in 50 days
/// something old counts for so long.
const AHEAD_MS: u32 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn second(number: u64) -> Tick {
        Tick::from_ms(1_000 * number)
    }

    #[test]
    fn peaks_are_followed_at_once_and_left_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.average_us(second(1)), None);
        latency.observe(Duration::from_millis(10), second(1));
        assert_eq!(latency.average_us(second(1)), Some(10_000));
        latency.observe(Duration::from_millis(900), second(2));
        assert_eq!(latency.average_us(second(2)), Some(900_000));
        latency.observe(Duration::from_millis(10), second(2));
        assert_eq!(
            latency.average_us(second(2)),
            Some(900_000),
            "no time has passed"
        );
        latency.observe(Duration::from_millis(10), second(12));
        let average_us = latency.average_us(second(12)).unwrap();
        assert!(average_us.abs_diff(337_412) < 10, "{average_us}");
        latency.observe(Duration::ZERO, second(71));
        assert!(latency.average_us(second(71)).unwrap() < 1_000);
    }

    #[test]
    fn what_is_old_says_nothing() {
        let latency = Latency::default();
        latency.observe(Duration::from_secs(9), second(5));
        assert_eq!(latency.average_us(second(64)), Some(9_000_000));
        assert_eq!(latency.average_us(second(65)), None);
        let years = Tick::from_ms(u64::from(u32::MAX) + 200_000);
        latency.observe(Duration::from_secs(1), years);
        assert_eq!(latency.average_us(years), Some(1_000_000));
    }

    #[test]
    fn workers_count_apart_and_are_added_up() {
        let meters = Meters::default();
        for worker in 0..20 {
            let meter = meters.of_worker(worker);
            meter.first_byte.observe(Duration::from_millis(5));
            meter.gap.observe(Duration::from_millis(30));
            meter.gap.observe(Duration::from_millis(30));
        }
        let (first_byte, gap) = meters.snapshot();
        assert_eq!((first_byte.count(), gap.count()), (20, 40));
        assert!((gap.sum_seconds() - 1.2).abs() < 1e-9);
    }

    proptest! {
        /// Between the least and the greatest of what was observed, and never below the last.
        #[test]
        fn an_average_is_between_what_was_observed(
            times in proptest::collection::vec((1..100_000_000u64, 0..20_000u64), 1..100),
        ) {
            let latency = Latency::default();
            let mut now_ms = 5;
            for (nth, (time_us, pause_ms)) in times.iter().enumerate() {
                now_ms += pause_ms;
                let now = Tick::from_ms(now_ms);
                latency.observe(Duration::from_micros(*time_us), now);
                let average_us = u64::from(latency.average_us(now).unwrap());
                let most = times[..=nth].iter().map(|it| it.0).max().unwrap();
                prop_assert!((*time_us..=most).contains(&average_us));
            }
        }
    }
}
