//! Refusing a client for whom there is no backend: a line in the log, and what the client sees.

use std::fmt;
use std::io;

use super::counters::Unserved;
use super::kit::{Kit, Notice};
use super::mailbox::Pool;
use super::stream::Stream;
use crate::config::plan::Refuse;
use crate::lb::admission::queue::Full;
use crate::lb::balance::pick::Refusal;
use crate::lb::traffic::cause::By;

/// Why a client gets no backend.
#[derive(Debug)]
pub(super) enum Refused {
    /// The balancer has none for it.
    Balancer(Refusal),
    /// So many backends were tried and none took the connection.
    Unreachable(usize),
    /// We lack something ourselves: descriptors, memory, ports.
    Local(io::Error),
    /// Every backend is full, and so is the queue.
    QueueFull(Full),
    /// Its turn in the queue did not come in time.
    QueueTimeout,
    /// It waited for a pool that is no more.
    PoolGone,
}

impl Refused {
    /// Who does not let it have one, for the access log.
    pub(super) const fn by(&self) -> By {
        match self {
            Self::Balancer(_) | Self::QueueFull(_) | Self::QueueTimeout | Self::PoolGone => {
                By::Evenkeel
            }
            Self::Unreachable(_) => By::Backend,
            Self::Local(_) => By::Kernel,
        }
    }

    /// What it is counted as.
    pub(super) const fn unserved(&self) -> Unserved {
        match self {
            Self::Balancer(Refusal::NoneAvailable) => Unserved::NoBackend,
            Self::Balancer(Refusal::AllFull) => Unserved::Full,
            Self::Balancer(Refusal::AllTried) => Unserved::Tried,
            Self::Unreachable(_) => Unserved::Unreachable,
            Self::Local(_) => Unserved::Local,
            Self::QueueFull(Full::All) => Unserved::QueueFull,
            Self::QueueFull(Full::Source) => Unserved::QueueSource,
            Self::QueueTimeout => Unserved::QueueTimeout,
            Self::PoolGone => Unserved::PoolGone,
        }
    }
}

/// Tells the log why a client is refused, and makes the coming close say it to the client.
pub(super) fn refuse(client: &Stream, pool: &Pool, refused: &Refused, kit: &mut Kit) {
    let name = &pool.plan.name;
    let refuse = |notice: &mut Notice, why: fmt::Arguments<'_>| {
        notice.log(
            kit.now,
            format_args!("pool \"{name}\": client refused: {why}"),
        );
    };
    let notices = &mut kit.notices;
    match refused {
        Refused::Balancer(refusal) => {
            refuse(&mut notices.refused, format_args!("{}", describe(*refusal)));
        }
        Refused::Unreachable(count) => refuse(
            &mut notices.refused,
            format_args!("{count} backends tried, none connected"),
        ),
        Refused::Local(error) => refuse(&mut notices.local, format_args!("{error}")),
        Refused::QueueFull(Full::All) => refuse(
            &mut notices.queue,
            format_args!("every backend is at its max_connections, and queue.limit is reached"),
        ),
        Refused::QueueFull(Full::Source) => {
            refuse(
                &mut notices.queue,
                format_args!("queue.per_source is reached"),
            );
        }
        Refused::QueueTimeout => {
            refuse(&mut notices.queue, format_args!("queue.timeout is over"));
        }
        Refused::PoolGone => refuse(&mut notices.queue, format_args!("it was removed")),
    }
    match &pool.plan.refuse {
        Refuse::Reset => client.reset_on_close(),
        Refuse::Close => close_gently(client, kit),
        Refuse::Bytes(bytes) => {
            // They fit an empty socket; a client that has gone needs none.
            drop(client.write(bytes, true));
            close_gently(client, kit);
        }
    }
}

const fn describe(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NoneAvailable => "no backend is up",
        Refusal::AllFull => "every backend is at its max_connections",
        Refusal::AllTried => "every backend was tried",
    }
}

/// Sends a FIN and reads what has come so far: unread bytes would make the close a reset.
fn close_gently(client: &Stream, kit: &mut Kit) {
    if client.shut().is_ok() {
        for _ in 0..GENTLE_READS {
            if !matches!(client.read(&mut kit.scratch), Ok(1..)) {
                break;
            }
        }
    }
}

/// Reads of a refused client's bytes at most: it gets a FIN for what it has sent, not a service.
const GENTLE_READS: usize = 4;
