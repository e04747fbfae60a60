//! What a choice would be for a client, and why it would not be any of the others: the very choice that
//! is made for clients, with nothing reserved and nothing moved on.

use super::{Algorithm, Balancer, Client, Refusal};
use crate::lb::balance::bounded::bound;
use crate::lb::balance::candidates::Candidates;
pub use crate::lb::balance::candidates::Objection;
use crate::lb::rng::Rng;
use crate::lb::time::Tick;

/// What a choice would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The place of the member, or why there is none.
    pub chosen: Result<u16, Refusal>,
    /// What there is to say of each member, in their order.
    pub members: Vec<Reason>,
}

/// Why a member is chosen or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is chosen.
    Chosen,
    /// It could be, and the balance is for another one.
    Other,
    /// It has no weight.
    Weightless,
    /// It is a backup, and there is no need of one; or all primaries are used, and no backup.
    NotNeeded,
    /// It has more than its bound of the load.
    OverBound,
    /// This speaks against it.
    Objection(Objection),
}

impl Balancer {
    /// What [`Balancer::pick`] would choose. `rng` is as good as any: where chance decides, so it does
    /// here.
    pub fn explain(&self, client: &Client, tried: &[u16], now: Tick, rng: &mut Rng) -> Explanation {
        let reason = |member: &super::Member| match member.weight {
            0 => Reason::Weightless,
            _ => Reason::NotNeeded,
        };
        let mut members: Vec<Reason> = self.members.iter().map(reason).collect();
        let chosen = self.look_for(client, tried, (now, rng), |candidates, chosen| {
            for (nth, &place) in candidates.tier.iter().enumerate() {
                members[usize::from(place)] = match self.objection(candidates, nth) {
                    _ if chosen == Some(nth) => Reason::Chosen,
                    None => Reason::Other,
                    Some(objection) => objection,
                };
            }
        });
        Explanation { chosen, members }
    }

    /// The same without the reasons.
    pub fn would_pick(&self, client: &Client, now: Tick, rng: &mut Rng) -> Result<u16, Refusal> {
        self.look_for(client, &[], (now, rng), |_, _| {})
    }

    /// Tells `note` of each choice on the way.
    fn look_for(
        &self,
        client: &Client,
        tried: &[u16],
        (now, rng): (Tick, &mut Rng),
        mut note: impl FnMut(&Candidates<'_>, Option<usize>),
    ) -> Result<u16, Refusal> {
        // Whose turn it is then is whose turn it was before.
        let copies = [&self.primaries, &self.backups].map(|tier| tier.algorithm.copy());
        self.decide(client, tried, (now, rng), |tier, candidates, key, rng| {
            let candidates = Candidates {
                is_aside: true,
                ..*candidates
            };
            let copy = &copies[usize::from(std::ptr::eq(tier, &raw const self.backups))];
            let algorithm = copy.as_ref().unwrap_or(&tier.algorithm);
            let chosen = algorithm.choose(self.settings.load_factor, &candidates, key, rng);
            note(&candidates, chosen);
            chosen.map(|nth| tier.members[nth])
        })
    }

    /// The same, for a client that stays where it has been before.
    pub fn explain_again(&self, place: u16) -> Explanation {
        let mut members = vec![Reason::Other; self.members.len()];
        members[usize::from(place)] = Reason::Chosen;
        Explanation {
            chosen: Ok(place),
            members,
        }
    }

    fn objection(&self, candidates: &Candidates<'_>, nth: usize) -> Option<Reason> {
        if let Some(objection) = candidates.objection(nth) {
            return Some(Reason::Objection(objection));
        }
        let factor = self.settings.load_factor;
        let is_bounded = self.settings.policy.is_by_hash() && factor > 0.0;
        (is_bounded && !bound(factor, candidates)(nth)).then_some(Reason::OverBound)
    }
}

impl Algorithm {
    /// One that moves on by itself, if this one moves on.
    fn copy(&self) -> Option<Self> {
        match self {
            Self::RoundRobin(robin) => Some(Self::RoundRobin(robin.copy())),
            Self::Least(measure, rotation) => Some(Self::Least(*measure, rotation.copy())),
            Self::Hash(_)
            | Self::Rendezvous(_)
            | Self::PowerOfTwo(_)
            | Self::Random(_)
            | Self::First => None,
        }
    }
}
