//! A datagram to a backend. That nobody listens there is told by the network (ICMP unreachable);
//! that it serves is told by its answer alone.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use crate::config::plan::Step;
use crate::sys::datagram;
use crate::sys::socket::Target;
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
    let socket = UdpSocket::from_std(datagram::connect_plain_udp(address, source)?)?;
    socket.send(send).await?;
    let mut answer = vec![0; length];
    let count = socket.recv(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}
