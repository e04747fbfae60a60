//! What runs: every setting checked and resolved, no `Option` left over, no unknown name.

mod discover;
mod probe;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use self::discover::{Discover, Origin, Question};
pub use self::probe::{ANSWER_MAX, Expected, Health, Http, Pattern, Probe, ProbeKind, Step, Tls};
use crate::lb::admission::access::Prefix;
use crate::lb::admission::queue;
use crate::lb::admission::source::Limits;
use crate::lb::balance::key::KeyPart;
use crate::lb::balance::pick;
use crate::lb::balance::route::Rule;
use crate::lb::traffic::flow::Rules;
use crate::lb::traffic::phase;
use crate::wire::proxy_header::parse::Versions;
use crate::wire::proxy_header::{Ends, Header, Transport};
use crate::wire::quic::ServerId;

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// `[global]`.
    pub global: Global,
    /// Listeners, in the order of the file; names are unique.
    pub listeners: Vec<Arc<Listener>>,
    /// Pools, sorted by name; each is used by a listener.
    pub pools: Vec<Arc<Pool>>,
}

/// Settings of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Worker threads; `None` = one per core.
    pub workers: Option<usize>,
    /// Sessions open at once; `None` = derived from RLIMIT_NOFILE.
    pub max_connections: Option<u32>,
    /// How long SIGTERM waits for sessions to end.
    pub drain_timeout: Duration,
    /// The account to drop to after binding; `None` = stay.
    pub user: Option<String>,
    /// The group to drop to; `None` = the user's own.
    pub group: Option<String>,
    /// When sessions move bytes by splice.
    pub splice: Splice,
    /// Whether probes may run programs.
    pub exec_probes: bool,
    /// What the process may still do once it serves.
    pub sandbox: Sandbox,
    /// Where the running process is asked and told.
    pub admin_socket: AdminSocket,
    /// Where a line goes for each session and flow that ends; `None` = nowhere.
    pub access_log: Option<AccessLog>,
    /// Where metrics and the dashboard are; `None` = nowhere.
    pub http: Option<HttpAddress>,
}

/// The Unix socket of the running process. Displayed as the file writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminSocket {
    /// There is none.
    Off,
    /// Nobody has named one: [`ADMIN_SOCKET`], where that is possible.
    Default,
    /// This one.
    At(PathBuf),
}

impl fmt::Display for AdminSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("none"),
            Self::Default => f.write_str(ADMIN_SOCKET),
            Self::At(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where metrics and the dashboard are. Equal to the same place, whether somebody has named it or not.
#[derive(Clone, Copy, Debug)]
pub struct HttpAddress {
    /// Where it listens.
    pub address: SocketAddr,
    /// Nobody has asked for this address by name, so that it need not be had.
    pub is_default: bool,
}

impl PartialEq for HttpAddress {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl Eq for HttpAddress {}

/// The access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where its lines go.
    pub output: Output,
    /// What a line looks like.
    pub format: LogFormat,
}

/// Where lines go. Displayed as the file writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// A file, which is appended to.
    File(PathBuf),
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("-"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Words and `name=value`.
    Text,
    /// A JSON object.
    Json,
}

/// When a direction moves its bytes by splice rather than by copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Splice {
    /// While it streams.
    Auto,
    /// From its first byte.
    Always,
    /// Never.
    Off,
}

/// What the process may still do once it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// As [`Sandbox::Files`], if it is a service: by hand, who knows what a reload will name.
    Auto,
    /// Open the files that it needs.
    Files,
    /// The same, and make the system calls that it needs.
    Strict,
    /// Whatever its account may.
    Off,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique among listeners.
    pub name: String,
    /// Where it listens; never empty, no address twice in a plan.
    pub bind: Vec<Bind>,
    /// The name of a pool of this plan.
    pub pool: String,
    /// Sessions open at once; 0 = the global limit.
    pub max_connections: u32,
    /// What one source may do.
    pub per_source: Limits,
    /// Who may connect; empty = everyone.
    pub allow: Vec<Prefix>,
    /// Who may not.
    pub deny: Vec<Prefix>,
    /// The versions of the PROXY header of which one must come first; `None` = no header is read.
    pub accept_proxy: Option<Versions>,
    /// Who is believed what the header says; empty = everyone.
    pub trusted: Vec<Prefix>,
    /// How long and how far what a client says first is looked at.
    pub preread: Preread,
    /// Pools for some clients, in order.
    pub routes: Vec<Route>,
}

/// How long and how far what a client says first is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preread {
    /// For a PROXY header, and again for what the routes look at.
    pub timeout: Duration,
    /// Bytes that the routes look at.
    pub size: usize,
}

/// A pool for some of a listener's clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which clients.
    pub rule: Rule,
    /// The name of a pool of this plan.
    pub pool: String,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// `0.0.0.0:8000`, `[::]:8000`. An IPv6 wildcard takes IPv6 only when the plan also binds the
    /// IPv4 wildcard on that port; alone it takes both.
    Tcp(SocketAddr),
    /// The same for datagrams.
    Udp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl Bind {
    /// The address, if it is one of the network.
    pub const fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The IPv4 wildcard beside this one, if this is an IPv6 wildcard: it takes IPv4 too unless the
    /// plan binds its twin.
    pub fn v4_twin(&self) -> Option<Self> {
        let v4 = |address: &SocketAddr| {
            let is_v6_wildcard = address.is_ipv6() && address.ip().is_unspecified();
            let twin = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            (is_v6_wildcard && address.port() != 0).then_some(twin)
        };
        match self {
            Self::Tcp(address) => v4(address).map(Self::Tcp),
            Self::Udp(address) => v4(address).map(Self::Udp),
            Self::Unix(_) => None,
        }
    }
}

