//! Putting backends in force that were found.

use tokio::task::LocalSet;

use super::Supervisor;
use super::reloading::describe;
use crate::config::diff::diff;
use crate::control::discovery::{News, extended};

impl Supervisor {
    /// Puts other backends in force if that is what the news are.
    pub(super) async fn on_news(&mut self, news: News, tasks: &LocalSet) {
        if !self.discovery.take_in(news) || self.drain.is_some() {
            return;
        }
        let loaded = extended(&self.configured, self.discovery.answers());
        let changes = diff(&self.loaded.plan, &loaded.plan);
        let moved = loaded.targets != self.loaded.targets;
        if changes.is_empty() && !moved {
            return;
        }
        match self.renew(loaded, tasks).await {
            Ok(()) => log::info!(
                "discovery: generation {} in force: {}",
                self.generation,
                describe(&changes)
            ),
            Err(error) => log::error!("discovery: {error}"),
        }
    }
}
