//! Smooth weighted round robin, exact across workers.
//!
//! One shared counter. In a cycle of W = Σ weights (divided by their greatest common divisor) the
//! counter's p-th value stands for the point p × step mod W, and the point for the member that owns
//! it. A step that has no divisor in common with W visits every point once a cycle, so the shares are
//! exact; a step near the golden section of W spreads each member's points evenly over the cycle
//! (the three-distance theorem, Sós 1958). That is as smooth as a schedule worked out in advance,
//! needs no table, and takes any weights in O(log n).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::candidates::Candidates;
use super::random::Weights;

/// The position of a tier in its cycle.
#[derive(Debug)]
pub(super) struct RoundRobin {
    position: AtomicU64,
    weights: Weights,
    step: u64,
}

impl RoundRobin {
    pub(super) fn new(weights: &[u16]) -> Self {
        let divisor = weights
            .iter()
            .copied()
            .fold(0, |a, b| gcd(a, u64::from(b)))
            .max(1);
        let divided = weights.iter().map(|&weight| {
            u16::try_from(u64::from(weight) / divisor).expect("a quotient is no larger")
        });
        let weights = Weights::new(divided);
        let step = golden_step(weights.total());
        Self {
            position: AtomicU64::new(0),
            weights,
            step,
        }
    }

    /// As it is now; it moves on by itself.
    pub(super) fn copy(&self) -> Self {
        Self {
            position: AtomicU64::new(self.position.load(Relaxed)),
            weights: self.weights.clone(),
            step: self.step,
        }
    }

    pub(super) fn choose(&self, candidates: &Candidates<'_>) -> Option<usize> {
        let total = self.weights.total();
        if total == 0 {
            return None;
        }
        let mut nth = 0;
        for _ in 0..STEPS {
            let position = self.position.fetch_add(1, Relaxed) % total;
            // Both factors are below 65,535 members × 65,535, so the product fits.
            nth = self.weights.owner(position * self.step % total);
            if candidates.is_eligible(nth) {
                return Some(nth);
            }
        }
        // Most of the weight is down or full: take the next that is not.
        candidates.eligible_from(nth).next()
    }
}

/// The number nearest to the golden section of `total` that has no divisor in common with it.
fn golden_step(total: u64) -> u64 {
    // 0.618 to seven digits, in integers.
    let golden = total * 6_180_340 / 10_000_000;
    (0..=total)
        .flat_map(|off| [golden.saturating_sub(off), golden + off])
        .find(|&step| step > 0 && gcd(step, total) == 1)
        .unwrap_or(1)
}

const fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Positions that are tried before everybody is looked at.
const STEPS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_gives_each_member_its_weight_and_no_long_run() {
        for weights in [
            &[1, 2][..],
            &[5, 1, 1],
            &[3, 2],
            &[1; 7],
            &[100, 100],
            &[65_535, 1],
        ] {
            let robin = RoundRobin::new(weights);
            let total = robin.weights.total();
            let mut counts = vec![0u64; weights.len()];
            for position in 0..total {
                counts[robin.weights.owner(position * robin.step % total)] += 1;
            }
            let divisor = u64::from(weights[0]) / counts[0];
            for (count, weight) in counts.iter().zip(weights) {
                assert_eq!(count * divisor, u64::from(*weight), "{weights:?}");
            }
        }
    }

    #[test]
    fn the_step_visits_every_point() {
        for total in 1..2_000 {
            assert_eq!(gcd(golden_step(total), total), 1, "{total}");
        }
    }
}
