//! One TCP session: two sockets, a relay that decides, and the time-outs. Holds no policy.
//!
//! Every end that is not two clean FINs is a reset of both sockets, so that a transfer that was cut
//! never looks complete. A side that is to be reset because the other one was first gets what is
//! still on its way to it ([`Stage::Flushing`]): the kernel drops unsent bytes at a reset.

mod connecting;
mod phases;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use mio::Registry;

use self::connecting::Attempts;
use super::access_log::{Ending, History};
use super::carry::{Carried, Direction};
use super::dial::Leg;
use super::fate::{Cut, End, Fate};
use super::flush::Flush;
use super::kit::Kit;
use super::listen::Admission;
use super::listing::{State, View};
use super::mailbox::Pool;
use super::pipes::{Parked, Pipes};
use super::refuse::refuse;
use super::stream::Stream;
use super::token::{SessionKey, Subject, deadline_id};
use crate::lb::backend::BackendState;
use crate::lb::time::Tick;
use crate::lb::traffic::phase::Phase;
use crate::lb::traffic::relay::{Ready, Relay, Side, Verdict};

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    client: Stream,
    leg: Leg,
    relay: Relay,
    /// What came from the client and what came from the backend.
    parked: [Option<Box<Parked>>; 2],
    stage: Stage,
    phase: Phase,
    /// Its deadline is no later than the phase ends by itself.
    is_watched: bool,
    pool: Arc<Pool>,
    admission: Admission,
    /// Who it is for; `None` = a client of a Unix socket.
    source: Option<SocketAddr>,
    /// When its client came.
    since: Tick,
    last_activity: Tick,
    /// When it has lasted long enough.
    expires: Option<Tick>,
    /// For the access log, if there is one.
    history: Option<Box<History>>,
    /// What has been added to the counters of what has been sent.
    counted: [u64; 2],
    /// It is noted to be counted.
    is_noted: bool,
    /// It is on the ready list.
    pub(super) is_queued: bool,
    is_half_closed: bool,
}

#[derive(Debug)]
enum Stage {
    /// The backend has not answered yet; no client byte has been read.
    Connecting(Box<Attempts>),
    Relaying,
    /// One side is broken; this one is reset as soon as it has everything.
    Flushing(Box<Flush>),
}

impl Session {
    /// Registers both sockets and sets the deadline. Without it the session must be dropped.
    pub(super) fn register(
        &mut self,
        key: SessionKey,
        registry: &Registry,
        kit: &mut Kit,
    ) -> io::Result<()> {
        self.client
            .register(registry, Subject::Session(key, Side::Client).token())?;
        self.leg
            .stream
            .register(registry, Subject::Session(key, Side::Backend).token())?;
        self.arm(key, kit);
        Ok(())
    }

    /// Takes in an event of one of its sockets.
    #[inline(always)]
    pub(super) fn on_event(
        &mut self,
        key: SessionKey,
        (side, ready): (Side, Ready),
        registry: &Registry,
        kit: &mut Kit,
    ) -> Fate {
        match (&self.stage, side) {
            (Stage::Connecting(_), Side::Backend) => self.on_connect(key, ready, registry, kit),
            (Stage::Connecting(_), Side::Client) => {
                self.relay.on_ready(side, ready);
                if ready.failed {
                    Fate::End(End::Reset(side))
                } else {
                    Fate::Wait
                }
            }
            (Stage::Relaying, _) => {
                self.relay.on_ready(side, ready);
                self.run(key, kit)
            }
            (Stage::Flushing(flush), _) => {
                self.relay.on_ready(side, ready);
                match self.relay.verdict() {
                    Verdict::Drop => Fate::End(End::Reset(flush.side.other())),
                    _ => Fate::Wait,
                }
            }
        }
    }

