//! The one entry to balancing: a pool's members and a client in, a backend with a reserved slot out.

use std::net::SocketAddr;
use std::sync::Arc;

use super::key::KeyPart;
use crate::lb::backend::{BackendState, Lease};
use crate::lb::rng::Rng;

/// Which algorithm chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Maglev over the hash key.
    Hash,
    /// Weighted rendezvous over the hash key.
    Rendezvous,
    /// Smooth weighted round robin, exact across workers.
    RoundRobin,
    /// Fewest open sessions per weight; ties by rotation.
    LeastConnections,
    /// The better of two drawn by weight.
    PowerOfTwo,
    /// Drawn by weight.
    Random,
    /// The first in the order of the configuration that can take one more.
    First,
}

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
}

/// One backend as a pool sees it.
#[derive(Clone, Debug)]
pub struct Member {
    /// The state all threads share.
    pub state: Arc<BackendState>,
    /// 0 = no new sessions.
    pub weight: u16,
    /// Hard limit on open sessions; 0 = none.
    pub max_connections: u32,
    /// Used only while no primary is available.
    pub backup: bool,
}

/// Who is asking.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The client's address, IPv4-mapped addresses already made IPv4.
    pub source: SocketAddr,
    /// The address it connected to, likewise.
    pub destination: SocketAddr,
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
}

impl Balancer {
    /// Prepares the algorithm's tables; for `Hash` that takes milliseconds, so never on a worker.
    pub fn new(settings: Settings, members: Vec<Member>) -> Self {
        Self { settings, members }
    }

    /// The members, in the order of the configuration.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Chooses a backend for `client`, skipping the members whose indices are in `tried`, and
    /// reserves a slot on it.
    pub fn pick(&self, client: &Client, tried: &[u16], rng: &mut Rng) -> Result<Picked, Refusal> {
        let _ = (client, tried, rng, &self.settings);
        Err(Refusal::NoneAvailable)
    }
}
