//! How much is asked of a pool: what is busy and who waits.

use std::collections::VecDeque;
use std::time::Duration;

use crate::lb::time::Tick;

/// What is asked of a pool at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Sessions that are busy, over all instances.
    pub busy: u32,
    /// Clients that wait for a slot.
    pub queued: u32,
}

impl Asked {
    const fn all(self) -> u32 {
        self.busy.saturating_add(self.queued)
    }
}

/// What has been asked of late.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// The most since the last look: what comes and goes between two looks counts too.
    most: u32,
    /// The most of each look, for [`WINDOW`].
    recent: VecDeque<(Tick, u32)>,
}

impl Demand {
    /// Takes in what is asked now; as often as that changes, or as one likes to.
    pub fn observe(&mut self, asked: Asked) {
        self.most = self.most.max(asked.all());
    }

    /// What is to be provided for: all that was asked since the last look as long as somebody waits,
    /// otherwise the mean of late, so that a moment's peak that everybody got through starts nothing.
    pub fn look(&mut self, asked: Asked, now: Tick) -> f64 {
        self.observe(asked);
        let most = std::mem::replace(&mut self.most, asked.all());
        self.recent.push_back((now, most));
        while let Some(&(at, _)) = self.recent.front()
            && (now.since(at) >= WINDOW || self.recent.len() > LOOKS_MAX)
        {
            self.recent.pop_front();
        }
        if asked.queued > 0 {
            return f64::from(most);
        }
        let sum: f64 = self.recent.iter().map(|&(_, most)| f64::from(most)).sum();
        sum / self.recent.len().max(1) as f64
    }
}

/// What counts as of late.
const WINDOW: Duration = Duration::from_secs(10);

/// Looks that are remembered, however often one looks.
const LOOKS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(busy: u32, queued: u32) -> Asked {
        Asked { busy, queued }
    }

    fn second(number: u64) -> Tick {
        Tick::from_ms(1_000 * number)
    }

    #[test]
    fn what_comes_and_goes_between_two_looks_counts() {
        let mut demand = Demand::default();
        demand.observe(asked(7, 2));
        assert!((demand.look(asked(0, 0), second(1)) - 9.0).abs() < 1e-9);
        assert!((demand.look(asked(0, 0), second(2)) - 4.5).abs() < 1e-9);
    }

    #[test]
    fn who_waits_counts_at_once_and_a_peak_by_its_mean() {
        let mut demand = Demand::default();
        for number in 0..20 {
            assert!(demand.look(asked(0, 0), second(number)) < 1e-9);
        }
        let mean = demand.look(asked(40, 0), second(20));
        assert!((mean - 4.0).abs() < 1e-9, "{mean}");
        assert!((demand.look(asked(40, 1), second(21)) - 41.0).abs() < 1e-9);
        let later = demand.look(asked(1, 0), second(60));
        assert!(
            (later - 41.0).abs() < 1e-9,
            "{later}: the most since the last look"
        );
        let later = demand.look(asked(1, 0), second(80));
        assert!((later - 1.0).abs() < 1e-9, "{later}");
    }
}
