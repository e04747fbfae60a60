//! The queue of a pool, which all workers share: clients for whom every backend is full.
//!
//! A slot goes to the first in the queue and to nobody else: it is reserved for it before it leaves the
//! queue, and newcomers join behind it rather than look for a slot themselves. Every worker serves all
//! queues at the end of each of its turns, so whoever frees a slot hands it on in the same turn, and
//! whatever else makes room (a backend that is up again, a limit that was raised) does so within the
//! longest turn. Locked for a moment, and only where somebody waits.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dial::pick;
use super::kit::Kit;
use super::mailbox::{Called, Pool};
use super::token::ArrivalKey;
use crate::lb::admission::queue::{Full, Queue, Standing, Ticket, Turn};
use crate::lb::admission::source::Source;
use crate::lb::balance::pick::{Client, Refusal};
use crate::lb::histogram::Histogram;
use crate::lb::time::Tick;

/// Keyed by the pool's name, so it outlives every reload, and so do those who wait.
#[derive(Debug, Default)]
pub struct PoolQueue {
    waiters: Mutex<Queue<Waiter>>,
    /// How many wait, for those who only want to know whether somebody does.
    length: AtomicU32,
    /// The same over all queues of the process.
    total: Arc<AtomicU32>,
    left: [AtomicU64; Left::ALL.len()],
    /// When the first of those who wait has come, in milliseconds and one more; 0 = nobody waits.
    oldest: AtomicU64,
    /// How long those waited who have left.
    pub wait_time: Histogram,
}

/// What became of a client that had to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It got a slot.
    Served,
    /// It went away.
    Gone,
    /// It had waited for too long.
    TimedOut,
    /// There is nothing to wait for any more: no backend is up, or the pool is gone.
    Hopeless,
    /// It did not get in: the queue was full.
    Full,
    /// It did not get in: as many of its source waited as may.
    SourceFull,
    /// It waits in the queue of another pool, or the process has stopped.
    Moved,
}

impl Left {
    /// Every end.
    pub const ALL: [Self; 7] = [
        Self::Served,
        Self::Gone,
        Self::TimedOut,
        Self::Hopeless,
        Self::Full,
        Self::SourceFull,
        Self::Moved,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Gone => "gone",
            Self::TimedOut => "timed out",
            Self::Hopeless => "hopeless",
            Self::Full => "full",
            Self::SourceFull => "source full",
            Self::Moved => "moved",
        }
    }
}

/// Somebody who waits.
#[derive(Debug)]
pub(super) struct Waiter {
    /// The worker that has it, and its name there.
    pub(super) worker: usize,
    pub(super) key: ArrivalKey,
    pub(super) client: Client,
    /// What it is counted for; `None` = a client of a Unix socket.
    pub(super) source: Option<Source>,
    /// The pool as it was when it joined, and the backends in it that failed for it.
    pub(super) pool: Arc<Pool>,
    pub(super) tried: Vec<u16>,
}

impl PoolQueue {
    /// Nobody waits yet; `total` counts who waits in the process.
    pub fn new(total: Arc<AtomicU32>) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// How many wait.
    pub fn len(&self) -> u32 {
        self.length.load(Relaxed)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many have left so.
    pub fn count(&self, left: Left) -> u64 {
        self.left[left as usize].load(Relaxed)
    }

    /// Since when the first one waits.
    pub fn oldest(&self) -> Option<Tick> {
        let since = self.oldest.load(Relaxed).checked_sub(1)?;
        Some(Tick::from_ms(since))
    }

    /// Adds somebody. Whoever adds serves the queue in the same turn: a slot that
    /// was freed just before was not freed for anybody who waits.
    pub(super) fn join(&self, waiter: Waiter, standing: Standing) -> Result<Ticket, Full> {
        let (source, limits) = (waiter.source, waiter.pool.plan.queue.limits);
        let mut queue = self.lock();
        let joined = queue.join(waiter, source, standing, limits);
        match joined {
            Ok(_) => self.set_length(&queue),
            Err(Full::All) => self.on_left(Left::Full),
            Err(Full::Source) => self.on_left(Left::SourceFull),
        }
        joined
    }

    /// Takes somebody out who does not wait any longer; false if a slot is on its way to it.
    pub(super) fn leave(&self, ticket: Ticket, left: Left) -> bool {
        let mut queue = self.lock();
        let has_waited = queue.leave(ticket).is_some();
        self.set_length(&queue);
        if has_waited {
            self.on_left(left);
        }
        has_waited
    }

    /// Reserves slots of `pool` for those who wait, in order, as long as it has some; who got one, and
    /// who needs not wait for one any more.
    pub(super) fn serve(&self, pool: &Arc<Pool>, kit: &mut Kit) -> Vec<(usize, Called)> {
        let mut queue = self.lock();
        let called = queue.serve(CALLED_AT_ONCE, |waiter| {
            let tried = if waiter.tried.is_empty() || Arc::ptr_eq(pool, &waiter.pool) {
                waiter.tried.clone()
            } else {
                waiter.pool.places_in(pool, &waiter.tried)
            };
            match pick(pool, &waiter.client, &tried, kit) {
                Ok(picked) => Turn::Over((tried, Ok(picked))),
                Err(Refusal::AllFull) if tried.is_empty() => Turn::Wait,
                Err(Refusal::AllFull) => Turn::Passed,
                Err(refusal) => Turn::Over((tried, Err(refusal))),
            }
        });
        self.set_length(&queue);
        drop(queue);
        let called = called.into_iter().map(|(waiter, (tried, outcome))| {
            self.on_left(match outcome {
                Ok(_) => Left::Served,
                Err(_) => Left::Hopeless,
            });
            let called = Called {
                key: waiter.key,
                pool: Arc::clone(pool),
                tried,
                outcome,
            };
            (waiter.worker, called)
        });
        called.collect()
    }

    fn on_left(&self, left: Left) {
        self.left[left as usize].fetch_add(1, Relaxed);
    }

    fn set_length(&self, queue: &Queue<Waiter>) {
        let length = u32::try_from(queue.len()).unwrap_or(u32::MAX);
        let before = self.length.swap(length, Relaxed);
        self.total.fetch_add(length.wrapping_sub(before), SeqCst);
        let oldest = queue.oldest().map_or(0, |since| since.as_ms() + 1);
        self.oldest.store(oldest, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Queue<Waiter>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether anybody waits, asked by a worker at the end of a turn in which it may have freed slots.
///
/// Either a worker that frees a slot sees who joined, or that one's worker, which serves after it has
/// joined, sees the free slot: of two that each write one and then read the other, with a fence in
/// between, one sees what the other has written.
pub(super) fn is_anybody_waiting(total: &AtomicU32) -> bool {
    fence(SeqCst);
    total.load(SeqCst) > 0
}

/// Waiters of one pool that are called in one turn; the next turn goes on.
pub(super) const CALLED_AT_ONCE: usize = 64;
