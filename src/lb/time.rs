//! The only time floor 0 knows: milliseconds since an epoch that its caller chose.

use std::time::Duration;

/// A point in time, in milliseconds since the process's own epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The epoch itself.
    pub const ZERO: Self = Self(0);

    /// The tick `ms` milliseconds after the epoch.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// This tick moved on by `duration`, rounded up to whole milliseconds and saturating: a
    /// time-out of u64::MAX is never reached rather than wrapped.
    pub fn after(self, duration: Duration) -> Self {
        let ms = duration.as_nanos().div_ceil(1_000_000);
        Self(self.0.saturating_add(u64::try_from(ms).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this tick; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_rounds_up_and_saturates() {
        assert_eq!(Tick::ZERO.after(Duration::from_micros(1)), Tick::from_ms(1));
        assert_eq!(Tick::from_ms(5).after(Duration::MAX).as_ms(), u64::MAX);
        assert_eq!(Tick::from_ms(5).since(Tick::from_ms(9)), Duration::ZERO);
    }
}
