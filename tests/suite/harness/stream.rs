//! The two ends of a session, as plain blocking sockets.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, SockRef, Socket, Type};

use super::wait::DEADLINE;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// An end of file.
    Fin,
    /// A reset.
    Reset,
}

/// Connects; reads and writes fail after [`DEADLINE`].
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, DEADLINE);
    bounded(stream.unwrap_or_else(|error| panic!("connect to {address}: {error}")))
}

/// Connects from a given address of this machine.
pub fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A port is chosen at the connect, so that one port serves several destinations.
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    socket.connect_timeout(&address.into(), DEADLINE)?;
    Ok(bounded(socket.into()))
}

/// The same stream with a bound on every read and write.
pub fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
    stream.set_write_timeout(Some(DEADLINE)).expect("not zero");
    stream.set_nodelay(true).expect("a TCP socket");
    stream
}

/// Reads to the end of the stream; fails if it does not come.
#[track_caller]
pub fn read_all(stream: &mut impl Read) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let end = read_on(stream, |more| bytes.extend_from_slice(more));
    (bytes, end)
}

/// Reads to the end of the stream, piece by piece.
#[track_caller]
pub fn read_on(stream: &mut impl Read, mut each: impl FnMut(&[u8])) -> End {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match uninterrupted(|| stream.read(&mut buffer)) {
            Ok(0) => return End::Fin,
            Ok(count) => each(&buffer[..count]),
            Err(error) if is_reset(&error) => return End::Reset,
            Err(error) => panic!("neither bytes nor an end: {error}"),
        }
    }
}

/// Makes a call again where it was interrupted: a call with a time limit is, without any signal,
/// when the machine freezes this process and lets it go on.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether an error means that the other side reset the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
    )
}

/// Closes a socket with a reset.
pub fn reset(stream: impl AsFd) {
    reset_on_close(&stream);
}

/// Makes the coming close a reset.
pub fn reset_on_close(stream: &impl AsFd) {
    let socket = SockRef::from(stream);
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("a stream socket");
}

/// Sends a few bytes to a backend that sends everything back, and reads them.
pub fn ping(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    if &answer == b"ping" {
        Ok(())
    } else {
        Err(io::Error::other(format!("{answer:?} came back")))
    }
}

/// A new client, if it is served by a backend that sends everything back.
pub fn try_served(front: SocketAddr) -> io::Result<TcpStream> {
    let mut client = bounded(TcpStream::connect_timeout(&front, DEADLINE)?);
    ping(&mut client)?;
    Ok(client)
}

/// The same; fails if it is not served.
#[track_caller]
pub fn served(front: SocketAddr) -> TcpStream {
    try_served(front).unwrap_or_else(|error| panic!("not served: {error}"))
}

/// Fails unless a new client is refused with a reset.
#[track_caller]
pub fn refused(front: SocketAddr) {
    match TcpStream::connect_timeout(&front, DEADLINE) {
        Ok(stream) => assert_eq!(read_all(&mut bounded(stream)), (vec![], End::Reset)),
        // The reset may come before the connect has returned.
        Err(error) => assert!(is_reset(&error), "{error}"),
    }
}

/// Fails if the stream ends or brings bytes within `time`.
#[track_caller]
pub fn is_silent_for(stream: &mut TcpStream, time: Duration) {
    stream.set_read_timeout(Some(time)).expect("not zero");
    let mut byte = [0];
    match uninterrupted(|| stream.read(&mut byte)) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
        other => panic!("not silent: {other:?}"),
    }
    stream.set_read_timeout(Some(DEADLINE)).expect("not zero");
}

/// Sends more than the buffers on the way hold, on a thread of its own; its end gives the stream back.
pub fn send_aside(mut stream: TcpStream, bytes: Vec<u8>) -> std::thread::JoinHandle<TcpStream> {
    std::thread::spawn(move || {
        stream.write_all(&bytes).unwrap();
        stream
    })
}
