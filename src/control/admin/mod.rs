//! The admin socket: where the running process is asked and told. HTTP/1.1 and JSON over a Unix socket
//! that only its user may open, so `curl --unix-socket` does what the client commands do.
//!
//! Whoever may connect may do everything that the socket offers: the file's mode is the check. Nothing a
//! client does holds up the packet path or the supervisor: each connection is a task, all are bounded
//! in number, size and time, and questions wait in the supervisor's line like signals do.

mod connection;
pub mod messages;
mod routes;
mod socket;

use std::path::PathBuf;

use tokio::task::{JoinHandle, LocalSet};

use self::socket::Bound;
use super::handle::Handle;
use crate::config::plan::{ADMIN_SOCKET, AdminSocket, Global};

/// The socket in force.
#[derive(Debug)]
pub(super) struct Admin {
    /// The way to the supervisor.
    handle: Handle,
    wanted: AdminSocket,
    serving: Option<Serving>,
}

/// What a new plan asks for.
#[derive(Debug)]
pub(super) enum Next {
    /// The one in force goes on.
    Same,
    /// This one instead.
    Other(AdminSocket, Option<Bound>),
}

#[derive(Debug)]
struct Serving {
    /// Its file goes with it.
    bound: Bound,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Admin {
    /// None is served yet; `handle` leads to the supervisor.
    pub(super) fn new(handle: Handle) -> Self {
        Self {
            handle,
            wanted: AdminSocket::Off,
            serving: None,
        }
    }

    /// Binds what `global` asks for, unless that is in force already. One that nobody has named is done
    /// without where it cannot be had: many a host has no /run/evenkeel, or a process that has it.
    pub(super) fn next(&self, global: &Global) -> Result<Next, String> {
        if global.admin_socket == self.wanted {
            return Ok(Next::Same);
        }
        let wanted = global.admin_socket.clone();
        let (path, is_needed) = match &wanted {
            AdminSocket::Off => return Ok(Next::Other(wanted, None)),
            AdminSocket::Default => (PathBuf::from(ADMIN_SOCKET), false),
            AdminSocket::At(path) => (path.clone(), true),
        };
        if self
            .serving
            .as_ref()
            .is_some_and(|it| it.bound.path() == path)
        {
            return Ok(Next::Same); // it has only been named
        }
        match socket::bind(&path, global) {
            Ok(bound) => Ok(Next::Other(wanted, Some(bound))),
            Err(error) if is_needed => Err(format!("global.admin_socket: {error}")),
            Err(error) => {
                log::info!(
                    "no admin socket: {error}; name one in global.admin_socket, or set \"\""
                );
                Ok(Next::Other(wanted, None))
            }
        }
    }

    /// Serves what [`Admin::next`] gave, and no other.
    pub(super) fn put_in_force(&mut self, next: Next, tasks: &LocalSet) {
        let Next::Other(wanted, bound) = next else {
            return;
        };
        self.wanted = wanted;
        self.serving = bound.map(|bound| {
            log::info!("admin socket {}", bound.path().display());
            let task = tasks.spawn_local(connection::accept(bound.listener(), self.handle.clone()));
            Serving { bound, task }
        });
    }

    /// Serves no more, and removes the file.
    pub(super) fn end(&mut self) {
        self.serving = None;
    }
}
