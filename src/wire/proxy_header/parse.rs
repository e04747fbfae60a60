//! The header of the PROXY protocol as it comes: ahead of everything else on a stream, from a proxy
//! that is believed. Whether it is believed is not known here, nor whether a header is wanted.
//!
//! Both versions are read as strictly as the specification allows, and nothing is guessed: what
//! begins in another way is refused with the first byte that proves it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Ends, LOCAL, OVER_V4, OVER_V6, PROXY, SIGNATURE, Transport, VERSION_2};
use crate::wire::{Stop, agree};

/// The versions that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Version 1, a line of text.
    V1,
    /// Version 2, which is binary.
    V2,
    /// Either.
    Any,
}

/// A header that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// Whose connection it is.
    pub origin: Origin,
    /// How many bytes the header has; those of the client follow.
    pub length: usize,
    /// Whole ones, as has been checked.
    extensions: Extensions<'a>,
}

/// Whose connection a header stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client's. IPv4-mapped addresses are the IPv4 addresses they mean.
    ///
    /// It is the same client whether it reached the proxy by a stream or by datagrams, so what lets
    /// it in or picks its backend must see it: its addresses are not passed over where they stand
    /// for datagrams, as the specification would allow.
    Client(Ends),
    /// The proxy's own, such as a health check: the connection's real addresses hold.
    Proxy,
    /// That of somebody without an IP address, or whom the proxy does not name: version 1's
    /// UNKNOWN, Unix sockets, unspecified families and transports. The specification leaves it to
    /// the receiver whether to refuse these. They are not, because proxies announce so what they
    /// cannot express, and the real addresses, which hold then, are those of a proxy that is trusted.
    Unknown,
}

/// Why bytes are not the header that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// They do not begin as one of a wanted version does.
    NoHeader,
    /// A line of version 1 is not built as it must be.
    Line,
    /// A line of version 1 does not end within [`LINE_MAX`] bytes.
    LineTooLong,
    /// A binary header is of another version than 2.
    Version,
    /// It has a command that does not exist.
    Command,
    /// It has an address family or a transport that does not exist.
    Family,
    /// It is longer than [`RECEIVED_MAX`].
    TooLong,
    /// It is too short for the addresses it should hold.
    Addresses,
    /// An extension ends beyond the header.
    Extension,
    /// Its checksum does not hold.
    Checksum,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHeader => "no PROXY header",
            Self::Line => "malformed line in the PROXY header",
            Self::LineTooLong => "the line of the PROXY header is too long",
            Self::Version => "unknown version of the PROXY header",
            Self::Command => "unknown command in the PROXY header",
            Self::Family => "unknown address family or transport in the PROXY header",
            Self::TooLong => "the PROXY header is too long",
            Self::Addresses => "the PROXY header is too short for its addresses",
            Self::Extension => "an extension ends beyond the PROXY header",
            Self::Checksum => "wrong checksum in the PROXY header",
        })
    }
}

impl<'a> Received<'a> {
    /// The value of the first extension of this type.
    pub fn extension(&self, kind: u8) -> Option<&'a [u8]> {
        let mut extensions = self.extensions;
        extensions.find_map(|(found, value)| (found == kind).then_some(value))
    }
}

/// Reads the header that `bytes`, the first of a stream, begin with.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<Received<'_>, Stop<Wrong>> {
    if versions != Versions::V2 && agree(bytes, LINE_START) {
        line(bytes)
    } else if versions != Versions::V1 && agree(bytes, &SIGNATURE) {
        block(bytes)
    } else {
        Err(Stop::Invalid(Wrong::NoHeader))
    }
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<Received<'_>, Stop<Wrong>> {
    const WRONG: Stop<Wrong> = Stop::Invalid(Wrong::Line);
    let bytes = &bytes[..bytes.len().min(LINE_MAX)];
    let rest = bytes.get(LINE_START.len()..).unwrap_or_default();
    let mut protocols = [TCP4, TCP6, UNKNOWN].into_iter();
    let protocol = protocols.find(|protocol| agree(rest, protocol));
    let protocol = protocol.ok_or(WRONG)?;
    let rest = rest.strip_prefix(protocol);
    let rest = rest.ok_or(Stop::Incomplete { needed: LINE_MIN })?;

    // Anything may follow UNKNOWN up to the end of the line. A sender that ends its line with half a
    // line break is refused all the same, or its client's first line would be taken for the rest.
    let is_of_line: fn(u8) -> bool = match protocol {
        UNKNOWN => |byte| !b"\r\n".contains(&byte),
        _ => |byte| byte.is_ascii_hexdigit() || b".: ".contains(&byte),
    };
    let length = rest.iter().position(|&byte| !is_of_line(byte));
    let (fields, end) = rest.split_at(length.unwrap_or(rest.len()));
    let length = bytes.len() - end.len() + LINE_END.len();
    let runs_on = protocol == UNKNOWN && fields.first().is_some_and(|&byte| byte != b' ');
    if runs_on {
        return Err(WRONG);
    }
    if length > LINE_MAX {
        return Err(Stop::Invalid(Wrong::LineTooLong));
    }
    if !agree(end, LINE_END) {
        return Err(WRONG);
    }
    if end.len() < LINE_END.len() {
        let needed = length.max(LINE_MIN);
        return Err(Stop::Incomplete { needed });
    }
    let origin = match protocol {
        TCP4 => fields_of::<Ipv4Addr>(fields).map(Origin::Client),
        TCP6 => fields_of::<Ipv6Addr>(fields).map(Origin::Client),
        _ => Some(Origin::Unknown),
    };
    Ok(Received {
        origin: origin.ok_or(WRONG)?,
        length,
        extensions: Extensions { rest: &[] },
    })
}

