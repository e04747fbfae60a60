//! The backend of the benchmarks: one thread that sends messages back, streams, and swallows. It is
//! made to cost little, so that the proxy in front of it is what a run measures.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::sync::Arc;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::{Domain, Socket, Type};

use crate::calls::{receive, send};
use crate::message::{CHUNK, HEADER, Header, Kind, Pattern};

/// Connections waiting to be accepted, per listener; the kernel caps it at `somaxconn`.
const BACKLOG: i32 = 4096;
/// Token of the waker that ends the loop; other tokens count up from 0.
const STOP: Token = Token(usize::MAX);

#[derive(Debug)]
enum Work {
    /// Waiting for the rest of a header.
    Header(usize, [u8; HEADER]),
    /// A message of which this much has come, and how long it will be.
    Collecting(Vec<u8>, usize),
    /// A message of which this much has been sent back.
    Answering(Vec<u8>, usize),
    /// Bytes streamed so far, of how many.
    Streaming(u64, u64),
    /// Bytes swallowed so far, of how many.
    Swallowing(u64, u64),
    /// Everything is sent; waits for the client's end.
    Ended,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    work: Work,
}

/// The buffers that all connections share: one thread uses them, one connection at a time.
#[derive(Debug)]
struct Shared {
    pattern: Pattern,
    buffer: Vec<u8>,
}

/// The listeners and their connections.
#[derive(Debug)]
pub(crate) struct Backend {
    poll: Poll,
    waker: Arc<Waker>,
    listeners: Vec<TcpListener>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    shared: Shared,
}

