//! Draws by weight, in O(log n).

use super::candidates::Candidates;
use crate::lb::rng::Rng;

/// Cumulative weights of a tier.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// The sum of the weights up to and including each member.
    ends: Vec<u64>,
}

impl Weights {
    pub(super) fn new(weights: impl Iterator<Item = u16>) -> Self {
        let mut sum = 0;
        let ends = weights
            .map(|weight| {
                sum += u64::from(weight);
                sum
            })
            .collect();
        Self { ends }
    }

    pub(super) fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Who owns `point` of `0..total`.
    pub(super) fn owner(&self, point: u64) -> usize {
        self.ends.partition_point(|&end| end <= point)
    }

    /// The points that `nth` owns.
    pub(super) fn points(&self, nth: usize) -> std::ops::Range<u64> {
        let start = nth.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[nth]
    }

    /// Draws an eligible member by weight.
    pub(super) fn choose(&self, candidates: &Candidates<'_>, rng: &mut Rng) -> Option<usize> {
        if self.total() == 0 {
            return None;
        }
        for _ in 0..DRAWS {
            let nth = self.owner(rng.below(self.total()));
            if candidates.is_eligible(nth) {
                return Some(nth);
            }
        }
        choose_by_scan(candidates, rng)
    }
}

/// Draws by weight among those that are eligible, looking at everybody (reservoir sampling).
fn choose_by_scan(candidates: &Candidates<'_>, rng: &mut Rng) -> Option<usize> {
    let mut sum = 0;
    let mut chosen = None;
    for nth in candidates.eligible_from(0) {
        let weight = u64::from(candidates.member(nth).weight);
        sum += weight;
        if rng.below(sum) < weight {
            chosen = Some(nth);
        }
    }
    chosen
}

/// Draws before everybody is looked at: with half of the weight gone one in 256 gets there.
const DRAWS: usize = 8;