/// The addresses and ports of a line, with one space between each two.
fn fields_of<Ip: FromStr + Into<IpAddr>>(fields: &[u8]) -> Option<Ends> {
    let mut fields = str::from_utf8(fields).ok()?.split(' ');
    let mut ip = || fields.next()?.parse::<Ip>().ok().map(Into::into);
    let (source, destination) = (ip()?, ip()?);
    let mut port = || port(fields.next()?);
    let ports = (port()?, port()?);
    let is_end = fields.next().is_none();
    is_end.then(|| ends((source, ports.0), (destination, ports.1)))
}

/// Digits alone, without zeros ahead of them.
fn port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = text.len() == 1 || !text.starts_with('0');
    text.parse().ok().filter(|_| is_number && is_plain)
}

/// Version 2.
fn block(bytes: &[u8]) -> Result<Received<'_>, Stop<Wrong>> {
    let byte = |place| bytes.get(place).copied();
    let byte = |place| byte(place).ok_or(Stop::Incomplete { needed: HEAD });
    let command = byte(SIGNATURE.len())?;
    if command & 0xf0 != VERSION_2 {
        return Err(Stop::Invalid(Wrong::Version));
    }
    let family = byte(SIGNATURE.len() + 1)?;
    let layout = match command & 0x0f {
        LOCAL => Layout::Skipped,
        PROXY => Layout::of(family).ok_or(Stop::Invalid(Wrong::Family))?,
        _ => return Err(Stop::Invalid(Wrong::Command)),
    };
    let length = [byte(SIGNATURE.len() + 2)?, byte(SIGNATURE.len() + 3)?];
    let length = HEAD + usize::from(u16::from_be_bytes(length));
    if length > RECEIVED_MAX {
        return Err(Stop::Invalid(Wrong::TooLong));
    }
    if length < HEAD + layout.length() {
        return Err(Stop::Invalid(Wrong::Addresses));
    }
    let header = bytes.get(..length);
    let header = header.ok_or(Stop::Incomplete { needed: length })?;

    let mut rest = &header[HEAD..];
    let origin = match layout {
        Layout::V4 => binary::<4, Ipv4Addr>(&mut rest).map(Origin::Client),
        Layout::V6 => binary::<16, Ipv6Addr>(&mut rest).map(Origin::Client),
        Layout::Unix => take::<UNIX_LENGTH>(&mut rest).map(|_| Origin::Unknown),
        Layout::Unspecified => {
            rest = &[];
            Some(Origin::Unknown)
        }
        Layout::Skipped => {
            rest = &[];
            Some(Origin::Proxy)
        }
    };
    let origin = origin.ok_or(Stop::Invalid(Wrong::Addresses))?;
    let extensions = Extensions { rest };
    extensions.check(header).map_err(Stop::Invalid)?;
    Ok(Received {
        origin,
        length,
        extensions,
    })
}

/// What stands behind the first sixteen bytes of version 2.
#[derive(Clone, Copy)]
enum Layout {
    V4,
    V6,
    Unix,
    /// Nobody knows where addresses end: no extension can be found behind them.
    Unspecified,
    /// What the proxy says of itself, which is to be skipped, whatever the family.
    Skipped,
}

