//! The power of two choices (Mitzenmacher 2001): of two distinct members drawn by weight the one with
//! less open per weight. O(log n), and no herd runs to a backend that has just come up.

use super::candidates::Candidates;
use super::least::Load;
use super::random::Weights;
use crate::lb::rng::Rng;

pub(super) fn choose(
    weights: &Weights,
    candidates: &Candidates<'_>,
    rng: &mut Rng,
) -> Option<usize> {
    let first = weights.choose(candidates, rng)?;
    let own = weights.points(first);
    let others = weights.total() - (own.end - own.start);
    if others == 0 {
        return Some(first);
    }
    // The second is drawn from the points the first does not own, so no loop is needed.
    let mut point = rng.below(others);
    if point >= own.start {
        point += own.end - own.start;
    }
    let second = weights.owner(point);
    if !candidates.is_eligible(second) {
        return Some(first);
    }
    let load = |nth| Load::open(candidates, nth);
    let (chosen, other) = if load(second).is_below(load(first)) {
        (second, first)
    } else {
        (first, second)
    };
    if candidates.catches_up(other) && !candidates.catches_up(chosen) {
        candidates.has_caught_up(other);
    }
    Some(chosen)
}
