//! The head of the first request of HTTP/1 on a stream (RFC 9112): where it goes, and its fields.
//!
//! Read is what is asked for and what stands before it: a request is known by its path as soon as
//! its line is there. Nothing is decoded, and what a server must refuse is not always seen here: two
//! hosts, for instance, of which the first is taken. Later requests of a connection are not seen at
//! all. So backends may be chosen by this; who may reach them cannot.

use std::fmt;
use std::net::Ipv6Addr;

use super::{Stop, agree, is_host_name};

/// The head of a request: its first line is whole, the fields may still be coming.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    method: &'a str,
    target: &'a [u8],
    /// What has come behind the first line.
    fields: &'a [u8],
    /// What to say where the fields end early.
    more: Stop<Wrong>,
}

/// Why bytes are not the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// They are no line of a request.
    NotHttp,
    /// It is a request of another version than 1, such as the preface of HTTP/2.
    Version,
    /// One of its fields is not a name and a value.
    Field,
    /// Its host is none.
    Host,
    /// It is longer than [`HEAD_MAX`].
    TooLong,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp => "no HTTP/1",
            Self::Version => "HTTP of another version than 1",
            Self::Field => "malformed field in the HTTP request",
            Self::Host => "malformed host in the HTTP request",
            Self::TooLong => "the head of the HTTP request is too long",
        })
    }
}

impl<'a> Head<'a> {
    /// What is to be done, such as GET.
    pub const fn method(&self) -> &'a str {
        self.method
    }

    /// The path, without a query. As it is written: `/a/../%62` is not `/b`. Empty where the target
    /// is a host and port.
    pub fn path(&self) -> &'a [u8] {
        let path = match self.url() {
            Some((_, [])) => b"/",
            Some((_, path)) => path,
            None if self.method == "CONNECT" => b"",
            None => self.target,
        };
        until(path, b"?#").0
    }

    /// The host without its port: that of an URL, or that of the field. `None` if there is none, as
    /// before HTTP/1.1.
    pub fn host(&self) -> Result<Option<&'a str>, Stop<Wrong>> {
        let host = match self.url() {
            Some((host, _)) => Some(host),
            None => self.field("host")?,
        };
        let Some(host) = host.filter(|host| !host.is_empty()) else {
            return Ok(None);
        };
        let host = without_port(host).ok_or(Stop::Invalid(Wrong::Host))?;
        Ok(Some(host))
    }

    /// The value of the first field of this name, `None` if there is none. It is known once its line
    /// has come, or the end of the head.
    pub fn field(&self, name: &str) -> Result<Option<&'a [u8]>, Stop<Wrong>> {
        const WRONG: Stop<Wrong> = Stop::Invalid(Wrong::Field);
        let mut lines = self.fields;
        loop {
            let (line, end) = next_line(lines);
            if line.is_empty() {
                return end.behind(self.more, WRONG).map(|_| None);
            }
            let (found, value) = until(line, b":");
            // A line that goes on a former one begins with a space, which nobody should send.
            if !is_token(found) {
                return Err(WRONG);
            }
            lines = end.behind(self.more, WRONG)?;
            let (_, value) = value.split_first().ok_or(WRONG)?;
            if found.eq_ignore_ascii_case(name.as_bytes()) {
                return Ok(Some(value.trim_ascii()));
            }
        }
    }

    /// The host and port in a target that is an URL, and what follows.
    fn url(&self) -> Option<(&'a [u8], &'a [u8])> {
        let scheme = self.target.iter().position(|&byte| byte == b':')?;
        let (scheme, rest) = self.target.split_at(scheme);
        let rest = rest.strip_prefix(b"://")?;
        is_token(scheme).then(|| until(rest, b"/?#"))
    }
}

