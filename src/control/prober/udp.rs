//! A datagram to a backend. That nobody listens there is told by the network (ICMP unreachable);
//! that it serves is told by its answer alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use crate::config::plan::Step;
use crate::sys::socket::Target;
use crate::sys::source::Source;

/// Sends a datagram from `source` and waits for the expected answer. Its port is its own, so that no
/// late answer to another probe is taken for the answer to this one.
pub(super) async fn probe(target: &Target, source: Source, step: &Step) -> io::Result<()> {
    let Target::Tcp(address) = target else {
        // The plan was checked: Unix sockets are not probed by datagrams.
        return Err(io::ErrorKind::Unsupported.into());
    };
    match step.expect.judge(&ask(*address, source, step).await?) {
        Some(true) => Ok(()),
        Some(false) | None => Err(io::Error::other("another answer than the expected one")),
    }
}

/// The part of the answer that is looked at.
async fn ask(address: SocketAddr, source: Source, step: &Step) -> io::Result<Vec<u8>> {
    let own: IpAddr = match (source, address) {
        (Source::Own(own) | Source::Client(own), _) => own,
        (Source::Any, SocketAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (Source::Any, SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(address).await?;
    socket.send(&step.send).await?;
    let mut answer = vec![0; step.expect.bytes_max()];
    let count = socket.recv(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}