impl Listener {
    /// The pools that its clients may come to.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        let routed = self.routes.iter().map(|route| route.pool.as_str());
        std::iter::once(self.pool.as_str()).chain(routed)
    }

    /// Whether it takes datagrams rather than streams.
    pub fn is_udp(&self) -> bool {
        matches!(self.bind.first(), Some(Bind::Udp(_)))
    }
}

/// One pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// How a backend is chosen.
    pub balance: pick::Settings,
    /// For one attempt to connect.
    pub connect_timeout: Duration,
    /// Further backends tried when a connect fails.
    pub retries: u16,
    /// Without a byte either way the session is reset.
    pub idle_timeout: Duration,
    /// The same once one side has finished.
    pub half_close_timeout: Duration,
    /// When a session is busy.
    pub phase: phase::Rules,
    /// How long a session lasts.
    pub lifetime: phase::Lifetime,
    /// What happens to sessions of a backend that goes down.
    pub on_down: OnDown,
    /// What a refused client gets.
    pub refuse: Refuse,
    /// Where clients wait while every backend is full.
    pub queue: Queue,
    /// Clients that stay where they were before; `None` = none.
    pub sticky: Option<Sticky>,
    /// Whether backends are told who their client is.
    pub send_proxy: SendProxy,
    /// Where its connections come from.
    pub source: Source,
    /// Active probes.
    pub health: Health,
    /// The flows of its UDP listeners.
    pub udp: Udp,
    /// Where more of them are found.
    pub discover: Discover,
    /// In the order of the file; names are unique. Then those that were found.
    pub backends: Vec<Backend>,
}

impl Pool {
    /// What its clients are known by.
    pub fn keys(&self) -> impl Iterator<Item = &[KeyPart]> {
        let sticky = self.sticky.as_ref().map(|sticky| sticky.key.as_slice());
        std::iter::once(self.balance.hash_key.as_slice()).chain(sticky)
    }
}

/// Flows of a pool's UDP listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// When a flow is over, and what it may be answered.
    pub rules: Rules,
    /// Flows of one listener at once; 0 = the global limit.
    pub max_flows: u32,
    /// Flows one listener begins in a second; 0 = any number.
    pub new_flows_per_second: u32,
    /// Bytes of a server's id in QUIC connection IDs; 0 = these are not looked at.
    pub quic_server_id_length: u8,
}

/// What happens to the sessions of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They live on.
    Keep,
    /// They are reset at once.
    Reset,
    /// They are reset after this time, unless the backend is back by then.
    Drain(Duration),
}

/// Clients that stay on a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    /// What a client is known by; not empty.
    pub key: Vec<KeyPart>,
    /// For how long after its last session began.
    pub ttl: Duration,
    /// How many are remembered.
    pub max_entries: u32,
}

/// What a refused client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// A RST.
    Reset,
    /// A FIN.
    Close,
    /// These bytes and a FIN.
    Bytes(Vec<u8>),
}

/// Where the clients of a pool wait while every backend is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// How many.
    pub limits: queue::Limits,
    /// For how long.
    pub timeout: Duration,
    /// A client that has sent its FIN does not wait any longer.
    pub abort_on_close: bool,
}

/// Whether backends are told who their client is, by a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendProxy {
    /// They are not.
    Off,
    /// By version 1 at the start of each stream. A pool that datagrams go to has another value.
    V1,
    /// By version 2, at the start of each stream and before each datagram.
    V2,
}

impl SendProxy {
    /// What goes before a stream or a datagram; `ends` as [`Header`] has it.
    pub fn header(self, transport: Transport, ends: Option<Ends>) -> Option<Header> {
        match (self, transport) {
            // The plan was checked: version 1 has no datagrams.
            (Self::Off, _) | (Self::V1, Transport::Datagram) => None,
            (Self::V1, Transport::Stream) => Some(Header::v1(ends)),
            (Self::V2, transport) => Some(Header::v2(transport, ends)),
        }
    }
}

/// Where the connections of a pool come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Whichever address of this host the route to the backend suggests.
    Any,
    /// This address of this host, and so do probes. Every backend is of its family.
    Address(IpAddr),
    /// Each from the address of its client. Every backend is an address of the network.
    Client,
}

/// One backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique within the pool.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// 0 = no new sessions.
    pub weight: u16,
    /// Hard limit on sessions; 0 = none.
    pub max_connections: u32,
    /// Used only while no primary is available.
    pub backup: bool,
    /// What its QUIC connection IDs name it by, unique within the pool; `None` = they do not.
    pub server_id: Option<ServerId>,
}

/// Where the admin socket is, and is looked for, if nobody names another place.
pub const ADMIN_SOCKET: &str = "/run/evenkeel/admin.sock";

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// An address and port (an IPv6 scope is kept).
    Ip(SocketAddr),
    /// A name and port, resolved when the plan is installed.
    Host(String, u16),
    /// A Unix socket's path.
    Unix(PathBuf),
}
