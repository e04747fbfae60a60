//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).

use super::candidates::Candidates;

/// Chooses by hash so that a member takes no more than `factor` times its fair share of what limits
/// count, the client at hand included. If all within the bound are full or tried, it gives way.
pub(super) fn bounded(
    factor: f64,
    candidates: &Candidates<'_>,
    choose: impl Fn(&dyn Fn(usize) -> bool) -> Option<usize>,
) -> Option<usize> {
    if factor <= 0.0 {
        return choose(&|_| true);
    }
    let is_within = bound(factor, candidates);
    choose(&is_within).or_else(|| choose(&|_| true))
}

/// Whether the `nth` member has less than its bound.
pub(super) fn bound(factor: f64, candidates: &Candidates<'_>) -> impl Fn(usize) -> bool {
    let (mut load, mut weight) = (1.0, 0.0);
    for nth in (0..candidates.tier.len()).filter(|&nth| candidates.is_available(nth)) {
        load += f64::from(candidates.load(nth));
        weight += f64::from(candidates.weight(nth));
    }
    move |nth: usize| {
        let bound = (factor * load * f64::from(candidates.weight(nth)) / weight).ceil();
        f64::from(candidates.load(nth)) + 1.0 <= bound
    }
}