    /// Moves bytes both ways and looks what has become of the session.
    #[inline(always)]
    pub(super) fn run(&mut self, key: SessionKey, kit: &mut Kit) -> Fate {
        if !matches!(self.stage, Stage::Relaying) {
            return Fate::Wait;
        }
        let mut carried = Carried::default();
        let before = Side::BOTH.map(|side| self.relay.received(side));
        for from in Side::BOTH {
            let (source, sink) = match from {
                Side::Client => (&self.client, &self.leg.stream),
                Side::Backend => (&self.leg.stream, &self.client),
            };
            let parked = &mut self.parked[from as usize];
            let mut direction = Direction {
                from,
                source,
                sink,
                parked,
                relay: &mut self.relay,
            };
            let one_way = direction.carry(kit);
            carried.moved |= one_way.moved;
            carried.cut_short |= one_way.cut_short;
        }
        if carried.moved {
            self.on_moved(before, key, kit);
        }
        if let Some(history) = &mut self.history {
            history.observe(&self.relay, kit.now);
        }
        match self.relay.verdict() {
            Verdict::Run => {
                if !self.is_half_closed && self.relay.is_half_closed() {
                    self.is_half_closed = true;
                    self.last_activity = kit.now; // an end of file is not counted as bytes moved
                    if self.relay.is_finished(Side::Backend) {
                        self.let_backend_rest();
                    }
                    self.arm(key, kit);
                }
                if carried.cut_short || self.relay.is_ready() {
                    Fate::Ready
                } else {
                    Fate::Wait
                }
            }
            Verdict::Close => Fate::End(End::Close),
            Verdict::Drop => {
                let first = self.history.as_ref().and_then(|it| it.broken_first());
                Fate::End(End::Reset(first.unwrap_or(Side::Client)))
            }
            Verdict::Reset(side) => self.flush(key, side, kit),
        }
    }

    /// Its deadline has come, or one that was nearer when it was set.
    pub(super) fn on_deadline(
        &mut self,
        key: SessionKey,
        registry: &Registry,
        kit: &mut Kit,
    ) -> Fate {
        self.look_at_phase(kit);
        if self.due(key, kit) > kit.heard {
            self.arm(key, kit);
            return Fate::Wait;
        }
        if kit.drain.is_some_and(|drain| drain.until <= kit.heard) {
            return Fate::End(End::Cut(Cut::DrainOver));
        }
        let silence = kit.heard.since(self.last_activity);
        if self.over_at().is_some_and(|at| at <= kit.heard) {
            return self.end_at_quiet_point(key, kit);
        }
        match &self.stage {
            Stage::Connecting(attempts)
                if kit.heard.since(attempts.since) >= self.pool.plan.connect_timeout =>
            {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                self.on_attempt_failed(key, &error, registry, kit)
            }
            Stage::Flushing(flush) if flush.next <= kit.heard => self.look_at_flush(key, kit),
            Stage::Relaying if silence >= self.patience() => {
                Fate::End(End::Cut(if self.is_half_closed {
                    Cut::HalfClosed
                } else {
                    Cut::Idle
                }))
            }
            Stage::Connecting(_) | Stage::Flushing(_) | Stage::Relaying => {
                Fate::End(End::Cut(Cut::IdleInDrain))
            }
        }
    }

    /// Sets its deadline anew, because what it depends on has changed.
    pub(super) fn arm(&mut self, key: SessionKey, kit: &mut Kit) {
        let due = self.due(key, kit);
        kit.wheel.arm(deadline_id(key), due);
        self.is_watched = self.idle_at().is_some();
    }

