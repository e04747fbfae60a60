//! A worker: one thread, one epoll, and everything it owns.
//!
//! A turn: wait for events, read the clock once, handle the events, then whoever was cut short in
//! an earlier turn, then listeners, commands and deadlines. Everything in a turn is bounded, and
//! whoever is cut short goes on a list: readiness is edge-triggered and must not be lost.

mod clients;
mod listeners;
mod turn;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, unbounded};
use mio::event::Event;
use mio::{Events, Poll, Waker};
use slotmap::SlotMap;

use super::arrivals::Arrivals;
use super::fate::{Cut, End, Fate};
use super::kit::{Drain, Kit};
use super::listen::Listener;
use super::mailbox::{Command, Listing, Mailbox, Report, Reports, Shared};
use super::request::Request;
use super::tcp::Session;
use super::token::{SessionKey, Subject, deadline_id, session_of};
use super::udp::Datagrams;
use crate::config::plan::Splice;
use crate::lb::backend::BackendState;
use crate::lb::time::Tick;
use crate::lb::traffic::relay::Ready;

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
    /// Pipes it may use at most.
    pub pipes: u32,
    /// Seeds its random choices.
    pub seed: u64,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Handle {
    /// The way to it.
    pub mailbox: Mailbox,
    /// Ends after [`Command::Stop`].
    pub thread: JoinHandle<()>,
}

/// A connection that one worker accepted and another one serves.
pub struct Accepted(Option<Box<Request>>);

impl Accepted {
    const fn new(request: Box<Request>) -> Self {
        Self(Some(request))
    }

    fn take(mut self) -> Option<Box<Request>> {
        self.0.take()
    }
}

/// Nobody has served it, because the process stops: the client is not to take that for an end.
impl Drop for Accepted {
    fn drop(&mut self) {
        if let Some(request) = &self.0 {
            request.stream.reset_on_close();
        }
    }
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.0.as_ref().map(|request| request.caller.client);
        f.debug_tuple("Accepted").field(&client).finish()
    }
}

/// Starts so many workers, each of which knows the mailboxes of all.
pub fn start(count: usize, settings: impl Fn(usize) -> Settings) -> io::Result<Vec<Handle>> {
    let prepared = (0..count).map(settings).map(Prepared::new);
    let prepared = prepared.collect::<io::Result<Vec<_>>>()?;
    let mailboxes: Vec<Mailbox> = prepared.iter().map(|it| it.mailbox.clone()).collect();
    let spawn = |worker: Prepared| worker.spawn(mailboxes.clone());
    prepared.into_iter().map(spawn).collect()
}

/// A worker that is ready to turn: all mailboxes exist before the first one turns.
struct Prepared {
    mailbox: Mailbox,
    poll: Poll,
    commands: Receiver<Command>,
    settings: Settings,
}

impl Prepared {
    fn new(settings: Settings) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), Subject::Mailbox.token())?;
        let (sender, commands) = unbounded();
        Ok(Self {
            mailbox: Mailbox::new(sender, Arc::new(waker)),
            poll,
            commands,
            settings,
        })
    }

    /// Starts the thread; `mailboxes` are those of all workers, in their order.
    fn spawn(self, mailboxes: Vec<Mailbox>) -> io::Result<Handle> {
        let Self {
            mailbox,
            poll,
            commands,
            settings,
        } = self;
        let name = format!("worker-{}", settings.index);
        // Made on its own thread: what it owns never leaves it.
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || Worker::new(settings, poll, commands, mailboxes).run())?;
        Ok(Handle { mailbox, thread })
    }
}

struct Worker {
    index: usize,
    shared: Arc<Shared>,
    mailboxes: Vec<Mailbox>,
    commands: Receiver<Command>,
    poll: Poll,
    kit: Kit,
    sessions: SlotMap<SessionKey, Session>,
    arrivals: Arrivals,
    datagrams: Datagrams,
    /// By the place in their tokens.
    listeners: Vec<Option<Listener>>,
    /// Places of the listeners that had an event in this turn.
    accepting: Vec<usize>,
    /// Sessions whose turn was cut short.
    ready: Vec<SessionKey>,
    /// More clients in the queues can be called than were called in this turn.
    may_call_more: bool,
    /// When paused listeners try again.
    resume: Option<Tick>,
    /// Turns that may still be as full as can be before all that waited has been heard.
    full_turns_left: usize,
    /// When it began to wait for the events of this turn.
    waits_since: Duration,
    has_mail: bool,
    is_stopping: bool,
    is_drained: bool,
}

