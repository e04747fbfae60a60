//! A worker's listening sockets: taking clients in turn, giving some to a worker with less to do, and
//! following the configuration.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::net::{TcpListener, UnixListener};

use super::{Accepted, Worker};
use crate::data::listen::{Accept, Listener, Socket};
use crate::data::mailbox::{Active, Command, Report, Route, SocketId};
use crate::data::request::Request;
use crate::data::token::Subject;
use crate::sys::socket::{BACKLOG, Listening};

impl Worker {
    /// Accepts on every listener that has had an event in this turn.
    pub(super) fn accept_all(&mut self, turn: u64) {
        if self.resume.is_some_and(|at| at <= self.kit.now) {
            self.resume = None;
            for listener in self.listeners.iter_mut().flatten() {
                if let Err(error) = listener.resume(self.poll.registry()) {
                    let name = &listener.route.listener.plan.name;
                    let line = format_args!("listener \"{name}\": cannot be watched: {error}");
                    self.kit.notices.accept.log(self.kit.now, line);
                    self.resume = Some(self.kit.now.after(PAUSE));
                }
            }
        }
        let mut accepting = std::mem::take(&mut self.accepting);
        for place in accepting.drain(..) {
            if let Some(Some(listener)) = self.listeners.get_mut(place) {
                let budget = listener.budget(turn);
                self.accept(place, budget);
            }
        }
        self.accepting = accepting;
    }

    /// Accepts at most `budget` connections on one listener.
    pub(super) fn accept(&mut self, place: usize, budget: usize) {
        for _ in 0..budget {
            let Some(Some(listener)) = self.listeners.get_mut(place) else {
                return;
            };
            let accepted = listener.accept(&self.shared, self.index, self.kit.now);
            let name = &listener.route.listener.plan.name;
            match accepted {
                Accept::Client(request) => {
                    self.place(request);
                    continue;
                }
                Accept::Barred(client, reason) => {
                    let now = self.kit.now;
                    self.kit.notices.barred(now, name, client, reason);
                    continue;
                }
                Accept::Gone => continue,
                Accept::Empty => return,
                Accept::Full(limit) => {
                    let line =
                        format_args!("listener \"{name}\": {limit} is reached, clients wait");
                    self.kit.notices.full.log(self.kit.now, line);
                }
                Accept::Failed(error) => {
                    let line = format_args!("listener \"{name}\": cannot accept: {error}; pausing");
                    self.kit.notices.accept.log(self.kit.now, line);
                }
            }
            listener.pause(self.poll.registry());
            self.resume = Some(self.kit.now.after(PAUSE));
            return;
        }
    }

    /// Serves an accepted connection here, or gives it to a worker that has clearly less to do: the
    /// better of two, drawn at random. The kernel spreads connections without looking at what is
    /// open, and a few long streams would pile up on one worker.
    pub(super) fn place(&mut self, mut request: Box<Request>) {
        let others = self.mailboxes.len() - 1;
        if others > 0 {
            let draw = usize::try_from(self.kit.rng.below(others as u64)).unwrap_or(0);
            let other = if draw < self.index { draw } else { draw + 1 };
            let load = |worker: usize| self.shared.workers[worker].sessions.load(Relaxed);
            if load(self.index) > load(other) + load(other) / 4 + CLEARLY_MORE {
                request.admission.move_to(other);
                let adopt = Command::Adopt(Box::new(Accepted::new(request)));
                if self.mailboxes[other].post(adopt).is_err() {
                    log::debug!("worker {}: worker {other} has stopped already", self.index);
                }
                return;
            }
        }
        self.open(*request);
    }

    pub(super) fn install(&mut self, active: Arc<Active>, add: Vec<(SocketId, Listening)>) {
        for place in 0..self.listeners.len() {
            let Some(listener) = &mut self.listeners[place] else {
                continue;
            };
            let socket = listener.route.socket;
            match active.routes.iter().find(|route| route.socket == socket) {
                Some(route) => listener.redirect(route.clone()),
                None => self.close_listener(place),
            }
        }
        let find = |socket| active.routes.iter().find(|route| route.socket == socket);
        self.datagrams
            .redirect(|socket| find(socket).cloned(), &self.kit);
        for (socket, listening) in add {
            let Some(route) = find(socket) else { continue };
            if let Err(error) = self.open_socket(listening, route) {
                let (name, worker) = (&route.listener.plan.name, self.index);
                log::error!("listener \"{name}\": worker {worker} cannot watch it: {error}");
            }
        }
        let (worker, generation) = (self.index, active.generation);
        self.kit.active = active;
        for request in self.arrivals.redirect(self.poll.registry(), &mut self.kit) {
            self.open(request);
        }
        (self.kit.reports)(Report::Installed { worker, generation });
    }

    /// Takes a listening socket in use.
    fn open_socket(&mut self, listening: Listening, route: &Route) -> io::Result<()> {
        let (registry, route) = (self.poll.registry(), route.clone());
        let socket = match listening {
            Listening::Udp(socket) => {
                return self.datagrams.open(socket, route, registry, &self.kit);
            }
            Listening::Tcp(listener) => Socket::Tcp(TcpListener::from_std(listener)),
            Listening::Unix(listener) => Socket::Unix(UnixListener::from_std(listener)),
        };
        let free = self.listeners.iter().position(Option::is_none);
        let place = free.unwrap_or(self.listeners.len());
        let subject = Subject::Listener(u32::try_from(place).unwrap_or(u32::MAX));
        let listener = Listener::new(socket, route, subject.token(), registry)?;
        if place == self.listeners.len() {
            self.listeners.push(None);
        }
        self.listeners[place] = Some(listener);
        Ok(())
    }

    /// Serves the connections that wait on a listening socket already, then closes it.
    pub(super) fn close_listener(&mut self, place: usize) {
        self.accept(place, WAITING_MAX);
        if let Some(mut listener) = self.listeners[place].take() {
            listener.pause(self.poll.registry());
        }
    }
}

/// Connections taken from a socket that is closed: what may wait there at most, as the kernel counts.
const WAITING_MAX: usize = BACKLOG as usize + 1;

/// How long a listener that cannot accept waits before it tries again, unless a session ends.
const PAUSE: Duration = Duration::from_millis(50);

/// Sessions beyond a quarter more than the other worker has that make a load clearly larger.
const CLEARLY_MORE: u32 = 4;
