//! Active probes.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use regex::bytes::{Regex, RegexBuilder};

/// Active probes of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// None: every backend counts as up.
    None,
    /// Each backend is probed.
    Probed(Probe),
}

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeKind {
    /// A TCP connect that must succeed.
    Tcp,
    /// A dialog on a connection; some answer is expected.
    SendExpect(Arc<[Step]>),
    /// A handshake of TLS.
    Tls(Arc<Tls>),
    /// A request to the health service of gRPC, for this service; empty = for the server.
    Grpc(Arc<str>),
    /// A program and its arguments, which must exit with 0; never empty.
    Exec(Arc<[String]>),
    /// A datagram that must not be refused, and be answered if an answer is expected; where none is,
    /// any answer passes.
    Udp(Step),
    /// A request of HTTP/1.1 that must be answered with the right status, and the right body.
    Http(Arc<Http>),
}

/// A request of HTTP/1.1, and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// What it asks for, with the query.
    pub path: String,
    /// Whom it asks; `None` = the backend's address.
    pub host: Option<String>,
    /// The statuses that pass; never empty.
    pub statuses: Vec<RangeInclusive<u16>>,
    /// What the body must hold; `None` = it may be anything, and is not waited for.
    pub body: Option<Pattern>,
    /// It goes by TLS.
    pub tls: Option<Tls>,
}

/// How to speak TLS with a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The name that its certificate must have; `None` = the one in its address, or its IP address.
    pub server_name: Option<String>,
    /// Whether its certificate is looked at.
    pub verify: bool,
    /// The file with the certificates of authorities; `None` = those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// Bytes that are sent, and what must come back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// They may be none.
    pub send: Arc<[u8]>,
    /// The answer.
    pub expect: Expected,
}

/// What an answer must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It begins with these bytes; none = no answer is waited for.
    Start(Arc<[u8]>),
    /// Some part of its first [`ANSWER_MAX`] bytes matches.
    Match(Pattern),
}

/// The part of an answer, or of the body of one, that is looked at, in bytes.
pub const ANSWER_MAX: usize = 64 * 1024;

impl Expected {
    /// Whether `answer` is the expected one; `None` = what came so far does not tell.
    pub fn judge(&self, answer: &[u8]) -> Option<bool> {
        match self {
            Self::Start(start) if answer.len() < start.len() => {
                (!start.starts_with(answer)).then_some(false)
            }
            Self::Start(start) => Some(answer.starts_with(start)),
            Self::Match(pattern) if pattern.matches(answer) => Some(true),
            Self::Match(_) => (answer.len() >= ANSWER_MAX).then_some(false),
        }
    }

    /// The most bytes of an answer that are looked at.
    pub fn bytes_max(&self) -> usize {
        match self {
            Self::Start(start) => start.len(),
            Self::Match(_) => ANSWER_MAX,
        }
    }

    /// Whether nothing is expected.
    pub fn is_nothing(&self) -> bool {
        matches!(self, Self::Start(start) if start.is_empty())
    }
}

impl Default for Expected {
    fn default() -> Self {
        Self::Start(Arc::from([]))
    }
}

/// A regular expression over bytes, which need not be a text.
#[derive(Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// The most memory that the machine of an expression may take, in bytes.
    const SIZE_MAX: usize = 1024 * 1024;

    /// The expression that `text` writes; otherwise what is wrong with it, on one line.
    pub(in crate::config) fn new(text: &str) -> Result<Self, String> {
        let built = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(Self::SIZE_MAX)
            .build();
        built.map(Self).map_err(|error| {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        })
    }

    /// Whether some part of `bytes` matches.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As it was written, in quotes.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

/// How, how often and how strictly to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What it does.
    pub kind: ProbeKind,
    /// Between probes of one backend in a settled state.
    pub interval: Duration,
    /// While its state is changing.
    pub fast_interval: Duration,
    /// While it is down.
    pub down_interval: Duration,
    /// For one probe.
    pub timeout: Duration,
    /// Successes in a row that bring it up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// The address to probe; `None` = the backend's own.
    pub address: Option<IpAddr>,
    /// The port to probe; 0 = the backend's own.
    pub port: u16,
    /// Its state before the first result.
    pub initial_up: bool,
    /// A backend that sends bytes is not failed by a probe that times out.
    pub progress_is_alive: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_as_soon_as_it_tells() {
        let start = Expected::Start(Arc::from(*b"+PONG"));
        for (answer, judged) in [
            ("", None),
            ("+PO", None),
            ("+PONG", Some(true)),
            ("+PONG\r\n", Some(true)),
            ("-", Some(false)),
            ("+PING", Some(false)),
            ("+PONX", Some(false)),
        ] {
            assert_eq!(start.judge(answer.as_bytes()), judged, "{answer}");
        }
        let pattern = Expected::Match(Pattern::new(r"\xff\d+").unwrap());
        assert_eq!(pattern.judge(b"\xff"), None);
        assert_eq!(pattern.judge(b"\x00\xff12"), Some(true));
        assert_eq!(pattern.judge(&[b'1'; ANSWER_MAX]), Some(false));
        assert!(Expected::default().is_nothing() && !start.is_nothing());
        assert_eq!(Expected::default().judge(b""), Some(true));
    }

    #[test]
    fn a_pattern_is_bounded() {
        assert!(
            Pattern::new("(a{100}){100}{100}")
                .unwrap_err()
                .contains("exceeds size limit")
        );
    }
}
