//! One backend's identity and the state that all threads share.
//!
//! The state is keyed by identity (pool name and backend name), so it outlives every reload: no
//! counter is ever rebuilt. The control plane writes health; workers write load. Each field is an
//! atomic of its own because nothing here needs two of them to agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::admin::{Admin, Orders};
use super::health::finding::Outcome;
use super::health::outlier::Record;
use super::histogram::Histogram;
use super::time::Tick;
use super::traffic::latency::{Latency, Meters};

/// What all threads know of one backend.
#[derive(Debug)]
#[repr(C, align(64))] // in this order: all that a choice asks for is in one cache line
pub struct BackendState {
    /// A [`Load`].
    load: AtomicU64,
    up: AtomicBool,
    /// It is back, and has fewer sessions than its share.
    catches_up: AtomicBool,
    suspected: AtomicBool,
    /// What an operator has said of it.
    pub orders: Orders,
    /// It has been up before, or its pool has been used without it.
    is_known: AtomicBool,
    /// When it came back, in milliseconds; 0 = it was never away.
    up_since: AtomicU64,
    /// What its traffic says of it.
    pub traffic: Record,
    /// How long it takes to answer; kept only where that is asked for.
    pub latency: Latency,
    /// When it last sent something, in steps of [`PROGRESS_STEP_MS`].
    progress: AtomicU64,
    /// When it last went up or down, in milliseconds, or else when it was first known.
    changed: AtomicU64,
    /// Sessions established since the start.
    pub sessions: AtomicU64,
    /// Connects that failed or timed out since the start.
    pub connect_failures: AtomicU64,
    /// Bytes sent to it and to clients since the start; once a second, and when a session ends.
    pub bytes: [AtomicU64; 2],
    /// Datagrams likewise.
    pub datagrams: [AtomicU64; 2],
    /// How long connects took that succeeded.
    pub connect_time: Histogram,
    /// Ends of probes since the start, by [`Outcome`].
    pub probes: [AtomicU64; Outcome::ALL.len()],
    /// How it answers.
    pub meters: Meters,
    pool: Arc<str>,
    name: Arc<str>,
}

impl BackendState {
    /// A backend nobody has used yet; `up` is its state before the first probe.
    pub fn new(pool: &str, name: &str, up: bool) -> Self {
        Self {
            load: AtomicU64::new(0),
            up: AtomicBool::new(up),
            catches_up: AtomicBool::new(false),
            suspected: AtomicBool::new(false),
            orders: Orders::default(),
            is_known: AtomicBool::new(up),
            up_since: AtomicU64::new(0),
            traffic: Record::default(),
            latency: Latency::default(),
            progress: AtomicU64::new(0),
            changed: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            bytes: Default::default(),
            datagrams: Default::default(),
            connect_time: Histogram::default(),
            probes: Default::default(),
            meters: Meters::default(),
            pool: Arc::from(pool),
            name: Arc::from(name),
        }
    }