impl Backend {
    /// Listens on `count` ports of 127.0.0.1, counted up from `port`; 0 lets the kernel choose each.
    pub(crate) fn bind(port: u16, count: u16) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut listeners = Vec::new();
        for index in 0..count {
            let port = if port == 0 { 0 } else { port + index };
            let mut listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
            let token = Token(usize::from(index));
            poll.registry()
                .register(&mut listener, token, Interest::READABLE)?;
            listeners.push(listener);
        }
        let waker = Arc::new(Waker::new(poll.registry(), STOP)?);
        Ok(Self {
            poll,
            waker,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            shared: Shared {
                pattern: Pattern::new(),
                buffer: vec![0; CHUNK],
            },
        })
    }

    /// The ports it listens on.
    pub(crate) fn ports(&self) -> io::Result<Vec<u16>> {
        self.listeners
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port()))
            .collect()
    }

    /// Ends [`Backend::run`] when woken. Shared, because a waker that is dropped takes its wake-up
    /// with it.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Serves until woken by its waker.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                match event.token() {
                    STOP => return Ok(()),
                    Token(index) if index < self.listeners.len() => self.accept(index)?,
                    Token(index) => {
                        self.serve(index - self.listeners.len(), event.is_read_closed());
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) -> io::Result<()> {
        loop {
            let mut stream = match self.listeners[listener].accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            let slot = self.free.pop().unwrap_or(self.connections.len());
            if slot == self.connections.len() {
                self.connections.push(None);
            }
            let token = Token(self.listeners.len() + slot);
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut stream, token, interest)?;
            self.connections[slot] = Some(Connection {
                stream,
                work: Work::Header(0, [0; HEADER]),
            });
        }
    }

    /// Serves one connection until it would block; a connection that ended or failed is dropped, and
    /// its client sees that.
    #[inline(always)]
    fn serve(&mut self, slot: usize, ending: bool) {
        let Some(connection) = &mut self.connections[slot] else {
            return;
        };
        let open = loop {
            match connection.advance(&mut self.shared, ending) {
                Ok(true) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Ok(false) | Err(_) => break false,
            }
        };
        if !open {
            self.connections[slot] = None;
            self.free.push(slot);
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?; // inherited by what it accepts
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

impl Connection {
    /// One read or write. `Ok(true)` asks to be called again, `Ok(false)` means the client is done.
    /// Unless the client is `ending`, a read that did not fill its buffer needs no second one:
    /// readiness is edge-triggered, so later bytes announce themselves.
    #[inline(always)]
    fn advance(&mut self, shared: &mut Shared, ending: bool) -> io::Result<bool> {
        match &mut self.work {
            Work::Answering(message, sent) => {
                *sent += send(&self.stream, &message[*sent..])?;
                if *sent == message.len() {
                    let header = message.first_chunk().and_then(Header::decode);
                    self.answered(header.is_some_and(|header| header.kind == Kind::EchoOnce))?;
                }
                Ok(true)
            }
            Work::Streaming(at, amount) => {
                let piece = usize::try_from(*amount - *at).map_or(CHUNK, |left| left.min(CHUNK));
                *at += send(&self.stream, shared.pattern.slice(*at, piece))? as u64;
                if *at == *amount {
                    self.stream.shutdown(Shutdown::Write)?;
                    self.work = Work::Ended;
                }
                Ok(true)
            }
            _ => {
                let read = receive(&self.stream, &mut shared.buffer)?;
                if read == 0 {
                    return Ok(false);
                }
                self.take(&shared.buffer[..read], &shared.pattern)?;
                let wants_to_write = matches!(self.work, Work::Answering(..) | Work::Streaming(..));
                if wants_to_write || ending || read == CHUNK {
                    Ok(true)
                } else {
                    Err(ErrorKind::WouldBlock.into())
                }
            }
        }
    }

    /// A message is sent back whole; if it was the last, so is the end.
    fn answered(&mut self, last: bool) -> io::Result<()> {
        self.work = if last {
            self.stream.shutdown(Shutdown::Write)?;
            Work::Ended
        } else {
            Work::Header(0, [0; HEADER])
        };
        Ok(())
    }

    /// Consumes what was read. Clients send one request at a time, so a read never holds two.
    #[inline(always)]
    fn take(&mut self, data: &[u8], pattern: &Pattern) -> io::Result<()> {
        match &mut self.work {
            Work::Header(have, header) => {
                let more = data.len().min(HEADER - *have);
                header[*have..*have + more].copy_from_slice(&data[..more]);
                *have += more;
                if *have == HEADER {
                    let header = *header;
                    self.begin(&header, data, more, pattern)?;
                }
            }
            Work::Collecting(message, length) => {
                message.extend_from_slice(data);
                if message.len() >= *length {
                    self.work = Work::Answering(std::mem::take(message), 0);
                }
            }
            Work::Swallowing(at, amount) => {
                if *data != *pattern.slice(*at, data.len()) {
                    return Err(io::Error::other("a wrong byte in an upload"));
                }
                *at += data.len() as u64;
                if *at == *amount {
                    let answer = Header {
                        kind: Kind::Taken,
                        length: 0,
                        value: *amount,
                    };
                    self.work = Work::Answering(answer.encode().to_vec(), 0);
                }
            }
            Work::Answering(..) | Work::Streaming(..) | Work::Ended => {
                return Err(io::Error::other("bytes that were not expected"));
            }
        }
        Ok(())
    }

    /// The header is complete; `data[used..]` came behind it.
    #[inline(always)]
    fn begin(
        &mut self,
        header: &[u8; HEADER],
        data: &[u8],
        used: usize,
        pattern: &Pattern,
    ) -> io::Result<()> {
        let Some(request) = Header::decode(header) else {
            return Err(io::Error::other("not a request"));
        };
        match request.kind {
            Kind::Echo | Kind::EchoOnce => {
                let length = usize::try_from(request.length).map_err(io::Error::other)?;
                if used == HEADER && data.len() == length {
                    // The usual case: a whole message in one read goes back without being copied.
                    let sent = send(&self.stream, data)?;
                    if sent == length {
                        return self.answered(request.kind == Kind::EchoOnce);
                    }
                    self.work = Work::Answering(data.to_vec(), sent);
                    return Ok(());
                }
                let mut message = Vec::with_capacity(length);
                message.extend_from_slice(header);
                self.work = Work::Collecting(message, length);
                self.take(&data[used..], pattern)
            }
            Kind::Source => {
                self.work = Work::Streaming(0, request.value);
                Ok(())
            }
            Kind::Sink => {
                self.work = Work::Swallowing(0, request.value);
                self.take(&data[used..], pattern)
            }
            Kind::Taken => Err(io::Error::other("an answer where a request belongs")),
        }
    }
}
