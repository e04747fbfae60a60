//! The backend's datagram side: sends single datagrams back and counts those of trains. One thread,
//! beside that of the streams, on the same port numbers.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use evenkeel::sys::batch::{Batch, Received, SLOTS, Towards, Train, send};
use evenkeel::sys::datagram::listen_udp;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use crate::message::{HEADER, Header, Kind, Pattern};

/// Bytes of a datagram of a train.
pub(crate) const SEGMENT: usize = 1200;
/// Datagrams of a train: the most that one system call takes.
pub(crate) const TRAIN: usize = 54;

/// What has come from one sender of trains.
#[derive(Clone, Copy, Debug, Default)]
struct Sink {
    /// Datagrams, all of them right.
    received: u64,
    /// Trains confirmed.
    confirmed: u64,
}

/// The sockets, and who sends trains to them.
#[derive(Debug)]
pub(crate) struct Datagrams {
    poll: Poll,
    sockets: Vec<UdpSocket>,
    sinks: HashMap<SocketAddr, Sink>,
    pattern: Pattern,
}

impl Datagrams {
    /// Takes datagrams on these ports of 127.0.0.1.
    pub(crate) fn bind(ports: &[u16]) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut sockets = Vec::new();
        for (place, &port) in ports.iter().enumerate() {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let mut socket = UdpSocket::from_std(listen_udp(address, false)?);
            let token = Token(place);
            poll.registry()
                .register(&mut socket, token, Interest::READABLE)?;
            sockets.push(socket);
        }
        Ok(Self {
            poll,
            sockets,
            sinks: HashMap::new(),
            pattern: Pattern::new(),
        })
    }

    /// Serves for as long as the process lives.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        let mut batch = Batch::new();
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                self.serve(event.token().0, &mut batch)?;
            }
        }
    }

    fn serve(&mut self, place: usize, batch: &mut Batch) -> io::Result<()> {
        loop {
            let count = match batch.receive(self.sockets[place].as_fd()) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            for nth in 0..count {
                self.take(place, &batch.get(nth));
            }
            if count < SLOTS {
                return Ok(());
            }
        }
    }

    /// An answer that cannot be sent is a loss that the client sees.
    fn take(&mut self, place: usize, received: &Received<'_>) {
        let socket = &self.sockets[place];
        for single in received.train.singles() {
            let header = single
                .bytes
                .first_chunk::<HEADER>()
                .and_then(Header::decode);
            match header {
                Some(header) if header.kind == Kind::Sink => {
                    let sink = self.sinks.entry(received.from).or_default();
                    let body = &single.bytes[HEADER..];
                    if *body != *self.pattern.slice(header.value, body.len()) {
                        continue;
                    }
                    sink.received += 1;
                    // The last of a train: later ones cannot have come before, losses stay losses.
                    let trains = (header.value + 1) / TRAIN as u64;
                    if trains > sink.confirmed {
                        sink.confirmed = trains;
                        let answer = Header {
                            kind: Kind::Taken,
                            length: u32::try_from(trains).unwrap_or(u32::MAX),
                            value: sink.received,
                        };
                        reply(socket, &answer.encode(), received.from);
                    }
                }
                _ => reply(socket, single.bytes, received.from),
            }
        }
    }
}

fn reply(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    let towards = Towards::Client { from: None, to };
    drop(send(socket.as_fd(), alone(bytes), false, towards));
}

/// A datagram by itself.
pub(crate) fn alone(bytes: &[u8]) -> Train<'_> {
    Train {
        bytes,
        segment: usize::MAX,
        ecn: 0,
    }
}
