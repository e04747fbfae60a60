//! The one entry to balancing: a pool's members and a client in, a backend with a reserved slot out.

mod again;
mod explain;

pub use self::explain::{Explanation, Objection, Reason};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::bounded::bounded;
use super::candidates::{Candidates, Standard};
pub use super::client::Client;
use super::key::{self, KeyPart};
use super::least::{Measure, Rotation};
use super::maglev::Maglev;
pub use super::policy::Policy;
use super::random::Weights;
use super::rendezvous::Names;
use super::round_robin::RoundRobin;
use super::{first, power_of_two};
use crate::lb::admin::Admin;
use crate::lb::backend::{BackendState, Counts, Lease};
use crate::lb::health::outlier::{self, Ejection};
use crate::lb::health::panic::{Change, Panic};
use crate::lb::rng::Rng;
use crate::lb::time::Tick;

/// How a pool chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The algorithm.
    pub policy: Policy,
    /// What `Hash` and `Rendezvous` hash over; never empty.
    pub hash_key: Vec<KeyPart>,
    /// Bound on a backend's load as a multiple of its fair share, for the hashes; 0 = none.
    pub load_factor: f64,
    /// With every backend down, use them all rather than refuse.
    pub fail_open: bool,
    /// The share of the primaries' weight that must be well, or all of them are used; 0 = none.
    pub panic_threshold: f64,
    /// What limits count, and the bound of load.
    pub counts: Counts,
    /// Backends that have less than this are preferred to those that have more; 0 = no such thing.
    pub soft_connections: u32,
    /// How long a backend that has come back takes to its whole share and limit; 0 = no time.
    pub slow_start: Duration,
    /// When a backend is ejected on which traffic fails.
    pub outlier: outlier::Settings,
}

/// One backend as a pool sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The state all threads share.
    pub state: Arc<BackendState>,
    /// 0 = no new sessions.
    pub weight: u16,
    /// Hard limit on sessions; 0 = none.
    pub max_connections: u32,
    /// Used only while no primary is available.
    pub backup: bool,
}

/// A chosen backend.
#[derive(Debug)]
pub struct Picked {
    /// Its place among the members.
    pub index: u16,
    /// Its reserved slot.
    pub lease: Lease,
}

/// Why there is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No member has a weight and is up (and `fail_open` did not help).
    NoneAvailable,
    /// Members are available but all are at their limit.
    AllFull,
    /// Every available member has been tried for this client.
    AllTried,
}

/// A pool's members and what its algorithm has prepared for them. Immutable but for shared
/// positions, so that all workers use one.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    members: Vec<Member>,
    primaries: Tier,
    backups: Tier,
    /// A worker is about to eject a member. No other one does meanwhile: each counts those who are.
    is_ejecting: AtomicBool,
    panic: Panic,
}

/// Members that stand in for one another; all have a weight.
#[derive(Debug)]
struct Tier {
    members: Vec<u16>,
    algorithm: Algorithm,
}

/// A policy with what it needs.
#[derive(Debug)]
enum Algorithm {
    Hash(Maglev),
    Rendezvous(Names),
    RoundRobin(RoundRobin),
    /// By open or busy sessions, or latency.
    Least(Measure, Rotation),
    PowerOfTwo(Weights),
    Random(Weights),
    First,
}

impl Balancer {
    /// Prepares the algorithm's tables; for `Hash` that takes milliseconds, so never on a worker.
    /// Members beyond the first [`MEMBERS_MAX`] are not used.
    pub fn new(settings: Settings, members: Vec<Member>) -> Self {
        let tier = |backup: bool| {
            let in_tier = |member: &Member| member.weight > 0 && member.backup == backup;
            let places = (0..MEMBERS_MAX).zip(&members);
            let places = places
                .filter(|(_, member)| in_tier(member))
                .map(|(place, _)| place);
            Tier::new(settings.policy, places.collect(), &members)
        };
        Self {
            primaries: tier(false),
            backups: tier(true),
            settings,
            members,
            is_ejecting: AtomicBool::new(false),
            panic: Panic::default(),
        }
    }