    /// What there is to tell of it.
    pub(super) fn view(&self) -> View<'_> {
        let state = match (&self.stage, self.phase) {
            (Stage::Connecting(_), _) => State::Connecting,
            (Stage::Flushing(_), _) | (Stage::Relaying, Phase::Over) => State::Ending,
            (Stage::Relaying, _) if self.is_half_closed => State::Ending,
            (Stage::Relaying, Phase::Opening { .. }) => State::Opening,
            (Stage::Relaying, Phase::Idle) => State::Idle,
            (Stage::Relaying, Phase::Waiting { .. }) => State::Waiting,
            (Stage::Relaying, Phase::Streaming { .. }) => State::Streaming,
        };
        View {
            state,
            listener: self.admission.listener(),
            pool: &self.pool,
            backend: Some(self.leg.lease.backend()),
            client: self.source,
            since: self.since,
            bytes: Some(Side::BOTH.map(|side| self.relay.sent(side))),
        }
    }

    /// Whether it is on this backend.
    pub(super) fn is_on(&self, backend: &Arc<BackendState>) -> bool {
        Arc::ptr_eq(self.leg.lease.backend(), backend)
    }

    /// Its backend is down and keeps no session. A client that is not connected yet gets another.
    pub(super) fn on_cut(&mut self, key: SessionKey, registry: &Registry, kit: &mut Kit) -> Fate {
        match self.stage {
            Stage::Connecting(_) => self.try_another(key, registry, kit),
            Stage::Relaying | Stage::Flushing(_) => Fate::End(End::Cut(Cut::BackendDown)),
        }
    }

    /// Ends it: counts, releases what it holds and closes its sockets as `end` says.
    pub(super) fn end(mut self, end: &End, kit: &mut Kit) {
        self.log_end(end, kit);
        self.count();
        if let Some(ended) = end.ended() {
            self.admission.on_ended(ended);
        }
        let backend = self.leg.lease.backend();
        match end {
            End::Close => {}
            End::Refuse(refused) => {
                self.admission.on_unserved(refused.unserved());
                refuse(&self.client, &self.pool, refused, kit);
            }
            End::Reset(_) | End::Cut(_) => {
                self.leg.on_end(end, &self.pool, &self.relay, kit);
                if let End::Cut(reason) = end {
                    log::debug!(
                        "session on \"{}/{}\" reset: {}",
                        backend.pool(),
                        backend.name(),
                        reason.describe()
                    );
                }
                self.client.reset_on_close();
                self.leg.stream.reset_on_close();
            }
        }
        release(self.parked, &mut kit.pipes);
    }

    /// Adds to the counters what it has moved since that was done before.
    pub(super) fn count(&mut self) {
        self.is_noted = false;
        let backend = self.leg.lease.backend();
        let listener = self.admission.listener();
        for side in Side::BOTH {
            let counted = &mut self.counted[side as usize];
            let sent = self.relay.sent(side);
            let fresh = sent - std::mem::replace(counted, sent);
            if fresh > 0 {
                backend.bytes[side as usize].fetch_add(fresh, Relaxed);
                listener.bytes[side as usize].fetch_add(fresh, Relaxed);
            }
        }
    }

    /// Tells the access log.
    fn log_end(&mut self, end: &End, kit: &Kit) {
        let Some(mut history) = self.history.take() else {
            return;
        };
        let mut ending = Ending::without_backend(self.admission.listener(), &self.pool);
        if !matches!(end, End::Refuse(_)) {
            ending.backend = Some(self.leg.lease.backend());
            ending.bytes = Side::BOTH.map(|side| self.relay.sent(side));
        }
        if matches!(self.stage, Stage::Connecting(_)) && ending.backend.is_some() {
            history.on_attempts(1);
        }
        kit.log_end(&history, end.cause(history.progress()), ending);
    }

    /// Everything for `side` is written: resets it now if the kernel has delivered it, else later.
    fn flush(&mut self, key: SessionKey, side: Side, kit: &mut Kit) -> Fate {
        let unacknowledged = self.socket(side).unacknowledged();
        if unacknowledged == 0 {
            return Fate::End(End::Reset(side.other()));
        }
        release(std::mem::take(&mut self.parked), &mut kit.pipes);
        if side == Side::Client {
            self.let_backend_rest();
        }
        let flush = Flush::new(side, unacknowledged, kit.now);
        self.stage = Stage::Flushing(Box::new(flush));
        self.arm(key, kit);
        Fate::Wait
    }

    fn look_at_flush(&mut self, key: SessionKey, kit: &mut Kit) -> Fate {
        let patience = self.pool.plan.half_close_timeout;
        let Stage::Flushing(flush) = &mut self.stage else {
            return Fate::Wait;
        };
        let socket = match flush.side {
            Side::Client => &self.client,
            Side::Backend => &self.leg.stream,
        };
        let left = socket.unacknowledged();
        if left == 0 {
            return Fate::End(End::Reset(flush.side.other()));
        }
        if !flush.look(left, patience, kit.now) {
            return Fate::End(End::Cut(Cut::NotTaken));
        }
        self.arm(key, kit);
        Fate::Wait
    }

    /// When something is to happen to it if nothing happens before.
    fn due(&self, key: SessionKey, kit: &Kit) -> Tick {
        let due = match &self.stage {
            Stage::Connecting(attempts) => attempts.since.after(self.pool.plan.connect_timeout),
            Stage::Relaying => {
                let patience = self.last_activity.after(self.patience());
                let others = [self.idle_at(), self.over_at()];
                others.into_iter().flatten().fold(patience, Tick::min)
            }
            Stage::Flushing(flush) => flush.next,
        };
        let Some(drain) = kit.drain else { return due };
        if matches!(self.stage, Stage::Relaying) && !self.phase.is_quiet() {
            return due.min(drain.until);
        }
        let cut = drain.cut_of(deadline_id(key));
        let cut = cut.max(self.last_activity.after(IDLE_BEFORE_CUT));
        due.min(cut).min(drain.until)
    }

    /// How long it may be silent.
    fn patience(&self) -> Duration {
        if self.is_half_closed {
            self.pool.plan.half_close_timeout
        } else {
            self.pool.plan.idle_timeout
        }
    }

    const fn socket(&self, side: Side) -> &Stream {
        match side {
            Side::Client => &self.client,
            Side::Backend => &self.leg.stream,
        }
    }
}

fn release(parked: [Option<Box<Parked>>; 2], pipes: &mut Pipes) {
    for one in parked {
        pipes.release(one);
    }
}

/// A session silent for so long when its turn comes counts as idle while draining.
const IDLE_BEFORE_CUT: Duration = Duration::from_secs(1);
