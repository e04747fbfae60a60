//! Somebody who has come in and has no backend: the client of a session that is to begin.

use std::sync::Arc;

use super::access_log::{Ending, History};
use super::kit::Kit;
use super::listen::Admission;
use super::mailbox::{Listener, Pool};
use super::refuse::{Refused, refuse};
use super::stream::Stream;
use crate::lb::admission::queue::Ticket;
use crate::lb::admission::source::Source;
use crate::lb::balance::pick::Client;
use crate::lb::time::Tick;
use crate::lb::traffic::cause::Cause;
use crate::wire::proxy_header::Transport;

/// Who a session is for and where it goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: Stream,
    pub(super) client: Client,
    /// Whether that is its address, or a number that stands for it.
    pub(super) is_named: bool,
    /// It is a proxy's own, and backends are told so.
    pub(super) is_own: bool,
    /// The listener that has yet to look at what it says first.
    pub(super) unread: Option<Arc<Listener>>,
    pub(super) pool: Arc<Pool>,
    pub(super) admission: Admission,
    /// When it was accepted.
    pub(super) since: Tick,
    /// Where it stood in the queue of its pool, if it has.
    pub(super) ticket: Option<Ticket>,
    /// Places of the backends that failed for this client.
    pub(super) tried: Vec<u16>,
    /// For the access log, if there is one; begins when a backend is looked for.
    pub(super) history: Option<Box<History>>,
}

impl Request {
    /// What it is counted for where sources are; a client of a Unix socket has none.
    pub(super) fn source(&self) -> Option<Source> {
        self.is_named.then(|| Source::of(self.client.source.ip()))
    }

    /// A backend is looked for now.
    pub(super) fn on_dial(&mut self, kit: &Kit) {
        self.remember(kit);
        if let Some(history) = &mut self.history {
            history.on_dial(kit.now);
        }
    }

    /// Ends it: it gets no backend.
    pub(super) fn refuse(self, refused: &Refused, cause: Cause, kit: &mut Kit) {
        self.admission.on_refused();
        refuse(&self.stream, &self.pool, refused, kit);
        self.log_end(cause, kit);
    }

    /// Ends it, because its client has gone or must go.
    pub(super) fn reset(self, cause: Cause, kit: &Kit) {
        self.stream.reset_on_close();
        self.log_end(cause, kit);
    }

    fn log_end(mut self, cause: Cause, kit: &Kit) {
        self.remember(kit);
        if let Some(history) = &self.history {
            let ending = Ending::without_backend(self.admission.listener(), &self.pool);
            kit.log_end(history, cause, ending);
        }
    }

    fn remember(&mut self, kit: &Kit) {
        if self.history.is_none() {
            let address = self.is_named.then_some(self.client.source);
            self.history = kit.history(Transport::Stream, address, self.since);
        }
    }
}
