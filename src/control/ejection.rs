//! Telling when an ejection is over, whether or not traffic comes to notice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use crate::lb::backend::BackendState;
use crate::lb::time::Tick;

/// Logs the end of the ejection of `backend`, which is at `until` after `epoch`, unless something else
/// ends it sooner, or it is down by then.
pub(super) fn watch(backend: &Arc<BackendState>, until: Tick, epoch: Instant, tasks: &LocalSet) {
    let backend = Arc::downgrade(backend);
    tasks.spawn_local(async move {
        tokio::time::sleep_until((epoch + Duration::from_millis(until.as_ms())).into()).await;
        // One that has left the configuration meanwhile is nobody's concern.
        let Some(backend) = backend.upgrade() else {
            return;
        };
        if backend.traffic.ejected_until() == until && backend.is_up() {
            let (pool, name) = (backend.pool(), backend.name());
            log::info!("backend \"{pool}/{name}\" is used again: its ejection is over");
        }
    });
}
