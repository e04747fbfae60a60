//! What the access log is told of each session and flow that ends. Workers never wait for it: what
//! its writer has no room for is counted and lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::fate::Progress;
use super::mailbox::{ListenerCounters, Pool};
use crate::config::plan;
use crate::lb::backend::BackendState;
use crate::lb::time::Tick;
use crate::lb::traffic::cause::Cause;
use crate::lb::traffic::relay::{Relay, Side};
use crate::wire::proxy_header::Transport;

/// The way to the writer.
#[derive(Clone, Debug)]
pub struct AccessLog {
    records: Sender<Record>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// A way to whoever reads the other end, and what counts the records that were lost on it.
    pub fn new() -> (Self, Receiver<Record>, Arc<AtomicU64>) {
        let (records, receiver) = bounded(RECORDS_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let log = Self {
            records,
            lost: Arc::clone(&lost),
        };
        (log, receiver, lost)
    }

    pub(super) fn write(&self, record: Record) {
        if self.records.try_send(record).is_err() {
            // The writer may be held up for long: the first is told here, the rest once it goes on.
            if self.lost.fetch_add(1, Relaxed) == 0 {
                log::warn!("access log: its lines are not taken fast enough, some are lost");
            }
        }
    }
}

/// A session or a flow that is over.
#[derive(Debug)]
pub struct Record {
    /// When it ended.
    pub ended: Tick,
    /// Which of both it was.
    pub transport: Transport,
    /// The listener it came by.
    pub listener: Arc<ListenerCounters>,
    /// Who it was for; `None` = a client of a Unix socket.
    pub client: Option<SocketAddr>,
    /// The pool that served it.
    pub pool: Arc<plan::Pool>,
    /// The backend it was on at last; `None` = it got none.
    pub backend: Option<Arc<BackendState>>,
    /// Bytes written to backends.
    pub bytes_to_backend: u64,
    /// Bytes written to the client.
    pub bytes_to_client: u64,
    /// From its beginning until a backend was looked for.
    pub queued: Duration,
    /// From then until a backend took it; `None` = none did, or a flow, which does not connect.
    pub connecting: Option<Duration>,
    /// From its beginning to the first byte of a backend.
    pub first_byte: Option<Duration>,
    /// From its beginning to its end.
    pub total: Duration,
    /// Backends tried.
    pub attempts: u32,
    /// Why it ended.
    pub cause: Cause,
}

/// What is remembered of a session or a flow for its record, from its beginning to its end. Kept only
/// if there is an access log at the beginning.
#[derive(Debug)]
pub(super) struct History {
    transport: Transport,
    client: Option<SocketAddr>,
    since: Tick,
    dialled: Tick,
    connected: Option<Tick>,
    first_byte: Option<Tick>,
    finished_first: Option<Side>,
    broken_first: Option<Side>,
    attempts: u32,
    /// Bytes of ours before the client's.
    header: u64,
    /// Written to backends and to the client before its ending was written.
    earlier: [u64; 2],
}

/// What a record says beside what has been remembered.
pub(super) struct Ending<'a> {
    pub(super) listener: &'a Arc<ListenerCounters>,
    pub(super) pool: &'a Arc<Pool>,
    /// The backend it is on now.
    pub(super) backend: Option<&'a Arc<BackendState>>,
    /// Written to that backend, and to the client of what it has sent.
    pub(super) bytes: [u64; 2],
}

impl<'a> Ending<'a> {
    /// Of somebody who has got no backend.
    pub(super) const fn without_backend(
        listener: &'a Arc<ListenerCounters>,
        pool: &'a Arc<Pool>,
    ) -> Self {
        Self {
            listener,
            pool,
            backend: None,
            bytes: [0; 2],
        }
    }
}

impl History {
    /// Of someone who came at `since` and whom a backend is looked for at `dialled`.
    pub(super) fn new(
        transport: Transport,
        client: Option<SocketAddr>,
        since: Tick,
        dialled: Tick,
    ) -> Box<Self> {
        Box::new(Self {
            transport,
            client,
            since,
            dialled,
            connected: None,
            first_byte: None,
            finished_first: None,
            broken_first: None,
            attempts: 0,
            header: 0,
            earlier: [0; 2],
        })
    }

    /// A backend is looked for now, which may not be for the first time.
    pub(super) const fn on_dial(&mut self, now: Tick) {
        self.dialled = now;
    }

    /// So many more backends have been tried.
    pub(super) fn on_attempts(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.attempts = self.attempts.saturating_add(count);
    }

    /// A backend has taken the connection.
    pub(super) const fn on_connected(&mut self, now: Tick) {
        self.connected = Some(now);
    }

    /// So many bytes go to the backend before what the client sends.
    pub(super) const fn on_header(&mut self, bytes: usize) {
        self.header = bytes as u64;
    }

    /// Something has come from the backend.
    pub(super) fn on_answer(&mut self, now: Tick) {
        self.first_byte.get_or_insert(now);
    }

    /// So many bytes went each way, and are not in the ending.
    pub(super) fn on_counted(&mut self, bytes: [u64; 2]) {
        for (earlier, moved) in self.earlier.iter_mut().zip(bytes) {
            *earlier += moved;
        }
    }

    /// A turn on a session has ended.
    pub(super) fn observe(&mut self, relay: &Relay, now: Tick) {
        if relay.received(Side::Backend) > 0 {
            self.on_answer(now);
        }
        let first = |is_so: &dyn Fn(Side) -> bool| Side::BOTH.into_iter().find(|&side| is_so(side));
        let finished = || first(&|side| relay.is_finished(side));
        let broken = || first(&|side| relay.is_broken(side));
        self.finished_first = self.finished_first.or_else(finished);
        self.broken_first = self.broken_first.or_else(broken);
    }

    /// The side that was reset first, or the client's where both were at once.
    pub(super) const fn broken_first(&self) -> Option<Side> {
        self.broken_first
    }

    /// How far it has come.
    pub(super) fn progress(&self) -> Progress {
        match (self.connected, self.finished_first) {
            (None, _) => Progress::Connecting,
            (Some(_), None) => Progress::Open,
            (Some(_), Some(side)) => Progress::Finished(side),
        }
    }

    /// What the log gets.
    pub(super) fn record(&self, now: Tick, cause: Cause, ending: Ending<'_>) -> Record {
        let [to_backend, to_client] = ending.bytes;
        let [earlier_to_backend, earlier_to_client] = self.earlier;
        Record {
            ended: now,
            transport: self.transport,
            listener: Arc::clone(ending.listener),
            client: self.client,
            pool: Arc::clone(&ending.pool.plan),
            backend: ending.backend.map(Arc::clone),
            bytes_to_backend: earlier_to_backend + to_backend.saturating_sub(self.header),
            bytes_to_client: earlier_to_client + to_client,
            queued: self.dialled.since(self.since),
            connecting: self.connected.map(|tick| tick.since(self.dialled)),
            first_byte: self.first_byte.map(|tick| tick.since(self.since)),
            total: now.since(self.since),
            attempts: self.attempts,
            cause,
        }
    }
}

/// Records that wait for the writer at most, 2 MB of them: what 20,000 sessions a second end with while
/// a disk takes nothing for half a second.
const RECORDS_WAITING: usize = 8192;
