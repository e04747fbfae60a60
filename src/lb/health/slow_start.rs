//! Slow start: a backend that has come back gets its share little by little, because its caches are
//! cold and whatever made it fail may not be over.
//!
//! Its part grows evenly from a tenth to the whole, and bounds both how many sessions it gets and how
//! many it may have. How it bounds what it gets depends on how a backend is chosen. Where its weight
//! is a chance, it is passed over for as many clients as its part says, and always for the same ones,
//! so that each client comes back to it once. Where the least loaded is chosen, it would get everybody,
//! as it has no sessions yet: there a [`Pace`] holds it back until it has caught up with the others.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::lb::rng::Rng;
use crate::lb::time::Tick;

/// The whole, in thousandths.
pub const WHOLE: u32 = 1_000;

/// The part of its share that a backend gets which is back since `since`, in thousandths.
pub fn part(slow_start: Duration, since: Tick, now: Tick) -> u32 {
    let (time, all) = (now.since(since).as_millis(), slow_start.as_millis());
    if time >= all {
        return WHOLE;
    }
    let grown = u128::from(WHOLE - FIRST) * time / all;
    FIRST + u32::try_from(grown).unwrap_or(WHOLE - FIRST)
}

/// The part of a limit, at least 1; 0 = no limit.
pub fn limit(limit: u32, part: u32) -> u32 {
    if part >= WHOLE {
        return limit;
    }
    let part = (u64::from(limit) * u64::from(part)).div_ceil(u64::from(WHOLE));
    u32::try_from(part).unwrap_or(limit)
}

/// Whether the backend at a place takes the client that drew `ticket`. Who is taken at some part is
/// taken at each larger one.
pub fn admits(part: u32, ticket: u64, place: u16) -> bool {
    part >= WHOLE || Rng::new(ticket ^ SALT ^ u64::from(place)).below(WHOLE.into()) < part.into()
}

/// Holds a backend back to one and a half times its share of all choices, in however short a time: it
/// goes by the number of the choice. It may be chosen when that is at hand or past.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// As it is now; it moves on by itself.
    pub fn copy(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Relaxed)))
    }

    /// Whether the backend may be chosen by this choice.
    pub fn is_free(&self, choice: u64) -> bool {
        choice * STEPS >= self.0.load(Relaxed)
    }

    /// It is chosen, and has `own` of a weight of `all`; false if another choice was faster.
    pub fn take(&self, choice: u64, own: u32, all: u64) -> bool {
        let (at, next) = (choice * STEPS, self.0.load(Relaxed));
        // What a choice is late, because there are only whole ones, is not lost.
        let from = next.max(at.saturating_sub(STEPS - 1));
        let pause = (all * STEPS * 2).div_ceil(u64::from(own.max(1)) * 3);
        let exchange = || (self.0).compare_exchange(next, from + pause, Relaxed, Relaxed);
        at >= next && exchange().is_ok()
    }
}

/// The part that a backend begins with.
const FIRST: u32 = WHOLE / 10;

/// Steps of a [`Pace`] in a choice.
const STEPS: u64 = 1_000;

/// The same ticket chooses a backend by its hash: that must not tell whether it is passed over.
const SALT: u64 = 0x736c_6f77_0000_0000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lb::rng::Rng;

    #[test]
    fn a_part_grows_evenly_from_a_tenth_to_the_whole() {
        let ramp = Duration::from_secs(90);
        let at = |second: u64| {
            part(
                ramp,
                Tick::from_ms(5_000),
                Tick::from_ms(5_000 + 1_000 * second),
            )
        };
        assert_eq!(
            [0, 10, 50, 80, 90, 1_000].map(at),
            [100, 200, 600, 900, 1_000, 1_000]
        );
        assert_eq!(
            part(ramp, Tick::from_ms(9), Tick::from_ms(5)),
            100,
            "a clock behind"
        );
        assert_eq!(
            part(Duration::MAX, Tick::ZERO, Tick::from_ms(u64::MAX)),
            100
        );
    }

    #[test]
    fn a_limit_is_never_none_and_never_more() {
        assert_eq!([100, 101, 1_000].map(|part| limit(20, part)), [2, 3, 20]);
        assert_eq!(limit(1, 100), 1);
        assert_eq!(limit(0, 100), 0, "no limit");
        assert_eq!(limit(u32::MAX, 999), 4_290_672_328);
    }

    #[test]
    fn as_many_are_taken_as_the_part_says() {
        for part in [100, 250, 900, 1_000] {
            let taken = (0..100_000).filter(|&ticket| admits(part, Rng::new(ticket).next_u64(), 3));
            let taken = u32::try_from(taken.count()).unwrap() / 100;
            assert!(taken.abs_diff(part) <= 5, "{taken} of {part}");
        }
    }

    proptest! {
        #[test]
        fn who_is_taken_stays_taken(ticket: u64, place: u16, part in 0..=WHOLE, more in 0..=WHOLE) {
            prop_assert!(!admits(part, ticket, place) || admits(part.max(more), ticket, place));
            prop_assert!(admits(WHOLE, ticket, place));
        }

        /// Whenever it may be chosen it is: at most one and a half times its share, and nearly that.
        #[test]
        fn a_pace_is_one_and_a_half_times_the_share(own in 1..2_000u32, others in 0..5_000u64) {
            let (pace, all) = (Pace::default(), u64::from(own) + others);
            let taken: Vec<u64> = (0..3_000)
                .filter(|&choice| pace.is_free(choice) && pace.take(choice, own, all))
                .collect();
            let share = 1.5 * f64::from(own) / all as f64;
            for (nth, first) in taken.iter().enumerate() {
                for (count, last) in taken[nth..].iter().enumerate().map(|(n, at)| (n + 1, at)) {
                    let choices = (last - first + 1) as f64;
                    prop_assert!(count as f64 <= share * choices + 2.0);
                }
                if nth > 20 {
                    break; // from later on it is the same
                }
            }
            let expected = (3_000.0 * share.min(1.0)).floor();
            prop_assert!(taken.len() as f64 >= 0.99 * expected - 1.0, "{} of {expected}", taken.len());
        }
    }

    #[test]
    fn two_choices_at_once_take_once() {
        let pace = Pace::default();
        assert!(pace.is_free(5) && pace.take(5, 1, 10));
        assert!(!pace.is_free(5) && !pace.take(5, 1, 10));
    }
}
