//! The datagrams of a worker: listening sockets, flows, and a socket per flow towards its backend.
//! `lb::traffic::flow` says which flow a datagram belongs to and when a flow is over; this moves the
//! datagrams. Holds no policy.
//!
//! What must stay true: a datagram goes out as it came in (behind a header, where the pool asks for
//! one) or not at all, and then it is counted; a train keeps its segment size, or goes as single
//! datagrams; datagrams of a flow keep their order.

mod flows;
mod gate;
mod host;
mod leg;

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::Arc;

use mio::Registry;

use self::flows::Flows;
use super::counters::Ended;
use super::kit::Kit;
use super::listing::View;
use super::mailbox::{Route, Shared, SocketId};
use super::token::Subject;
use crate::lb::backend::BackendState;
use crate::lb::time::Tick;
use crate::lb::traffic::flow::{After, FlowKey};
use crate::sys::batch::{Batch, SLOTS};
use crate::sys::datagram::RECEIVE_BUFFER;

/// All that a worker has to do with datagrams.
pub(super) struct Datagrams {
    flows: Flows,
    /// What has just been received.
    batch: Batch,
    /// Whose turn was cut short.
    ready: Vec<Subject>,
}

impl Datagrams {
    pub(super) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            flows: Flows::new(shared, worker),
            batch: Batch::new(),
            ready: Vec::new(),
        }
    }

    /// Takes a listening socket in use. Datagrams may be waiting already.
    pub(super) fn open(
        &mut self,
        socket: UdpSocket,
        route: Route,
        registry: &Registry,
        kit: &Kit,
    ) -> io::Result<()> {
        let place = self.flows.open_gate(socket, route, registry, kit)?;
        self.ready.push(Subject::Gate(place));
        Ok(())
    }

    /// Follows a new configuration: sockets without a route are closed with their flows, the others
    /// keep both.
    pub(super) fn redirect(&mut self, route: impl Fn(SocketId) -> Option<Route>, kit: &Kit) {
        self.flows.redirect(route, kit);
    }

    /// Ends the flows of a backend; the next datagram of each client begins another.
    pub(super) fn cut(&mut self, backend: &Arc<BackendState>, kit: &Kit) {
        self.flows
            .end_all(Ended::BackendDown, kit, |flow| flow.shell.is_on(backend));
    }

    /// Ends every flow.
    pub(super) fn stop(&mut self, kit: &Kit) {
        self.flows.end_all(Ended::Stopping, kit, |_| true);
    }

    /// What there is to tell of each flow.
    pub(super) fn views(&self) -> impl Iterator<Item = View<'_>> {
        self.flows.views()
    }

    /// Whether no flow is open.
    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Flows that are open.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether somebody's turn was cut short.
    pub(super) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether there are flows whose time has come, and nobody has looked at them yet.
    pub(super) fn has_due(&self) -> bool {
        self.flows.has_due()
    }

    /// When to look at deadlines next.
    pub(super) fn next(&self) -> Option<Tick> {
        self.flows.next()
    }

    /// Ends the flows whose time has come.
    pub(super) fn expire(&mut self, kit: &Kit) {
        self.flows.expire(kit);
    }

    /// Adds to the counters what flows have moved.
    pub(super) fn count_moved(&mut self, now: Tick) {
        self.flows.count_moved(now);
    }

    /// An event of one of its sockets.
    pub(super) fn on_event(&mut self, subject: Subject, registry: &Registry, kit: &mut Kit) {
        let is_cut_short = match subject {
            Subject::Gate(place) => self.on_gate(place, registry, kit),
            Subject::Flow(key) => self.on_flow(key, kit),
            Subject::Mailbox
            | Subject::Listener(_)
            | Subject::Session(..)
            | Subject::Arrival(_) => false,
        };
        if is_cut_short && !self.ready.contains(&subject) {
            self.ready.push(subject);
        }
    }

    /// Goes on with those whose turn was cut short.
    pub(super) fn run_again(&mut self, registry: &Registry, kit: &mut Kit) {
        for subject in std::mem::take(&mut self.ready) {
            self.on_event(subject, registry, kit);
        }
    }

    /// Datagrams of clients; true if there may be more.
    fn on_gate(&mut self, place: u32, registry: &Registry, kit: &mut Kit) -> bool {
        let is_cut_short = self.take_from_gate(place, registry, kit);
        self.flows.end_turn(place, is_cut_short);
        is_cut_short
    }

    fn take_from_gate(&mut self, place: u32, registry: &Registry, kit: &mut Kit) -> bool {
        let batches = if self.flows.sheds(place) {
            BATCHES_TO_CATCH_UP
        } else {
            BATCHES_PER_TURN
        };
        for _ in 0..batches {
            let Some(received) = self.flows.receive_at(place, &mut self.batch) else {
                return false;
            };
            match received {
                Ok(count) => {
                    for nth in 0..count {
                        self.flows
                            .forward(place, &self.batch.get(nth), registry, kit);
                    }
                    if count < SLOTS {
                        return false;
                    }
                    if self.flows.is_turn_over() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // The kernel reports an error once and forgets it: the socket is as good as before.
                Err(_) => {}
            }
        }
        true
    }

    /// Datagrams of a backend; true if there may be more.
    fn on_flow(&mut self, key: FlowKey, kit: &mut Kit) -> bool {
        for _ in 0..BATCHES_PER_TURN {
            let Some(received) = self.flows.receive_of(key, &mut self.batch, kit) else {
                return false;
            };
            match received {
                Ok(count) => {
                    let answers = (0..count).map(|nth| self.batch.get(nth));
                    if self.flows.answer(key, answers, kit) == After::Close || count < SLOTS {
                        return false;
                    }
                    if self.flows.is_turn_over() {
                        return true;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                // What the network has reported is noted; datagrams may wait behind it.
                Err(_) => {}
            }
        }
        true
    }
}

/// Batches received on one socket in a turn: bounded, so that a flood on one does not keep the others
/// waiting.
const BATCHES_PER_TURN: usize = 8;

/// Turns in which a worker receives all that a listening socket's buffer can hold, of small datagrams,
/// each of which takes the kernel more than half a KiB. A turn may be over after one batch.
pub(super) const TURNS_PER_BUFFER: usize = 2 * RECEIVE_BUFFER / 512 / SLOTS;

/// The same while new flows are shed, which is cheap: as many as come while flows that began before
/// have their turn, and more.
const BATCHES_TO_CATCH_UP: usize = 64;
