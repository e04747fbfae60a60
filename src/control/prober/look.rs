//! One look at a backend: what a probe does, and what its end means.

use std::io;
use std::time::Duration;

use tokio::time::timeout;

use super::{connection, http, send_expect, udp};
use crate::config::plan::ProbeKind;
use crate::sys::socket::Target;
use crate::sys::source::Source;

/// What a probe found.
pub(super) enum Outcome {
    Passed,
    Failed(io::Error),
    /// It could not be made, through no fault of the backend.
    Inconclusive(io::Error),
}

/// Looks once, and no longer than `within`.
pub(super) async fn look(
    kind: &ProbeKind,
    target: &Target,
    source: Source,
    within: Duration,
) -> Outcome {
    // Boxed, so that a prober that waits for its turn does not hold the room of a probe.
    match timeout(within, Box::pin(ask(kind, target, source))).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) if target.is_local(&error) => Outcome::Inconclusive(error),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) if may_be_silent(kind) => Outcome::Passed,
        Err(_) => Outcome::Failed(io::Error::other(format!("no answer within {within:?}"))),
    }
}

async fn ask(kind: &ProbeKind, target: &Target, source: Source) -> io::Result<()> {
    match kind {
        ProbeKind::Tcp => connection::open(target, source).await.map(drop),
        ProbeKind::Http(http) => {
            http::probe(connection::open(target, source).await?, target, http).await
        }
        ProbeKind::SendExpect(steps) => {
            send_expect::probe(connection::open(target, source).await?, steps).await
        }
        ProbeKind::Udp(step) => udp::probe(target, source, step).await,
    }
}

/// Whether silence says nothing: a server of datagrams answers what it knows.
fn may_be_silent(kind: &ProbeKind) -> bool {
    matches!(kind, ProbeKind::Udp(step) if step.expect.is_nothing())
}
