//! How backends are probed and what their traffic says of them, as it was written.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::error::Wrong;
use crate::config::keys::{self, Takes, quoted};
use crate::config::plan::{Expected, OnDown, Pattern, Step};
use crate::config::reader::{Reader, Written, match_word};
use crate::config::units::{self, MIN_DURATION};
use crate::lb::health::outlier;

/// The longest payload of a datagram over IPv4, in bytes.
const MAX_DATAGRAM: usize = 65_507;

/// The longest path and host of a request, in bytes.
const MAX_PATH: usize = 2048;
const MAX_HOST: usize = 256;

#[derive(Debug)]
pub(in crate::config) struct Health {
    /// `None` = what suits the listeners.
    pub(in crate::config) kind: Option<HealthKind>,
    /// Where that is written, or else the table.
    pub(in crate::config) at: usize,
    pub(in crate::config) send: Written<Vec<u8>>,
    pub(in crate::config) expect_bytes: Written<Expected>,
    pub(in crate::config) steps: Written<Vec<Step>>,
    pub(in crate::config) path: Written<String>,
    pub(in crate::config) host: Written<String>,
    pub(in crate::config) expect: Written<Vec<RangeInclusive<u16>>>,
    pub(in crate::config) body: Written<Option<Pattern>>,
    pub(in crate::config) grpc_service: Written<String>,
    pub(in crate::config) tls_server_name: Written<String>,
    pub(in crate::config) tls_verify: Written<bool>,
    pub(in crate::config) tls_ca: Written<String>,
    pub(in crate::config) command: Option<Written<Vec<Written<String>>>>,
    pub(in crate::config) interval: Written<Duration>,
    pub(in crate::config) fast_interval: Written<Duration>,
    pub(in crate::config) down_interval: Duration,
    pub(in crate::config) timeout: Written<Duration>,
    pub(in crate::config) rise: u32,
    pub(in crate::config) fall: u32,
    pub(in crate::config) address: Written<Option<IpAddr>>,
    pub(in crate::config) port: u16,
    pub(in crate::config) initial_up: bool,
    pub(in crate::config) progress_is_alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum HealthKind {
    None,
    Tcp,
    SendExpect,
    Http,
    Https,
    Grpc,
    Tls,
    Udp,
    Exec,
}

impl HealthKind {
    /// As the file writes it.
    pub(in crate::config) const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::SendExpect => "send_expect",
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Udp => "udp",
            Self::Exec => "exec",
        }
    }
}

/// A key that only probes of some kinds use, where it asks for something.
pub(in crate::config) struct Special {
    pub(in crate::config) key: &'static str,
    pub(in crate::config) at: usize,
    pub(in crate::config) kinds: &'static [HealthKind],
}

impl Health {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let (send, expect_bytes) = step(reader);
        let steps = reader.tables("steps", &keys::STEP);
        Self {
            at: reader.place("type"),
            kind: reader.word_if_given("type").map(|word| match word {
                "none" => HealthKind::None,
                "send_expect" => HealthKind::SendExpect,
                "http" => HealthKind::Http,
                "https" => HealthKind::Https,
                "grpc" => HealthKind::Grpc,
                "tls" => HealthKind::Tls,
                "udp" => HealthKind::Udp,
                "exec" => HealthKind::Exec,
                _ => HealthKind::Tcp,
            }),
            send,
            expect_bytes,
            steps: Written {
                at: steps.first().unwrap_or(reader).at(),
                given: !steps.is_empty(),
                value: steps
                    .iter()
                    .map(|reader| {
                        let (send, expect) = step(reader);
                        step_of(send, expect)
                    })
                    .collect(),
            },
            path: reader.parsed("path", path).expect("the row has a default"),
            host: reader.parsed("host", host).expect("the row has a default"),
            expect: reader.statuses("expect"),
            body: reader
                .parsed("body", pattern)
                .expect("the row has a default"),
            grpc_service: reader
                .parsed("grpc_service", service)
                .expect("the row has a default"),
            tls_server_name: reader
                .parsed("tls_server_name", host)
                .expect("the row has a default"),
            tls_verify: reader.written_flag("tls_verify"),
            tls_ca: reader
                .parsed("tls_ca", |text| Ok(text.to_owned()))
                .expect("the row has a default"),
            command: reader.each("command", argument),
            interval: reader.duration("interval"),
            fast_interval: reader.duration("fast_interval"),
            down_interval: reader.duration("down_interval").value,
            timeout: reader.duration("timeout"),
            rise: reader.whole("rise"),
            fall: reader.whole("fall"),
            address: reader
                .parsed("address", address)
                .expect("the row has a default"),
            port: reader.whole("port"),
            initial_up: reader.word("initial").value != "down",
            progress_is_alive: reader.flag("progress_is_alive"),
        }
    }

    /// What is written for some kinds of probe alone.
    pub(in crate::config) fn special(&self) -> impl Iterator<Item = Special> {
        const HTTP: &[HealthKind] = &[HealthKind::Http, HealthKind::Https];
        const EXEC: &[HealthKind] = &[HealthKind::Exec];
        const GRPC: &[HealthKind] = &[HealthKind::Grpc];
        const TLS: &[HealthKind] = &[HealthKind::Https, HealthKind::Tls];
        const BYTES: &[HealthKind] = &[HealthKind::SendExpect, HealthKind::Udp];
        const SEND_EXPECT: &[HealthKind] = &[HealthKind::SendExpect];
        let asks = [
            special("send", &self.send, |send| !send.is_empty(), BYTES),
            special(
                "expect_bytes",
                &self.expect_bytes,
                |expect| !expect.is_nothing(),
                BYTES,
            ),
            special("steps", &self.steps, |_| true, SEND_EXPECT),
            special("path", &self.path, |path| path != "/", HTTP),
            special("host", &self.host, |host| !host.is_empty(), HTTP),
            special(
                "expect",
                &self.expect,
                |expect| *expect != [200..=200],
                HTTP,
            ),
            special("body", &self.body, Option::is_some, HTTP),
            special(
                "tls_server_name",
                &self.tls_server_name,
                |name| !name.is_empty(),
                TLS,
            ),
            special(
                "grpc_service",
                &self.grpc_service,
                |service| !service.is_empty(),
                GRPC,
            ),
            special("tls_verify", &self.tls_verify, |verify| !verify, TLS),
            special("tls_ca", &self.tls_ca, |ca| !ca.is_empty(), TLS),
            (self.command.as_ref()).and_then(|command| special("command", command, |_| true, EXEC)),
        ];
        asks.into_iter().flatten()
    }
}

