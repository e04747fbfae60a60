//! Clients of a worker that have no backend yet and cannot get one at once: what they say first is still
//! to come, or they wait for their turn. But for a PROXY header nothing that they send is taken out of
//! their sockets: that it fills them is all the back-pressure there is, and all there need be.

use std::sync::Arc;

use mio::Registry;
use slotmap::SlotMap;

use super::fate::Cut;
use super::kit::Kit;
use super::listing::{self, View};
use super::mailbox::{Barred, Listener};
use super::preread::{Look, bar, hear, introduce};
use super::queue::{Left, Waiter};
use super::refuse::Refused;
use super::request::Request;
use super::token::{ArrivalKey, SESSIONS_MAX, Subject, arrival_deadline_id, arrival_of};
use crate::lb::admission::queue::Ticket;
use crate::lb::admission::source::Source;
use crate::lb::time::Tick;
use crate::lb::traffic::cause::{By, State};
use crate::lb::traffic::deadline::Wheel;
use crate::lb::traffic::relay::Ready;
use crate::wire::proxy_header::parse::Versions;

/// Those of one worker.
#[derive(Debug)]
pub(super) struct Arrivals {
    worker: usize,
    clients: SlotMap<ArrivalKey, Arrival>,
    wheel: Wheel,
    due: Vec<u64>,
}

#[derive(Debug)]
struct Arrival {
    request: Request,
    waits: Waits,
}

/// What it waits for.
#[derive(Debug)]
enum Waits {
    /// Nothing: it has just been put here.
    No,
    /// Its PROXY header, until then at most.
    Header(Arc<Listener>, Versions, Tick),
    /// What the routes of its listener look at, until then at most.
    FirstBytes(Arc<Listener>, Tick),
    /// Its turn in the queue of its pool, since then.
    Turn(Ticket, Tick),
}

