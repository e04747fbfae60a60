//! Sockets with the options the data plane wants, set once where they are inherited.
#![expect(
    unsafe_code,
    reason = "one ioctl that no wrapper offers; mio gives its epoll as a number"
)]

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::source::{self, Source};

/// A bound, non-blocking socket that clients come to.
#[derive(Debug)]
pub enum Listening {
    /// TCP.
    Tcp(TcpListener),
    /// Datagrams.
    Udp(UdpSocket),
    /// A Unix stream socket.
    Unix(UnixListener),
}

/// Where a backend is, resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket's path.
    Unix(PathBuf),
}

impl Target {
    /// The address, if it is one of the network.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether a failed connect says nothing about who is there: this host has run out of
    /// something, or its own rules forbid the connect.
    pub fn is_local(&self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            // For TCP it means that no port or route is left; a Unix socket's queue is full.
            Some(libc::EAGAIN) => matches!(self, Self::Tcp(_)),
            Some(libc::EADDRNOTAVAIL | libc::EPERM | libc::EACCES) => true,
            _ => is_exhaustion(error) || source::is_missing(error),
        }
    }
}

/// Whether the process or the system has run out of something, whoever is connected to.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Binds a TCP listener with SO_REUSEPORT, so that each worker can have its own on one address.
/// `v6_only` matters for IPv6 only.
pub fn listen_tcp(address: SocketAddr, v6_only: bool) -> io::Result<TcpListener> {
    let socket = bound_tcp(address, v6_only, true)?;
    prepare_clients(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepted connections inherit TCP_NODELAY, in-line urgent bytes and keep-alive from a listening
/// socket, which saves a system call each per connection.
pub(super) fn prepare_clients(listening: &Socket) -> io::Result<()> {
    listening.set_tcp_nodelay(true)?;
    listening.set_out_of_band_inline(true)?;
    listening.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Fails if any socket listens on `address` already, also one with SO_REUSEPORT, which
/// [`listen_tcp`] would silently share the traffic with.
pub fn check_free(address: SocketAddr, v6_only: bool) -> io::Result<()> {
    bound_tcp(address, v6_only, false).map(drop)
}

/// Binds a Unix stream listener at `path`: bound under a temporary name and renamed into place, so
/// that a stale file is replaced at once and a live one never disappears. A socket somebody still
/// listens on is refused with `AddrInUse`, a file that is no socket with `AlreadyExists`.
pub fn listen_unix(path: &Path) -> io::Result<UnixListener> {
    listen_unix_as(path, |_| Ok(()))
}

/// The same, after `prepare` has changed the file, which nobody can connect to before.
pub fn listen_unix_as(
    path: &Path,
    prepare: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(_) if is_served(path) => return Err(io::ErrorKind::AddrInUse.into()),
        Ok(_) | Err(_) => {}
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(&temporary)?)?;
    let renamed = prepare(&temporary)
        .and_then(|()| socket.listen(BACKLOG))
        .and_then(|()| std::fs::rename(&temporary, path));
    if let Err(error) = renamed {
        // Nothing more can be done about a temporary file that cannot be removed either.
        drop(std::fs::remove_file(&temporary));
        return Err(error);
    }
    Ok(socket.into())
}

/// A non-blocking TCP socket that is connecting to `address` from `source`; writable once it is
/// connected. The last packet of the handshake waits for the first bytes, to go with them: one packet
/// less per connection. If no bytes follow at once, `acknowledge_now` must send it. TCP_NODELAY is
/// left to the caller, who needs it from the second write on.
pub fn connect_tcp(address: SocketAddr, source: Source) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_oobinline(&socket, true)?;
    sockopt::set_tcp_quickack(&socket, false)?;
    source::bind(&socket, source, address)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    refuse_itself(socket.as_fd(), address)?;
    Ok(socket.into())
}

/// Fails for a socket that has connected to itself. A connect to an address of this host may draw its
/// destination as its own port, and finds itself there if nobody else is.
pub fn refuse_itself(socket: BorrowedFd<'_>, address: SocketAddr) -> io::Result<()> {
    if !ephemeral_ports().contains(&address.port()) {
        return Ok(());
    }
    if SocketAddr::try_from(rustix::net::getsockname(socket)?) != Ok(address) {
        return Ok(());
    }
    // Or a port of TCP would be busy for a minute; for datagrams it means nothing.
    reset_on_close(socket)?;
    Err(io::Error::from_raw_os_error(libc::ECONNREFUSED))
}

/// The ports that a connect draws its own from, as they were when this was first asked.
fn ephemeral_ports() -> &'static RangeInclusive<u16> {
    static PORTS: LazyLock<RangeInclusive<u16>> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let ports = text.ok().and_then(|text| {
            let mut ports = text.split_whitespace().map(str::parse);
            Some(ports.next()?.ok()?..=ports.next()?.ok()?)
        });
        ports.unwrap_or(0..=u16::MAX)
    });
    &PORTS
}