    /// In panic if `other` is, which it takes the place of.
    pub fn in_place_of(mut self, other: &Self) -> Self {
        if self.settings.panic_threshold > 0.0 {
            self.panic = Panic::like(&other.panic);
        }
        self
    }

    /// Looks whether the pool enters or leaves panic, which is to be done before each choice.
    #[inline]
    pub fn look(&self, now: Tick) -> Option<Change> {
        let threshold = self.settings.panic_threshold;
        if threshold <= 0.0 {
            return None;
        }
        self.panic.look(threshold, now, || self.share_well(now))
    }

    /// Whether so few are well that all are used.
    pub fn is_in_panic(&self) -> bool {
        self.settings.panic_threshold > 0.0 && self.panic.is_on()
    }

    /// The share of the primaries' weight that is well, of those that may be used at all.
    fn share_well(&self, now: Tick) -> f64 {
        let (mut well, mut all) = (0.0, 0.0);
        let primaries = self.primaries.members.iter();
        let primaries = primaries.map(|&place| &self.members[usize::from(place)]);
        for member in primaries.filter(|member| member.state.is_ready()) {
            let weight = f64::from(member.weight);
            all += weight;
            if member.state.is_up() && !member.state.traffic.is_ejected(now) {
                well += weight;
            }
        }
        if all > 0.0 { well / all } else { 0.0 }
    }

    /// The members, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Reserves a slot on one member, whatever its weight: who asks for it has been there before.
    /// `None` if it is down, by its health or by order, or full.
    pub fn take(&self, index: u16) -> Option<Picked> {
        let member = self.members.get(usize::from(index))?;
        if !member.state.is_up() || member.state.orders.admin() == Admin::Down {
            return None;
        }
        let counts = self.settings.counts;
        let lease = member.state.reserve(member.max_connections, counts)?;
        Some(Picked { index, lease })
    }

