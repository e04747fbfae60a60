//! How many of something may begin in a second: a token bucket that holds one second's worth.

use std::time::Duration;

use crate::lb::time::Tick;

/// A bucket of tokens, one for each thing that begins.
#[derive(Clone, Debug)]
pub struct Rate {
    per_second: u32,
    /// In thousandths, so that a tick of a millisecond adds a whole number.
    tokens: u64,
    filled: Tick,
}

impl Rate {
    /// A full bucket; 0 = no limit.
    pub fn new(per_second: u32, now: Tick) -> Self {
        Self {
            per_second,
            tokens: u64::from(per_second) * TOKEN,
            filled: now,
        }
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Tick) -> bool {
        if self.per_second == 0 {
            return true;
        }
        let passed = now
            .since(self.filled)
            .min(Duration::from_secs(1))
            .as_millis();
        self.filled = now;
        let per_second = u64::from(self.per_second);
        let gained = u64::try_from(passed).unwrap_or(u64::MAX) * per_second;
        self.tokens = (self.tokens + gained).min(per_second * TOKEN);
        let has_one = self.tokens >= TOKEN;
        if has_one {
            self.tokens -= TOKEN;
        }
        has_one
    }
}

/// A token, in the unit of the bucket.
const TOKEN: u64 = 1000;

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
        /// always asked. (A bucket of one token overflows by what comes beyond it within a step.)
        #[test]
        fn keeps_to_its_rate(
            per_second in 2..2_000u32,
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
