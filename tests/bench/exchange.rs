//! Clients that send a message and wait until the backend has sent it back.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::calls::{receive, send};
use crate::measure::Tally;
use crate::message::{HEADER, Kind, Pattern};

/// Connections being opened at a time when many are wanted: stays below any listen backlog.
const OPENING: usize = 64;
/// A run that fails this often is over: it would only measure failures.
const MAX_ERRORS: u64 = 1000;
/// Exchanges that are not answered this long after the run's end are lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// When a run ends: after so many exchanges or after this time, whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) count: u64,
    pub(crate) time: Duration,
}

/// What a connection does after its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Stays open; another is opened until there are enough.
    Hold,
    /// Sends the next message.
    Repeat,
    /// Waits for the backend's end and closes; a new one takes its place. The backend ends first, so
    /// that no port of the client or the proxy stays in TIME_WAIT: with 28,000 of them the search
    /// for a free one would be what the run measures.
    Reopen,
}

#[derive(Debug)]
enum Progress {
    /// Bytes of the message sent so far.
    Sending(usize),
    /// Bytes of the answer received so far.
    Receiving(usize),
    /// The answer is complete; the backend's end must follow.
    Ending,
    Held,
}

/// What follows a read or write.
enum Next {
    /// The answer is complete.
    Done,
    /// There may be more to read.
    Again,
    /// The next event.
    Wait,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    progress: Progress,
    started: Instant,
    tag: u64,
}

/// A set of connections that exchange messages of one size with one target.
#[derive(Debug)]
pub(crate) struct Exchanges {
    poll: Poll,
    target: SocketAddr,
    pattern: Pattern,
    /// The message being sent and, in a second buffer, the answer as it comes.
    message: Vec<u8>,
    answer: Vec<u8>,
    connections: Vec<Option<Connection>>,
    after: After,
    /// Exchanges not to be started any more once this many were started.
    started_limit: u64,
    started: u64,
    in_flight: usize,
    next_tag: u64,
    tally: Tally,
}