fn special<T>(
    key: &'static str,
    written: &Written<T>,
    asks: impl Fn(&T) -> bool,
    kinds: &'static [HealthKind],
) -> Option<Special> {
    let at = written.at;
    (written.given && asks(&written.value)).then_some(Special { key, at, kinds })
}

/// What happens to the sessions of a backend that goes down.
pub(super) fn on_down(text: &str) -> Result<OnDown, Wrong> {
    if let Some(time) = text.strip_prefix("drain:") {
        return units::duration(time, MIN_DURATION)
            .map(OnDown::Drain)
            .ok_or_else(|| {
                let cure = format!("write drain: and {}", Takes::Duration(MIN_DURATION));
                Wrong::new(format!("{} has no usable duration", quoted(text)), cure)
            });
    }
    match match_word(text, &["keep", "reset"]) {
        Ok("reset") => Ok(OnDown::Reset),
        Ok(_) => Ok(OnDown::Keep),
        Err(wrong) => Err(wrong.unwrap_or_else(|| {
            let cure = "write \"keep\", \"reset\" or \"drain:DURATION\"";
            Wrong::new(format!("`on_down` is {}", quoted(text)), cure)
        })),
    }
}

/// When a backend is ejected.
pub(super) fn outlier(reader: &Reader<'_>) -> outlier::Settings {
    outlier::Settings {
        consecutive_failures: reader.whole("consecutive_failures"),
        eject_time: reader.duration("eject_time").value,
        max_ejected: reader.share("max_ejected"),
    }
}

/// What is sent and expected, as it was written.
fn step(reader: &Reader<'_>) -> (Written<Vec<u8>>, Written<Expected>) {
    (
        reader.parsed("send", bytes).expect("the row has a default"),
        reader
            .parsed("expect_bytes", expected)
            .expect("the row has a default"),
    )
}

/// The step that sends the one and expects the other.
pub(in crate::config) fn step_of(send: Written<Vec<u8>>, expect: Written<Expected>) -> Step {
    Step {
        send: send.value.into(),
        expect: expect.value,
    }
}

/// What an answer must be like.
fn expected(text: &str) -> Result<Expected, Wrong> {
    match text.strip_prefix("regex:").map(pattern) {
        None => bytes(text).map(|start| Expected::Start(start.into())),
        Some(pattern) => Ok(pattern?.map_or_else(Expected::default, Expected::Match)),
    }
}

/// Bytes to send, as text or in hexadecimal.
fn bytes(text: &str) -> Result<Vec<u8>, Wrong> {
    let bytes = match text.strip_prefix("hex:") {
        None => text.as_bytes().to_vec(),
        Some(digits) => units::hexadecimal(digits).ok_or_else(|| {
            let what = format!("{} is not hexadecimal", quoted(text));
            Wrong::new(what, "write pairs of hexadecimal digits after hex:")
        })?,
    };
    if bytes.len() > MAX_DATAGRAM {
        let what = format!("{} bytes do not fit a datagram", bytes.len());
        return Err(Wrong::new(what, format!("write at most {MAX_DATAGRAM}")));
    }
    Ok(bytes)
}

/// What a request asks for, as it goes onto its first line.
fn path(text: &str) -> Result<String, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte);
    if text.starts_with('/') && text.len() <= MAX_PATH && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    let cure = "begin it with /, and write what no path can hold as % and two hexadecimal digits";
    Err(Wrong::new(format!("{} is no path", quoted(text)), cure))
}

fn argument(text: &str) -> Result<String, Wrong> {
    if text.contains('\0') {
        let what = format!("{} holds a zero byte", quoted(text));
        return Err(Wrong::new(what, "no argument of a program can"));
    }
    Ok(text.to_owned())
}

fn service(text: &str) -> Result<String, Wrong> {
    if text.len() <= MAX_HOST && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    let what = format!("{} is no service of gRPC", quoted(text));
    Err(Wrong::new(what, "write PACKAGE.SERVICE"))
}

fn host(text: &str) -> Result<String, Wrong> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if text.len() <= MAX_HOST && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    let what = format!("{} is no host", quoted(text));
    Err(Wrong::new(what, "write HOST or HOST:PORT"))
}

/// An address to connect to; empty = none.
fn address(text: &str) -> Result<Option<IpAddr>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let cure = "write one, without a port";
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            let what = format!("{} is an address to listen on", quoted(text));
            Err(Wrong::new(what, cure))
        }
        Ok(address) => Ok(Some(address.to_canonical())),
        Err(_) => Err(Wrong::new(
            format!("{} is no IP address", quoted(text)),
            cure,
        )),
    }
}

/// A regular expression; empty = none.
fn pattern(text: &str) -> Result<Option<Pattern>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    Pattern::new(text).map(Some).map_err(|why| {
        let what = format!("{} is no regular expression: {why}", quoted(text));
        Wrong::new(what, "write it as for grep -P, without references back")
    })
}
