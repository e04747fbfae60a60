//! What is counted of a listener, since the start.
//!
//! Written by all workers: where a connection or a flow begins or ends, and once in a while as long as
//! it moves bytes (`data::tally`), never for each chunk or datagram that is passed on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::entry::{Barred, Sources};

/// What a listener counts since the start. What it has accepted is open, refused or ended.
#[derive(Debug, Default)]
pub struct ListenerCounters {
    /// Its name.
    pub name: String,
    /// Sessions and flows open now.
    pub open: AtomicU32,
    /// Its listening sockets that take nobody for now, over all workers.
    pub paused: AtomicU32,
    /// Connections accepted, and flows begun.
    pub accepted: AtomicU64,
    /// Clients that said nothing of what the key of their pool asks for.
    pub unkeyed: AtomicU64,
    /// Those that were not let in, by [`Barred`].
    pub barred: [AtomicU64; Barred::ALL.len()],
    /// Those for whom there was no backend, by [`Unserved`].
    pub unserved: [AtomicU64; Unserved::ALL.len()],
    /// Those that are over and were not refused, by [`Ended`].
    pub ended: [AtomicU64; Ended::ALL.len()],
    /// Bytes sent to backends and to clients.
    pub bytes: [AtomicU64; 2],
    /// Datagrams sent to backends and to clients.
    pub datagrams: [AtomicU64; 2],
    /// What each source does, once there is a limit on that.
    pub(super) sources: OnceLock<Sources>,
    /// Datagrams that went nowhere, by [`Dropped`].
    pub dropped: [AtomicU64; Dropped::ALL.len()],
}

impl ListenerCounters {
    /// A listener of this name has not counted anything yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Connections and flows refused, for whatever reason.
    pub fn refused(&self) -> u64 {
        let reasons = self.barred.iter().chain(&self.unserved);
        reasons.map(|count| count.load(Relaxed)).sum()
    }

    /// Counts datagrams that went nowhere.
    pub fn drop_datagrams(&self, reason: Dropped, count: u32) {
        self.dropped[reason as usize].fetch_add(u64::from(count), Relaxed);
    }
}

/// Why there is no backend for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// None is up.
    NoBackend,
    /// Every one is at its max_connections.
    Full,
    /// Every one was tried.
    Tried,
    /// As many were tried as may be, and none took the connection.
    Unreachable,
    /// We lack something ourselves: descriptors, memory, ports.
    Local,
    /// Every one is full, and so is the queue.
    QueueFull,
    /// Every one is full, and as many of its source wait as may.
    QueueSource,
    /// Its turn in the queue did not come in time.
    QueueTimeout,
    /// It waited for a pool that is no more.
    PoolGone,
}

impl Unserved {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::NoBackend,
        Self::Full,
        Self::Tried,
        Self::Unreachable,
        Self::Local,
        Self::QueueFull,
        Self::QueueSource,
        Self::QueueTimeout,
        Self::PoolGone,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoBackend => "no backend",
            Self::Full => "full",
            Self::Tried => "tried",
            Self::Unreachable => "unreachable",
            Self::Local => "local",
            Self::QueueFull => "queue full",
            Self::QueueSource => "queue source",
            Self::QueueTimeout => "queue timeout",
            Self::PoolGone => "pool gone",
        }
    }
}

/// How a session or a flow ends that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Both sides have finished, or the last answer of a flow has come.
    Finished,
    /// Its client has reset it.
    ClientReset,
    /// Its backend has reset it.
    BackendReset,
    /// Its client went before it had a backend.
    Gone,
    /// Nothing came for too long.
    Idle,
    /// One side had finished, and too little came of the other.
    HalfClosed,
    /// It had lasted long enough, and was idle.
    Lifetime,
    /// Its backend went down, and keeps no session.
    BackendDown,
    /// The configuration has no place for it any more.
    Removed,
    /// The process stops.
    Stopping,
    /// We lack something ourselves.
    Local,
}

impl Ended {
    /// Every end.
    pub const ALL: [Self; 11] = [
        Self::Finished,
        Self::ClientReset,
        Self::BackendReset,
        Self::Gone,
        Self::Idle,
        Self::HalfClosed,
        Self::Lifetime,
        Self::BackendDown,
        Self::Removed,
        Self::Stopping,
        Self::Local,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ClientReset => "client reset",
            Self::BackendReset => "backend reset",
            Self::Gone => "gone",
            Self::Idle => "idle",
            Self::HalfClosed => "half closed",
            Self::Lifetime => "lifetime",
            Self::BackendDown => "backend down",
            Self::Removed => "removed",
            Self::Stopping => "stopping",
            Self::Local => "local",
        }
    }
}

/// Why a datagram goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// As many flows are open as may be.
    Full,
    /// As many flows have begun in this second as may.
    Rate,
    /// Its client may begin no flow.
    Denied,
    /// Its source has as many flows open as it may.
    SourceLimit,
    /// Its source has begun as many flows as it may for now.
    SourceRate,
    /// New flows are left out while more comes than can be handled.
    Busy,
    /// There is no backend for a new flow.
    NoBackend,
    /// We lack something ourselves: descriptors, ports, room in a socket.
    Local,
    /// Its sender cannot be answered: it has port 0, or is ourselves or a backend.
    Source,
    /// It is larger than a datagram can be, be it with the header that it gets.
    Cut,
    /// An answer after the last that was asked for.
    Late,
    /// An answer that is more than may be answered to what its client has sent.
    Amplification,
    /// The process stops, and begins no flow any more.
    Stopping,
}

impl Dropped {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Full,
        Self::Rate,
        Self::Denied,
        Self::SourceLimit,
        Self::SourceRate,
        Self::Busy,
        Self::NoBackend,
        Self::Local,
        Self::Source,
        Self::Cut,
        Self::Late,
        Self::Amplification,
        Self::Stopping,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Rate => "rate",
            Self::Denied => Barred::Denied.name(),
            Self::SourceLimit => Barred::Limit.name(),
            Self::SourceRate => Barred::Rate.name(),
            Self::Busy => "busy",
            Self::NoBackend => "no backend",
            Self::Local => "local",
            Self::Source => "source",
            Self::Cut => "cut",
            Self::Late => "late",
            Self::Amplification => "amplification",
            Self::Stopping => "stopping",
        }
    }
}

impl From<Barred> for Dropped {
    fn from(barred: Barred) -> Self {
        match barred {
            Barred::Limit => Self::SourceLimit,
            Barred::Rate => Self::SourceRate,
            // The last two are of streams only.
            Barred::Denied | Barred::Untrusted | Barred::Unintroduced => Self::Denied,
        }
    }
}
