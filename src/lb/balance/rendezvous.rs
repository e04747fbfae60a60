//! Weighted rendezvous hashing (Thaler and Ravishankar 1998; weights after Schindelhauer and
//! Schomaker 2005): the highest score wins, and a member's score depends on nobody else, so a member
//! that goes moves only its own keys. O(n).

use super::candidates::Candidates;
use super::key::name_hash;
use crate::lb::rng::Rng;

/// The hashed names of a tier's members.
#[derive(Debug)]
pub(super) struct Names(Vec<u64>);

impl Names {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self(names.map(name_hash).collect())
    }

    /// The best eligible member for `key` for which `accepts` holds.
    pub(super) fn choose(
        &self,
        key: u64,
        candidates: &Candidates<'_>,
        accepts: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let score = |nth: usize| score(key, self.0[nth], candidates.member(nth).weight);
        candidates
            .eligible_from(0)
            .filter(|&nth| accepts(nth))
            .max_by(|&a, &b| {
                score(a)
                    .total_cmp(&score(b))
                    .then(self.0[a].cmp(&self.0[b]))
            })
    }
}

/// −weight / ln(u) for a u in (0, 1) that key and name determine.
fn score(key: u64, name: u64, weight: u16) -> f64 {
    let u = Rng::new(key ^ name).unit().max(f64::MIN_POSITIVE);
    -f64::from(weight) / u.ln()
}
