//! Datagram sockets. `batch` receives from them and sends through them.
#![expect(unsafe_code, reason = "one socket option that no wrapper offers")]

use std::io;
use std::mem::size_of_val;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo, RcvBufForce, UdpGroSegment};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::socket::refuse_itself;
use super::source::{self, Source};

/// Binds a datagram socket with SO_REUSEPORT, so that each worker can have its own on one address.
/// `v6_only` matters for IPv6 only. What it receives comes with its destination and congestion mark,
/// and in trains.
pub fn listen_udp(address: SocketAddr, v6_only: bool) -> io::Result<UdpSocket> {
    let socket = bound_udp(address, v6_only, true)?;
    if address.is_ipv4() {
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
    } else {
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
    }
    receives_trains(SockRef::from(&socket), address.is_ipv4(), !v6_only)?;
    // Only a privileged process may pass the kernel's limit (net.core.rmem_max): else that holds.
    if setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).is_err() {
        drop(socket.set_recv_buffer_size(RECEIVE_BUFFER));
    }
    Ok(socket.into())
}

/// Fails if any datagram socket is bound to `address` already, also one with SO_REUSEPORT.
pub fn check_free_udp(address: SocketAddr, v6_only: bool) -> io::Result<()> {
    bound_udp(address, v6_only, false).map(drop)
}

/// A datagram socket that sends to `address` from `source` and hears only from there, in trains.
pub fn connect_udp(address: SocketAddr, source: Source) -> io::Result<UdpSocket> {
    let socket = connect_plain_udp(address, source)?;
    receives_trains(SockRef::from(&socket), address.is_ipv4(), false)?;
    Ok(socket)
}

/// The same, but what it hears comes one by one.
pub fn connect_plain_udp(address: SocketAddr, source: Source) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    source::bind(&socket, source, address)?;
    socket.connect(&address.into())?;
    refuse_itself(socket.as_fd(), address)?;
    Ok(socket.into())
}

/// Whether what waits in a socket fills at least a quarter of its receive buffer, as the kernel counts;
/// false where it does not say.
pub fn is_quarter_full(socket: BorrowedFd<'_>) -> bool {
    let mut memory = [0u32; MEMORY_NUMBERS];
    let mut length = libc::socklen_t::try_from(size_of_val(&memory)).expect("a small constant");
    // SAFETY: the descriptor is open while it is borrowed, and SO_MEMINFO writes at most `length`
    // bytes of 32-bit numbers, which is what `memory` has room for.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            memory.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let [used, room, ..] = memory;
    result == 0 && used >= room.div_ceil(4) && room > 0
}

fn bound_udp(address: SocketAddr, v6_only: bool, shared: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn receives_trains(socket: SockRef<'_>, v4: bool, both: bool) -> io::Result<()> {
    if v4 || both {
        socket.set_recv_tos_v4(true)?;
    }
    if !v4 {
        socket.set_recv_tclass_v6(true)?;
    }
    // A kernel without it delivers datagrams one by one.
    let _trains = setsockopt(&*socket, UdpGroSegment, &true);
    Ok(())
}

/// Bytes asked of the kernel for datagrams that wait for a worker: several thousand small ones, so
/// that a flood does not push out those of live flows while the worker is at something else.
pub const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// Numbers of SO_MEMINFO: bytes that wait to be received, room for them, and seven others.
const MEMORY_NUMBERS: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_receives_from_fills() {
        let listener = listen_udp(([127, 0, 0, 1], 0).into(), false).unwrap();
        listener.set_nonblocking(true).unwrap();
        let client = connect_udp(listener.local_addr().unwrap(), Source::Any).unwrap();
        let mut sent = 0;
        while !is_quarter_full(listener.as_fd()) {
            client.send(&[0; 1_000]).unwrap();
            sent += 1;
            assert!(sent < 100_000, "it is never full");
        }
        // All of them are there: it was far from full.
        let mut received = 0;
        while listener.recv(&mut [0; 2_000]).is_ok() {
            received += 1;
        }
        assert_eq!(received, sent);
        assert!(!is_quarter_full(listener.as_fd()));
    }

    #[test]
    fn an_address_in_use_is_found_although_it_may_be_shared() {
        let first = listen_udp(([127, 0, 0, 1], 0).into(), false).unwrap();
        let address = first.local_addr().unwrap();
        assert!(check_free_udp(address, false).is_err());
        assert!(listen_udp(address, false).is_ok(), "workers share it");
    }
}
