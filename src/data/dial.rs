//! Choosing a backend and starting to connect to it, again and again if need be.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::fate::End;
use super::kit::Kit;
use super::mailbox::{Pool, Report};
use super::refuse::Refused;
use super::request::Caller;
use super::stream::Stream;
use crate::lb::backend::{BackendState, Lease};
use crate::lb::balance::pick::{Client, Picked, Refusal};
use crate::lb::health::panic::Change;
use crate::lb::traffic::relay::{Relay, Side};
use crate::sys::socket::is_exhaustion;

/// A session's half towards its backend.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) stream: Stream,
    pub(super) lease: Lease,
    /// The backend's place among the pool's members.
    pub(super) index: u16,
    /// A byte has come from the backend.
    is_answered: bool,
}

impl Leg {
    /// Bytes have moved: the first of the backend's shows that it is well.
    #[inline(always)]
    pub(super) fn on_bytes(&mut self, relay: &Relay) {
        if !self.is_answered && relay.received(Side::Backend) > 0 {
            self.is_answered = true;
            self.lease.backend().traffic.on_success();
        }
    }

    /// The session ends. A backend that resets it has failed if it owed an answer: none has come, and
    /// the client waits for one. A client that has finished may well be reset for that.
    pub(super) fn on_end(&self, end: &End, pool: &Arc<Pool>, relay: &Relay, kit: &Kit) {
        let is_owed = !self.is_answered && !relay.is_finished(Side::Client);
        if is_owed && matches!(end, End::Reset(Side::Backend)) {
            let what = format_args!("reset before its first byte");
            on_failure(pool, self.lease.backend(), what, kit);
        }
    }
}

/// Starts to connect to the backend that is `picked` already, or to the best that the caller has not
/// tried, going on to the next as long as a connect fails at once and the pool allows another attempt.
pub(super) fn dial(
    pool: &Arc<Pool>,
    caller: &mut Caller,
    mut picked: Option<Picked>,
    kit: &mut Kit,
) -> Result<Leg, Refused> {
    let Caller { client, tried, .. } = caller;
    let mut shortage = None;
    while tried.len() <= usize::from(pool.plan.retries) {
        let picked = match picked.take() {
            Some(picked) => Ok(picked),
            None => pick(pool, client, tried, kit),
        };
        let picked = match picked {
            Ok(picked) => picked,
            Err(refusal) => {
                return Err(match (shortage, refusal, tried.len()) {
                    (Some(error), ..) => Refused::Local(error),
                    (None, Refusal::AllFull, _) | (None, _, 0) => Refused::Balancer(refusal),
                    (None, _, count) => Refused::Unreachable(count),
                });
            }
        };
        let index = picked.index;
        let target = &pool.targets[usize::from(index)];
        match Stream::connect(target, pool.source(Some(client))) {
            Ok(stream) => {
                return Ok(Leg {
                    stream,
                    lease: picked.lease,
                    index,
                    is_answered: false,
                });
            }
            Err(error) if is_exhaustion(&error) => return Err(Refused::Local(error)),
            Err(error) if target.is_local(&error) => shortage = Some(error),
            Err(error) => {
                shortage = None;
                on_connect_failed(pool, picked.lease.backend(), &error, kit);
            }
        }
        tried.push(index);
    }
    Err(shortage.map_or(Refused::Unreachable(tried.len()), Refused::Local))
}

/// Chooses a backend, and tells if the pool enters or leaves panic.
pub(super) fn pick(
    pool: &Pool,
    client: &Client,
    tried: &[u16],
    kit: &mut Kit,
) -> Result<Picked, Refusal> {
    if let Some(change) = pool.balancer.look(kit.now) {
        tell(change, &pool.plan.name);
    }
    pool.pick(client, tried, kit.now, &mut kit.rng)
}

#[cold]
fn tell(change: Change, pool: &str) {
    match change {
        Change::Entered(share) => log::warn!(
            "pool \"{pool}\": panic: only {:.0} % of it is well, so every backend is used",
            100.0 * share
        ),
        Change::Left(share) => log::info!(
            "pool \"{pool}\": panic is over: {:.0} % of it is well",
            100.0 * share
        ),
    }
}

/// Counts a connect that failed for a reason that lies with the backend.
pub(super) fn on_connect_failed(
    pool: &Arc<Pool>,
    backend: &Arc<BackendState>,
    error: &io::Error,
    kit: &mut Kit,
) {
    backend.connect_failures.fetch_add(1, Relaxed);
    kit.notices.connect.log(
        kit.now,
        format_args!(
            "backend \"{}/{}\": connect failed: {error}",
            backend.pool(),
            backend.name()
        ),
    );
    on_failure(pool, backend, format_args!("connect failed: {error}"), kit);
}

/// Before a byte came from it, `backend` has failed as `what` says: asks for an early probe of it
/// unless it is known to be down, and ejects it if that was one failure too many.
pub(super) fn on_failure(
    pool: &Arc<Pool>,
    backend: &Arc<BackendState>,
    what: fmt::Arguments<'_>,
    kit: &Kit,
) {
    if backend.is_up() && backend.suspect() {
        (kit.reports)(Report::ConnectFailed(Arc::clone(backend)));
    }
    let balancer = &kit.active.of_name(pool).balancer;
    if let Some(ejection) = balancer.on_failure(backend, kit.now) {
        log::warn!(
            "backend \"{}/{}\" is ejected for {:?}: {what} ({} failures in a row)",
            backend.pool(),
            backend.name(),
            ejection.time,
            ejection.failures
        );
        (kit.reports)(Report::Ejected {
            backend: Arc::clone(backend),
            until: ejection.until,
        });
    }
}
