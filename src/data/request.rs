//! Somebody who has come in and has no backend: the client of a session that is to begin.

use std::net::SocketAddr;
use std::sync::Arc;

use super::access_log::{Ending, History};
use super::counters::Ended;
use super::kit::Kit;
use super::listen::Admission;
use super::mailbox::{Listener, Pool};
use super::refuse::{Refused, refuse};
use super::stream::Stream;
use crate::lb::admission::queue::{Standing, Ticket};
use crate::lb::balance::pick::Client;
use crate::lb::time::Tick;
use crate::lb::traffic::cause::{By, Cause, State};
use crate::wire::proxy_header::Transport;

/// Who a session is for and where it goes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: Stream,
    pub(super) caller: Caller,
    /// The listener that has yet to look at what it says first.
    pub(super) unread: Option<Arc<Listener>>,
    pub(super) pool: Arc<Pool>,
    pub(super) admission: Admission,
    /// For the access log, if there is one; begins when a backend is looked for.
    pub(super) history: Option<Box<History>>,
}

/// A client that is not connected to a backend, and what has come of it so far.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) client: Client,
    /// Whether that is its address, or a number that stands for it.
    pub(super) is_named: bool,
    /// Hashes of those extensions of its PROXY header that a key asks for, by their types.
    pub(super) extensions: Vec<(u8, u64)>,
    /// It is a proxy's own, and backends are told so.
    pub(super) is_own: bool,
    /// When it was accepted.
    pub(super) since: Tick,
    /// Where it stood in the queue of its pool, if it has.
    pub(super) ticket: Option<Ticket>,
    /// Places of the backends that failed for it.
    pub(super) tried: Vec<u16>,
}

impl Caller {
    /// Its address, if it has one.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.is_named.then_some(self.client.source)
    }

    /// Whom backends are told of; `None` = of nobody.
    pub(super) fn told(&self) -> Option<&Client> {
        (self.is_named && !self.is_own).then_some(&self.client)
    }

    /// Where it joins the queue of its pool.
    pub(super) fn standing(&self, now: Tick) -> Standing {
        match (self.ticket, self.tried.is_empty()) {
            (Some(ticket), _) => Standing::Again(ticket),
            (None, true) => Standing::New(now),
            (None, false) => Standing::Since(self.since),
        }
    }

    /// It is for the pool `to` from now on, which may be the same in another configuration.
    pub(super) fn follow(&mut self, from: &Pool, to: &Pool) {
        self.tried = from.places_in(to, &self.tried);
        if !Arc::ptr_eq(&from.queue, &to.queue) {
            self.ticket = None; // that is a place in another queue
        }
    }
}

impl Request {
    /// A backend is looked for now.
    pub(super) fn on_dial(&mut self, kit: &Kit) {
        self.remember(kit);
        if let Some(history) = &mut self.history {
            history.on_dial(kit.now);
        }
    }

    /// Ends it in this state: it gets no backend.
    pub(super) fn refuse(self, refused: &Refused, state: State, kit: &mut Kit) {
        self.admission.on_unserved(refused.unserved());
        refuse(&self.stream, &self.pool, refused, kit);
        self.log_end(Cause::new(refused.by(), state), kit);
    }

    /// Ends it in this state, because its client has gone or must go.
    pub(super) fn reset(self, by: By, state: State, kit: &Kit) {
        self.admission.on_ended(match by {
            By::Client | By::Backend => Ended::Gone,
            By::Evenkeel => Ended::Stopping,
            By::Kernel => Ended::Local,
        });
        self.stream.reset_on_close();
        self.log_end(Cause::new(by, state), kit);
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
            let Caller { since, .. } = self.caller;
            self.history = kit.history(Transport::Stream, self.caller.address(), since);
        }
    }
}
