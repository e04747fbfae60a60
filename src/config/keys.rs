//! The keys of the configuration, one row each. The reader, its suggestions and the reference in
//! the README all read these rows, so they cannot disagree.

mod discover;
mod display;
mod first_bytes;
mod health;
mod udp;
mod waiting;

use std::time::Duration;

use toml::de::{DeArray, DeValue};

pub(super) use self::discover::{DISCOVER, FOUND};
pub(super) use self::first_bytes::{PREREAD, ROUTE};
pub(super) use self::health::{HEALTH, OUTLIER, STEP};
pub(super) use self::udp::UDP;
pub(super) use self::waiting::{QUEUE, STICKY};
use super::error::Wrong;
use super::units::MIN_DURATION;

/// More workers than any machine has cores to give them; each costs a thread and an epoll.
pub(super) const MAX_WORKERS: u64 = 1024;
/// A client is not served better by more attempts than this.
pub(super) const MAX_RETRIES: u64 = 100;
/// Beyond this many probes in a row a health state would never change.
pub(super) const MAX_STREAK: u64 = 1000;
/// Loads beyond ten times a backend's fair share are no bound.
pub(super) const MAX_LOAD_FACTOR: f64 = 10.0;
/// A table of more keys takes gigabytes.
const MAX_ENTRIES: u64 = 10_000_000;
/// What a ping has at most, with much to spare.
const MAX_BUSY_BYTES: u64 = 64 * 1024;
/// The largest limit on connections.
const MAX_CONNECTIONS: u64 = u32::MAX as u64;

/// One table of the file.
#[derive(Debug)]
pub(super) struct Section {
    /// Its header, as the file writes it; `NAME` stands for a name the writer chooses.
    pub(super) header: &'static str,
    pub(super) rows: &'static [Row],
}

/// One key.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) takes: Takes,
    pub(super) default: Default,
    pub(super) help: &'static str,
}

/// What a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// One of these.
    Word(&'static [&'static str]),
    /// A text of a form that these words describe.
    Form(&'static str),
    /// A whole number from the first to the second.
    Whole(u64, u64),
    /// The same, or "auto".
    AutoOr(u64, u64),
    /// 0, or above 1.0 up to [`MAX_LOAD_FACTOR`].
    LoadFactor,
    /// A share, from 0.0 to 1.0.
    Share,
    /// At least this.
    Duration(Duration),
    /// true or false.
    Flag,
    /// Any text.
    Text,
    /// An address, or a list of them.
    Addresses,
    /// A list of words; the text says which.
    List(&'static str),
    /// A list of statuses of HTTP, and of ranges of them.
    Statuses,
    /// A list of networks, which may be empty.
    Networks,
    /// A list of texts, which these words describe.
    Texts(&'static str),
    /// Another section.
    Table,
    /// Known and refused, except for values that ask for nothing.
    NotYet(&'static [Value<'static>]),
}

/// What a key that is not written stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Default {
    /// It must be written.
    Required,
    /// This value.
    Is(Value<'static>),
    /// What the text says.
    Told(&'static str),
}

/// A value, written or by default.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Text(&'a str),
    Whole(i128),
    /// A whole number beyond all ranges.
    Huge,
    Fraction(f64),
    Flag(bool),
    /// A list of texts, by default.
    Texts(&'static [&'static str]),
    /// A list of whole numbers, by default.
    Wholes(&'static [u16]),
    /// A list, as written.
    Array(&'a DeArray<'a>),
    Table,
    Date,
}

impl Section {
    pub(super) fn row(&self, key: &str) -> Option<&'static Row> {
        self.rows.iter().find(|row| row.key == key)
    }
}

/// Every section, in the order of the reference.
pub(super) const SECTIONS: [&Section; 14] = [
    &ROOT,
    &GLOBAL,
    &ACCESS_LOG,
    &LISTENER,
    &PREREAD,
    &ROUTE,
    &POOL,
    &STICKY,
    &QUEUE,
    &HEALTH,
    &OUTLIER,
    &UDP,
    &DISCOVER,
    &BACKEND,
];

pub(super) const ROOT: Section = Section {
    header: "the top level",
    rows: &[
        row(
            "global",
            Takes::Table,
            Default::Told("defaults"),
            "The process",
        ),
        row(
            "listener",
            Takes::Table,
            Default::Required,
            "Where clients connect",
        ),
        row(
            "pool",
            Takes::Table,
            Default::Required,
            "Where their connections go",
        ),
    ],
};

const fn row(key: &'static str, takes: Takes, default: Default, help: &'static str) -> Row {
    Row {
        key,
        takes,
        default,
        help,
    }
}

const fn later(key: &'static str, harmless: &'static [Value<'static>]) -> Row {
    row(key, Takes::NotYet(harmless), Default::Told("off"), "")
}

const fn word(words: &'static [&'static str]) -> Takes {
    Takes::Word(words)
}

