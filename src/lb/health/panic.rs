//! Panic: so few of a pool's backends are well that these would break down under the load of all, and
//! some of the others may be better than they look. Then all are used.
//!
//! A pool leaves it only when clearly more are well than it takes to enter, so that one backend that
//! comes and goes does not move everybody's sessions to and fro.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::lb::time::Tick;

/// Whether a pool is in panic.
#[derive(Debug, Default)]
pub struct Panic {
    is_on: AtomicBool,
    /// When to look again.
    next: AtomicU64,
}

/// A pool enters or leaves panic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Only this share of it is well: all are used.
    Entered(f64),
    /// This share is well again.
    Left(f64),
}

impl Panic {
    /// The state that `other` is in.
    pub fn like(other: &Self) -> Self {
        Self {
            is_on: AtomicBool::new(other.is_on()),
            next: AtomicU64::new(0),
        }
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Looks what share is well, unless somebody has just looked. With nobody well there is nobody to
    /// spare, and nothing changes.
    pub fn look(&self, threshold: f64, now: Tick, share: impl FnOnce() -> f64) -> Option<Change> {
        let next = self.next.load(Relaxed);
        if now < Tick::from_ms(next) {
            return None;
        }
        let later = now.after(LOOK_EVERY).as_ms();
        let claim = (self.next).compare_exchange(next, later, Relaxed, Relaxed);
        claim.ok()?;
        let share = share();
        let was_on = self.is_on();
        let is_on = if was_on {
            share <= 0.0 || share < (threshold + MARGIN).min(1.0) - ROUNDING
        } else {
            share > 0.0 && share < threshold - ROUNDING
        };
        if is_on == was_on {
            return None;
        }
        self.is_on.store(is_on, Relaxed);
        Some(if is_on {
            Change::Entered(share)
        } else {
            Change::Left(share)
        })
    }
}

/// How much more than the threshold must be well for panic to end.
const MARGIN: f64 = 0.1;

/// Three of ten and three tenths are the same.
const ROUNDING: f64 = 1e-9;

/// Looking goes through all backends, which may be many.
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a look each second makes of these shares.
    fn looks(threshold: f64, shares: &[f64]) -> Vec<bool> {
        let panic = Panic::default();
        let seconds = (1..).map(|second| Tick::from_ms(1_000 * second));
        let look = |(now, &share)| {
            let (before, change) = (panic.is_on(), panic.look(threshold, now, || share));
            let expected = match (before, panic.is_on()) {
                (false, true) => Some(Change::Entered(share)),
                (true, false) => Some(Change::Left(share)),
                _ => None,
            };
            assert_eq!(change, expected);
            panic.is_on()
        };
        seconds.zip(shares).map(look).collect()
    }

    #[test]
    fn it_begins_below_the_threshold_and_ends_well_above_it() {
        assert_eq!(
            looks(0.5, &[1.0, 0.5, 0.4, 0.5, 0.59, 0.6, 0.5, 0.4]),
            [false, false, true, true, true, false, false, true]
        );
        // Of which there is nothing above 1.
        assert_eq!(looks(1.0, &[0.9, 0.95, 1.0]), [true, true, false]);
        assert_eq!(looks(0.3, &[3.0 / 10.0, 0.1 + 0.2]), [false; 2]);
    }

    #[test]
    fn with_nobody_well_nothing_changes() {
        assert_eq!(
            looks(0.5, &[0.0, 0.4, 0.0, 0.9]),
            [false, true, true, false]
        );
    }

    #[test]
    fn nobody_looks_twice_in_a_moment() {
        let panic = Panic::default();
        let mut looks = 0;
        for ms in 0..100 {
            panic.look(0.5, Tick::from_ms(ms), || {
                looks += 1;
                1.0
            });
        }
        assert_eq!(looks, 10);
    }

    proptest! {
        /// One that comes and goes near the threshold makes no more than one change.
        #[test]
        fn a_flap_within_the_margin_changes_once(
            threshold in 0.05..0.85f64, offsets in proptest::collection::vec(-0.04..0.04f64, 1..100),
        ) {
            let shares: Vec<f64> = offsets.iter().map(|offset| threshold + offset).collect();
            let states = looks(threshold, &shares);
            prop_assert!(states.windows(2).filter(|pair| pair[0] != pair[1]).count() <= 1);
        }
    }
}
