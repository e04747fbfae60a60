//! A client that sends trains of datagrams to one peer and is told how many came.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use evenkeel::sys::batch::{Batch, SLOTS, Towards, Train, send};
use evenkeel::sys::datagram::listen_udp;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::datagrams::{SEGMENT, TRAIN};
use crate::measure::Tally;
use crate::message::{HEADER, Header, Kind, Pattern};

/// Trains under way at most. Few enough that they fit every receive buffer on the way, be it as
/// single datagrams: what is lost then is the proxy's loss.
const WINDOW: usize = 8;
/// A train that is not confirmed after this long is lost, and so is the run.
const PATIENCE: Duration = Duration::from_secs(5);

/// Trains to one target.
#[derive(Debug)]
pub(crate) struct Trains {
    socket: UdpSocket,
    target: SocketAddr,
    poll: Poll,
    pattern: Pattern,
    train: Vec<u8>,
    sent: u64,
    /// Trains confirmed, and the datagrams that had come until then.
    confirmed: u64,
    received: u64,
    under_way: VecDeque<Instant>,
    tally: Tally,
}

impl Trains {
    pub(crate) fn new(target: SocketAddr) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut socket = UdpSocket::from_std(listen_udp(address, false)?);
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut socket, Token(0), Interest::READABLE)?;
        Ok(Self {
            socket,
            target,
            poll,
            pattern: Pattern::new(),
            train: vec![0; SEGMENT * TRAIN],
            sent: 0,
            confirmed: 0,
            received: 0,
            under_way: VecDeque::new(),
            tally: Tally::default(),
        })
    }

    /// Sends for so long, then waits for what is under way. The tally counts datagrams; those that
    /// did not come are errors.
    pub(crate) fn run(mut self, time: Duration) -> io::Result<Tally> {
        let end = Instant::now() + time;
        let mut events = Events::with_capacity(4);
        let mut batch = Batch::new();
        let mut progress = Instant::now();
        loop {
            let now = Instant::now();
            while now < end && self.under_way.len() < WINDOW && self.send_one()? {}
            if self.under_way.is_empty() || now > progress + PATIENCE {
                break;
            }
            match self.poll.poll(&mut events, Some(Duration::from_millis(10))) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            if self.hear(&mut batch)? {
                progress = Instant::now();
            }
        }
        self.tally.count = self.received;
        let lost = self.sent * TRAIN as u64 - self.received;
        if lost > 0 {
            self.tally.fail(format!("{lost} datagrams lost"));
            self.tally.errors = lost;
        }
        Ok(self.tally)
    }

    /// False if there is no room to send.
    fn send_one(&mut self) -> io::Result<bool> {
        for (datagram, tag) in self
            .train
            .chunks_mut(SEGMENT)
            .zip(self.sent * TRAIN as u64..)
        {
            self.pattern.fill_message(Kind::Sink, tag, datagram);
        }
        let train = Train {
            bytes: &self.train,
            segment: SEGMENT,
            ecn: 0,
        };
        let towards = Towards::Client {
            from: None,
            to: self.target,
        };
        let sent = send(self.socket.as_fd(), train, true, towards);
        match sent.map_err(|unsent| unsent.error) {
            Ok(_) => {
                self.sent += 1;
                self.under_way.push_back(Instant::now());
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the backend's answers; whether one of them was news.
    fn hear(&mut self, batch: &mut Batch) -> io::Result<bool> {
        let before = self.confirmed;
        loop {
            let count = match batch.receive(self.socket.as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            for nth in 0..count {
                for answer in batch.get(nth).train.singles() {
                    let header = answer
                        .bytes
                        .first_chunk::<HEADER>()
                        .and_then(Header::decode);
                    let Some(header) = header.filter(|header| header.kind == Kind::Taken) else {
                        return Err(io::Error::other("an answer that nobody sent"));
                    };
                    self.confirm(u64::from(header.length), header.value);
                }
            }
            if count < SLOTS {
                break;
            }
        }
        Ok(self.confirmed > before)
    }

    fn confirm(&mut self, trains: u64, received: u64) {
        self.received = self.received.max(received);
        while self.confirmed < trains {
            self.confirmed += 1;
            if let Some(started) = self.under_way.pop_front() {
                self.tally.latencies.push(started.elapsed());
            }
        }
    }
}