const fn text(text: &'static str) -> Default {
    Default::Is(Value::Text(text))
}

const fn whole(number: i128) -> Default {
    Default::Is(Value::Whole(number))
}

const TIME: Takes = Takes::Duration(MIN_DURATION);
const TIME_OR_ZERO: Takes = Takes::Duration(Duration::ZERO);
const LIMIT: Takes = Takes::Whole(0, MAX_CONNECTIONS);
const TRUE: Default = Default::Is(Value::Flag(true));
const FALSE: Default = Default::Is(Value::Flag(false));
const NO_TEXTS: Default = Default::Is(Value::Texts(&[]));
const FIVE_TUPLE: &[&str] = &[
    "source_ip",
    "source_port",
    "destination_ip",
    "destination_port",
];
const BALANCES: &[&str] = &[
    "hash",
    "rendezvous",
    "round_robin",
    "least_connections",
    "least_busy",
    "least_latency",
    "power_of_two",
    "random",
    "first",
];

// One row a line, so that they read as the table they are.
#[rustfmt::skip]
pub(super) const GLOBAL: Section = Section {
    header: "[global]",
    rows: &[
        row("workers", Takes::AutoOr(1, MAX_WORKERS), text("auto"),
            "Worker threads; auto = one per core"),
        row("max_connections", Takes::AutoOr(1, MAX_CONNECTIONS), text("auto"),
            "Sessions and flows open at once; auto = what the limit on open files allows"),
        row("drain_timeout", TIME_OR_ZERO, text("5m"),
            "How long a stop waits for sessions to end before it resets them"),
        row("user", Takes::Text, text(""), "Account to drop to after binding; empty = stay"),
        row("group", Takes::Text, text(""), "Group to drop to; empty = the user's own"),
        row("splice", word(&["auto", "always", "off"]), text("auto"),
            "Move bytes inside the kernel: while a session streams, from its first byte, or never"),
        row("exec_probes", Takes::Flag, Default::Is(Value::Flag(false)),
            "Let probes of type exec run programs; without it no process is ever started"),
        row("sandbox", word(&["auto", "files", "strict", "off"]), text("auto"),
            "What the kernel is to keep the process from once it serves: files = running programs, and \
            opening files that it has no use for (Landlock); strict = also system calls that it has no use \
            for (seccomp), which costs 3 percent of the processor at small messages; auto = files, where \
            `user` is set or a service manager waits for it. Not with `exec_probes`"),
        row("admin_socket", Takes::Form("an absolute path, or \"\""),
            Default::Told("/run/evenkeel/admin.sock, where that can be"),
            "Where `evenkeel status` and its like find the process; the file is for its user alone (mode \
            0600); empty = none"),
        row("http", Takes::Form("IP:PORT, or empty"), text("127.0.0.1:9910"),
            "Where /metrics, /healthz, /readyz and the dashboard are; port 0 = any free one, empty = \
            nowhere. The default goes without where another process has it"),
        row("access_log", Takes::Table, Default::Told("none"), "A line for each session that ends"),
    ],
};

#[rustfmt::skip]
pub(super) const ACCESS_LOG: Section = Section {
    header: "[global.access_log]",
    rows: &[
        row("path", Takes::Form("\"-\" or an absolute path"), text(""),
            "Where a line goes for each session and flow that ends, if it began while this was set: - = \
            standard output; a file is appended to, and opened anew at SIGUSR1; empty = nowhere"),
        row("format", word(&["text", "json"]), text("text"), "What a line looks like"),
    ],
};

#[rustfmt::skip]
pub(super) const LISTENER: Section = Section {
    header: "[[listener]]",
    rows: &[
        row("name", Takes::Text, Default::Required, "Unique among listeners"),
        row("bind", Takes::Addresses, Default::Required, "Where it listens; port 0 = any free one"),
        row("protocol", word(&["tcp", "udp"]), text("tcp"), "What it carries"),
        row("pool", Takes::Text, Default::Required, "The pool that serves it"),
        row("max_connections", LIMIT, whole(0), "Sessions open at once; 0 = the global limit"),
        row("max_connections_per_source", LIMIT, whole(0),
            "Sessions of one source open at once, counted from when it is set; 0 = no limit. A source \
            is an IPv4 address or an IPv6 network of 64 bits"),
        row("connection_rate_per_source",
            Takes::Form("a number in a second or a minute, such as 20/s or 600/m, or \"\""), text(""),
            "Connections that one source begins, after a pause as many at once; empty = any number"),
        row("allow", Takes::Networks, NO_TEXTS,
            "Who may connect; the longest network that holds a client decides; [] = everyone"),
        row("deny", Takes::Networks, NO_TEXTS,
            "Who may not; wins over the same network in `allow`"),
        row("accept_proxy", word(&["off", "v1", "v2", "any"]), text("off"),
            "The version of the PROXY header that must come first, whose addresses stand for the client's; \
            who sends none or another is reset"),
        row("trusted", Takes::Networks, NO_TEXTS,
            "Who may send a PROXY header, and is reset otherwise; [] = everyone"),
        row("preread", Takes::Table, Default::Told("defaults"), "How what a client says first is read"),
        row("route", Takes::Table, Default::Told("none"), "Pools for some clients"),
    ],
};

