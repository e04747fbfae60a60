//! Listening sockets that the service manager has bound for us (LISTEN_FDS).
#![expect(unsafe_code, reason = "descriptors that arrive as numbers")]

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;

use socket2::{Domain, Socket, Type};

use super::socket::{Listening, prepare_clients};

/// Takes over the descriptors `numbers`, which must be listening stream sockets.
pub fn take_over(numbers: impl Iterator<Item = RawFd>) -> io::Result<Vec<Listening>> {
    numbers.map(take_over_one).collect()
}

fn take_over_one(number: RawFd) -> io::Result<Listening> {
    // SAFETY: the service manager opened the descriptor for this process alone, as LISTEN_PID
    // says, and it is taken over once, before anything else opens files.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(number) });
    let wrong = |what: &str| io::Error::other(format!("inherited descriptor {number} {what}"));
    let kind = socket.r#type().map_err(|_| wrong("is not a socket"))?;
    if kind != Type::STREAM || !socket.is_listener()? {
        return Err(wrong("is not a listening stream socket"));
    }
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    let domain = socket.domain()?;
    if domain == Domain::UNIX {
        return Ok(Listening::Unix(UnixListener::from(socket)));
    }
    prepare_clients(&socket)?;
    Ok(Listening::Tcp(TcpListener::from(socket)))
}
