//! A datagram to a backend. That nobody listens there is told by the network (ICMP unreachable);
//! that it serves is told by its answer alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;

use tokio::net::UdpSocket;

use crate::config::plan::Step;
use crate::sys::socket::{Target, refuse_itself_udp};
use crate::sys::source::Source;
use crate::wire::proxy_header::Header;

/// Sends a datagram from `source`, after `header` if there is one, and waits for the expected answer.
/// Its port is its own, so that no late answer to another probe is taken for the answer to this one.
pub(super) async fn probe(
    target: &Target,
    source: Source,
    header: Option<&Header>,
    step: &Step,
) -> io::Result<()> {
    let Target::Tcp(address) = target else {
        // The plan was checked: Unix sockets are not probed by datagrams.
        return Err(io::ErrorKind::Unsupported.into());
    };
    let mut datagram = header.map_or_else(Vec::new, |header| header.as_bytes().to_vec());
    datagram.extend_from_slice(&step.send);
    let answer = ask(*address, source, &datagram, step.expect.bytes_max()).await?;
    match step.expect.judge(&answer) {
        Some(true) => Ok(()),
        Some(false) | None => Err(io::Error::other("another answer than the expected one")),
    }
}

/// The first `length` bytes of the answer.
async fn ask(
    address: SocketAddr,
    source: Source,
    send: &[u8],
    length: usize,
) -> io::Result<Vec<u8>> {
    let own: IpAddr = match (source, address) {
        (Source::Own(own) | Source::Client(own), _) => own,
        (Source::Any, SocketAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (Source::Any, SocketAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(address).await?;
    refuse_itself_udp(socket.as_fd(), address)?;
    socket.send(send).await?;
    let mut answer = vec![0; length];
    let count = socket.recv(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}