impl Arrivals {
    pub(super) fn new(worker: usize) -> Self {
        Self {
            worker,
            clients: SlotMap::with_key(),
            wheel: Wheel::new(Tick::ZERO),
            due: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// What there is to tell of each.
    pub(super) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.clients.values().map(|Arrival { request, .. }| View {
            state: listing::State::Arriving,
            listener: request.admission.listener(),
            pool: &request.pool,
            backend: None,
            client: request.caller.address(),
            since: request.caller.since,
            bytes: None,
        })
    }

    /// When to look at deadlines next.
    pub(super) fn next(&self) -> Option<Tick> {
        self.wheel.next()
    }

    /// Looks at what a client says first, for this listener.
    pub(super) fn read(
        &mut self,
        request: Request,
        listener: Arc<Listener>,
        registry: &Registry,
        kit: &mut Kit,
    ) {
        let until = kit.now.after(listener.plan.preread.timeout);
        let waits = match listener.plan.accept_proxy {
            Some(versions) => Waits::Header(listener, versions, until),
            None => Waits::FirstBytes(listener, until),
        };
        // What is there already is told by an event.
        if let Some(key) = self.insert(request, waits, registry, kit) {
            self.arm(key, kit);
        }
    }

    /// Lets a client wait in the queue of its pool, or refuses it.
    pub(super) fn queue(&mut self, request: Request, registry: &Registry, kit: &mut Kit) {
        let pool = Arc::clone(&request.pool);
        let caller = &request.caller;
        let (client, tried, standing) = (
            caller.client,
            caller.tried.clone(),
            caller.standing(kit.now),
        );
        let source = caller.address().map(|address| Source::of(address.ip()));
        let Some(key) = self.insert(request, Waits::No, registry, kit) else {
            return;
        };
        let queue = Arc::clone(&pool.queue);
        let waiter = Waiter {
            worker: self.worker,
            key,
            client,
            source,
            pool,
            tried,
        };
        match queue.join(waiter, standing) {
            Ok(ticket) => {
                self.clients[key].request.caller.ticket = Some(ticket);
                self.clients[key].waits = Waits::Turn(ticket, kit.now);
                self.arm(key, kit);
            }
            Err(full) => self.refuse(key, &Refused::QueueFull(full), kit),
        }
    }

    /// The client that has been called, unless it has gone.
    pub(super) fn take(
        &mut self,
        key: ArrivalKey,
        registry: &Registry,
        now: Tick,
    ) -> Option<Request> {
        let mut request = self.remove(key, now)?.request;
        // It fails only for a socket that is not registered, and this one is.
        drop(request.stream.deregister(registry));
        Some(request)
    }

    /// An event of a client's socket. Who has said enough comes back.
    pub(super) fn on_event(
        &mut self,
        key: ArrivalKey,
        ready: Ready,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Option<Request> {
        let Arrival { request, waits } = self.clients.get(key)?;
        match waits {
            _ if ready.failed => self.end(key, Left::Gone, By::Client, kit),
            Waits::Turn(..) if ready.ending && request.pool.plan.queue.abort_on_close => {
                self.end(key, Left::Gone, By::Client, kit);
            }
            Waits::Header(..) | Waits::FirstBytes(..) => {
                return self.look(key, ready.ending, registry, kit);
            }
            Waits::Turn(..) | Waits::No => {}
        }
        None
    }

    /// Looks at what has come. `is_final`: no more will, or nobody waits for it.
    fn look(
        &mut self,
        key: ArrivalKey,
        is_final: bool,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Option<Request> {
        let Arrival { request, waits } = self.clients.get_mut(key)?;
        let look = match waits {
            Waits::Header(listener, versions, _) => {
                let listener = Arc::clone(listener);
                let look = introduce(request, &listener, *versions, is_final, kit);
                if matches!(look, Look::Done) && listener.reads_first_bytes {
                    let until = kit.now.after(listener.plan.preread.timeout);
                    *waits = Waits::FirstBytes(listener, until);
                    self.arm(key, kit);
                    return self.look(key, is_final, registry, kit);
                }
                look
            }
            Waits::FirstBytes(listener, _) => hear(request, listener, is_final, kit),
            Waits::No | Waits::Turn(..) => return None,
        };
        match look {
            Look::Wait => {}
            Look::Done => return self.take(key, registry, kit.now),
            Look::Barred(reason) => self.bar(key, reason, kit.now),
            Look::Gone => self.end(key, Left::Gone, By::Client, kit),
        }
        None
    }

    /// Ends the wait of those whose time has come; who has said enough comes back.
    pub(super) fn expire(&mut self, registry: &Registry, kit: &mut Kit) -> Vec<Request> {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(kit.heard, &mut due);
        let mut done = Vec::new();
        for key in due.drain(..).map(arrival_of) {
            let Some(arrival) = self.clients.get(key) else {
                continue;
            };
            if arrival.due(kit) > kit.heard {
                self.arm(key, kit);
            } else if kit.drain.is_some_and(|drain| drain.until <= kit.heard) {
                self.cut(key, Cut::DrainOver, kit);
            } else {
                done.extend(self.on_late(key, registry, kit));
            }
        }
        self.due = due;
        done
    }

    fn on_late(&mut self, key: ArrivalKey, registry: &Registry, kit: &mut Kit) -> Option<Request> {
        let Arrival { request, waits } = self.clients.get(key)?;
        match waits {
            Waits::Turn(..) | Waits::No => {
                self.leave(key, Left::TimedOut);
                self.refuse(key, &Refused::QueueTimeout, kit);
            }
            Waits::Header(listener, ..) => {
                let reason = bar(request, listener, &"none has come in time", kit);
                self.bar(key, reason, kit.now);
            }
            Waits::FirstBytes(..) => return self.look(key, true, registry, kit),
        }
        None
    }

    /// Follows a new configuration: those whose pool is another now are to look for a backend there,
    /// and those who have none are refused.
    pub(super) fn redirect(&mut self, registry: &Registry, kit: &mut Kit) -> Vec<Request> {
        let mut moved = Vec::new();
        for key in self.clients.keys().collect::<Vec<_>>() {
            let Arrival { request, waits } = &mut self.clients[key];
            let has_turn = matches!(waits, Waits::Turn(..));
            let pool = kit.active.pool_of(&request.admission, &request.pool);
            match pool {
                // Who has yet to say something waits in no queue, and goes on saying it.
                Some(pool) if !has_turn || Arc::ptr_eq(&pool.queue, &request.pool.queue) => {
                    request.caller.follow(&request.pool, pool);
                    request.pool = Arc::clone(pool);
                    self.arm(key, kit);
                }
                Some(pool) => {
                    let pool = Arc::clone(pool);
                    self.leave(key, Left::Moved);
                    if let Some(mut request) = self.take(key, registry, kit.now) {
                        request.caller.follow(&request.pool, &pool);
                        request.pool = pool;
                        moved.push(request);
                    }
                }
                // It goes where it would have gone, as those do that are connecting.
                None if !has_turn => {}
                None => {
                    self.leave(key, Left::Hopeless);
                    self.refuse(key, &Refused::PoolGone, kit);
                }
            }
        }
        moved.sort_by_key(|request| request.caller.since);
        moved
    }

    /// The process stops, and those who wait have less time.
    pub(super) fn drain(&mut self, kit: &Kit) {
        for key in self.clients.keys().collect::<Vec<_>>() {
            self.arm(key, kit);
        }
    }

    /// Ends all.
    pub(super) fn stop(&mut self, kit: &Kit) {
        for key in self.clients.keys().collect::<Vec<_>>() {
            self.cut(key, Cut::Stop, kit);
        }
    }

    fn cut(&mut self, key: ArrivalKey, cut: Cut, kit: &Kit) {
        log::debug!("waiting client reset: {}", cut.describe());
        self.end(key, Left::Moved, By::Evenkeel, kit);
    }

    /// Resets it.
    fn end(&mut self, key: ArrivalKey, left: Left, by: By, kit: &Kit) {
        self.leave(key, left);
        if let Some(mut arrival) = self.remove(key, kit.now) {
            arrival.on_end(kit);
            let state = arrival.state();
            arrival.request.reset(by, state, kit);
        }
    }

    /// It is not let in.
    fn bar(&mut self, key: ArrivalKey, reason: Barred, now: Tick) {
        if let Some(Arrival { request, .. }) = self.remove(key, now) {
            request.admission.on_barred(reason);
            request.stream.reset_on_close();
        }
    }

    fn refuse(&mut self, key: ArrivalKey, refused: &Refused, kit: &mut Kit) {
        if let Some(mut arrival) = self.remove(key, kit.now) {
            arrival.on_end(kit);
            let state = arrival.state();
            arrival.request.refuse(refused, state, kit);
        }
    }

    /// Gives up its place. If a slot is on its way to it, that comes back when nobody takes it.
    fn leave(&self, key: ArrivalKey, left: Left) {
        if let Some(arrival) = self.clients.get(key)
            && let Waits::Turn(ticket, _) = arrival.waits
        {
            arrival.request.pool.queue.leave(ticket, left);
        }
    }

    /// Watches a client from now on, unless that is not possible.
    fn insert(
        &mut self,
        request: Request,
        waits: Waits,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Option<ArrivalKey> {
        if self.clients.len() >= SESSIONS_MAX {
            request.reset(By::Kernel, State::Queued, kit);
            return None;
        }
        let key = self.clients.insert(Arrival { request, waits });
        let token = Subject::Arrival(key).token();
        let registered = self.clients[key].request.stream.register(registry, token);
        if let Err(error) = registered {
            self.refuse(key, &Refused::Local(error), kit);
            return None;
        }
        Some(key)
    }

    fn remove(&mut self, key: ArrivalKey, now: Tick) -> Option<Arrival> {
        self.wheel.disarm(arrival_deadline_id(key));
        let arrival = self.clients.remove(key)?;
        if let Waits::Turn(_, since) = arrival.waits {
            let waited = now.since(since);
            arrival.request.pool.queue.wait_time.observe(waited);
        }
        Some(arrival)
    }

    fn arm(&mut self, key: ArrivalKey, kit: &Kit) {
        let due = self.clients[key].due(kit);
        self.wheel.arm(arrival_deadline_id(key), due);
    }
}

impl Arrival {
    /// What the access log says of an end now.
    const fn state(&self) -> State {
        match self.waits {
            Waits::No | Waits::Turn(..) => State::Queued,
            Waits::Header(..) | Waits::FirstBytes(..) => State::Connecting,
        }
    }

    /// It has waited until now, if it has waited for its turn.
    fn on_end(&mut self, kit: &Kit) {
        if let (Waits::Turn(..), Some(history)) = (&self.waits, &mut self.request.history) {
            history.on_dial(kit.now);
        }
    }

    /// When it has waited for too long.
    fn due(&self, kit: &Kit) -> Tick {
        let due = match self.waits {
            Waits::No => kit.now,
            Waits::Header(.., until) | Waits::FirstBytes(_, until) => until,
            Waits::Turn(_, since) => since.after(self.request.pool.plan.queue.timeout),
        };
        kit.drain.map_or(due, |drain| due.min(drain.until))
    }
}
