//! A session until its backend has answered the connect: trying one backend after another.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::Registry;

use super::{Session, Stage};
use crate::data::dial::{dial, on_connect_failed};
use crate::data::fate::{End, Fate};
use crate::data::kit::Kit;
use crate::data::pipes::Parked;
use crate::data::refuse::Refused;
use crate::data::request::{Caller, Request};
use crate::data::token::{SessionKey, Subject};
use crate::lb::balance::pick::Picked;
use crate::lb::time::Tick;
use crate::lb::traffic::phase::Phase;
use crate::lb::traffic::relay::{Ready, Relay, Side};
use crate::wire::proxy_header::Transport;

#[derive(Debug)]
pub(super) struct Attempts {
    caller: Caller,
    /// When the one under way began.
    pub(super) since: Tick,
    /// The same, exactly.
    since_exactly: Duration,
}

impl Session {
    /// Starts to connect for `request`, to the backend that is `picked` already if there is one. A
    /// client that gets no backend comes back with the reason.
    pub(in crate::data) fn open(
        mut request: Request,
        picked: Option<Picked>,
        kit: &mut Kit,
    ) -> Result<Self, Box<(Request, Refused)>> {
        request.on_dial(kit);
        let before = request.caller.tried.len();
        let dialled = dial(&request.pool, &mut request.caller, picked, kit);
        if let Some(history) = &mut request.history {
            history.on_attempts(request.caller.tried.len() - before);
        }
        let leg = match dialled {
            Ok(leg) => leg,
            Err(refused) => return Err(Box::new((request, refused))),
        };
        Ok(Self {
            client: request.stream,
            source: request.caller.address(),
            since: request.caller.since,
            leg,
            relay: Relay::new(kit.carriage),
            parked: [None, None],
            stage: Stage::Connecting(Box::new(Attempts {
                caller: request.caller,
                since: kit.now,
                since_exactly: kit.now_exactly,
            })),
            phase: Phase::Opening { since: kit.now },
            is_watched: false,
            pool: request.pool,
            admission: request.admission,
            last_activity: kit.now,
            expires: None,
            history: request.history,
            counted: [0; 2],
            is_noted: false,
            is_queued: false,
            is_half_closed: false,
        })
    }

    pub(super) fn on_connect(
        &mut self,
        key: SessionKey,
        ready: Ready,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Fate {
        if ready.failed || ready.ending {
            // A hang-up during a connect may be spurious: only the socket's own error counts.
            match self.leg.stream.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => {
                    return self.on_attempt_failed(key, &error, registry, kit);
                }
            }
        }
        if !ready.writable {
            return Fate::Wait;
        }
        let backend = self.leg.lease.backend();
        backend.sessions.fetch_add(1, Relaxed);
        if let Stage::Connecting(attempts) = &self.stage {
            let took = kit.now_exactly.saturating_sub(attempts.since_exactly);
            backend.connect_time.observe(took);
        }
        let stage = std::mem::replace(&mut self.stage, Stage::Relaying);
        if let Some(history) = &mut self.history {
            history.on_attempts(1);
            history.on_connected(kit.now);
        }
        if let Stage::Connecting(attempts) = stage
            && let Some(header) = self
                .pool
                .introduction(Transport::Stream, attempts.caller.told())
        {
            let bytes: Box<[u8]> = header.as_bytes().into();
            self.relay.begin_with(Side::Client, bytes.len());
            if let Some(history) = &mut self.history {
                history.on_header(bytes.len());
            }
            self.parked[Side::Client as usize] = Some(Box::new(Parked::Bytes { bytes, start: 0 }));
        }
        self.last_activity = kit.now;
        self.begin_phases(kit);
        self.relay.on_ready(
            Side::Backend,
            Ready {
                failed: false,
                ..ready
            },
        );
        self.arm(key, kit);
        let fate = self.run(key, kit);
        if self.relay.sent(Side::Client) == 0 {
            self.leg.stream.acknowledge_now();
        }
        fate
    }

    pub(super) fn on_attempt_failed(
        &mut self,
        key: SessionKey,
        error: &io::Error,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Fate {
        let target = &self.pool.targets[usize::from(self.leg.index)];
        if !target.is_local(error) {
            on_connect_failed(&self.pool, self.leg.lease.backend(), error, kit);
        }
        self.try_another(key, registry, kit)
    }

    /// Gives a client that is still connecting another backend, or refuses it.
    pub(super) fn try_another(
        &mut self,
        key: SessionKey,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Fate {
        let Stage::Connecting(attempts) = &mut self.stage else {
            return Fate::Wait;
        };
        let caller = &mut attempts.caller;
        caller.tried.push(self.leg.index);
        attempts.since = kit.now;
        attempts.since_exactly = kit.now_exactly;
        let pool = kit.active.pool_now(&self.admission, &self.pool);
        if !Arc::ptr_eq(pool, &self.pool) {
            caller.follow(&self.pool, pool);
            self.pool = Arc::clone(pool);
        }
        let before = caller.tried.len();
        let dialled = dial(&self.pool, caller, None, kit);
        if let Some(history) = &mut self.history {
            history.on_attempts(1 + caller.tried.len() - before);
        }
        match dialled {
            Ok(leg) => self.leg = leg,
            Err(refused) if self.pool.may_queue(&refused) => return Fate::Queue,
            Err(refused) => return Fate::End(End::Refuse(refused)),
        }
        let token = Subject::Session(key, Side::Backend).token();
        if let Err(error) = self.leg.stream.register(registry, token) {
            return Fate::End(End::Refuse(Refused::Local(error)));
        }
        self.arm(key, kit);
        Fate::Wait
    }

    /// Its client, if it is not connected yet; its own attempt to connect is given up.
    pub(in crate::data) fn into_request(mut self, registry: &Registry) -> Option<Request> {
        let Stage::Connecting(attempts) = self.stage else {
            return None;
        };
        // It fails only for a socket that is not registered, and this one is.
        drop(self.client.deregister(registry));
        Some(Request {
            stream: self.client,
            caller: attempts.caller,
            unread: None,
            pool: self.pool,
            admission: self.admission,
            history: self.history,
        })
    }
}