#[rustfmt::skip]
pub(super) const POOL: Section = Section {
    header: "[pool.NAME]",
    rows: &[
        row("balance", word(BALANCES), text("hash"),
            "How a backend is chosen"),
        row("hash_key", Takes::List("source_ip, source_port, destination_ip, destination_port, \
            source_net/N, sni, alpn, http_path, http_header/NAME, first_bytes/N, proxy_tlv/TYPE"),
            Default::Is(Value::Texts(FIVE_TUPLE)),
            "What hash and rendezvous hash over; a client that says nothing of what is asked for is placed \
            by its addresses and ports"),
        row("load_factor", Takes::LoadFactor, Default::Is(Value::Fraction(0.0)),
            "Bounds a backend of hash or rendezvous to this multiple of its fair share; 0 = none"),
        row("connect_timeout", TIME, text("2s"), "For one attempt to connect"),
        row("retries", Takes::Whole(0, MAX_RETRIES), whole(2),
            "Further backends tried when a connect fails"),
        row("idle_timeout", TIME, text("1h"), "Without a byte either way a session is reset"),
        row("half_close_timeout", TIME, text("5m"), "The same once one side has finished"),
        row("max_lifetime", Takes::Form("a duration such as \"1h\", or \"\""), text(""),
            "A session of TCP that has lasted for so long is reset as soon as it is idle, never while it \
            is waiting or streaming; empty = it lasts as long as it will"),
        row("max_lifetime_jitter", Takes::Form("a duration such as \"5m\", or \"\""), text(""),
            "Up to so much is added to `max_lifetime`, if that is set, for each session anew"),
        row("busy_linger", TIME, text("2s"),
            "For how long after its backend has sent something, or after it has begun, a session counts \
            as busy. From its client's first byte until its backend answers it does so too"),
        row("busy_min_bytes", Takes::Whole(0, MAX_BUSY_BYTES), whole(0),
            "Fewer bytes at once than this, such as those of a ping, make no idle session busy, whoever \
            sends them; 0 = any do"),
        row("max_connections", LIMIT, whole(0),
            "Sessions at once per backend that new ones are given; 0 = no limit"),
        row("soft_connections", LIMIT, whole(0),
            "Backends that have fewer sessions than this are preferred to all others; 0 = no such thing"),
        row("limit_counts", word(&["open", "busy"]), text("open"),
            "Which sessions count for `max_connections`, `soft_connections` and `load_factor`: all that are \
            open, or those that are busy. An idle session that becomes busy again is not held back"),
        row("on_down", Takes::Form("\"keep\", \"reset\" or \"drain:DURATION\""), text("keep"),
            "What happens to the sessions of a backend that goes down"),
        row("fail_open", Takes::Flag, TRUE, "All backends down: use all, rather than refuse"),
        row("slow_start", Takes::Form("a duration such as \"30s\", or \"\""), text(""),
            "How long a backend takes to its whole share of new sessions, and to its whole limit, from a \
            tenth on, when it comes up, when its ejection is over, or when a reload adds it to a pool; \
            empty = it has both at once"),
        row("panic_threshold", Takes::Share, Default::Is(Value::Fraction(0.0)),
            "The share of the weight of all backends but backups that must be well (up and not \
            ejected): with less, but somebody, all of them are used, until a tenth more than this share \
            is well again. 0.0 = no such thing"),
        row("refuse", Takes::Form("\"reset\", \"close\" or \"bytes:TEXT\""), text("reset"),
            "What a refused client gets: a reset; an end; these bytes and an end. TEXT may stand in quotes \
            of its own, and is then read like a string of TOML"),
        row("sticky", Takes::Table, Default::Told("off"), "Clients that stay on a backend"),
        row("queue", Takes::Table, Default::Told("defaults"), "Where clients wait for a free backend"),
        row("send_proxy", word(&["off", "v1", "v2"]), text("off"),
            "Tell backends who their client is: a PROXY header at the start of each stream; v2 also \
            before each datagram, which then goes alone, not in a train; a datagram above 65,507 \
            bytes with it is dropped. Probes, unless they go elsewhere, say that they are the \
            proxy's own"),
        row("source", Takes::Form("an IP address of this host, \"client\" or \"\""), text(""),
            "Where backends are connected to from: this address, probes included; the client's own \
            address, with another port (needs CAP_NET_ADMIN or CAP_NET_RAW, and routes that bring the \
            answers back); empty = what the route suggests"),
        row("health", Takes::Table, Default::Told("defaults"), "Active probes"),
        row("outlier", Takes::Table, Default::Told("defaults"),
            "Ejection of a backend on which traffic fails"),
        row("udp", Takes::Table, Default::Told("defaults"), "The flows of listeners with protocol udp"),
        row("discover", Takes::Table, Default::Told("off"), "Where backends are found"),
        row("backend", Takes::Table, Default::Told("none"),
            "The backends; there must be some unless `discover` says where they are found"),
        later("scale", &[]),
    ],
};

