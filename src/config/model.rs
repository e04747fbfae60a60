//! What was written: every value read and within its range, with its place. How values relate to
//! each other is for `check` to judge.

mod discover;
mod first_bytes;
mod global;
mod health;
mod refusal;

use std::net::IpAddr;
use std::time::Duration;

use toml::de::DeTable;

pub(super) use self::health::{Health, HealthKind, step_of};

use super::address;
use super::error::{Problems, Wrong};
use super::key_part;
use super::keys::{self, quoted};
use super::plan::{
    Address, Bind, Discover, Global, OnDown, Preread, Queue, Refuse, SendProxy, Source, Udp,
};
use super::reader::{Reader, Written};
use super::units::{self, MIN_DURATION};
use crate::lb::admission::access::Prefix;
use crate::lb::admission::queue;
use crate::lb::admission::source::{Limits, Pace};
use crate::lb::backend::Counts;
use crate::lb::balance::key::KeyPart;
use crate::lb::balance::pick::Policy;
use crate::lb::balance::route::Rule;
use crate::lb::health::outlier;
use crate::lb::traffic::flow::{Answers, Rules};
use crate::lb::traffic::phase;
use crate::wire::proxy_header::parse::Versions;
use crate::wire::quic::{SERVER_ID_MAX, ServerId};

/// The longest name of a listener, pool or backend, in bytes: it is repeated in every log line
/// and metric.
pub(super) const MAX_NAME: usize = 128;

/// A file as it was written.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) global: Global,
    pub(super) listeners: Vec<Listener>,
    pub(super) pools: Vec<Pool>,
}

/// `None` in a field: missing or wrong, and reported.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) name: Option<Written<String>>,
    pub(super) bind: Option<Vec<Written<Bind>>>,
    pub(super) pool: Option<Written<String>>,
    pub(super) max_connections: u32,
    pub(super) per_source: Limits,
    pub(super) allow: Vec<Prefix>,
    pub(super) deny: Vec<Prefix>,
    pub(super) accept_proxy: Written<Option<Versions>>,
    pub(super) trusted: Vec<Prefix>,
    pub(super) preread: Preread,
    pub(super) routes: Vec<Route>,
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) at: usize,
    pub(super) rule: Rule,
    pub(super) pool: Option<Written<String>>,
}

/// Nothing is sticky without a key.
#[derive(Debug)]
pub(super) struct Sticky {
    pub(super) key: Vec<Written<KeyPart>>,
    pub(super) ttl: Duration,
    pub(super) max_entries: u32,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: Written<String>,
    pub(super) policy: Policy,
    pub(super) hash_key: Written<Vec<Written<KeyPart>>>,
    pub(super) load_factor: Written<f64>,
    pub(super) fail_open: bool,
    pub(super) panic_threshold: f64,
    pub(super) slow_start: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) retries: u16,
    pub(super) idle_timeout: Duration,
    pub(super) half_close_timeout: Duration,
    pub(super) max_connections: u32,
    pub(super) soft_connections: Written<u32>,
    pub(super) counts: Counts,
    pub(super) phase: phase::Rules,
    pub(super) lifetime: phase::Lifetime,
    pub(super) on_down: OnDown,
    pub(super) refuse: Refuse,
    pub(super) queue: Queue,
    pub(super) sticky: Sticky,
    pub(super) send_proxy: Written<SendProxy>,
    pub(super) source: Source,
    pub(super) health: Health,
    pub(super) outlier: outlier::Settings,
    pub(super) udp: Udp,
    /// Where the limit of its answers is written.
    pub(super) amplification_at: usize,
    pub(super) discover: Discover,
    /// Backends are to be found, be it in a way that is wrong.
    pub(super) is_discovered: bool,
    pub(super) backends: Vec<Backend>,
}

#[derive(Debug)]
pub(super) struct Backend {
    pub(super) at: usize,
    /// `None` = its address.
    pub(super) name: Option<Written<String>>,
    pub(super) address: Option<Written<Address>>,
    pub(super) weight: u16,
    /// `None` = the pool's.
    pub(super) max_connections: Option<u32>,
    pub(super) backup: bool,
    /// `None` = it has none, or a wrong one.
    pub(super) server_id: Option<Written<ServerId>>,
}

impl Listener {
    /// Whether it takes datagrams rather than streams, as far as its addresses tell.
    pub(super) fn is_udp(&self) -> bool {
        let first = self.bind.iter().flatten().next();
        first.is_some_and(|bind| matches!(bind.value, Bind::Udp(_)))
    }

    /// The pools that its clients may come to, as far as they are written.
    pub(super) fn pools(&self) -> impl Iterator<Item = &Written<String>> {
        let routed = self.routes.iter().filter_map(|route| route.pool.as_ref());
        self.pool.iter().chain(routed)
    }
}

