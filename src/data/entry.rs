//! Who is let in: the networks of a listener, and what each source does, counted over all workers.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::mailbox::Listener;
use crate::lb::admission::source::{Group, Limits, Reached, Source};
use crate::lb::time::Tick;

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    /// `allow` and `deny` say so.
    Denied,
    /// Its source has as many connections open as it may.
    Limit,
    /// Its source has begun as many as it may for now.
    Rate,
    /// It is to send a PROXY header, and is not believed.
    Untrusted,
    /// It has not sent the PROXY header that it must.
    Unintroduced,
}

impl Barred {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::Denied,
        Self::Limit,
        Self::Rate,
        Self::Untrusted,
        Self::Unintroduced,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Limit => "source limit",
            Self::Rate => "source rate",
            Self::Untrusted => "untrusted",
            Self::Unintroduced => "proxy header",
        }
    }

    /// What a line of the log says of a client.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Denied => "not allowed",
            Self::Limit => "max_connections_per_source is reached",
            Self::Rate => "connection_rate_per_source is reached",
            Self::Untrusted => "it is not in `trusted`",
            Self::Unintroduced => "no PROXY header in time",
        }
    }
}

impl Listener {
    /// Lets in somebody who is to say on whose behalf it comes.
    pub(super) fn trust(&self, proxy: IpAddr) -> Result<(), Barred> {
        let is_trusted = (self.trusted.as_ref()).is_none_or(|trusted| trusted.allows(proxy));
        is_trusted.then_some(()).ok_or(Barred::Untrusted)
    }

    /// Lets a client in, or says why not; `Some` where it counts for a source, which is told by
    /// [`Sources::leave`] when it has gone.
    pub(super) fn enter(&self, client: IpAddr, now: Tick) -> Result<Option<Source>, Barred> {
        if let Some(access) = &self.access
            && !access.allows(client)
        {
            return Err(Barred::Denied);
        }
        let limits = &self.plan.per_source;
        if limits.is_none() {
            return Ok(None);
        }
        let source = Source::of(client);
        let sources = self.counters.sources.get_or_init(Sources::default);
        match sources.enter(source, limits, now) {
            Ok(()) => Ok(Some(source)),
            Err(Reached::Open) => Err(Barred::Limit),
            Err(Reached::Pace) => Err(Barred::Rate),
        }
    }
}

/// What the sources of a listener do. Locked for a moment when a connection begins or ends, by group:
/// workers rarely meet.
#[derive(Debug)]
pub(super) struct Sources {
    groups: Box<[Mutex<Group>]>,
    /// Keyed from the system's randomness: nobody outside can choose collisions.
    hasher: RandomState,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            groups: (0..GROUPS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Sources {
    fn enter(&self, source: Source, limits: &Limits, now: Tick) -> Result<(), Reached> {
        self.group(source).enter(source, limits, now)
    }

    /// A connection that had entered is over.
    pub(super) fn leave(&self, source: Source) {
        self.group(source).leave(source);
    }

    fn group(&self, source: Source) -> MutexGuard<'_, Group> {
        let groups = self.groups.len() as u64;
        let place = usize::try_from(self.hasher.hash_one(source) % groups).unwrap_or(0);
        let group = self.groups[place].lock();
        group.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Groups of a listener with a limit per source: half a megabyte when all remember what they may.
const GROUPS: usize = 2048;
