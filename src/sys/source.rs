//! The address that a socket connects from, where that is not left to the kernel.
//!
//! Its port is the kernel's choice always, and made when it connects: one port then serves as many
//! connections as there are destinations. The port of a client is not kept, because the same four
//! numbers would fail while the connection that had them before is still being forgotten here.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, SockRef, Socket, Type};

/// Where to connect from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The address that the route to the destination suggests.
    Any,
    /// An address of this host.
    Own(IpAddr),
    /// The address of a client: the kernel takes it from whom it lets be transparent.
    Client(IpAddr),
}

/// Why a socket does not get its source. It is never the fault of the destination.
#[derive(Debug)]
enum NoSource {
    /// The client has no address, as one of a Unix socket.
    Nobody,
    /// The two have no network in common.
    Family { from: IpAddr, to: SocketAddr },
    /// The kernel does not give it.
    Kernel { from: IpAddr, error: io::Error },
}

/// Gives a socket that is to connect to `to` its source.
pub fn bind(socket: &impl AsFd, source: Source, to: SocketAddr) -> io::Result<()> {
    let from = match source {
        Source::Any => return Ok(()),
        Source::Own(from) | Source::Client(from) => from,
    };
    if from.is_unspecified() {
        return Err(io::Error::other(NoSource::Nobody));
    }
    if from.is_ipv4() != to.is_ipv4() {
        return Err(io::Error::other(NoSource::Family { from, to }));
    }
    let transparent = match source {
        Source::Client(_) => be_transparent(socket, from.is_ipv4()),
        Source::Any | Source::Own(_) => Ok(()),
    };
    transparent
        .and_then(|()| bind_address(socket, from))
        .map_err(|error| io::Error::other(NoSource::Kernel { from, error }))
}

/// Whether `error` says that a socket does not get its source.
pub(super) fn is_missing(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NoSource>())
}

/// Fails unless sockets may connect from this address of this host.
pub fn check_own(address: IpAddr) -> io::Result<()> {
    bind_address(&any_socket(address.is_ipv4())?, address)
}

/// Fails unless sockets may connect from addresses of others.
pub fn check_transparent(is_v4: bool) -> io::Result<()> {
    be_transparent(&any_socket(is_v4)?, is_v4)
}

fn any_socket(is_v4: bool) -> io::Result<Socket> {
    let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
    Socket::new(domain, Type::STREAM, None)
}

fn be_transparent(socket: &impl AsFd, is_v4: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if is_v4 {
        socket.set_ip_transparent_v4(true)
    } else {
        socket.set_ip_transparent_v6(true)
    }
}

fn bind_address(socket: &impl AsFd, address: IpAddr) -> io::Result<()> {
    setsockopt(&socket.as_fd(), IpBindAddressNoPort, &true)?;
    SockRef::from(socket).bind(&SocketAddr::new(address, 0).into())
}

impl fmt::Display for NoSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("the client has no address to connect from"),
            Self::Family { from, to } => {
                write!(
                    f,
                    "cannot connect from {from} to {to}: one is IPv4, one IPv6"
                )
            }
            Self::Kernel { from, error } => write!(f, "cannot connect from {from}: {error}"),
        }
    }
}

impl Error for NoSource {}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::sys::socket::Target;

    #[test]
    fn a_socket_without_its_source_is_no_fault_of_the_destination() {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let nowhere = IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)); // RFC 5737: nobody has it
        for (source, what) in [
            (Source::Own(nowhere), "cannot connect from 192.0.2.1: "),
            (
                Source::Own(Ipv6Addr::LOCALHOST.into()),
                "cannot connect from ::1 to ",
            ),
            (
                Source::Client(Ipv4Addr::UNSPECIFIED.into()),
                "the client has no address",
            ),
        ] {
            let error = bind(&any_socket(true).unwrap(), source, to).unwrap_err();
            assert!(error.to_string().starts_with(what), "{error}");
            assert!(Target::Tcp(to).is_local(&error), "{error}");
        }
        for source in [Source::Any, Source::Own(here)] {
            bind(&any_socket(true).unwrap(), source, to).unwrap();
        }
        assert!(check_own(here).is_ok() && check_own(nowhere).is_err());
    }
}
