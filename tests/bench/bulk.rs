//! Clients that move many bytes one way and check all of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::measure::Tally;
use crate::message::{CHUNK, HEADER, Header, Kind, Pattern};

/// Which way the bytes go, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Download,
    Upload,
}

#[derive(Debug)]
enum Progress {
    /// Bytes of the request's header sent so far.
    Requesting(usize),
    /// Bytes of the pattern moved so far, either way.
    Moving(u64),
    /// Upload only: bytes of the backend's answer received so far.
    Confirming(usize, [u8; HEADER]),
}

#[derive(Debug)]
struct Transfer {
    stream: TcpStream,
    progress: Progress,
}

/// Parallel transfers of the same size.
#[derive(Debug)]
pub(crate) struct Bulk {
    direction: Direction,
    /// Bytes of each transfer.
    amount: u64,
    pattern: Pattern,
    buffer: Vec<u8>,
}

impl Bulk {
    pub(crate) fn new(direction: Direction, amount: u64) -> Self {
        Self {
            direction,
            amount,
            pattern: Pattern::new(),
            buffer: vec![0; CHUNK],
        }
    }

    /// Runs `streams` transfers side by side, for at most `time`.
    pub(crate) fn run(
        &mut self,
        target: SocketAddr,
        streams: usize,
        time: Duration,
    ) -> io::Result<Tally> {
        let mut poll = Poll::new()?;
        let mut transfers = Vec::new();
        for slot in 0..streams {
            let mut stream = TcpStream::connect(target)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, Token(slot), interest)?;
            transfers.push(Some(Transfer {
                stream,
                progress: Progress::Requesting(0),
            }));
        }
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut events = Events::with_capacity(64);
        while transfers.iter().any(Option::is_some) {
            if started.elapsed() > time {
                tally.fail("not finished within the time allowed");
                break;
            }
            match poll.poll(&mut events, Some(Duration::from_millis(100))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                let slot = &mut transfers[event.token().0];
                let Some(transfer) = slot else { continue };
                match self.advance(transfer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Ok(()) => {
                        tally.count += self.amount;
                        tally.latencies.push(started.elapsed());
                    }
                    Err(error) => tally.fail(error),
                }
                *slot = None;
            }
        }
        Ok(tally)
    }

    /// Works until the socket would block; `Ok` when the transfer is complete and right.
    fn advance(&mut self, transfer: &mut Transfer) -> io::Result<()> {
        loop {
            let stream = &mut transfer.stream;
            match &mut transfer.progress {
                Progress::Requesting(sent) => {
                    *sent += stream.write(&self.request()[*sent..])?;
                    if *sent == HEADER {
                        transfer.progress = Progress::Moving(0);
                    }
                }
                Progress::Moving(moved) if self.direction == Direction::Download => {
                    match stream.read(&mut self.buffer)? {
                        0 if *moved == self.amount => return Ok(()),
                        0 => return Err(io::Error::other("a clean end before the last byte")),
                        read => {
                            if self.buffer[..read] != *self.pattern.slice(*moved, read) {
                                return Err(io::Error::other("a wrong byte in a download"));
                            }
                            *moved += read as u64;
                        }
                    }
                }
                Progress::Moving(moved) => {
                    let left = self.amount - *moved;
                    let piece = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                    *moved += stream.write(self.pattern.slice(*moved, piece))? as u64;
                    if *moved == self.amount {
                        transfer.progress = Progress::Confirming(0, [0; HEADER]);
                    }
                }
                Progress::Confirming(received, answer) => {
                    match stream.read(&mut answer[*received..])? {
                        0 => return Err(io::Error::other("an upload that nobody confirmed")),
                        read => *received += read,
                    }
                    if *received == HEADER {
                        return self.confirm(answer);
                    }
                }
            }
        }
    }

    fn request(&self) -> [u8; HEADER] {
        let kind = match self.direction {
            Direction::Download => Kind::Source,
            Direction::Upload => Kind::Sink,
        };
        Header {
            kind,
            length: 0,
            value: self.amount,
        }
        .encode()
    }

    fn confirm(&self, answer: &[u8; HEADER]) -> io::Result<()> {
        match Header::decode(answer) {
            Some(header) if header.kind == Kind::Taken && header.value == self.amount => Ok(()),
            _ => Err(io::Error::other(
                "the backend saw other bytes than were sent",
            )),
        }
    }
}