/// Has `epoll` tell of `socket` with `token` in every turn in which connections wait, not only when
/// one comes: a worker then need not accept until nobody is left, which costs a call each time.
pub fn watch_waiting(epoll: &impl AsRawFd, socket: &impl AsFd, token: u64) -> io::Result<()> {
    // SAFETY: the caller holds the epoll for as long as this call takes.
    let epoll = unsafe { BorrowedFd::borrow_raw(epoll.as_raw_fd()) };
    Ok(epoll::add(
        epoll,
        socket,
        EventData::new_u64(token),
        EventFlags::IN,
    )?)
}

/// Ends [`watch_waiting`].
pub fn unwatch(epoll: &impl AsRawFd, socket: &impl AsFd) -> io::Result<()> {
    // SAFETY: the caller holds the epoll for as long as this call takes.
    let epoll = unsafe { BorrowedFd::borrow_raw(epoll.as_raw_fd()) };
    Ok(epoll::delete(epoll, socket)?)
}

/// A non-blocking Unix socket connected to `path`. A full backlog is `WouldBlock`: the backend is
/// there but takes nobody.
pub fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket.into())
}

/// Whether somebody listens at `path`, also if their queue is full.
fn is_served(path: &Path) -> bool {
    match connect_unix(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Reads what has come, as far as it fits; 0 = the stream has ended.
///
/// This and [`send`] make the system call in the caller's own frame, without a function of the C
/// library around it; `data::carry` has the reason.
#[inline(always)]
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::empty())?.0)
}

/// Reads what has come so far, and leaves it there.
pub fn peek(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::PEEK)?.0)
}

/// Writes as many of the bytes as there is room for. `is_last`: a FIN follows at once, and TCP lets
/// the bytes wait for it, which makes one packet less.
#[inline(always)]
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], is_last: bool) -> io::Result<usize> {
    let mut flags = SendFlags::NOSIGNAL;
    flags.set(SendFlags::MORE, is_last);
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Sends an acknowledgement that the kernel holds back to send it with data.
pub fn acknowledge_now(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_quickack(true)
}

/// Makes the close of this TCP socket a reset, and what it has not sent yet is dropped.
pub fn reset_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Bytes written to this socket that its other end has not acknowledged yet, a FIN counting one.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut count: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and SIOCOUTQ (TIOCOUTQ for sockets)
    // writes one c_int, which `count` is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(count).unwrap_or(0))
}

/// An address as a user would write it: an IPv4-mapped IPv6 address is the IPv4 address it means.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn bound_tcp(address: SocketAddr, v6_only: bool, shared: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(v6_only)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Connections that wait in the kernel for `accept`; the kernel lowers it to net.core.somaxconn.
pub const BACKLOG: i32 = 4096;

/// Silence before the first keep-alive probe to a client: below the 350 s after which common
/// network address translators forget a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
/// Between keep-alive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Unanswered probes after which a client counts as gone: 3 minutes after its last sign.
const KEEPALIVE_PROBES: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_found_although_it_may_be_shared() {
        let first = listen_tcp(([127, 0, 0, 1], 0).into(), false).unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(
            check_free(address, false).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        let second = listen_tcp(address, false);
        assert!(second.is_ok(), "workers share it");
        drop((first, second));
        assert!(check_free(address, false).is_ok());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory =
            std::env::temp_dir().join(format!("evenkeel-socket-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("s");
        let first = listen_unix(&path).unwrap();
        assert_eq!(
            listen_unix(&path).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        drop(first);
        assert!(listen_unix(&path).is_ok());
        std::fs::write(directory.join("file"), "kept").unwrap();
        let refused = listen_unix(&directory.join("file")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_live_unix_socket_whose_queue_is_full_is_live() {
        let name = format!("evenkeel-full-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        socket.listen(0).unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = connect_unix(&path) {
            waiting.push(stream);
        }
        assert!(!waiting.is_empty());
        let refused = listen_unix(&path).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn mapped_addresses_become_ipv4() {
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
    }
}
