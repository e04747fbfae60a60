//! The algorithms by name.

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
    /// Fewest busy sessions per weight; ties by open ones, then by rotation.
    LeastBusy,
    /// Least time to the first byte, times what is busy, per weight; ties by open sessions, then by
    /// rotation.
    LeastLatency,
    /// The better of two drawn by weight.
    PowerOfTwo,
    /// Drawn by weight.
    Random,
    /// The first in the order of the configuration that can take one more.
    First,
}

impl Policy {
    /// Whether it goes by the hash of a client's key.
    pub const fn is_by_hash(self) -> bool {
        matches!(self, Self::Hash | Self::Rendezvous)
    }

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Rendezvous => "rendezvous",
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::LeastBusy => "least_busy",
            Self::LeastLatency => "least_latency",
            Self::PowerOfTwo => "power_of_two",
            Self::Random => "random",
            Self::First => "first",
        }
    }
}
