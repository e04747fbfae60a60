//! Fewest open sessions per weight; equals take turns. O(n): it looks at everybody, once.

use std::cmp::Ordering;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::candidates::Candidates;

/// Where the next look starts, so that equals take turns, across workers too.
#[derive(Debug, Default)]
pub(super) struct Rotation(AtomicUsize);

impl Rotation {
    pub(super) fn choose(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let start = self.0.fetch_add(1, Relaxed) % candidates.tier.len().max(1);
        // `min_by` keeps the first of equals, which the rotation moves on.
        candidates
            .eligible_from(start)
            .min_by(|&a, &b| by_load(candidates, a, b))
    }
}

/// Compares open / weight exactly, by cross-multiplication.
pub(super) fn by_load(candidates: &Candidates<'_>, a: usize, b: usize) -> Ordering {
    let (a, b) = (candidates.member(a), candidates.member(b));
    let left = u64::from(a.state.open()) * u64::from(b.weight);
    let right = u64::from(b.state.open()) * u64::from(a.weight);
    left.cmp(&right)
}
