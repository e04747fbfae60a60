//! What each parser says, in the same words.

use std::net::SocketAddr;

use ::ppp::{HeaderResult, PartialResult as _, v1, v2};
use ::proxy_header::{Error, ParseConfig, ProxyHeader};
use evenkeel::wire::Stop;
use evenkeel::wire::proxy_header::parse::{Origin, Versions, Wrong, parse};

/// What a parser says of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A header of so many bytes; the client and its destination, if it tells them.
    Header(Option<[SocketAddr; 2]>, usize),
    /// More must come.
    Incomplete,
    /// No header.
    Invalid,
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Header(Some(_), _) => "with addresses",
            Self::Header(None, _) => "without addresses",
            Self::Incomplete => "incomplete",
            Self::Invalid => "invalid",
        }
    }
}

fn ends(source: SocketAddr, destination: SocketAddr) -> Option<[SocketAddr; 2]> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Some([plain(source), plain(destination)])
}

pub fn ours(bytes: &[u8]) -> Verdict {
    match parse(bytes, Versions::Any) {
        Ok(header) => match header.origin {
            Origin::Client(to) => Verdict::Header(ends(to.source, to.destination), header.length),
            Origin::Proxy | Origin::Unknown => Verdict::Header(None, header.length),
        },
        Err(Stop::Incomplete { .. }) => Verdict::Incomplete,
        Err(Stop::Invalid(_)) => Verdict::Invalid,
    }
}

/// Whether ours finds the extensions that a public parser finds, where it looks for them.
pub fn same_extensions(bytes: &[u8]) -> bool {
    let Ok(header) = parse(bytes, Versions::Any) else {
        return true;
    };
    let looks = matches!(header.origin, Origin::Client(_)) && bytes.starts_with(b"\r");
    let theirs = match extensions(bytes) {
        Some(extensions) if looks => extensions,
        _ => return !looks,
    };
    (0..=u8::MAX).all(|kind| {
        let theirs = theirs.iter().find(|(found, _)| *found == kind);
        header.extension(kind) == theirs.map(|(_, value)| &value[..])
    })
}

/// Why ours refuses bytes.
pub fn our_reason(bytes: &[u8]) -> Option<Wrong> {
    match parse(bytes, Versions::Any) {
        Err(Stop::Invalid(wrong)) => Some(wrong),
        _ => None,
    }
}

pub fn ppp(bytes: &[u8]) -> Verdict {
    let parsed = HeaderResult::parse(bytes);
    if parsed.is_incomplete() {
        return Verdict::Incomplete;
    }
    match parsed {
        HeaderResult::V1(Ok(header)) => {
            let ends = match header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(to) => ends(
                    (to.source_address, to.source_port).into(),
                    (to.destination_address, to.destination_port).into(),
                ),
                v1::Addresses::Tcp6(to) => ends(
                    (to.source_address, to.source_port).into(),
                    (to.destination_address, to.destination_port).into(),
                ),
            };
            Verdict::Header(ends, header.header.len())
        }
        HeaderResult::V2(Ok(header)) => {
            let ends = match header.addresses {
                _ if header.command == v2::Command::Local => None,
                v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
                v2::Addresses::IPv4(to) => ends(
                    (to.source_address, to.source_port).into(),
                    (to.destination_address, to.destination_port).into(),
                ),
                v2::Addresses::IPv6(to) => ends(
                    (to.source_address, to.source_port).into(),
                    (to.destination_address, to.destination_port).into(),
                ),
            };
            Verdict::Header(ends, header.len())
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => Verdict::Invalid,
    }
}

pub fn proxy_header(bytes: &[u8]) -> Verdict {
    match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((header, length)) => {
            let ends = header.proxied_address();
            Verdict::Header(ends.and_then(|to| ends_of(to)), length)
        }
        Err(Error::BufferTooShort) => Verdict::Incomplete,
        Err(_) => Verdict::Invalid,
    }
}

fn ends_of(to: &::proxy_header::ProxiedAddress) -> Option<[SocketAddr; 2]> {
    ends(to.source, to.destination)
}

/// The extensions of version 2 as a public parser finds them; `None` if one is not whole.
pub fn extensions(bytes: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let header = v2::Header::try_from(bytes).ok()?;
    let extensions = header.tlvs().map(|extension| {
        let extension = extension.ok()?;
        Some((extension.kind, extension.value.to_vec()))
    });
    extensions.collect()
}
