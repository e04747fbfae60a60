//! From a client that has come in to a session: it gets a backend, waits for one in a queue, or is
//! refused.

use std::sync::Arc;

use super::Worker;
use crate::data::fate::End;
use crate::data::kit::Drain;
use crate::data::mailbox::{Called, Command};
use crate::data::queue::{CALLED_AT_ONCE, is_anybody_waiting};
use crate::data::refuse::Refused;
use crate::data::request::Request;
use crate::data::tcp::Session;
use crate::data::token::{SESSIONS_MAX, SessionKey, deadline_id};
use crate::lb::balance::pick::Picked;
use crate::lb::traffic::cause::State;

impl Worker {
    pub(super) fn open(&mut self, mut request: Request) {
        self.is_drained = false; // another worker may have given it away while this one drained
        if self.sessions.len() >= SESSIONS_MAX {
            request.stream.reset_on_close();
            return;
        }
        if let Some(listener) = request.unread.take() {
            let registry = self.poll.registry();
            self.arrivals
                .read(request, listener, registry, &mut self.kit);
            return;
        }
        if !request.pool.queue.is_empty() {
            self.queue(request); // nobody passes those who wait
            return;
        }
        self.connect(request, None);
    }

    /// Starts to connect, to the backend that is picked already if there is one.
    fn connect(&mut self, request: Request, picked: Option<Picked>) {
        match Session::open(request, picked, &mut self.kit) {
            Ok(session) => {
                let key = self.sessions.insert(session);
                let registry = self.poll.registry();
                let registered = self.sessions[key].register(key, registry, &mut self.kit);
                if let Err(error) = registered {
                    self.end(key, &End::Refuse(Refused::Local(error)));
                }
            }
            Err(unserved) => {
                let (request, refused) = *unserved;
                if request.pool.may_queue(&refused) {
                    self.queue(request);
                } else {
                    request.refuse(&refused, State::Connecting, &mut self.kit);
                }
            }
        }
    }

    fn queue(&mut self, request: Request) {
        let pool = (self.kit.active).pool_of(&request.admission, &request.pool);
        if pool.is_none() {
            // Nobody serves the queue of a pool that is gone.
            request.refuse(&Refused::PoolGone, State::Queued, &mut self.kit);
            return;
        }
        let registry = self.poll.registry();
        self.arrivals.queue(request, registry, &mut self.kit);
    }

    /// A session that has lost its backend waits for another.
    pub(super) fn queue_again(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        self.kit.wheel.disarm(deadline_id(key));
        if let Some(request) = session.into_request(self.poll.registry()) {
            self.queue(request);
        }
    }

    /// Calls those who wait for slots that are free, here or on other workers.
    pub(super) fn serve_queues(&mut self) {
        self.may_call_more = false;
        let is_over = |drain: &Drain| drain.until <= self.kit.heard;
        if self.is_stopping || self.kit.drain.as_ref().is_some_and(is_over) {
            return; // who would be called now is cut at once
        }
        if !is_anybody_waiting(&self.shared.waiting) {
            return;
        }
        let active = Arc::clone(&self.kit.active);
        for pool in active.pools.iter().filter(|pool| !pool.queue.is_empty()) {
            let called = pool.queue.serve(pool, &mut self.kit);
            self.may_call_more |= called.len() == CALLED_AT_ONCE;
            for (worker, called) in called {
                if worker == self.index {
                    let before = self.sessions.len();
                    self.on_called(called);
                    // Its slot is free again, and this turn has served already.
                    self.may_call_more |= self.sessions.len() == before;
                } else if self.mailboxes[worker]
                    .post(Command::Call(Box::new(called)))
                    .is_err()
                {
                    log::debug!("worker {}: worker {worker} has stopped", self.index);
                }
            }
        }
    }

    /// One of our clients has its turn. If it has gone, the slot is free again, and is handed on in
    /// this turn.
    pub(super) fn on_called(&mut self, called: Called) {
        let Some(mut request) = self
            .arrivals
            .take(called.key, self.poll.registry(), self.kit.now)
        else {
            return;
        };
        request.pool = called.pool;
        request.caller.tried = called.tried;
        match called.outcome {
            Ok(picked) => self.connect(request, Some(picked)),
            Err(refusal) => {
                let refused = Refused::Balancer(refusal);
                request.refuse(&refused, State::Queued, &mut self.kit);
            }
        }
    }

    /// Serves a client that was accepted some time ago, maybe by another worker or before the last change.
    pub(super) fn adopt(&mut self, mut request: Request) {
        let pool = self.kit.active.pool_now(&request.admission, &request.pool);
        request.pool = Arc::clone(pool);
        self.open(request);
    }
}
