//! Counting what sessions and flows move while they are open: a stream may last for a day.
//!
//! Counters are shared by all workers, so a chunk does not touch them. Whoever moves bytes is noted,
//! once, and some time later what it has moved since is added to the counters, all at once. That
//! costs a look at a flag per chunk, and 8 bytes and two or four atomic additions per second for each
//! that moves something: less than a thousandth of what a system call costs, times those.

use std::time::Duration;

use crate::lb::time::Tick;

/// Who has moved something since that was last added to the counters, by the name of its deadline.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Each at most once.
    noted: Vec<u64>,
    /// Those whose turn it is.
    due: Vec<u64>,
    next: Tick,
}

impl Tally {
    /// Notes somebody who is not noted.
    #[inline(always)]
    pub(super) fn note(&mut self, id: u64) {
        self.noted.push(id);
    }

    /// One who is to be counted in this turn, of whom `nth` were before. Who has ended is among them.
    pub(super) fn take(&mut self, nth: usize, now: Tick) -> Option<u64> {
        if self.due.is_empty() && self.next <= now && !self.noted.is_empty() {
            self.next = now.after(EVERY);
            std::mem::swap(&mut self.due, &mut self.noted);
        }
        if nth == COUNTED_PER_TURN {
            return None;
        }
        self.due.pop()
    }

    /// Whether some have not had their turn.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }
}

/// How often is counted. A worker turns once a second whatever happens, so a counter is late by two.
const EVERY: Duration = Duration::from_secs(1);

/// Sessions or flows counted in a turn, so that many of them keep nobody waiting: some 20 us.
const COUNTED_PER_TURN: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(tally: &mut Tally, now: Tick) -> Vec<u64> {
        let mut taken = Vec::new();
        while let Some(id) = tally.take(taken.len(), now) {
            taken.push(id);
        }
        taken
    }

    #[test]
    fn everybody_has_a_turn_once_a_second_and_few_in_each() {
        let mut tally = Tally::default();
        let many = COUNTED_PER_TURN as u64 * 5 / 2;
        (0..many).for_each(|id| tally.note(id));
        let at = Tick::from_ms;
        let mut taken = Vec::new();
        for _ in 0..3 {
            assert_eq!(taken.is_empty(), !tally.has_due());
            taken.extend(turn(&mut tally, at(5)));
            tally.note(many); // who moves while others are counted waits for the next time
        }
        taken.sort_unstable();
        assert_eq!(taken, (0..many).collect::<Vec<_>>());
        assert!(!tally.has_due());
        assert!(turn(&mut tally, at(1_004)).is_empty());
        assert_eq!(turn(&mut tally, at(1_005)), [many; 3]);
        assert!(turn(&mut tally, at(9_000)).is_empty());
    }
}
