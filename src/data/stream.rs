//! One stream socket of a session, TCP or Unix.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};

use crate::sys::socket::{self, Target};
use crate::sys::source;

/// A connected or connecting stream socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    /// A socket that is connecting to `target`.
    pub(super) fn connect(target: &Target, source: source::Source) -> io::Result<Self> {
        Ok(match target {
            Target::Tcp(address) => {
                Self::Tcp(TcpStream::from_std(socket::connect_tcp(*address, source)?))
            }
            Target::Unix(path) => Self::Unix(UnixStream::from_std(socket::connect_unix(path)?)),
        })
    }

    /// Registers for every event. What is there already is told at once.
    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        match self {
            Self::Tcp(stream) => stream.register(registry, token, interest),
            Self::Unix(stream) => stream.register(registry, token, interest),
        }
    }

    /// Takes that back, before it is registered for another purpose.
    pub(super) fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.deregister(registry),
            Self::Unix(stream) => stream.deregister(registry),
        }
    }

    #[inline(always)]
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::receive(self.as_fd(), buffer)
    }

    /// Reads what has come so far, and leaves it there.
    pub(super) fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        socket::peek(self.as_fd(), buffer)
    }

    /// Whether a read that brings less than it might has emptied the socket. A read of a Unix
    /// socket also ends behind a message that carries descriptors, whatever follows it.
    pub(super) const fn is_emptied_by_short_read(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// `is_last`: a FIN will follow at once.
    #[inline(always)]
    pub(super) fn write(&self, bytes: &[u8], is_last: bool) -> io::Result<usize> {
        socket::send(self.as_fd(), bytes, is_last)
    }

    /// Whether writes fail, asked by a write of nothing.
    pub(super) fn is_broken(&self) -> bool {
        self.write(&[], false).is_err()
    }

    /// Sends a FIN.
    pub(super) fn shut(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }

    /// The error the socket holds, if any; the kernel forgets it with this call.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
        }
    }

    /// Completes the handshake although there are no bytes to send with it: a backend that speaks
    /// first waits for it.
    pub(super) fn acknowledge_now(&self) {
        if let Self::Tcp(stream) = self {
            // If it fails, the kernel does the same 40 ms later.
            drop(socket::acknowledge_now(stream.as_fd()));
        }
    }

    /// Sends small writes from now on although earlier ones are not acknowledged yet.
    pub(super) fn hold_nothing_back(&self) {
        if let Self::Tcp(stream) = self {
            // It fails only for a socket that is disconnected already, which the write will tell.
            drop(stream.set_nodelay(true));
        }
    }

    /// Makes the coming close a reset. A Unix socket knows no reset: its other end sees one only
    /// if bytes are left unread here, else an end of file.
    pub(super) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // It fails only for a socket that is disconnected already, which needs no reset.
            drop(socket::reset_on_close(stream.as_fd()));
        }
    }

    /// Whether the other end's kernel has everything that was written. Bytes in a Unix socket
    /// survive its close, so there is nothing to wait for.
    pub(super) fn unacknowledged(&self) -> u32 {
        match self {
            Self::Tcp(stream) => socket::unacknowledged(stream.as_fd()).unwrap_or(0),
            Self::Unix(_) => 0,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