    /// Chooses a backend for `client`, skipping the members whose indices are in `tried`, and
    /// reserves a slot on it.
    ///
    /// Backups are used while no primary is well, or when all that are have been tried; full
    /// primaries do not bring them in. Who is ejected is used when nobody is well or all who are have
    /// been tried. With everybody down and `fail_open`, health is ignored, and so is that of the
    /// primaries in panic, unless none of them is well.
    pub fn pick(
        &self,
        client: &Client,
        tried: &[u16],
        now: Tick,
        rng: &mut Rng,
    ) -> Result<Picked, Refusal> {
        let take = |tier: &Tier, candidates: &Candidates<'_>, key, rng: &mut Rng| {
            self.pick_among(tier, candidates, key, rng)
        };
        self.decide(client, tried, (now, rng), take)
    }

    /// Goes through the tiers by the rules until `take` has taken somebody.
    #[inline(always)]
    fn decide<T>(
        &self,
        client: &Client,
        tried: &[u16],
        (now, rng): (Tick, &mut Rng),
        mut take: impl FnMut(&Tier, &Candidates<'_>, u64, &mut Rng) -> Option<T>,
    ) -> Result<T, Refusal> {
        let key = match self.settings.policy {
            Policy::Hash | Policy::Rendezvous => key::hash(&self.settings.hash_key, client),
            _ => 0,
        };
        let ticket = self.ticket(key, rng);
        let mut refusal = Refusal::NoneAvailable;
        let tiers = [&self.primaries, &self.backups];
        let rounds = [
            (Standard::Any, &tiers[..1]), // in panic
            (Standard::Well, &tiers[..]),
            (Standard::Up, &tiers[..]),
            (Standard::Any, &tiers[..]), // by fail_open
        ];
        for (round, (standard, tiers)) in rounds.iter().enumerate().skip(self.first_round(now)) {
            let is_open = self.settings.fail_open && refusal == Refusal::NoneAvailable;
            if round + 1 == rounds.len() && !is_open {
                break;
            }
            for tier in *tiers {
                let mut candidates = Candidates {
                    standard: *standard,
                    ticket,
                    ceiling: self.settings.soft_connections,
                    ..self.candidates(tier, tried, now)
                };
                let mut take = |candidates: &Candidates<'_>| take(tier, candidates, key, rng);
                if let Some(taken) = take_from(&mut candidates, &mut take) {
                    return Ok(taken);
                }
                match standing(&candidates) {
                    Standing::Full => return Err(Refusal::AllFull),
                    Standing::Tried => refusal = Refusal::AllTried,
                    Standing::Down => {}
                }
            }
        }
        Err(refusal)
    }

    /// What says who is passed over for a client because it has come back: by its hash always the same.
    /// Where the least loaded is chosen, another way is gone.
    fn ticket(&self, key: u64, rng: &mut Rng) -> Option<u64> {
        if self.settings.slow_start.is_zero() {
            return None;
        }
        match self.settings.policy {
            Policy::LeastConnections | Policy::LeastBusy | Policy::LeastLatency => None,
            Policy::Hash | Policy::Rendezvous => Some(key),
            Policy::RoundRobin | Policy::PowerOfTwo | Policy::Random | Policy::First => {
                Some(rng.next_u64())
            }
        }
    }

    /// Where a choice begins: in panic, as long as somebody is well; or with those who are well; or,
    /// where nobody is ejected, with those who are up.
    fn first_round(&self, now: Tick) -> usize {
        if self.is_in_panic() && self.share_well(now) > 0.0 {
            0
        } else if self.settings.outlier.is_on() {
            1
        } else {
            2
        }
    }

    /// Traffic has failed on `backend`. Ejects it if that is one failure too many, unless too many
    /// are ejected already, or nobody else is well.
    pub fn on_failure(&self, backend: &Arc<BackendState>, now: Tick) -> Option<Ejection> {
        let mut weighted = self.members.iter().filter(|member| member.weight > 0);
        let is_member = weighted.any(|member| Arc::ptr_eq(&member.state, backend));
        if !is_member || !backend.is_up() {
            return None;
        }
        let mut is_ours = false;
        let is_allowed = || {
            is_ours = !self.is_ejecting.swap(true, Ordering::Acquire);
            is_ours && self.may_eject(backend, now)
        };
        let settings = &self.settings.outlier;
        let ejection = backend.traffic.on_failure(settings, now, is_allowed);
        if ejection.is_some() {
            backend.set_catches_up(true);
        }
        if is_ours {
            self.is_ejecting.store(false, Ordering::Release);
        }
        ejection
    }

    fn may_eject(&self, backend: &Arc<BackendState>, now: Tick) -> bool {
        let (mut members, mut ejected, mut well) = (0, 0, 0);
        let in_use = |member: &&Member| member.weight > 0 && member.state.is_ready();
        for member in self.members.iter().filter(in_use) {
            let state = &member.state;
            members += 1;
            if state.traffic.is_ejected(now) {
                ejected += 1;
            } else if state.is_up() && !Arc::ptr_eq(state, backend) {
                well += 1;
            }
        }
        well > 0 && ejected < self.settings.outlier.ejected_max(members)
    }

    /// All members of a tier who are well.
    #[inline(always)]
    fn candidates<'a>(&'a self, tier: &'a Tier, tried: &'a [u16], now: Tick) -> Candidates<'a> {
        Candidates {
            members: &self.members,
            tier: &tier.members,
            tried,
            standard: Standard::Well,
            now,
            slow_start: self.settings.slow_start,
            ticket: None,
            compares: self.settings.policy == Policy::PowerOfTwo,
            counts: self.settings.counts,
            ceiling: 0,
            is_aside: false,
        }
    }

    /// Chooses and reserves; another worker may take the last slot in between, so more than once.
    fn pick_among(
        &self,
        tier: &Tier,
        candidates: &Candidates<'_>,
        key: u64,
        rng: &mut Rng,
    ) -> Option<Picked> {
        for _ in 0..RACES {
            let nth = tier
                .algorithm
                .choose(self.settings.load_factor, candidates, key, rng)?;
            if let Some(picked) = reserve(candidates, nth) {
                return Some(picked);
            }
        }
        candidates
            .eligible_from(0)
            .find_map(|nth| reserve(candidates, nth))
    }
}

