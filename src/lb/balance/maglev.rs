//! Maglev hashing (Eisenbud et al., NSDI 2016): one load from a table that gives each member its
//! share to within a percent and moves few other keys when a member comes or goes.
//!
//! The table depends on names and weights only, not on the order of the file, and is built when they
//! change: milliseconds, never on a worker. Whoever is down, full or over its bound is skipped by
//! going on in the table, so a flap moves only the flapping member's keys, and back.

use super::candidates::Candidates;
use super::key::name_hash;
use super::rendezvous::Names;
use crate::lb::rng::Rng;

/// A tier's table.
#[derive(Debug)]
pub(super) struct Maglev {
    /// The owner of each slot, as a place in the tier; empty for an empty tier.
    slots: Vec<u16>,
    names: Names,
}

impl Maglev {
    /// The table for members of these names and weights; weights are not 0.
    pub(super) fn new(names: &[&str], weights: &[u16]) -> Self {
        Self {
            slots: fill(names, weights),
            names: Names::new(names.iter().copied()),
        }
    }

    /// The owner of each slot.
    #[cfg(test)]
    pub(super) fn slots(&self) -> &[u16] {
        &self.slots
    }

    /// The member for `key`: the owner of its slot, or of the first slot after it whose owner is
    /// eligible and accepted. If a run of owners is not, rendezvous decides among the others, so
    /// that the time is bounded however many are down.
    pub(super) fn choose(
        &self,
        key: u64,
        candidates: &Candidates<'_>,
        accepts: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let count = self.slots.len() as u64;
        if count == 0 {
            return None;
        }
        for step in 0..SLOTS_TRIED {
            let slot = usize::try_from((key % count + step) % count).expect("below a usize");
            let nth = usize::from(self.slots[slot]);
            if candidates.is_eligible(nth) && accepts(nth) {
                return Some(nth);
            }
        }
        self.names.choose(key, candidates, accepts)
    }
}

/// A member's turn in filling the table: its own permutation of the slots.
struct Turn {
    owner: u16,
    weight: u64,
    /// Weight gathered and not yet spent on a slot.
    credit: u64,
    next: u64,
    skip: u64,
}

/// Fills the table: in each round every member gathers its weight, and takes the next free slot of
/// its permutation when that makes the greatest weight (error diffusion).
fn fill(names: &[&str], weights: &[u16]) -> Vec<u16> {
    let count = size(names.len());
    let most = weights.iter().copied().max().map_or(0, u64::from);
    if most == 0 {
        return Vec::new();
    }
    let mut turns: Vec<Turn> = (0u16..)
        .zip(names.iter().zip(weights))
        .map(|(owner, (name, &weight))| {
            let mut random = Rng::new(name_hash(name));
            let next = random.below(count);
            let skip = 1 + random.below(count - 1);
            Turn {
                owner,
                weight: u64::from(weight),
                credit: 0,
                next,
                skip,
            }
        })
        .collect();
    turns.sort_by_key(|turn| names[usize::from(turn.owner)]);
    let mut slots = vec![FREE; usize::try_from(count).expect("a table fits in memory")];
    let mut left = slots.len();
    loop {
        for turn in &mut turns {
            turn.credit += turn.weight;
            if turn.credit < most {
                continue;
            }
            turn.credit -= most;
            // The size is prime, so the permutation comes to every slot.
            while slots[usize::try_from(turn.next).expect("below the size")] != FREE {
                turn.next = (turn.next + turn.skip) % count;
            }
            slots[usize::try_from(turn.next).expect("below the size")] = turn.owner;
            left -= 1;
            if left == 0 {
                return slots;
            }
        }
    }
}

/// Slots for so many members: a prime at least a hundred times their number, which bounds the
/// imbalance to a percent, as long as that stays within 2 MiB.
fn size(members: usize) -> u64 {
    SIZES
        .into_iter()
        .find(|&size| size >= 100 * members as u64)
        .unwrap_or(SIZES[SIZES.len() - 1])
}

/// Primes; the first carries 655 members, the last 10,485 at a percent and more at less.
const SIZES: [u64; 3] = [65_537, 262_147, 1_048_583];

/// Slots looked at before everybody is.
const SLOTS_TRIED: u64 = 64;

/// No member has this place: a pool has fewer.
const FREE: u16 = u16::MAX;
