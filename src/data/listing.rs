//! Telling who is open, one by one, for whoever asks. Takes a worker a look at each, so it is for people
//! who ask now and then.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::mailbox::{ListenerCounters, Pool};
use crate::lb::backend::BackendState;
use crate::lb::time::Tick;

/// Who is to be told of, and to whom.
pub struct Listing {
    /// Those of this pool; `None` = of any.
    pub pool: Option<String>,
    /// Those on the backend of this name; `None` = on any, or none yet.
    pub backend: Option<String>,
    /// So many at most: those that have been open for longest.
    pub most: usize,
    /// Takes the answer of one worker; must not block.
    pub reply: Box<dyn FnOnce(Listed) + Send>,
}

/// What one worker has to tell.
#[derive(Debug, Default)]
pub struct Listed {
    /// Those that have been open for longest, in that order.
    pub open: Vec<Open>,
    /// How many there are.
    pub count: usize,
}

/// A session, a flow, or a client that waits for one.
#[derive(Clone, Debug)]
pub struct Open {
    /// Of which it is.
    pub state: State,
    /// The listener that it came by.
    pub listener: Arc<ListenerCounters>,
    /// The pool that serves it.
    pub pool: Arc<Pool>,
    /// The backend that it is on; `None` = on none yet.
    pub backend: Option<Arc<BackendState>>,
    /// Who it is for; `None` = a client of a Unix socket.
    pub client: Option<SocketAddr>,
    /// When it began.
    pub since: Tick,
    /// Sent to the backend and to the client; `None` for a flow, of which that is not kept.
    pub bytes: Option<[u64; 2]>,
}

/// The same on the worker that has it, before it is known who is told of.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) state: State,
    pub(super) listener: &'a Arc<ListenerCounters>,
    pub(super) pool: &'a Arc<Pool>,
    pub(super) backend: Option<&'a Arc<BackendState>>,
    pub(super) client: Option<SocketAddr>,
    pub(super) since: Tick,
    pub(super) bytes: Option<[u64; 2]>,
}

impl View<'_> {
    fn keep(&self) -> Open {
        Open {
            state: self.state,
            listener: Arc::clone(self.listener),
            pool: Arc::clone(self.pool),
            backend: self.backend.map(Arc::clone),
            client: self.client,
            since: self.since,
            bytes: self.bytes,
        }
    }
}

/// How one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has no backend yet: its first bytes are to come, or its turn in the queue.
    Arriving,
    /// Its backend has not answered the connect.
    Connecting,
    /// It has begun, and its client has not spoken yet.
    Opening,
    /// Nothing is asked.
    Idle,
    /// The client spoke last.
    Waiting,
    /// The backend is answering.
    Streaming,
    /// One side has finished or is broken.
    Ending,
    /// Datagrams.
    Flow,
}

impl State {
    /// Its name, as it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Connecting => "connecting",
            Self::Opening => "opening",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Streaming => "streaming",
            Self::Ending => "ending",
            Self::Flow => "flow",
        }
    }
}

impl Listing {
    /// Answers with those of `all` that are asked for.
    pub(super) fn answer<'a>(self, all: impl Iterator<Item = View<'a>>) {
        let mut views: Vec<View<'_>> = all.filter(|view| self.asks_for(view)).collect();
        let count = views.len();
        views.sort_unstable_by_key(|view| view.since);
        views.truncate(self.most);
        let open = views.iter().map(View::keep).collect();
        (self.reply)(Listed { open, count });
    }

    fn asks_for(&self, view: &View<'_>) -> bool {
        let is_of_pool = |name: &String| view.pool.plan.name == *name;
        let backend = view.backend;
        let is_on = |name: &String| backend.is_some_and(|backend| backend.name() == name);
        self.pool.as_ref().is_none_or(is_of_pool) && self.backend.as_ref().is_none_or(is_on)
    }
}

impl fmt::Debug for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listing")
            .field("pool", &self.pool)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}