impl Layout {
    const fn of(family: u8) -> Option<Self> {
        const STREAM: u8 = Transport::Stream as u8;
        const DATAGRAM: u8 = Transport::Datagram as u8;
        match (family & 0xf0, family & 0x0f) {
            (OVER_V4, STREAM | DATAGRAM) => Some(Self::V4),
            (OVER_V6, STREAM | DATAGRAM) => Some(Self::V6),
            (OVER_UNIX, STREAM | DATAGRAM) => Some(Self::Unix),
            (UNSPECIFIED, UNSPECIFIED | STREAM | DATAGRAM)
            | (OVER_V4 | OVER_V6 | OVER_UNIX, UNSPECIFIED) => Some(Self::Unspecified),
            _ => None,
        }
    }

    /// The length of the addresses.
    const fn length(self) -> usize {
        match self {
            Self::V4 => 12,
            Self::V6 => 36,
            Self::Unix => UNIX_LENGTH,
            Self::Unspecified | Self::Skipped => 0,
        }
    }
}

/// Takes addresses of so many bytes, and their ports, from `rest`.
fn binary<const BYTES: usize, Ip>(rest: &mut &[u8]) -> Option<Ends>
where
    Ip: From<[u8; BYTES]> + Into<IpAddr>,
{
    let mut ip = || Some(Ip::from(take(rest)?).into());
    let (source, destination) = (ip()?, ip()?);
    let mut port = || take(rest).map(u16::from_be_bytes);
    let ports = (port()?, port()?);
    Some(ends((source, ports.0), (destination, ports.1)))
}

fn ends(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Ends {
    let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    Ends {
        source: address(source),
        destination: address(destination),
    }
}

fn take<const BYTES: usize>(rest: &mut &[u8]) -> Option<[u8; BYTES]> {
    let (&taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(taken)
}

/// The extensions of version 2: a type, a length and a value each. Ends early where one is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extensions<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Extensions<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[kind, high, low], rest) = self.rest.split_first_chunk()?;
        let length = u16::from_be_bytes([high, low]);
        let (value, rest) = rest.split_at_checked(length.into())?;
        self.rest = rest;
        Some((kind, value))
    }
}

impl Extensions<'_> {
    /// All must be whole, and a checksum must be that of `header`, which they end. Two checksums
    /// would each cover the other: the specification knows one.
    fn check(mut self, header: &[u8]) -> Result<(), Wrong> {
        let mut checksum = None;
        while let Some((kind, value)) = self.next() {
            if kind == CHECKSUM {
                let value: [u8; 4] = value.try_into().map_err(|_| Wrong::Checksum)?;
                let end = header.len() - self.rest.len();
                let first = checksum.replace((u32::from_be_bytes(value), end));
                first.map_or(Ok(()), |_| Err(Wrong::Checksum))?;
            }
        }
        if !self.rest.is_empty() {
            return Err(Wrong::Extension);
        }
        let Some((checksum, end)) = checksum else {
            return Ok(());
        };
        // It has been made with zeros in its place.
        let parts = [&header[..end - 4], &[0; 4], &header[end..]];
        let holds = crc32c(parts.into_iter().flatten()) == checksum;
        holds.then_some(()).ok_or(Wrong::Checksum)
    }
}

/// The checksum of Castagnoli, as of RFC 3720.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        let place = crc.to_le_bytes()[0] ^ byte;
        crc >> 8 ^ CRC32C[usize::from(place)]
    })
}

static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78); // the polynomial, its lowest power first
            bit += 1;
        }
        table[byte as usize] = crc;
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// The most bytes of a line of version 1, with its end.
pub const LINE_MAX: usize = 107;

/// The longest header that is read. Senders are to keep to 536 bytes, but a client's certificate or
/// many extensions take more; this is as much as others buffer, and fits the receive buffer of a
/// socket from which the bytes have not been taken yet.
pub const RECEIVED_MAX: usize = 16 * 1024;

const LINE_START: &[u8] = b"PROXY ";
const LINE_END: &[u8] = b"\r\n";
const TCP4: &[u8] = b"TCP4 ";
const TCP6: &[u8] = b"TCP6 ";
const UNKNOWN: &[u8] = b"UNKNOWN";

/// The shortest line of version 1: nothing is known.
const LINE_MIN: usize = LINE_START.len() + UNKNOWN.len() + LINE_END.len();

/// What every header of version 2 begins with: the signature, command, family, and a length.
const HEAD: usize = 16;

const UNSPECIFIED: u8 = 0;
const OVER_UNIX: u8 = 0x30;
const UNIX_LENGTH: usize = 216;

/// The type of the extension that holds a checksum.
const CHECKSUM: u8 = 0x03;

#[cfg(test)]
mod tests;