/// Reads the head that `bytes`, the first of a stream, begin with, up to the end of its first line.
pub fn parse(bytes: &[u8]) -> Result<Head<'_>, Stop<Wrong>> {
    const WRONG: Stop<Wrong> = Stop::Invalid(Wrong::NotHttp);
    let more = match bytes.len() {
        HEAD_MAX.. => Stop::Invalid(Wrong::TooLong),
        length => Stop::Incomplete { needed: length + 1 },
    };
    let bytes = &bytes[..bytes.len().min(HEAD_MAX)];
    let (line, end) = next_line(bytes);

    let mut words = line.splitn(3, |&byte| byte == b' ');
    let method = words.next().unwrap_or_default();
    let target = words.next();
    let version = words.next();
    let is_wrong = !is_token(method) && !line.is_empty()
        || method.len() > METHOD_MAX
        || target.is_some_and(|target| target.contains(&b'\t'))
        || version.is_some() && target.is_some_and(<[u8]>::is_empty);
    if is_wrong {
        return Err(WRONG);
    }
    if let Some(version) = version {
        check_version(version)?;
    }
    let fields = end.behind(more, WRONG)?;
    let (Some(target), Some(HTTP_1_LENGTH)) = (target, version.map(<[u8]>::len)) else {
        return Err(WRONG); // the line has ended early
    };
    Ok(Head {
        method: str::from_utf8(method).map_err(|_| WRONG)?,
        target,
        fields,
        more,
    })
}

/// As far as it has come, it must be HTTP/1 of any lesser version.
fn check_version(version: &[u8]) -> Result<(), Stop<Wrong>> {
    let (name, number) = version.split_at(version.len().min(HTTP.len()));
    if !agree(name, HTTP) {
        return Err(Stop::Invalid(Wrong::NotHttp));
    }
    let is_1 = agree(number, b"1.") && number.len() <= HTTP_1_LENGTH - HTTP.len();
    let is_1 = is_1 && number.get(2).is_none_or(u8::is_ascii_digit);
    is_1.then_some(()).ok_or(Stop::Invalid(Wrong::Version))
}

/// What follows the text of a line, as far as that has come.
enum End<'a> {
    /// Nothing, or the first half of a line break.
    Open,
    /// A line break, which some write by its second half alone; and then this.
    Break(&'a [u8]),
    /// Another character that controls something.
    Wrong,
}

impl<'a> End<'a> {
    fn behind(self, more: Stop<Wrong>, wrong: Stop<Wrong>) -> Result<&'a [u8], Stop<Wrong>> {
        match self {
            Self::Open => Err(more),
            Self::Break(behind) => Ok(behind),
            Self::Wrong => Err(wrong),
        }
    }
}

/// The first line of `bytes`, and what it ends with.
fn next_line(bytes: &[u8]) -> (&[u8], End<'_>) {
    let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let end = bytes.iter().position(is_control).unwrap_or(bytes.len());
    let (line, end) = bytes.split_at(end);
    let end = match end {
        [] | [b'\r'] => End::Open,
        [b'\n', behind @ ..] | [b'\r', b'\n', behind @ ..] => End::Break(behind),
        _ => End::Wrong,
    };
    (line, end)
}

/// `bytes` up to the first of `ends`, and the rest.
fn until<'a>(bytes: &'a [u8], ends: &[u8]) -> (&'a [u8], &'a [u8]) {
    let end = bytes.iter().position(|byte| ends.contains(byte));
    bytes.split_at(end.unwrap_or(bytes.len()))
}

/// Whether it is a word of the protocol, such as a method and the name of a field.
pub fn is_token(word: &[u8]) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(is_allowed)
}

/// A host, which may be an IPv6 address in brackets, that a port may follow.
fn without_port(host: &[u8]) -> Option<&str> {
    let (host, port) = match host {
        [b'[', ..] => {
            let end = host.iter().position(|&byte| byte == b']')?;
            host.split_at(end + 1)
        }
        _ => until(host, b":"),
    };
    let digits = match port {
        [] => port,
        [b':', digits @ ..] => digits,
        _ => return None,
    };
    let host = str::from_utf8(host).ok()?;
    let ip = host.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let is_host = match ip {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => is_host_name(host.as_bytes()),
    };
    (is_host && digits.iter().all(u8::is_ascii_digit)).then_some(host)
}

/// The most bytes that are looked at.
pub const HEAD_MAX: usize = 16 * 1024;

/// Longer words are no methods: the longest that is registered has 17 letters.
const METHOD_MAX: usize = 32;

const HTTP: &[u8] = b"HTTP/";
const HTTP_1_LENGTH: usize = "HTTP/1.1".len();

#[cfg(test)]
mod tests;
