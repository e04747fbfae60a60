//! A client that has been on a backend before.

use std::sync::Arc;

use super::{Balancer, Picked, reserve};
use crate::lb::backend::BackendState;
use crate::lb::balance::bounded::bound;
use crate::lb::balance::candidates::Candidates;
use crate::lb::time::Tick;

impl Balancer {
    /// Reserves a slot on `backend`, unless a client is better off elsewhere now: it is not well, failed
    /// for this client, drains (weight 0), is full, has more than its bound of load, or is a backup
    /// although a primary is well.
    pub fn take_again(
        &self,
        backend: &Arc<BackendState>,
        tried: &[u16],
        now: Tick,
    ) -> Option<Picked> {
        let (candidates, nth) = self.again(backend, tried, now)?;
        reserve(&candidates, nth)
    }

    /// The place of the member that [`Balancer::take_again`] would take.
    pub fn would_take_again(
        &self,
        backend: &Arc<BackendState>,
        tried: &[u16],
        now: Tick,
    ) -> Option<u16> {
        let (candidates, nth) = self.again(backend, tried, now)?;
        Some(candidates.tier[nth])
    }

    fn again<'a>(
        &'a self,
        backend: &Arc<BackendState>,
        tried: &'a [u16],
        now: Tick,
    ) -> Option<(Candidates<'a>, usize)> {
        let is_it = |place: &u16| Arc::ptr_eq(&self.members[usize::from(*place)].state, backend);
        let primary = self.primaries.members.iter().position(is_it);
        let backup = || self.backups.members.iter().position(is_it);
        let (tier, nth) = match primary {
            Some(nth) => (&self.primaries, nth),
            None if self.share_well(now) == 0.0 => (&self.backups, backup()?),
            None => return None,
        };
        let candidates = self.candidates(tier, tried, now);
        if !candidates.is_eligible(nth) {
            return None;
        }
        let factor = self.settings.load_factor;
        let is_within = factor <= 0.0 || bound(factor, &candidates)(nth);
        is_within.then_some((candidates, nth))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{client, equal, settings};
    use super::*;
    use crate::lb::balance::pick::Policy;
    use crate::lb::rng::Rng;

    fn again(balancer: &Balancer, place: usize, tried: &[u16]) -> Option<u16> {
        let state = Arc::clone(&balancer.members()[place].state);
        let picked = balancer.take_again(&state, tried, Tick::ZERO)?;
        Some(picked.index)
    }

    #[test]
    fn a_backend_is_taken_again_while_it_is_well() {
        let balancer = Balancer::new(settings(Policy::RoundRobin), equal(3));
        assert_eq!(again(&balancer, 2, &[]), Some(2));
        assert_eq!(again(&balancer, 2, &[2]), None, "it has failed");
        balancer.members()[2].state.set_up(false, Tick::ZERO);
        assert_eq!(again(&balancer, 2, &[]), None, "it is down");
        let stranger = Arc::new(BackendState::new("pool", "other", true));
        assert!(balancer.take_again(&stranger, &[], Tick::ZERO).is_none());
    }

    #[test]
    fn neither_a_full_nor_a_draining_one_is_taken_again() {
        let mut members = equal(2);
        members[0].max_connections = 1;
        members[1].weight = 0;
        let balancer = Balancer::new(settings(Policy::RoundRobin), members);
        let state = Arc::clone(&balancer.members()[0].state);
        let held = balancer.take_again(&state, &[], Tick::ZERO);
        assert!(held.is_some());
        assert_eq!(again(&balancer, 0, &[]), None);
        drop(held);
        assert_eq!(again(&balancer, 0, &[]), Some(0));
        assert_eq!(again(&balancer, 1, &[]), None);
    }

    #[test]
    fn a_backup_is_left_when_a_primary_is_back() {
        let mut members = equal(2);
        members[1].backup = true;
        let balancer = Balancer::new(settings(Policy::RoundRobin), members);
        assert_eq!(again(&balancer, 1, &[]), None);
        balancer.members()[0].state.set_up(false, Tick::ZERO);
        assert_eq!(again(&balancer, 1, &[]), Some(1));
    }

    #[test]
    fn the_bound_of_load_holds() {
        let mut settings = settings(Policy::Hash);
        settings.load_factor = 1.25;
        let balancer = Balancer::new(settings, equal(4));
        let state = Arc::clone(&balancer.members()[0].state);
        let mut rng = Rng::new(1);
        let mut held: Vec<_> = (0..40)
            .filter_map(|n| balancer.pick(&client(n), &[], Tick::ZERO, &mut rng).ok())
            .collect();
        while let Some(picked) = balancer.take_again(&state, &[], Tick::ZERO) {
            held.push(picked);
        }
        assert!(
            (10..=20).contains(&state.open()),
            "{} of {}",
            state.open(),
            held.len()
        );
    }
}
