//! Reads and writes without a return behind the system call, as in `data::carry`: what the load does
//! not spend, a proxy is not kept waiting for.

use std::io;

use mio::net::TcpStream;
use rustix::net::{RecvFlags, SendFlags};

#[inline(always)]
pub(crate) fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(stream, buffer, RecvFlags::empty())?.0)
}

#[inline(always)]
pub(crate) fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
}
