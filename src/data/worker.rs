//! A worker: one thread, one epoll, and everything it owns.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::mailbox::{Mailbox, Reports, Shared};
use crate::config::plan::Splice;

/// A connection that was accepted by one worker and may be served by another.
#[derive(Debug)]
pub struct Accepted {}

/// What a worker is told at its start.
pub struct Settings {
    /// Its place among the workers.
    pub index: usize,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// Where its reports go.
    pub reports: Reports,
    /// When sessions move bytes by splice.
    pub splice: Splice,
    /// Seeds its random choices.
    pub seed: u64,
}

/// A running worker.
#[derive(Debug)]
pub struct Handle {
    /// The way to it.
    pub mailbox: Mailbox,
    /// Ends after [`super::mailbox::Command::Stop`].
    pub thread: JoinHandle<()>,
}

/// Makes the poll and mailbox of a worker and returns the mailbox with a closure that runs it, so
/// that all mailboxes exist before the first worker turns.
pub fn prepare(settings: Settings) -> io::Result<Prepared> {
    let _ = settings;
    Err(io::ErrorKind::Unsupported.into())
}

/// A worker that is ready to turn.
pub struct Prepared {
    /// The way to it.
    pub mailbox: Mailbox,
}

impl Prepared {
    /// Starts the thread; `others` are the mailboxes of all workers, itself included.
    pub fn spawn(self, others: Vec<Mailbox>) -> io::Result<Handle> {
        let _ = others;
        Err(io::ErrorKind::Unsupported.into())
    }
}
