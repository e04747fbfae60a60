//! The first message of TLS, which is not encrypted: the server that a client wants, and the
//! protocols that it speaks (RFC 8446, 6066 and 7301). It may be cut into records anywhere. Nothing
//! is decrypted here; where a client hides the server's name, the outer one is all there is.

use std::fmt;

use super::{Stop, agree, is_host_name};

/// What a client says ahead of encryption.
#[derive(Clone, Copy, Debug)]
pub struct ClientHello<'a> {
    server_name: Option<Name>,
    /// A list that has been checked.
    protocols: Option<Reader<'a>>,
}

/// A name of at most 255 bytes, which may have come in pieces.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    length: u8,
    /// Zero beyond the length.
    bytes: [u8; NAME_MAX],
}

/// Why bytes are not a first message of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// They are no records of a handshake.
    NotTls,
    /// The first message is another one.
    NotHello,
    /// It is longer than [`HELLO_MAX`].
    TooLong,
    /// Its parts do not fit, or one that may come once comes twice.
    Malformed,
    /// The name of the server is no name of a host.
    ServerName,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotTls => "no TLS",
            Self::NotHello => "TLS that does not begin with a ClientHello",
            Self::TooLong => "the ClientHello is too long",
            Self::Malformed => "malformed ClientHello",
            Self::ServerName => "the server name in the ClientHello is no name of a host",
        })
    }
}

impl ClientHello<'_> {
    /// The server that is wanted, as the client writes it; host names are equal in any case.
    pub fn server_name(&self) -> Option<&str> {
        let name = self.server_name.as_ref()?;
        str::from_utf8(name.bytes()).ok()
    }

    /// The application protocols that are offered (ALPN), the preferred first.
    pub fn protocols(&self) -> impl Iterator<Item = Name> {
        let mut list = self.protocols;
        std::iter::from_fn(move || {
            let list = list.as_mut().filter(|list| list.left > 0)?;
            list.part(1).and_then(Reader::name).ok()
        })
    }
}

impl Name {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.bytes().escape_ascii())
    }
}

/// Reads the message that `bytes`, the first of a stream, begin with.
pub fn parse(bytes: &[u8]) -> Result<ClientHello<'_>, Stop<Wrong>> {
    let mut reader = Reader {
        bytes,
        place: 0,
        fragment: 0,
        left: HANDSHAKE_HEAD,
    };
    if reader.number(1)? != CLIENT_HELLO {
        return Err(Stop::Invalid(Wrong::NotHello));
    }
    let length = reader.number(3)?;
    if length > HELLO_MAX {
        return Err(Stop::Invalid(Wrong::TooLong));
    }
    reader.left = length;
    let message = reader;
    reader.skip(length)?; // all of it is there
    hello(message)
}

