//! The plainest probe: a connect that must succeed.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use tokio::net::{TcpSocket, UnixStream};
use tokio::time::timeout;

use super::Outcome;
use crate::sys::socket::{self, Target};
use crate::sys::source::{self, Source};

/// Connects from `source` and closes.
pub(super) async fn probe(target: &Target, source: Source, within: Duration) -> Outcome {
    let connected = match target {
        Target::Tcp(address) => timeout(within, connect(*address, source)).await,
        Target::Unix(path) => timeout(within, UnixStream::connect(path)).await.map(void),
    };
    match connected {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(error)) if target.is_local(&error) => Outcome::Inconclusive(error),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) => Outcome::Failed(io::Error::other(format!("no answer within {within:?}"))),
    }
}

async fn connect(address: SocketAddr, source: Source) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    source::bind(&socket, source, address)?;
    let stream = socket.connect(address).await?;
    socket::refuse_itself(stream.as_fd(), address)
}

fn void<T>(connected: io::Result<T>) -> io::Result<()> {
    connected.map(drop)
}
