//! Clients that stay on the backend that they were on before, by a key of theirs. Locked for a moment
//! when a backend is chosen, in pools with such a key only.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::plan;
use crate::lb::admission::sticky::{Limits, Table};
use crate::lb::backend::BackendState;
use crate::lb::balance::key::{self, KeyPart};
use crate::lb::balance::pick::{Balancer, Client, Picked, Refusal};
use crate::lb::rng::Rng;
use crate::lb::time::Tick;

/// What a pool remembers of its clients; keyed by the pool's name, so it outlives every reload.
#[derive(Debug)]
pub struct Sticky {
    parts: Vec<KeyPart>,
    /// Nobody outside can choose keys that meet.
    seed: u64,
    table: Mutex<Table<Arc<BackendState>>>,
}

impl Sticky {
    /// Nothing is remembered yet.
    pub fn new(plan: &plan::Sticky) -> Self {
        Self {
            parts: plan.key.clone(),
            seed: RandomState::new().hash_one(0),
            table: Mutex::new(Table::new(limits(plan))),
        }
    }

    /// Goes on with these settings, unless they ask for another key: false.
    pub fn follow(&self, plan: &plan::Sticky, now: Tick) -> bool {
        let is_same = self.parts == plan.key;
        if is_same {
            self.table().limit(limits(plan), now);
        }
        is_same
    }

    /// The backend that `client` was on before, or else the one that the balance chooses, where it stays
    /// from now on.
    pub(super) fn pick(
        &self,
        balancer: &Balancer,
        client: &Client,
        tried: &[u16],
        now: Tick,
        rng: &mut Rng,
    ) -> Result<Picked, Refusal> {
        let Some(key) = self.key(client) else {
            return balancer.pick(client, tried, now, rng);
        };
        let before = self.table().member(key, now);
        let again = |backend| balancer.take_again(&backend, tried, now);
        if let Some(picked) = before.and_then(again) {
            return Ok(picked);
        }
        let picked = balancer.pick(client, tried, now, rng)?;
        let backend = Arc::clone(picked.lease.backend());
        self.table().remember(key, backend, now);
        Ok(picked)
    }

    /// The place of the backend that `client` would be given again, in no way used by this.
    pub fn place(&self, balancer: &Balancer, client: &Client, now: Tick) -> Option<u16> {
        let before = self.table().look_up(self.key(client)?, now).cloned()?;
        balancer.would_take_again(&before, &[], now)
    }

    /// What `client` is known by; `None` = it has not said that.
    fn key(&self, client: &Client) -> Option<u64> {
        let digest = client.digests.sticky;
        let is_unknown = digest.is_none() && key::said(&self.parts).next().is_some();
        (!is_unknown).then(|| key::hash_with(self.seed, &self.parts, digest, client))
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<BackendState>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn limits(plan: &plan::Sticky) -> Limits {
    Limits {
        ttl: plan.ttl,
        entries: plan.max_entries as usize,
    }
}