impl Model {
    pub(super) fn read(root: &DeTable<'_>, problems: &Problems) -> Self {
        let root = Reader::new(&keys::ROOT, root, 0, problems);
        let of_process = root.table("global", &keys::GLOBAL);
        Self {
            global: global::global(&of_process, problems),
            listeners: root
                .tables("listener", &keys::LISTENER)
                .iter()
                .map(listener)
                .collect(),
            pools: (root.named("pool", &keys::POOL).into_iter())
                .map(|(name, reader)| pool(name, &reader, problems))
                .collect(),
        }
    }
}

fn listener(reader: &Reader<'_>) -> Listener {
    let is_udp = reader.word("protocol").value == "udp";
    let bind = |text: &str| address::bind(text, is_udp);
    Listener {
        name: reader.parsed("name", name),
        bind: reader.each("bind", bind).map(|found| found.value),
        pool: reader.parsed("pool", |text| Ok(text.to_owned())),
        max_connections: reader.whole("max_connections"),
        per_source: Limits {
            open: reader.whole("max_connections_per_source"),
            pace: reader
                .parsed("connection_rate_per_source", pace)
                .and_then(|found| found.value),
        },
        allow: networks(reader, "allow"),
        deny: networks(reader, "deny"),
        accept_proxy: first_bytes::accept_proxy(reader),
        trusted: networks(reader, "trusted"),
        preread: first_bytes::preread(&reader.table("preread", &keys::PREREAD)),
        routes: reader
            .tables("route", &keys::ROUTE)
            .iter()
            .map(first_bytes::route)
            .collect(),
    }
}

/// A rate; empty = none.
fn pace(text: &str) -> Result<Option<Pace>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    Pace::parse(text).map(Some).ok_or_else(|| {
        let cure = format!("write 1 to {} and /s or /m, such as 20/s", Pace::MAX);
        Wrong::new(format!("{} is no rate", quoted(text)), cure)
    })
}

fn networks(reader: &Reader<'_>, key: &str) -> Vec<Prefix> {
    let found = reader.each(key, address::network);
    let found = found.map(|found| found.value).unwrap_or_default();
    found.into_iter().map(|network| network.value).collect()
}

fn pool(pool_name: Written<String>, reader: &Reader<'_>, problems: &Problems) -> Pool {
    if let Err(wrong) = name(&pool_name.value) {
        problems.value(pool_name.at, wrong);
    }
    let send_proxy = reader.word("send_proxy");
    let flows = reader.table("udp", &keys::UDP);
    let backends = reader.tables("backend", &keys::BACKEND);
    let (discover, is_discovered) = discover::discover(
        &reader.table("discover", &keys::DISCOVER),
        reader.whole("max_connections"),
        problems,
    );
    Pool {
        name: pool_name,
        policy: policy(reader.word("balance").value),
        hash_key: reader
            .each("hash_key", key_part::parse)
            .expect("the row has a default"),
        load_factor: reader.load_factor("load_factor"),
        fail_open: reader.flag("fail_open"),
        panic_threshold: reader.share("panic_threshold"),
        slow_start: time_or_none("slow_start", reader),
        lifetime: lifetime(reader),
        connect_timeout: reader.duration("connect_timeout").value,
        retries: reader.whole("retries"),
        idle_timeout: reader.duration("idle_timeout").value,
        half_close_timeout: reader.duration("half_close_timeout").value,
        max_connections: reader.whole("max_connections"),
        soft_connections: Written {
            value: reader.whole("soft_connections"),
            at: reader.place("soft_connections"),
            given: true,
        },
        counts: match reader.word("limit_counts").value {
            "busy" => Counts::Busy,
            _ => Counts::Open,
        },
        phase: phase::Rules {
            linger: reader.duration("busy_linger").value,
            min_bytes: reader.whole("busy_min_bytes"),
        },
        on_down: reader
            .parsed("on_down", health::on_down)
            .map_or(OnDown::Keep, |found| found.value),
        refuse: reader
            .parsed("refuse", refusal::refuse)
            .map_or(Refuse::Reset, |found| found.value),
        queue: queue(&reader.table("queue", &keys::QUEUE)),
        sticky: sticky(&reader.table("sticky", &keys::STICKY)),
        send_proxy: Written {
            value: match send_proxy.value {
                "v1" => SendProxy::V1,
                "v2" => SendProxy::V2,
                _ => SendProxy::Off,
            },
            at: send_proxy.at,
            given: send_proxy.given,
        },
        source: reader
            .parsed("source", source)
            .map_or(Source::Any, |found| found.value),
        health: Health::read(&reader.table("health", &keys::HEALTH)),
        outlier: health::outlier(&reader.table("outlier", &keys::OUTLIER)),
        udp: udp(&flows),
        amplification_at: flows.place("amplification_limit"),
        discover,
        is_discovered,
        backends: backends.iter().map(backend).collect(),
    }
}

fn sticky(reader: &Reader<'_>) -> Sticky {
    let key = reader.each("key", key_part::parse);
    Sticky {
        key: key.expect("the row has a default").value,
        ttl: reader.duration("ttl").value,
        max_entries: reader.whole("max_entries"),
    }
}

fn lifetime(reader: &Reader<'_>) -> phase::Lifetime {
    phase::Lifetime {
        most: time_or_none("max_lifetime", reader),
        jitter: time_or_none("max_lifetime_jitter", reader),
    }
}

