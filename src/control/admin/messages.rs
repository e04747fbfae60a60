//! What is said over the admin socket, beside [`Status`](crate::control::status::Status).

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// An order for a backend: the body of `POST /v1/backend`, such as
/// `{"pool": "llama", "backend": "gpu-1", "what": "drain"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub backend: String,
    /// What it is to do.
    pub what: What,
}

/// What a backend is to do. It holds until another order, over reloads too, as long as the backend is
/// in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Take new sessions as its health says.
    Ready,
    /// Take no new sessions, and keep those that it has.
    Drain,
    /// Take no new sessions; those that it has are reset, at once or when `on_down` says so.
    Down,
    /// Lose the sessions that it has: they are reset now.
    Cut,
    /// Have this weight, whatever the configuration says; `{"weight": null}` = what that says.
    Weight(Option<u16>),
}

/// What would become of a client: the answer to `GET /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// The listener that it comes by.
    pub listener: String,
    /// Its address.
    pub source: SocketAddr,
    /// The address that it has connected to.
    pub destination: SocketAddr,
    /// The pool that it would be for.
    pub pool: String,
    /// How the pool chooses.
    pub balance: String,
    /// The backend that it would get; `None` = none.
    pub backend: Option<String>,
    /// Why that one, or why none.
    pub because: String,
    /// What there is to say of each backend, in the order of the configuration.
    pub backends: Vec<Verdict>,
}

/// What there is to say of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Its name.
    pub backend: String,
    /// Whether the client would get it.
    pub is_chosen: bool,
    /// Why, or why not.
    pub because: String,
}

/// Those who are open: the answer to `GET /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    /// How many there are of those that were asked for.
    pub count: usize,
    /// Those of them that have been open for longest, in that order.
    pub sessions: Vec<Session>,
}

/// A session, a flow, or a client that waits for one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The listener that it came by.
    pub listener: String,
    /// The pool that serves it.
    pub pool: String,
    /// The backend that it is on; `None` = on none yet.
    pub backend: Option<String>,
    /// Who it is for; `None` = a client of a Unix socket.
    pub client: Option<SocketAddr>,
    /// Since it began.
    pub age_s: f64,
    /// How it is, in one word.
    pub state: String,
    /// Sent to the backend; `None` = that is not kept (a flow of UDP).
    pub bytes_to_backend: Option<u64>,
    /// Sent to the client; the same.
    pub bytes_to_client: Option<u64>,
}

/// What a reload to another configuration would change: the answer to `POST /v1/plan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// All changes on one line.
    pub summary: String,
    /// Whether a reload refuses it, because only a new process can make one of the changes.
    pub needs_restart: bool,
    /// Each change, in the order global, listeners, addresses, pools with their backends.
    pub changes: Vec<Change>,
    /// Changed pools that choose by a key.
    pub moved: Vec<Moved>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What changes, on one line.
    pub what: String,
    /// Whether only a new process can make it.
    pub needs_restart: bool,
    /// Sessions and flows that are open on what changes. A reload ends none of them, but for flows
    /// of an address that is closed or bound anew.
    pub sessions: u32,
}

/// Keys of a pool that lead to another backend than before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Its name.
    pub pool: String,
    /// Their share, found by trying many.
    pub share: f64,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// For people.
    pub message: String,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// For people, on one line or more.
    pub error: String,
}

/// On one line, whatever the names hold.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pool, backend) = (self.pool.escape_debug(), self.backend.escape_debug());
        write!(f, "backend \"{pool}/{backend}\" {}", self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Drain => f.write_str("drain"),
            Self::Down => f.write_str("down"),
            Self::Cut => f.write_str("cut"),
            Self::Weight(None) => f.write_str("weight as configured"),
            Self::Weight(Some(weight)) => write!(f, "weight {weight}"),
        }
    }
}
