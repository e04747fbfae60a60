//! A connection to what is probed, TCP or not.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::sys::socket::{self, Target};
use crate::sys::source::{self, Source};

/// A stream of bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

pub(super) type Connection = Box<dyn Stream>;

/// Connects from `source`. Dropping the connection closes it.
pub(super) async fn open(target: &Target, source: Source) -> io::Result<Connection> {
    match target {
        Target::Tcp(address) => Ok(Box::new(connect(*address, source).await?)),
        Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
    }
}

async fn connect(address: SocketAddr, source: Source) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    source::bind(&socket, source, address)?;
    let stream = socket.connect(address).await?;
    socket::refuse_itself(stream.as_fd(), address)?;
    Ok(stream)
}
