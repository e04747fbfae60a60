//! The least of something per weight; equals take turns. O(n): it looks at everybody, once.
//!
//! Everybody, and not two of them: in a pool of few, two that are drawn are often not the one that is
//! idle. A herd does not come of it, since whoever is chosen counts from then on, on all workers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::candidates::Candidates;
use super::pick::Member;
use crate::lb::health::slow_start::Pace;
use crate::lb::time::Tick;

/// What there is to be least of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// Open sessions.
    Open,
    /// Busy sessions, and among equals open ones.
    Busy,
    /// The time to the first byte times one more than is busy, and among equals open sessions. A
    /// backend that nothing is known of gets one at a time.
    Latency,
}

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

    /// As it is now; it moves on by itself.
    pub(super) fn copy(&self) -> Self {
        Self {
            choices: AtomicU64::new(self.choices.load(Relaxed)),
            paces: self.paces.iter().map(Pace::copy).collect(),
        }
    }

    pub(super) fn choose(&self, measure: Measure, candidates: &Candidates<'_>) -> Option<usize> {
        // Each has a loop of its own, without a question per member.
        match measure {
            Measure::Open => self.choose_by(candidates, |nth| Load::open(candidates, nth)),
            Measure::Busy => self.choose_by(candidates, |nth| Load::busy(candidates, nth)),
            Measure::Latency => self.choose_by(candidates, |nth| Load::latency(candidates, nth)),
        }
    }

    fn choose_by(
        &self,
        candidates: &Candidates<'_>,
        load: impl Fn(usize) -> Load,
    ) -> Option<usize> {
        let choice = self.choices.fetch_add(1, Relaxed);
        let start =
            usize::try_from(choice % self.paces.len().max(1) as u64).expect("below a usize");
        if candidates.slow_start.is_zero() {
            return least(candidates, start, &load, |_| true);
        }
        let is_free = |nth: usize| !candidates.catches_up(nth) || self.paces[nth].is_free(choice);
        let Some(chosen) = least(candidates, start, &load, is_free) else {
            return least(candidates, start, &load, |_| true);
        };
        if candidates.catches_up(chosen) {
            let (own, all) = (candidates.weight(chosen), candidates.weight_available());
            if !self.paces[chosen].take(choice, own, all) {
                // Another worker has chosen it in this moment.
                let is_settled = |nth| !candidates.catches_up(nth);
                return least(candidates, start, &load, is_settled).or(Some(chosen));
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

#[inline(always)]
fn least(
    candidates: &Candidates<'_>,
    start: usize,
    load: &impl Fn(usize) -> Load,
    is_free: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut best: Option<(usize, Load)> = None;
    for nth in candidates.eligible_from(start).filter(|&nth| is_free(nth)) {
        let load = load(nth);
        // The first of equals stays, which the rotation moves on.
        if best.is_none_or(|(_, least)| load.is_below(least)) {
            best = Some((nth, load));
        }
    }
    best.map(|(nth, _)| nth)
}

/// What a member has to do, for its weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    load: u64,
    tie: u32,
    weight: u32,
}

impl Load {
    #[inline(always)]
    pub(super) fn open(candidates: &Candidates<'_>, nth: usize) -> Self {
        Self {
            load: candidates.member(nth).state.open().into(),
            tie: 0,
            weight: candidates.weight(nth),
        }
    }

    #[inline(always)]
    fn busy(candidates: &Candidates<'_>, nth: usize) -> Self {
        let now = candidates.member(nth).state.load();
        Self {
            load: now.busy.into(),
            tie: now.open,
            weight: candidates.weight(nth),
        }
    }

    #[inline(always)]
    fn latency(candidates: &Candidates<'_>, nth: usize) -> Self {
        let member = candidates.member(nth);
        Self {
            load: latency(member, candidates.now),
            tie: member.state.open(),
            weight: candidates.weight(nth),
        }
    }

    /// Compares load / weight exactly, by cross-multiplication, and then the other number likewise.
    #[inline(always)]
    pub(super) fn is_below(self, other: Self) -> bool {
        let cross = |own: u64, weight: u32| u128::from(own) * u128::from(weight);
        let (own, its) = (
            cross(self.load, other.weight),
            cross(other.load, self.weight),
        );
        own < its || own == its && self.is_below_in_tie(other)
    }

    fn is_below_in_tie(self, other: Self) -> bool {
        u64::from(self.tie) * u64::from(other.weight)
            < u64::from(other.tie) * u64::from(self.weight)
    }
}

/// What a newcomer would have to wait for, in microseconds.
fn latency(member: &Member, now: Tick) -> u64 {
    let busy = u64::from(member.state.busy());
    match member.state.latency.average_us(now) {
        Some(average_us) => u64::from(average_us) * (busy + 1),
        None if busy == 0 => 0,
        // Somebody is there to see how long it takes.
        None => u64::from(u32::MAX) * (busy + 1),
    }
}
