//! Fewest open sessions per weight; equals take turns. O(n): it looks at everybody, once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::candidates::Candidates;
use crate::lb::health::slow_start::Pace;

/// Where the next look starts, so that equals take turns, across workers too.
#[derive(Debug)]
pub(super) struct Rotation {
    choices: AtomicU64,
    /// Of each member, for when it has come back.
    paces: Vec<Pace>,
}

impl Rotation {
    pub(super) fn new(count: usize) -> Self {
        Self {
            choices: AtomicU64::new(0),
            paces: (0..count).map(|_| Pace::default()).collect(),
        }
    }

    pub(super) fn choose(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let choice = self.choices.fetch_add(1, Relaxed);
        let start =
            usize::try_from(choice % self.paces.len().max(1) as u64).expect("below a usize");
        if candidates.slow_start.is_zero() {
            return least(candidates, start, |_| true);
        }
        let is_free = |nth: usize| !candidates.catches_up(nth) || self.paces[nth].is_free(choice);
        let Some(chosen) = least(candidates, start, is_free) else {
            return least(candidates, start, |_| true);
        };
        if candidates.catches_up(chosen) {
            let (own, all) = (candidates.weight(chosen), candidates.weight_available());
            if !self.paces[chosen].take(choice, own, all) {
                // Another worker has chosen it in this moment.
                return least(candidates, start, |nth| !candidates.catches_up(nth))
                    .or(Some(chosen));
            }
            return Some(chosen);
        }
        let is_waiting = |&nth: &usize| candidates.catches_up(nth) && is_free(nth);
        candidates
            .eligible_from(start)
            .filter(is_waiting)
            .for_each(|nth| candidates.has_caught_up(nth));
        Some(chosen)
    }
}

fn least(
    candidates: &Candidates<'_>,
    start: usize,
    is_free: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, Load)> = None;
    for nth in candidates.eligible_from(start).filter(|&nth| is_free(nth)) {
        let load = Load::of(candidates, nth);
        // The first of equals stays, which the rotation moves on.
        if best.is_none_or(|(_, least)| load.is_below(least)) {
            best = Some((nth, load));
        }
    }
    best.map(|(nth, _)| nth)
}

/// What a member has open, for its weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    open: u32,
    weight: u32,
}

impl Load {
    #[inline(always)]
    pub(super) fn of(candidates: &Candidates<'_>, nth: usize) -> Self {
        Self {
            open: candidates.member(nth).state.open(),
            weight: candidates.weight(nth),
        }
    }

    /// Compares open / weight exactly, by cross-multiplication.
    pub(super) fn is_below(self, other: Self) -> bool {
        u64::from(self.open) * u64::from(other.weight)
            < u64::from(other.open) * u64::from(self.weight)
    }
}
