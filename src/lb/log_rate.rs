//! How often a line may be logged: a flood must not fill a disk or slow the packet path.

use std::time::Duration;

use super::time::Tick;

/// Allows so many lines in each window of time and counts the others.
#[derive(Clone, Debug)]
pub struct LogRate {
    lines: u32,
    window: Duration,
    since: Tick,
    printed: u32,
    suppressed: u64,
}

/// Whether to log a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// Log it, and say that so many like it were not.
    Print {
        /// Lines dropped since the last one that was printed.
        suppressed: u64,
    },
    /// Drop it.
    Drop,
}

impl LogRate {
    /// At most `lines` lines in every `window`.
    pub const fn new(lines: u32, window: Duration) -> Self {
        Self {
            lines,
            window,
            since: Tick::ZERO,
            printed: 0,
            suppressed: 0,
        }
    }

    /// Asks for one line at `now`.
    pub fn admit(&mut self, now: Tick) -> Admit {
        if now.since(self.since) >= self.window {
            self.since = now;
            self.printed = 0;
        }
        if self.printed >= self.lines {
            self.suppressed += 1;
            return Admit::Drop;
        }
        self.printed += 1;
        Admit::Print {
            suppressed: std::mem::take(&mut self.suppressed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_the_rate_are_counted_and_told() {
        let mut rate = LogRate::new(2, Duration::from_secs(1));
        let at = |ms: u64| Tick::from_ms(5_000 + ms);
        assert_eq!(rate.admit(at(0)), Admit::Print { suppressed: 0 });
        assert_eq!(rate.admit(at(1)), Admit::Print { suppressed: 0 });
        assert_eq!(rate.admit(at(2)), Admit::Drop);
        assert_eq!(rate.admit(at(999)), Admit::Drop);
        assert_eq!(rate.admit(at(1_000)), Admit::Print { suppressed: 2 });
        assert_eq!(rate.admit(at(1_001)), Admit::Print { suppressed: 0 });
    }
}