/// Takes somebody. With nobody else, somebody is taken who is passed over because it has come back,
/// and at last somebody above the ceiling.
#[inline(always)]
fn take_from<T>(
    candidates: &mut Candidates<'_>,
    take: &mut impl FnMut(&Candidates<'_>) -> Option<T>,
) -> Option<T> {
    let ticket = candidates.ticket;
    loop {
        let taken = take(candidates);
        if taken.is_some() {
            return taken;
        }
        if candidates.ticket.take().is_some() {
            continue;
        }
        if std::mem::take(&mut candidates.ceiling) == 0 {
            return None;
        }
        candidates.ticket = ticket;
    }
}

impl Tier {
    fn new(policy: Policy, members: Vec<u16>, all: &[Member]) -> Self {
        let of = |place: &u16| &all[usize::from(*place)];
        let names: Vec<&str> = members.iter().map(|place| of(place).state.name()).collect();
        let weights: Vec<u16> = members.iter().map(|place| of(place).weight).collect();
        let cumulative = || Weights::new(weights.iter().copied());
        let least = |measure| Algorithm::Least(measure, Rotation::new(members.len()));
        let algorithm = match policy {
            Policy::Hash => Algorithm::Hash(Maglev::new(&names, &weights)),
            Policy::Rendezvous => Algorithm::Rendezvous(Names::new(names.into_iter())),
            Policy::RoundRobin => Algorithm::RoundRobin(RoundRobin::new(&weights)),
            Policy::LeastConnections => least(Measure::Open),
            Policy::LeastBusy => least(Measure::Busy),
            Policy::LeastLatency => least(Measure::Latency),
            Policy::PowerOfTwo => Algorithm::PowerOfTwo(cumulative()),
            Policy::Random => Algorithm::Random(cumulative()),
            Policy::First => Algorithm::First,
        };
        Self { members, algorithm }
    }
}

impl Algorithm {
    fn choose(
        &self,
        load_factor: f64,
        candidates: &Candidates<'_>,
        key: u64,
        rng: &mut Rng,
    ) -> Option<usize> {
        if candidates.tier.is_empty() {
            return None;
        }
        match self {
            Self::Hash(table) => bounded(load_factor, candidates, |accepts| {
                table.choose(key, candidates, accepts)
            }),
            Self::Rendezvous(names) => bounded(load_factor, candidates, |accepts| {
                names.choose(key, candidates, accepts)
            }),
            Self::RoundRobin(robin) => robin.choose(candidates),
            Self::Least(measure, rotation) => rotation.choose(*measure, candidates),
            Self::PowerOfTwo(weights) => power_of_two::choose(weights, candidates, rng),
            Self::Random(weights) => weights.choose(candidates, rng),
            Self::First => first::choose(candidates),
        }
    }
}

fn reserve(candidates: &Candidates<'_>, nth: usize) -> Option<Picked> {
    let member = candidates.member(nth);
    let lease = (member.state).reserve(candidates.limit(nth), candidates.counts)?;
    Some(Picked {
        index: candidates.tier[nth],
        lease,
    })
}

/// Why a tier has nobody for a client.
enum Standing {
    /// Somebody is up and untried, so it must be full.
    Full,
    /// All who are up have been tried.
    Tried,
    /// Nobody is up.
    Down,
}

fn standing(candidates: &Candidates<'_>) -> Standing {
    let mut standing = Standing::Down;
    for nth in (0..candidates.tier.len()).filter(|&nth| candidates.is_available(nth)) {
        if !candidates.is_tried(nth) {
            return Standing::Full;
        }
        standing = Standing::Tried;
    }
    standing
}

/// Members a pool can have: places are 16 bits, and one value is kept free.
pub const MEMBERS_MAX: u16 = u16::MAX;

/// How often the last slot may be lost to another worker before everybody is looked at.
const RACES: usize = 4;

#[cfg(test)]
mod tests;
