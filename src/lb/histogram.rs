//! Durations counted in buckets of fixed bounds, as Prometheus takes them.
//!
//! Two atomic additions without order per observation, after five comparisons, and nothing is
//! allocated: some 10 ns while no other thread writes the same histogram, and a cache line fetched
//! from another core where one does. Whoever observes often keeps one per worker and adds up what
//! they say.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How many durations fell into each bucket, since the start.
#[derive(Debug, Default)]
pub struct Histogram {
    /// By the smallest bound that is not below the duration; the last one has no bound.
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one duration. Fractions of a microsecond are dropped.
    pub fn observe(&self, duration: Duration) {
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound_us| bound_us < duration_us);
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(duration_us, Relaxed);
    }

    /// The same where no other thread ever observes: no atomic addition.
    pub fn observe_alone(&self, duration: Duration) {
        let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound_us| bound_us < duration_us);
        for (count, more) in [(&self.counts[bucket], 1), (&self.sum_us, duration_us)] {
            count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
        }
    }

    /// Adds what another one has counted.
    pub fn add(&self, counted: &Snapshot) {
        for (own, more) in self.counts.iter().zip(counted.counts) {
            own.fetch_add(more, Relaxed);
        }
        self.sum_us.fetch_add(counted.sum_us, Relaxed);
    }

    /// What has been counted. An observation that is being made may be in the counts and not yet
    /// in the sum.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            counts: self.counts.each_ref().map(|count| count.load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

/// What one histogram or several had counted at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

impl Snapshot {
    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_us = self.sum_us.wrapping_add(other.sum_us);
    }

    /// Each upper bound in seconds, the last of them infinite, and how many durations were not
    /// above it.
    pub fn cumulative(&self) -> impl ExactSizeIterator<Item = (f64, u64)> {
        let mut total = 0;
        self.counts.iter().enumerate().map(move |(bucket, count)| {
            total += count;
            let bound_us = BOUNDS_US.get(bucket);
            (bound_us.map_or(f64::INFINITY, |&us| seconds(us)), total)
        })
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they come to.
    pub fn sum_seconds(&self) -> f64 {
        seconds(self.sum_us)
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// The upper bounds, in microseconds: from what a connect takes on a host to what a model thinks,
/// three to a decade where most is told apart and two above 10 s.
const BOUNDS_US: [u64; BUCKETS - 1] = [
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
];

/// The bounds and what is above all of them. With the sum a histogram takes 176 bytes.
const BUCKETS: usize = 21;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(durations_us: &[u64]) -> Histogram {
        let histogram = Histogram::default();
        for &us in durations_us {
            histogram.observe(Duration::from_micros(us));
        }
        histogram
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        for (index, bound_us) in BOUNDS_US.into_iter().enumerate() {
            let at = of(&[bound_us, bound_us + 1]).snapshot();
            let counts: Vec<u64> = at.cumulative().map(|(_, count)| count).collect();
            assert_eq!(counts[..index], vec![0; index], "{bound_us} us");
            assert_eq!(counts[index], 1, "{bound_us} us");
            assert_eq!(counts[index + 1], 2, "{bound_us} us");
        }
    }

    #[test]
    fn the_longest_duration_is_counted() {
        let histogram = Histogram::default();
        histogram.observe(Duration::MAX);
        let last = histogram.snapshot().cumulative().last();
        assert_eq!(last, Some((f64::INFINITY, 1)));
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS_US.is_sorted_by(|a, b| a < b));
        let bounds: Vec<f64> = Snapshot::default().cumulative().map(|it| it.0).collect();
        assert_eq!((bounds[0], bounds[19]), (0.0001, 1_000.0));
    }

    #[test]
    fn whoever_is_alone_counts_the_same() {
        let alone = Histogram::default();
        let durations_us = [0, 99, 250, 1_000_000, u64::MAX];
        for us in durations_us {
            alone.observe_alone(Duration::from_micros(us));
        }
        assert_eq!(alone.snapshot(), of(&durations_us).snapshot());
    }

    #[test]
    fn threads_lose_nothing() {
        let histogram = Histogram::default();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let histogram = &histogram;
                scope.spawn(move || {
                    for step in 0..10_000 {
                        histogram.observe(Duration::from_micros(step * (thread + 1)));
                    }
                });
            }
        });
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 40_000);
        let sum_us: u64 = (1..=4).map(|it| it * (0..10_000).sum::<u64>()).sum();
        assert_eq!(snapshot.sum_us, sum_us);
    }

    proptest! {
        #[test]
        fn counts_as_a_list_does(
            durations_us in proptest::collection::vec(
                (1..10u64, 0..10u32).prop_map(|(digit, zeros)| digit * 10u64.pow(zeros)), 0..200,
            ),
            split in 0..200usize,
        ) {
            let (some, others) = durations_us.split_at(split.min(durations_us.len()));
            let mut snapshot = of(some).snapshot();
            snapshot.merge(&of(others).snapshot());
            prop_assert_eq!(snapshot, of(&durations_us).snapshot());
            let histogram = of(some);
            histogram.add(&of(others).snapshot());
            prop_assert_eq!(histogram.snapshot(), snapshot);
            prop_assert_eq!(snapshot.count(), durations_us.len() as u64);
            prop_assert_eq!(snapshot.sum_us, durations_us.iter().sum::<u64>());
            for (bound, count) in snapshot.cumulative() {
                let within = durations_us.iter().filter(|&&us| seconds(us) <= bound).count();
                prop_assert_eq!(count, within as u64, "up to {} s", bound);
            }
        }
    }
}
