//! The members an algorithm may choose from, as they stand now.

use std::time::Duration;

use super::pick::Member;
use crate::lb::backend::Counts;
use crate::lb::health::slow_start::{self, WHOLE};
use crate::lb::time::Tick;

/// Who counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standard {
    /// Who is up and not ejected.
    Well,
    /// Who is up, ejected or not: nobody is well.
    Up,
    /// Everybody: nobody is up. But an operator's word always holds.
    Any,
}

/// What speaks against a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// Its operator lets it take none.
    Ordered,
    /// Its health does not.
    Down,
    /// Traffic has failed on it.
    Ejected,
    /// It has failed for this client.
    Tried,
    /// It has as much as it may have now.
    Full,
    /// It has as much as it should have, and others have less.
    AboveCeiling,
    /// It has come back, and is passed over for this client until it has its whole share.
    ComesBack,
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
    /// How long a member takes to its whole share when it has come back; 0 = no time.
    pub(super) slow_start: Duration,
    /// Says which of the members that have come back are passed over; `None` = none.
    pub(super) ticket: Option<u64>,
    /// The one with less open is preferred, so that one that has come back gets twice its share.
    pub(super) compares: bool,
    /// What limits count.
    pub(super) counts: Counts,
    /// Members that have so much, or the part of it that they may have now, are passed over; 0 = none.
    pub(super) ceiling: u32,
    /// Nothing comes of the choice.
    pub(super) is_aside: bool,
}

impl Candidates<'_> {
    /// The `nth` member of the tier.
    #[inline(always)]
    pub(super) fn member(&self, nth: usize) -> &Member {
        &self.members[usize::from(self.tier[nth])]
    }

    /// Whether the `nth` member may take sessions at all.
    #[inline(always)]
    pub(super) fn is_available(&self, nth: usize) -> bool {
        self.absence(nth).is_none()
    }

    /// Whether the `nth` member can take this client now.
    #[inline(always)]
    pub(super) fn is_eligible(&self, nth: usize) -> bool {
        self.objection(nth).is_none()
    }

    /// Why the `nth` member may take no sessions at all; `None` = it may.
    #[inline(always)]
    fn absence(&self, nth: usize) -> Option<Objection> {
        let state = &self.member(nth).state;
        if !state.is_ready() {
            return Some(Objection::Ordered);
        }
        if self.standard != Standard::Any && !state.is_up() {
            return Some(Objection::Down);
        }
        let is_ejected = || state.traffic.is_ejected(self.now);
        (self.standard == Standard::Well && is_ejected()).then_some(Objection::Ejected)
    }

    /// What speaks against the `nth` member for this client; `None` = nothing.
    #[inline(always)]
    pub(super) fn objection(&self, nth: usize) -> Option<Objection> {
        if let Some(absence) = self.absence(nth) {
            Some(absence)
        } else if self.is_tried(nth) {
            Some(Objection::Tried)
        } else if !self.is_below(nth, self.member(nth).max_connections) {
            Some(Objection::Full)
        } else if !self.is_below(nth, self.ceiling) {
            Some(Objection::AboveCeiling)
        } else if !self.is_admitted(nth) {
            Some(Objection::ComesBack)
        } else {
            None
        }
    }

    #[inline(always)]
    pub(super) fn is_tried(&self, nth: usize) -> bool {
        self.tried.contains(&self.tier[nth])
    }

    /// The eligible members, from that at `start` round to the one before it.
    pub(super) fn eligible_from(&self, start: usize) -> impl Iterator<Item = usize> + '_ {
        (start..self.tier.len())
            .chain(0..start)
            .filter(|&nth| self.is_eligible(nth))
    }

    /// Whether the `nth` member has less than the part of this limit that it may have now.
    #[inline(always)]
    fn is_below(&self, nth: usize, limit: u32) -> bool {
        limit == 0 || self.load(nth) < slow_start::limit(limit, self.part(nth))
    }

    /// What the `nth` member has of what limits count.
    #[inline(always)]
    pub(super) fn load(&self, nth: usize) -> u32 {
        self.member(nth).state.load().counted(self.counts)
    }

    /// How many sessions the `nth` member may have open now; 0 = any number.
    #[inline(always)]
    pub(super) fn limit(&self, nth: usize) -> u32 {
        slow_start::limit(self.member(nth).max_connections, self.part(nth))
    }

    /// The weight of the `nth` member now, in thousandths.
    #[inline(always)]
    pub(super) fn weight(&self, nth: usize) -> u32 {
        u32::from(self.member(nth).weight) * self.part(nth)
    }

    /// The weight of all that are available.
    pub(super) fn weight_available(&self) -> u64 {
        let available = (0..self.tier.len()).filter(|&nth| self.is_available(nth));
        available.map(|nth| u64::from(self.weight(nth))).sum()
    }

    /// Whether the `nth` member has come back and has not had its share of sessions since then.
    #[inline(always)]
    pub(super) fn catches_up(&self, nth: usize) -> bool {
        !self.slow_start.is_zero() && self.member(nth).state.catches_up()
    }

    /// The `nth` member has no less open than another one; so it has caught up, once its share is whole.
    pub(super) fn has_caught_up(&self, nth: usize) {
        if !self.is_aside && self.part(nth) == WHOLE {
            self.member(nth).state.set_catches_up(false);
        }
    }

    /// The part of its share that the `nth` member gets now, in thousandths.
    #[inline(always)]
    fn part(&self, nth: usize) -> u32 {
        if self.slow_start.is_zero() {
            return WHOLE;
        }
        let since = self.member(nth).state.back_since(self.now);
        since.map_or(WHOLE, |since| {
            slow_start::part(self.slow_start, since, self.now)
        })
    }

    /// Whether the `nth` member is not passed over because it has come back.
    #[inline(always)]
    fn is_admitted(&self, nth: usize) -> bool {
        let Some(ticket) = self.ticket else {
            return true;
        };
        let mut part = self.part(nth);
        if self.compares && self.catches_up(nth) {
            part = part * 3 / 4; // one and a half times its share
        }
        slow_start::admits(part, ticket, self.tier[nth])
    }
}