/// A duration; empty = none, which is 0.
fn time_or_none(key: &str, reader: &Reader<'_>) -> Duration {
    let parse = |text: &str| {
        if text.is_empty() {
            return Ok(Duration::ZERO);
        }
        units::duration(text, MIN_DURATION).ok_or_else(|| {
            let what = format!("`{key}` is {}", quoted(text));
            Wrong::new(what, "write a duration such as \"30s\", or \"\"")
        })
    };
    let found = reader.parsed(key, parse);
    found.map_or(Duration::ZERO, |found| found.value)
}

fn queue(reader: &Reader<'_>) -> Queue {
    Queue {
        limits: queue::Limits {
            all: reader.whole("limit"),
            per_source: reader.whole("per_source"),
            is_fair: reader.flag("fair"),
        },
        timeout: reader.duration("timeout").value,
        abort_on_close: reader.flag("abort_on_close"),
    }
}

/// The kind of session says what is not written.
fn udp(reader: &Reader<'_>) -> Udp {
    let (idle, responses) = match reader.word("session").value {
        "oneway" => (Duration::from_secs(10), None),
        "oneshot" => (Duration::from_secs(10), Some(1)),
        "quic" => (Duration::from_secs(120), Some(0)),
        _ => (Duration::from_secs(30), Some(0)),
    };
    let written = reader.whole_if_given("responses");
    let answers = match (responses, written) {
        (None, None | Some(0)) => Answers::None,
        (Some(0), None) | (Some(_), Some(0)) => Answers::Any,
        (_, Some(number)) | (Some(number), None) => Answers::Each(number),
    };
    Udp {
        rules: Rules {
            idle: reader.duration_if_given("idle_timeout").unwrap_or(idle),
            answers,
            requests: reader.whole("requests"),
            amplification: reader.whole("amplification_limit"),
        },
        max_flows: reader.whole("max_flows"),
        new_flows_per_second: reader.whole("new_flows_per_second"),
        quic_server_id_length: reader.whole("quic_server_id_length"),
    }
}

/// The backends of a file that holds nothing else.
pub(super) fn found(root: &DeTable<'_>, problems: &Problems) -> Vec<Backend> {
    let root = Reader::new(&keys::FOUND, root, 0, problems);
    let backends = root.tables("backend", &keys::BACKEND);
    backends.iter().map(backend).collect()
}

fn backend(reader: &Reader<'_>) -> Backend {
    Backend {
        at: reader.at(),
        name: reader.parsed("name", name),
        address: reader.parsed("address", address::backend),
        weight: reader.whole("weight"),
        max_connections: reader.whole_if_given("max_connections"),
        backup: reader.flag("backup"),
        server_id: reader.parsed("server_id", server_id).and_then(given),
    }
}

/// A server's id; empty = none.
fn server_id(text: &str) -> Result<Option<ServerId>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    ServerId::from_hex(text).map(Some).ok_or_else(|| {
        let cure = format!("write 1 to {SERVER_ID_MAX} pairs of hexadecimal digits");
        Wrong::new(format!("{} is no server id", quoted(text)), cure)
    })
}

/// What is written, unless that stands for nothing.
fn given<T>(written: Written<Option<T>>) -> Option<Written<T>> {
    let Written { value, at, given } = written;
    value.map(|value| Written { value, at, given })
}

/// A name that a log line, a metric's label and a command line can hold as it is.
fn name(text: &str) -> Result<String, Wrong> {
    let printable = |c: char| !c.is_control() && !c.is_whitespace() && c != '"' && c != '\\';
    if !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(printable) {
        return Ok(text.to_owned());
    }
    let cure = format!("use 1 to {MAX_NAME} bytes without spaces, quotes and backslashes");
    Err(Wrong::new(format!("{} is no name", quoted(text)), cure))
}

fn policy(word: &'static str) -> Policy {
    match word {
        "rendezvous" => Policy::Rendezvous,
        "round_robin" => Policy::RoundRobin,
        "least_connections" => Policy::LeastConnections,
        "least_busy" => Policy::LeastBusy,
        "least_latency" => Policy::LeastLatency,
        "power_of_two" => Policy::PowerOfTwo,
        "random" => Policy::Random,
        "first" => Policy::First,
        _ => Policy::Hash,
    }
}

fn source(text: &str) -> Result<Source, Wrong> {
    const FORMS: &str = "write an IP address of this host, \"client\" or \"\"";
    match text {
        "" => return Ok(Source::Any),
        "client" => return Ok(Source::Client),
        _ => {}
    }
    let wrong = |what: &str| Err(Wrong::new(format!("{} {what}", quoted(text)), FORMS));
    match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Err(_) => wrong("is no address to connect from"),
        Ok(address) if address.is_unspecified() => wrong("is every address of this host"),
        Ok(address) if address.is_multicast() => wrong("is an address of a group"),
        Ok(IpAddr::V6(address)) if address.is_unicast_link_local() => {
            wrong("is on every interface of this host")
        }
        Ok(address) => Ok(Source::Address(address)),
    }
}
