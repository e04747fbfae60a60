//! How many of something may begin in a time, and as many at once after a pause.

use crate::lb::time::Tick;

/// A bucket of tokens, told by when it will be full again (the generic cell rate algorithm of ITU-T
/// I.371). A token comes in each `interval`, `burst` of them fill it, and what has come of the next one
/// stays in it: a bucket of one token would lose that whenever it is asked late.
///
/// Takes a token at `now` from a bucket that is full at `full`: when it is full after that, or `None` if
/// there is no token. All four are of one unit, whichever it is.
pub fn take(full: u128, now: u128, interval: u128, burst: u32) -> Option<u128> {
    let full = full.max((now + 1).saturating_sub(interval)) + interval;
    (full.saturating_sub(now) <= interval * u128::from(burst)).then_some(full)
}

/// So many in a second.
#[derive(Clone, Debug)]
pub struct Rate {
    per_second: u32,
    /// In the part of a millisecond in which a thousandth of a token comes.
    full: u128,
}

impl Rate {
    /// A full bucket of one second's worth; 0 = no limit.
    pub fn new(per_second: u32, now: Tick) -> Self {
        Self {
            per_second,
            full: u128::from(now.as_ms()) * u128::from(per_second),
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Tick) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let now = u128::from(now.as_ms()) * u128::from(self.per_second);
        let taken = take(self.full, now, TOKEN, self.per_second);
        self.full = taken.unwrap_or(self.full);
        taken.is_some()
    }
}

/// A token, in the unit of [`Rate`].
const TOKEN: u128 = 1000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_limit_is_no_limit() {
        let mut rate = Rate::new(0, Tick::ZERO);
        assert!((0..10_000).all(|_| rate.take(Tick::ZERO)));
    }

    proptest! {
        /// In any time at most a full bucket and what flowed in meanwhile; never less than that when
        /// always asked.
        #[test]
        fn keeps_to_its_rate(
            per_second in 1..2_000u32,
            steps in proptest::collection::vec(0..50u64, 1..500),
        ) {
            let mut rate = Rate::new(per_second, Tick::ZERO);
            let (mut now, mut taken) = (0, 0u64);
            for step in std::iter::once(0).chain(steps) {
                now += step;
                while rate.take(Tick::from_ms(now)) {
                    taken += 1;
                }
                let most = u64::from(per_second) + now * u64::from(per_second) / 1000;
                prop_assert!(taken == most, "{taken} of {most} at {now} ms");
            }
        }
    }
}