    /// Counts on from where `before` has ended, which had its name.
    pub fn count_on_from(&self, before: &Self) {
        let singles = [
            (&self.sessions, &before.sessions),
            (&self.connect_failures, &before.connect_failures),
        ];
        let pairs = (self.bytes.iter().zip(&before.bytes))
            .chain(self.datagrams.iter().zip(&before.datagrams))
            .chain(self.probes.iter().zip(&before.probes))
            .chain(singles);
        for (own, before) in pairs {
            own.fetch_add(before.load(Relaxed), Relaxed);
        }
        self.connect_time.add(&before.connect_time.snapshot());
        self.meters.count_on_from(&before.meters);
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Its name within the pool.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether health lets it take new sessions.
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Whether its operator lets it take new sessions, whatever its health.
    #[inline(always)]
    pub fn is_ready(&self) -> bool {
        self.orders.admin() == Admin::Ready
    }

    /// Sets what health says; true if that is a change.
    pub fn set_up(&self, up: bool, now: Tick) -> bool {
        let is_change = self.up.swap(up, Relaxed) != up;
        if is_change {
            self.begin(now);
        }
        if is_change && up {
            self.traffic.on_up(now);
            if self.is_known.swap(true, Relaxed) {
                self.come_back(now);
            }
        }
        is_change
    }

    /// It is first known now, or up or down from now on.
    pub fn begin(&self, now: Tick) {
        self.changed.store(now.as_ms(), Relaxed);
    }

    /// Since when it is up or down.
    pub fn changed(&self) -> Tick {
        Tick::from_ms(self.changed.load(Relaxed))
    }

    /// It has been away, or is new where others have been at work.
    pub fn come_back(&self, now: Tick) {
        self.is_known.store(true, Relaxed);
        self.up_since.store(now.as_ms().max(1), Relaxed);
        self.catches_up.store(true, Relaxed);
    }

    /// Since when it is back from where it has been: down, ejected, not there. `None` = it was never
    /// away.
    pub fn back_since(&self, now: Tick) -> Option<Tick> {
        // Another thread's clock may be a little ahead. An ejection that is not over counts for nothing:
        // who is used all the same is the last one.
        let up = self.up_since.load(Relaxed).min(now.as_ms());
        let ejected = self.traffic.ejected_until();
        let ejected = if ejected <= now { ejected.as_ms() } else { 0 };
        let since = up.max(ejected);
        (since > 0).then_some(Tick::from_ms(since))
    }

    /// Whether it is or has been away, and has not had its share of sessions since then.
    pub fn catches_up(&self) -> bool {
        self.catches_up.load(Relaxed)
    }

    /// Sets whether it is to catch up.
    pub fn set_catches_up(&self, catches_up: bool) {
        self.catches_up.store(catches_up, Relaxed);
    }

    /// Notes that real traffic failed to connect; true for the first since the last probe, so
    /// that a flood of failures asks for one early probe only.
    pub fn suspect(&self) -> bool {
        !self.suspected.swap(true, Relaxed)
    }

    /// Forgets a suspicion: a probe has looked.
    pub fn clear_suspicion(&self) {
        self.suspected.store(false, Relaxed);
    }

    /// Notes that it sends something to a client. Costs a look; workers take the cache line from
    /// each other no more than once in a step of time.
    #[inline(always)]
    pub fn progress(&self, now: Tick) {
        let step = now.as_ms() / PROGRESS_STEP_MS;
        if self.progress.load(Relaxed) < step {
            self.progress.store(step, Relaxed);
        }
    }

    /// Whether it has sent something after `since`: what it sent in the same step does not count.
    pub fn has_progressed_since(&self, since: Tick) -> bool {
        self.progress.load(Relaxed) > since.as_ms() / PROGRESS_STEP_MS
    }

    /// What it has to do now.
    #[inline(always)]
    pub fn load(&self) -> Load {
        Load::of(self.load.load(Relaxed))
    }

    /// Sessions open or reserved now.
    #[inline(always)]
    pub fn open(&self) -> u32 {
        self.load().open
    }

    /// Those of them that are busy.
    #[inline(always)]
    pub fn busy(&self) -> u32 {
        self.load().busy
    }

    /// Takes a slot if fewer than `limit` are taken (0 = no limit) of what `counts` says. The slot is
    /// reserved before the connect, and busy from then on, so the limit holds across workers at every
    /// moment, for all who come.
    pub fn reserve(self: &Arc<Self>, limit: u32, counts: Counts) -> Option<Lease> {
        self.load
            .fetch_update(Relaxed, Relaxed, |load| {
                let before = Load::of(load);
                if limit != 0 && before.counted(counts) >= limit || before.open == u32::MAX {
                    None
                } else {
                    Some(load + ONE_OPEN + ONE_BUSY)
                }
            })
            .ok()
            .map(|_| Lease {
                backend: Arc::clone(self),
                is_busy: true,
            })
    }
}

/// What a backend has to do: in one word, so that one write takes a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Sessions and flows.
    pub open: u32,
    /// Those of them for which it works: flows, and sessions that are not idle. Never more than
    /// there are.
    pub busy: u32,
}

