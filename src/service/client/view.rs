//! What these commands read of a status. A process of another version may tell more.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole process; each field as in [`control::status`](crate::control::status).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) uptime_s: f64,
    pub(super) generation: u64,
    pub(super) state: String,
    pub(super) connections: Connections,
    pub(super) reloads: Reloads,
    pub(super) workers: Vec<Worker>,
    pub(super) listeners: Vec<Listener>,
    pub(super) pools: Vec<Pool>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Connections {
    pub(super) open: u32,
    pub(super) max: u32,
    pub(super) waiting: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Reloads {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) last: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Worker {
    pub(super) sessions: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) protocol: String,
    pub(super) bind: Vec<String>,
    pub(super) pool: String,
    pub(super) open: u32,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) dropped: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) balance: String,
    pub(super) is_in_panic: bool,
    pub(super) queue: Queue,
    pub(super) backends: Vec<Backend>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Queue {
    pub(super) length: u32,
    pub(super) limit: u32,
    pub(super) oldest_ms: u64,
    pub(super) left: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Backend {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) state: String,
    pub(super) since_s: f64,
    pub(super) ejected_for_s: Option<f64>,
    pub(super) weight: u16,
    pub(super) weight_configured: u16,
    pub(super) open: u32,
    pub(super) max_connections: u32,
    pub(super) sessions: u64,
    pub(super) connect_failures: u64,
    pub(super) bytes_to_backend: u64,
    pub(super) bytes_to_client: u64,
    pub(super) last_probe: Option<LastProbe>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LastProbe {
    pub(super) text: String,
}

impl Status {
    /// A backend by its names.
    pub(super) fn backend(&self, pool: &str, name: &str) -> Option<&Backend> {
        let pool = self.pools.iter().find(|it| it.name == pool)?;
        pool.backends.iter().find(|backend| backend.name == name)
    }
}