impl Worker {
    fn new(
        settings: Settings,
        poll: Poll,
        commands: Receiver<Command>,
        mailboxes: Vec<Mailbox>,
    ) -> Self {
        Self {
            kit: Kit::new(&settings),
            index: settings.index,
            datagrams: Datagrams::new(Arc::clone(&settings.shared), settings.index),
            shared: settings.shared,
            mailboxes,
            commands,
            poll,
            sessions: SlotMap::with_key(),
            arrivals: Arrivals::new(settings.index),
            listeners: Vec::new(),
            accepting: Vec::new(),
            ready: Vec::new(),
            may_call_more: false,
            resume: None,
            full_turns_left: 0,
            waits_since: Duration::ZERO,
            has_mail: false,
            is_stopping: false,
            is_drained: false,
        }
    }

    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut due = Vec::new();
        self.kit.now_exactly = self.clock();
        while !self.is_stopping {
            let asked = self.kit.now;
            let wait = self.wait();
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("worker {}: epoll failed: {error}", self.index);
                    return;
                }
            }
            self.read_clock(wait);
            let turn = self.count_turn();
            let cut_short = std::mem::take(&mut self.ready);
            let mut count = 0;
            for event in &events {
                self.on_event(event);
                count += 1;
            }
            for key in cut_short {
                self.run_again(key);
            }
            self.datagrams
                .run_again(self.poll.registry(), &mut self.kit);
            self.accept_all(turn);
            if self.has_mail {
                self.read_mail();
            }
            if !self.is_behind(count) {
                self.kit.heard = asked;
            }
            self.kit.wheel.expire(self.kit.heard, &mut due);
            for id in due.drain(..) {
                self.on_deadline(session_of(id));
            }
            self.datagrams.expire(&self.kit);
            for request in self.arrivals.expire(self.poll.registry(), &mut self.kit) {
                self.adopt(request);
            }
            self.serve_queues();
            self.count_moved();
            self.look_at_drain();
        }
    }

    #[inline(always)]
    fn on_event(&mut self, event: &Event) {
        match Subject::of(event.token()) {
            Subject::Mailbox => self.has_mail = true,
            Subject::Listener(place) => self.accepting.push(place as usize),
            subject @ (Subject::Gate(_) | Subject::Flow(_)) => {
                let registry = self.poll.registry();
                self.datagrams.on_event(subject, registry, &mut self.kit);
            }
            Subject::Session(key, side) => {
                // An event of a session that ended earlier in this turn finds nothing.
                let Some(session) = self.sessions.get_mut(key) else {
                    return;
                };
                let registry = self.poll.registry();
                let fate = session.on_event(key, (side, ready(event)), registry, &mut self.kit);
                self.settle(key, fate);
            }
            Subject::Arrival(key) => {
                let registry = self.poll.registry();
                let (arrivals, kit) = (&mut self.arrivals, &mut self.kit);
                if let Some(request) = arrivals.on_event(key, ready(event), registry, kit) {
                    self.adopt(request);
                }
            }
        }
    }

    fn run_again(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        session.is_queued = false;
        let fate = session.run(key, &mut self.kit);
        self.settle(key, fate);
    }

    fn on_deadline(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let fate = session.on_deadline(key, self.poll.registry(), &mut self.kit);
        self.settle(key, fate);
    }

    fn settle(&mut self, key: SessionKey, fate: Fate) {
        match fate {
            Fate::Wait => {}
            Fate::Ready => {
                if let Some(session) = self.sessions.get_mut(key)
                    && !session.is_queued
                {
                    session.is_queued = true;
                    self.ready.push(key);
                }
            }
            Fate::Queue => self.queue_again(key),
            Fate::End(end) => self.end(key, &end),
        }
    }

    fn end(&mut self, key: SessionKey, end: &End) {
        let Some(session) = self.sessions.remove(key) else {
            return;
        };
        self.kit.wheel.disarm(deadline_id(key));
        session.end(end, &mut self.kit);
        if self.resume.is_some() {
            self.resume = Some(self.kit.now); // a place has become free
        }
    }

    fn read_mail(&mut self) {
        self.has_mail = false;
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Install { active, add } => self.install(active, add),
                Command::List(listing) => self.list(listing),
                Command::Cut(backend) => self.cut(&backend),
                Command::Drain { within } => self.drain(within),
                Command::Stop => self.is_stopping = true,
                Command::Adopt(accepted) => {
                    if let Some(request) = accepted.take() {
                        self.adopt(*request);
                    }
                }
                Command::Call(called) => self.on_called(*called),
            }
        }
        // What was given to this worker until now ends as its other sessions do.
        if self.is_stopping {
            self.stop();
        }
    }

    /// Tells who is open.
    fn list(&self, listing: Listing) {
        let sessions = self.sessions.values().map(Session::view);
        let arrivals = self.arrivals.views();
        listing.answer(sessions.chain(arrivals).chain(self.datagrams.views()));
    }

    fn cut(&mut self, backend: &Arc<BackendState>) {
        let on_it = self
            .sessions
            .iter()
            .filter(|(_, session)| session.is_on(backend));
        let keys: Vec<_> = on_it.map(|(key, _)| key).collect();
        for key in keys {
            let fate = self.sessions[key].on_cut(key, self.poll.registry(), &mut self.kit);
            self.settle(key, fate);
        }
        self.datagrams.cut(backend, &self.kit);
    }

    fn drain(&mut self, within: Duration) {
        for place in 0..self.listeners.len() {
            if self.listeners[place].is_some() {
                self.close_listener(place);
            }
        }
        self.kit.drain = Some(Drain::new(self.kit.now, within));
        for (key, session) in &mut self.sessions {
            session.arm(key, &mut self.kit);
        }
        self.arrivals.drain(&self.kit);
    }

    fn look_at_drain(&mut self) {
        if self.kit.drain.is_some()
            && !self.is_drained
            && self.sessions.is_empty()
            && self.arrivals.is_empty()
            && self.datagrams.is_empty()
        {
            self.is_drained = true;
            (self.kit.reports)(Report::Drained { worker: self.index });
        }
    }

    fn stop(&mut self) {
        let keys: Vec<_> = self.sessions.keys().collect();
        for key in keys {
            self.end(key, &End::Cut(Cut::Stop));
        }
        self.arrivals.stop(&self.kit);
        self.datagrams.stop(&self.kit);
    }
}

fn ready(event: &Event) -> Ready {
    Ready {
        readable: event.is_readable(),
        writable: event.is_writable(),
        ending: event.is_read_closed(),
        failed: event.is_error(),
        urgent: event.is_priority(),
    }
}

/// Events taken from the kernel at once.
const EVENTS_PER_TURN: usize = 512;