impl Load {
    #[inline(always)]
    fn of(word: u64) -> Self {
        let low = |word: u64| u32::try_from(word & u64::from(u32::MAX)).expect("masked to 32 bits");
        Self {
            open: low(word),
            busy: low(word >> 32),
        }
    }

    /// The one that counts.
    #[inline(always)]
    pub const fn counted(self, counts: Counts) -> u32 {
        match counts {
            Counts::Open => self.open,
            Counts::Busy => self.busy,
        }
    }
}

/// What limits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// Sessions.
    Open,
    /// Sessions that are busy.
    Busy,
}

const ONE_OPEN: u64 = 1;
const ONE_BUSY: u64 = 1 << 32;

/// How exactly is known when a backend last sent something.
const PROGRESS_STEP_MS: u64 = 16;

/// One slot on a backend, given back when it is dropped, and whether it is busy.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<BackendState>,
    is_busy: bool,
}

impl Lease {
    /// The backend the slot is on.
    pub fn backend(&self) -> &Arc<BackendState> {
        &self.backend
    }

    /// Counts it as busy or not. A slot that becomes busy again passes whatever limit there is on
    /// these: limits bind those who come.
    pub fn set_busy(&mut self, is_busy: bool) {
        if self.is_busy == is_busy {
            return;
        }
        self.is_busy = is_busy;
        if is_busy {
            self.backend.load.fetch_add(ONE_BUSY, Relaxed);
        } else {
            self.backend.load.fetch_sub(ONE_BUSY, Relaxed);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let slot = ONE_OPEN + if self.is_busy { ONE_BUSY } else { 0 };
        self.backend.load.fetch_sub(slot, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_and_come_back() {
        let state = Arc::new(BackendState::new("pool", "a", true));
        let first = state.reserve(2, Counts::Open);
        let second = state.reserve(2, Counts::Open);
        assert!(first.is_some() && second.is_some());
        assert!(state.reserve(2, Counts::Open).is_none());
        assert_eq!(state.open(), 2);
        drop(first);
        assert!(
            state.reserve(2, Counts::Open).is_some(),
            "the temporary lease is returned at once"
        );
        assert_eq!(state.open(), 1);
        drop(second);
        assert_eq!(state.open(), 0);
    }

    #[test]
    fn what_is_busy_is_counted_apart_and_given_back_with_its_slot() {
        let state = Arc::new(BackendState::new("pool", "a", true));
        let mut first = state.reserve(1, Counts::Busy).unwrap();
        assert!(state.reserve(1, Counts::Busy).is_none());
        first.set_busy(false);
        first.set_busy(false);
        assert_eq!(state.load(), Load { open: 1, busy: 0 });
        let second = state.reserve(1, Counts::Busy);
        assert!(second.is_some());
        first.set_busy(true);
        first.set_busy(true);
        assert_eq!(
            state.load(),
            Load { open: 2, busy: 2 },
            "limits bind newcomers"
        );
        drop(first);
        assert_eq!(state.load(), Load { open: 1, busy: 1 });
        drop(second);
        assert_eq!(state.load(), Load { open: 0, busy: 0 });
    }

    #[test]
    fn progress_counts_after_a_moment_and_never_goes_back() {
        let state = BackendState::new("pool", "a", true);
        let at = |step: u64| Tick::from_ms(step * PROGRESS_STEP_MS);
        assert!(!state.has_progressed_since(Tick::ZERO));
        state.progress(at(5));
        state.progress(at(4)); // a worker whose turn began earlier
        assert!(state.has_progressed_since(at(4)));
        assert!(!state.has_progressed_since(at(5)));
    }

    #[test]
    fn only_the_first_suspicion_asks_for_a_probe() {
        let state = BackendState::new("pool", "a", true);
        assert!(state.suspect());
        assert!(!state.suspect());
        state.clear_suspicion();
        assert!(state.suspect());
    }
}
