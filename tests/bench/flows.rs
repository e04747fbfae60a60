//! A client of many flows: one socket that sends from many addresses of 127/8, one datagram under
//! way on each.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use evenkeel::sys::batch::{Batch, Received, SLOTS, Towards, send};
use evenkeel::sys::datagram::listen_udp;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::datagrams::alone;
use crate::exchange::Limit;
use crate::measure::Tally;
use crate::message::{HEADER, Kind, Pattern};

/// An exchange that is not complete after this long is lost, and so is the run.
const PATIENCE: Duration = Duration::from_secs(5);
/// The address of the first flow: 127.1.0.0.
const FIRST: u32 = 0x7F01_0000;

/// What a flow waits for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    tag: u64,
    at: Instant,
}

/// Flows to one target.
#[derive(Debug)]
pub(crate) struct Flows {
    socket: UdpSocket,
    target: SocketAddr,
    poll: Poll,
    pattern: Pattern,
    message: Vec<u8>,
    flows: Vec<Option<Asked>>,
    /// The flow whose turn it is.
    next: usize,
    started: u64,
    in_flight: usize,
    tally: Tally,
}

impl Flows {
    /// `count` flows to one target, from this port of as many addresses. Messages will be `size` bytes
    /// long.
    pub(crate) fn new(
        target: SocketAddr,
        port: u16,
        count: usize,
        size: usize,
    ) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let mut socket = UdpSocket::from_std(listen_udp(address, false)?);
        let poll = Poll::new()?;
        poll.registry()
            .register(&mut socket, Token(0), Interest::READABLE)?;
        Ok(Self {
            socket,
            target,
            poll,
            pattern: Pattern::new(),
            message: vec![0; size.max(HEADER)],
            flows: vec![None; count],
            next: 0,
            started: 0,
            in_flight: 0,
            tally: Tally::default(),
        })
    }

    /// One exchange on every flow.
    pub(crate) fn open(&mut self, window: usize) -> io::Result<Tally> {
        let limit = Limit {
            count: self.flows.len() as u64,
            time: Duration::from_secs(30),
        };
        self.repeat(window, limit)
    }

    /// Exchanges on one flow after another, with `window` datagrams under way.
    pub(crate) fn repeat(&mut self, window: usize, limit: Limit) -> io::Result<Tally> {
        let end = Instant::now() + limit.time;
        let mut events = Events::with_capacity(4);
        let mut batch = Batch::new();
        let mut progress = Instant::now();
        self.started = 0;
        loop {
            let now = Instant::now();
            while now < end && self.started < limit.count && self.in_flight < window {
                self.ask()?;
            }
            if self.in_flight == 0 {
                break;
            }
            if now > progress + PATIENCE {
                let lost = self.in_flight as u64;
                self.tally.fail(format!("{lost} datagrams lost"));
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
        Ok(std::mem::take(&mut self.tally))
    }

    fn ask(&mut self) -> io::Result<()> {
        while self.flows[self.next].is_some() {
            self.next = (self.next + 1) % self.flows.len();
        }
        let place = u32::try_from(self.next).map_err(io::Error::other)?;
        let tag = self.started;
        self.pattern
            .fill_message(Kind::Echo, tag, &mut self.message);
        let towards = Towards::Client {
            from: Some(IpAddr::V4(Ipv4Addr::from_bits(FIRST + place))),
            to: self.target,
        };
        send(self.socket.as_fd(), alone(&self.message), false, towards)
            .map_err(|unsent| unsent.error)?;
        self.flows[self.next] = Some(Asked {
            tag,
            at: Instant::now(),
        });
        self.next = (self.next + 1) % self.flows.len();
        self.started += 1;
        self.in_flight += 1;
        Ok(())
    }

    /// Takes answers; whether there were any.
    fn hear(&mut self, batch: &mut Batch) -> io::Result<bool> {
        let mut any = false;
        loop {
            let count = match batch.receive(self.socket.as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(any),
                Err(error) => return Err(error),
            };
            any = true;
            for nth in 0..count {
                self.check(&batch.get(nth));
            }
            if count < SLOTS {
                return Ok(any);
            }
        }
    }

    fn check(&mut self, received: &Received<'_>) {
        let place = match received.to {
            Some(IpAddr::V4(ip)) => ip.to_bits().checked_sub(FIRST),
            _ => None,
        };
        let place = place.and_then(|place| usize::try_from(place).ok());
        let asked = place.and_then(|place| self.flows.get_mut(place)?.take());
        let Some(asked) = asked else {
            return self.tally.fail("an answer that nobody waits for");
        };
        self.in_flight -= 1;
        self.pattern
            .fill_message(Kind::Echo, asked.tag, &mut self.message);
        if received.train.bytes == self.message && received.from == self.target {
            self.tally.count += 1;
            self.tally.latencies.push(asked.at.elapsed());
        } else {
            self.tally.fail("a wrong byte in the answer");
        }
    }
}