fn hello(mut message: Reader<'_>) -> Result<ClientHello<'_>, Stop<Wrong>> {
    message.skip(VERSION + RANDOM)?;
    for digits in [1, 2, 1] {
        message.part(digits)?; // a session, ciphers, compressions
    }
    let mut hello = ClientHello {
        server_name: None,
        protocols: None,
    };
    if message.left == 0 {
        return Ok(hello); // before TLS 1.2 there need not be extensions
    }
    let mut extensions = message.part(2)?;
    message.end()?;
    while extensions.left > 0 {
        let kind = extensions.number(2)?;
        let extension = extensions.part(2)?;
        let is_second = match kind {
            SERVER_NAME => hello.server_name.replace(server_name(extension)?).is_some(),
            PROTOCOLS => hello.protocols.replace(protocols(extension)?).is_some(),
            _ => false,
        };
        // A server might take the other.
        if is_second {
            return Err(MALFORMED);
        }
    }
    Ok(hello)
}

/// The list of names holds one, since there is but one kind of name.
fn server_name(mut extension: Reader<'_>) -> Result<Name, Stop<Wrong>> {
    let mut names = extension.part(2)?;
    extension.end()?;
    if names.number(1)? != HOST_NAME {
        return Err(MALFORMED);
    }
    let name = names.part(2)?;
    names.end()?;
    let name = name.name();
    let name = name.ok().filter(|name| is_host_name(name.bytes()));
    name.ok_or(Stop::Invalid(Wrong::ServerName))
}

/// The list of protocols, none of which is empty.
fn protocols(mut extension: Reader<'_>) -> Result<Reader<'_>, Stop<Wrong>> {
    let list = extension.part(2)?;
    extension.end()?;
    let mut rest = list;
    while rest.left > 0 {
        rest.part(1)?.name()?;
    }
    let is_empty = list.left == 0;
    if is_empty { Err(MALFORMED) } else { Ok(list) }
}

/// Reads a part of a message across the records that hold it. Where the part ends, the message is
/// malformed; where the bytes end, more must come.
#[derive(Clone, Copy, Debug)]
struct Reader<'a> {
    /// Of the stream, from its first.
    bytes: &'a [u8],
    /// The next of them.
    place: usize,
    /// Bytes left in the record there.
    fragment: usize,
    /// Bytes left in the part.
    left: usize,
}

impl<'a> Reader<'a> {
    /// Takes a number of so many digits to the base 256.
    fn number(&mut self, digits: usize) -> Result<usize, Stop<Wrong>> {
        let mut number = 0;
        self.take(digits, |bytes| {
            let append = |number, &byte| number << 8 | usize::from(byte);
            number = bytes.iter().fold(number, append);
        })?;
        Ok(number)
    }

    /// Takes a part behind a length of so many digits.
    fn part(&mut self, digits: usize) -> Result<Self, Stop<Wrong>> {
        let left = self.number(digits)?;
        let part = Self { left, ..*self };
        self.skip(left)?;
        Ok(part)
    }

    /// All that is left, which is not nothing.
    fn name(mut self) -> Result<Name, Stop<Wrong>> {
        let mut name = Name {
            length: u8::try_from(self.left).map_err(|_| MALFORMED)?,
            bytes: [0; NAME_MAX],
        };
        if self.left == 0 {
            return Err(MALFORMED);
        }
        let mut room = &mut name.bytes[..];
        self.take(self.left, |bytes| {
            let (place, rest) = std::mem::take(&mut room).split_at_mut(bytes.len());
            place.copy_from_slice(bytes);
            room = rest;
        })?;
        Ok(name)
    }

    fn end(&self) -> Result<(), Stop<Wrong>> {
        if self.left == 0 {
            Ok(())
        } else {
            Err(MALFORMED)
        }
    }

    fn skip(&mut self, length: usize) -> Result<(), Stop<Wrong>> {
        self.take(length, |_| ())
    }

    /// Takes so many bytes, piece by piece.
    fn take(&mut self, length: usize, mut to: impl FnMut(&'a [u8])) -> Result<(), Stop<Wrong>> {
        self.left = self.left.checked_sub(length).ok_or(MALFORMED)?;
        let mut missing = length;
        while missing > 0 {
            if self.fragment == 0 {
                self.open(missing)?;
            }
            let piece = &self.bytes[self.place..];
            let piece = &piece[..piece.len().min(missing).min(self.fragment)];
            if piece.is_empty() {
                let is_all = missing <= self.fragment;
                let record = if is_all { 0 } else { RECORD_HEAD };
                let needed = self.place + record + missing;
                return Err(Stop::Incomplete { needed });
            }
            to(piece);
            self.place += piece.len();
            self.fragment -= piece.len();
            missing -= piece.len();
        }
        Ok(())
    }

    /// Goes into the next record, where `missing` bytes are to be found.
    fn open(&mut self, missing: usize) -> Result<(), Stop<Wrong>> {
        let head = &self.bytes[self.place..];
        if !agree(head, RECORD_START) {
            return Err(Stop::Invalid(Wrong::NotTls));
        }
        let Some(&[.., high, low]) = head.first_chunk::<RECORD_HEAD>() else {
            let needed = self.place + RECORD_HEAD + missing;
            return Err(Stop::Incomplete { needed });
        };
        let fragment = usize::from(u16::from_be_bytes([high, low]));
        if fragment == 0 || fragment > FRAGMENT_MAX {
            return Err(Stop::Invalid(Wrong::NotTls));
        }
        self.place += RECORD_HEAD;
        self.fragment = fragment;
        Ok(())
    }
}

const MALFORMED: Stop<Wrong> = Stop::Invalid(Wrong::Malformed);

/// The longest message that is read. They take 200 to 2,000 bytes; the protocol would allow 16 MiB.
pub const HELLO_MAX: usize = 16 * 1024;

/// The length of a host name fits a byte, and so does that of a protocol's name.
const NAME_MAX: usize = 255;

/// A record of a handshake begins with its type, and a version of which only the first digit is to
/// be looked at.
const RECORD_START: &[u8] = &[22, 3];
/// Type, version and length.
const RECORD_HEAD: usize = 5;
/// The longest fragment of a record that is not encrypted.
const FRAGMENT_MAX: usize = 1 << 14;

/// Type and length.
const HANDSHAKE_HEAD: usize = 4;
const CLIENT_HELLO: usize = 1;
const VERSION: usize = 2;
const RANDOM: usize = 32;

/// Extensions.
const SERVER_NAME: usize = 0;
const PROTOCOLS: usize = 16;

/// The one kind of name that a server has.
const HOST_NAME: usize = 0;

#[cfg(test)]
mod tests;
