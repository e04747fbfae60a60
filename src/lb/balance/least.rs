//! Fewest open sessions per weight; equals take turns. O(n): it looks at everybody, once.

use std::cmp::Ordering;
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
    // `min_by` keeps the first of equals, which the rotation moves on.
    candidates
        .eligible_from(start)
        .filter(|&nth| is_free(nth))
        .min_by(|&a, &b| by_load(candidates, a, b))
}

/// Compares open / weight exactly, by cross-multiplication.
pub(super) fn by_load(candidates: &Candidates<'_>, a: usize, b: usize) -> Ordering {
    let open = |nth: usize| u64::from(candidates.member(nth).state.open());
    let left = open(a) * u64::from(candidates.weight(b));
    let right = open(b) * u64::from(candidates.weight(a));
    left.cmp(&right)
}
