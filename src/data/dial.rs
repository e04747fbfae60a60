//! Choosing a backend and starting to connect to it, again and again if need be.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::kit::Kit;
use super::mailbox::{Pool, Report};
use super::refuse::Refused;
use super::stream::Stream;
use crate::lb::backend::{BackendState, Lease};
use crate::lb::balance::pick::{Client, Picked, Refusal};
use crate::sys::socket::is_exhaustion;

/// A session's half towards its backend.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) stream: Stream,
    pub(super) lease: Lease,
    /// The backend's place among the pool's members.
    pub(super) index: u16,
}

/// Starts to connect to the backend that is `picked` already, or to the best that is not in `tried`,
/// going on to the next as long as a connect fails at once and the pool allows another attempt.
pub(super) fn dial(
    pool: &Pool,
    client: &Client,
    tried: &mut Vec<u16>,
    mut picked: Option<Picked>,
    kit: &mut Kit,
) -> Result<Leg, Refused> {
    let mut shortage = None;
    while tried.len() <= usize::from(pool.plan.retries) {
        let pick = || pool.balancer.pick(client, tried, &mut kit.rng);
        let picked = match picked.take().map_or_else(pick, Ok) {
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
                });
            }
            Err(error) if is_exhaustion(&error) => return Err(Refused::Local(error)),
            Err(error) if target.is_local(&error) => shortage = Some(error),
            Err(error) => {
                shortage = None;
                on_connect_failed(picked.lease.backend(), &error, kit);
            }
        }
        tried.push(index);
    }
    Err(shortage.map_or(Refused::Unreachable(tried.len()), Refused::Local))
}

/// Counts a connect that failed for a reason that lies with the backend, and asks for an early
/// probe of it unless it is known to be down.
pub(super) fn on_connect_failed(backend: &Arc<BackendState>, error: &io::Error, kit: &mut Kit) {
    backend.connect_failures.fetch_add(1, Relaxed);
    kit.notices.connect.log(
        kit.now,
        format_args!(
            "backend \"{}/{}\": connect failed: {error}",
            backend.pool(),
            backend.name()
        ),
    );
    if backend.is_up() && backend.suspect() {
        (kit.reports)(Report::ConnectFailed(Arc::clone(backend)));
    }
}
