//! What the control plane is started with, and why it may end.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::config::plan::Plan;
use crate::control::handle::Event;
use crate::control::loader::Source;
use crate::control::sandbox::Confinement;
use crate::sys::socket::Listening;

/// Told of what happens; must not block.
pub type Observer = Arc<dyn Fn(Event<'_>) + Send + Sync>;

/// Called once when all sockets are bound and before anything is served: gives up privileges, and says
/// how far that goes.
pub type OnBound = Box<dyn FnOnce(&Plan) -> Result<Confinement, String> + Send>;

/// What the control plane is started with.
pub struct Settings {
    /// Where the configuration comes from.
    pub source: Source,
    /// The first plan, loaded from there already.
    pub plan: Plan,
    /// Listening sockets bound by the service manager.
    pub inherited: Vec<Listening>,
    /// RLIMIT_NOFILE.
    pub descriptors: u64,
    /// Called when all sockets are bound.
    pub on_bound: OnBound,
    /// Told of what happens.
    pub observer: Observer,
    /// How often to say that all workers turn, if anybody wants to know.
    pub alive_every: Option<Duration>,
    /// Seeds all random choices.
    pub seed: u64,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// Why the process cannot go on. Displayed on one line.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