#[rustfmt::skip]
pub(super) const BACKEND: Section = Section {
    header: "[[pool.NAME.backend]]",
    rows: &[
        row("name", Takes::Text, Default::Told("its address"), "Unique within the pool"),
        row("address", Takes::Form("IP:PORT, [IPV6]:PORT, HOST:PORT or unix:/PATH"),
            Default::Required,
            "Where it is; a host name is resolved when the file is loaded"),
        row("weight", Takes::Whole(0, 65_535), whole(100),
            "Its share relative to the others; 0 = no new sessions"),
        row("max_connections", LIMIT, Default::Told("the pool's"),
            "Sessions at once, as the pool's; 0 = no limit"),
        row("backup", Takes::Flag, Default::Is(Value::Flag(false)),
            "Used only while no other backend is available"),
        row("server_id", Takes::Form("pairs of hexadecimal digits"), text(""),
            "What its QUIC connection IDs name it by; as long as `quic_server_id_length` says"),
    ],
};

impl Takes {
    /// Whether a list may have nothing in it.
    pub(super) const fn may_be_empty(&self) -> bool {
        matches!(self, Self::Networks | Self::Texts(_))
    }

    /// What to say of a value that does not fit.
    pub(super) fn refuse(&self, key: &str, value: Value<'_>) -> Wrong {
        Wrong::new(format!("`{key}` is {value}"), format!("write {self}"))
    }
}

impl<'a> Value<'a> {
    pub(super) fn of(written: &'a DeValue<'a>) -> Self {
        match written {
            DeValue::String(text) => Self::Text(text),
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_or(Self::Huge, Self::Whole),
            DeValue::Float(number) => Self::Fraction(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Self::Flag(*flag),
            DeValue::Datetime(_) => Self::Date,
            DeValue::Array(array) => Self::Array(array),
            DeValue::Table(_) => Self::Table,
        }
    }

    /// Whether two values are written for the same thing: 0 is 0.0, lists count as equal when
    /// both are empty.
    pub(super) fn same(self, other: Value<'_>) -> bool {
        match (self, other) {
            (Self::Text(a), Value::Text(b)) => a == b,
            (Self::Flag(a), Value::Flag(b)) => a == b,
            (Self::Whole(a), Value::Whole(b)) => a == b,
            (Self::Fraction(a), Value::Whole(0)) => a == 0.0,
            (Self::Array(array), Value::Texts(texts)) => array.is_empty() && texts.is_empty(),
            _ => false,
        }
    }
}

/// A text in quotes, on one line whatever it holds, and cut to a length that leaves an error
/// readable.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The candidate that `written` was most likely meant to be, if any is near.
pub(super) fn nearest<'c>(
    written: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    // Half the letters of a word right is a word mistyped; less is another word.
    const NEAR: f64 = 0.6;
    const LONGEST: usize = 64;
    if written.len() > LONGEST {
        return None;
    }
    candidates
        .map(|word| (strsim::normalized_damerau_levenshtein(written, word), word))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_complete() {
        let mut supported = 0;
        for section in SECTIONS {
            for row in section.rows {
                let twins = section.rows.iter().filter(|other| other.key == row.key);
                assert_eq!(twins.count(), 1, "{} {}", section.header, row.key);
                if !matches!(row.takes, Takes::NotYet(_)) {
                    supported += 1;
                    assert!(!row.help.is_empty(), "{} {}", section.header, row.key);
                }
            }
        }
        assert!(supported > 30);
    }

    #[test]
    fn the_nearest_word_is_near() {
        let words = || ["connect_timeout", "idle_timeout", "retries"].into_iter();
        assert_eq!(nearest("conect_timeout", words()), Some("connect_timeout"));
        assert_eq!(nearest("idle_timout", words()), Some("idle_timeout"));
        assert_eq!(nearest("colour", words()), None);
        assert_eq!(nearest("", words()), None);
        assert_eq!(nearest(&"retries".repeat(1000), words()), None);
    }
}
