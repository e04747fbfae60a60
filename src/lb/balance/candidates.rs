//! The members an algorithm may choose from, as they stand now.

use super::pick::Member;
use crate::lb::time::Tick;

/// Who counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standard {
    /// Who is up and not ejected.
    Well,
    /// Who is up, ejected or not: nobody is well.
    Up,
    /// Everybody: nobody is up.
    Any,
}

/// A tier's members and what speaks against each for this client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidates<'a> {
    /// All members of the pool.
    pub(super) members: &'a [Member],
    /// Places of the tier's members; all have a weight.
    pub(super) tier: &'a [u16],
    /// Places of members that failed for this client.
    pub(super) tried: &'a [u16],
    pub(super) standard: Standard,
    pub(super) now: Tick,
}

impl Candidates<'_> {
    /// The `nth` member of the tier.
    pub(super) fn member(&self, nth: usize) -> &Member {
        &self.members[usize::from(self.tier[nth])]
    }

    /// Whether the `nth` member may take sessions at all.
    pub(super) fn is_available(&self, nth: usize) -> bool {
        let state = &self.member(nth).state;
        match self.standard {
            Standard::Well => state.is_up() && !state.traffic.is_ejected(self.now),
            Standard::Up => state.is_up(),
            Standard::Any => true,
        }
    }

    /// Whether the `nth` member can take this client now.
    pub(super) fn is_eligible(&self, nth: usize) -> bool {
        self.is_available(nth) && !self.is_tried(nth) && !self.is_full(nth)
    }

    pub(super) fn is_tried(&self, nth: usize) -> bool {
        self.tried.contains(&self.tier[nth])
    }

    /// The eligible members, from the one after `start` round to it.
    pub(super) fn eligible_from(&self, start: usize) -> impl Iterator<Item = usize> + '_ {
        let count = self.tier.len();
        (0..count)
            .map(move |step| (start + step) % count)
            .filter(|&nth| self.is_eligible(nth))
    }

    fn is_full(&self, nth: usize) -> bool {
        let member = self.member(nth);
        member.max_connections != 0 && member.state.open() >= member.max_connections
    }
}