impl Exchanges {
    /// No connection yet; messages will be `size` bytes long.
    pub(crate) fn new(target: SocketAddr, size: usize) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            target,
            pattern: Pattern::new(),
            message: vec![0; size.max(HEADER)],
            answer: vec![0; size.max(HEADER)],
            connections: Vec::new(),
            after: After::Hold,
            started_limit: 0,
            started: 0,
            in_flight: 0,
            next_tag: 0,
            tally: Tally::default(),
        })
    }

    /// Opens `count` connections with one exchange on each, and keeps them.
    pub(crate) fn open(&mut self, count: usize) -> io::Result<Tally> {
        let limit = Limit {
            count: count as u64,
            time: Duration::from_secs(60),
        };
        self.begin(After::Hold, limit);
        for _ in 0..count.min(OPENING) {
            self.connect_another();
        }
        self.run(limit)
    }

    /// Exchanges messages on every open connection, one after the other on each.
    pub(crate) fn repeat(&mut self, limit: Limit) -> io::Result<Tally> {
        self.begin(After::Repeat, limit);
        for slot in 0..self.connections.len() {
            if self.next_message(slot) {
                self.advance(slot);
            }
        }
        self.run(limit)
    }

    /// Opens, exchanges once and closes, on `concurrency` connections at a time.
    pub(crate) fn churn(&mut self, concurrency: usize, limit: Limit) -> io::Result<Tally> {
        self.begin(After::Reopen, limit);
        for _ in 0..concurrency {
            self.connect_another();
        }
        self.run(limit)
    }

    fn begin(&mut self, after: After, limit: Limit) {
        self.after = after;
        self.started = 0;
        self.started_limit = limit.count;
    }

    fn run(&mut self, limit: Limit) -> io::Result<Tally> {
        let end = Instant::now() + limit.time;
        let mut events = Events::with_capacity(256);
        while self.in_flight > 0 {
            match self
                .poll
                .poll(&mut events, Some(Duration::from_millis(100)))
            {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            let now = Instant::now();
            if now >= end || self.tally.errors >= MAX_ERRORS {
                self.started_limit = 0;
            }
            if now >= end + PATIENCE {
                self.tally.fail("no answer within the time allowed");
                break;
            }
            for event in &events {
                self.advance(event.token().0);
            }
        }
        Ok(std::mem::take(&mut self.tally))
    }

    /// Opens a connection in a new slot, if one more exchange is wanted.
    fn connect_another(&mut self) {
        if self.started < self.started_limit {
            self.connections.push(None);
            self.connect(self.connections.len() - 1);
        }
    }

    /// Opens a connection in this slot, if one more exchange is wanted.
    fn connect(&mut self, slot: usize) {
        if self.started >= self.started_limit {
            return;
        }
        let started = Instant::now();
        match self.connect_now(slot) {
            Ok(stream) => {
                self.started += 1;
                self.in_flight += 1;
                self.next_tag += 1;
                self.connections[slot] = Some(Connection {
                    stream,
                    progress: Progress::Sending(0),
                    started,
                    tag: self.next_tag,
                });
            }
            Err(error) => self.tally.fail(error),
        }
    }

    fn connect_now(&self, slot: usize) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.target)?;
        stream.set_nodelay(true)?;
        self.poll.registry().register(
            &mut stream,
            Token(slot),
            Interest::READABLE | Interest::WRITABLE,
        )?;
        Ok(stream)
    }

    /// Prepares another exchange on this slot's connection, if one more is wanted.
    fn next_message(&mut self, slot: usize) -> bool {
        let Some(connection) = &mut self.connections[slot] else {
            return false;
        };
        if self.started >= self.started_limit {
            connection.progress = Progress::Held;
            return false;
        }
        self.started += 1;
        self.in_flight += 1;
        self.next_tag += 1;
        connection.tag = self.next_tag;
        connection.progress = Progress::Sending(0);
        connection.started = Instant::now();
        true
    }

    /// Does what this slot's connection can do now. Readiness is edge-triggered: what stops here
    /// without `WouldBlock` waits for an answer that cannot have come yet.
    #[inline(always)]
    fn advance(&mut self, slot: usize) {
        loop {
            match self.transfer(slot) {
                Ok(Next::Done) => {
                    self.in_flight -= 1;
                    if !self.after_exchange(slot) {
                        return;
                    }
                }
                Ok(Next::Again) => {}
                Ok(Next::Wait) => return,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return self.on_failed(slot, error),
            }
        }
    }

    fn on_failed(&mut self, slot: usize, error: io::Error) {
        let held = self.connections[slot]
            .take()
            .is_some_and(|connection| matches!(connection.progress, Progress::Held));
        self.in_flight -= usize::from(!held);
        self.tally.fail(error);
        if self.after != After::Repeat {
            self.connect(slot);
        }
    }

    /// True if this connection goes on with the next.
    fn after_exchange(&mut self, slot: usize) -> bool {
        self.tally.count += 1;
        if let Some(connection) = &mut self.connections[slot] {
            self.tally.latencies.push(connection.started.elapsed());
            connection.progress = Progress::Held;
        }
        match self.after {
            After::Repeat => return self.next_message(slot),
            After::Hold => self.connect_another(),
            After::Reopen => {
                self.connections[slot] = None;
                self.connect(slot);
            }
        }
        false
    }

    /// One read or write.
    #[inline(always)]
    fn transfer(&mut self, slot: usize) -> io::Result<Next> {
        let Some(connection) = &mut self.connections[slot] else {
            return Ok(Next::Wait);
        };
        let kind = match self.after {
            After::Reopen => Kind::EchoOnce,
            After::Hold | After::Repeat => Kind::Echo,
        };
        match connection.progress {
            Progress::Sending(sent) => {
                self.pattern
                    .fill_message(kind, connection.tag, &mut self.message);
                let written = send(&connection.stream, &self.message[sent..])?;
                connection.progress = if sent + written == self.message.len() {
                    Progress::Receiving(0)
                } else {
                    Progress::Sending(sent + written)
                };
                Ok(Next::Wait)
            }
            Progress::Receiving(received) => {
                let read = receive(&connection.stream, &mut self.answer[received..])?;
                let now_received = received + read;
                if read == 0 {
                    return Err(io::Error::other("closed before the answer was complete"));
                }
                self.pattern
                    .fill_message(kind, connection.tag, &mut self.message);
                if self.answer[received..now_received] != self.message[received..now_received] {
                    return Err(io::Error::other("a wrong byte in the answer"));
                }
                if now_received == self.message.len() && kind == Kind::Echo {
                    return Ok(Next::Done);
                }
                connection.progress = if now_received == self.message.len() {
                    Progress::Ending
                } else {
                    Progress::Receiving(now_received)
                };
                // An end that came with these bytes would not announce itself again.
                Ok(Next::Again)
            }
            Progress::Ending => match receive(&connection.stream, &mut self.answer)? {
                0 => Ok(Next::Done),
                _ => Err(io::Error::other("bytes behind the end of the answer")),
            },
            Progress::Held => match receive(&connection.stream, &mut self.answer)? {
                0 => Err(io::Error::other("closed while idle")),
                _ => Err(io::Error::other("bytes that nobody asked for")),
            },
        }
    }
}
