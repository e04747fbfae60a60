//! How long a connection may stand still.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Shared by all that see a connection go on.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    until: Rc<Cell<Instant>>,
    limit: Duration,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            until: Rc::new(Cell::new(Instant::now() + limit)),
            limit,
        }
    }

    /// It goes on.
    pub(super) fn renew(&self) {
        self.until.set(Instant::now() + self.limit);
    }

    /// Ends when it has stood still for too long.
    pub(super) async fn end(&self) {
        while Instant::now() < self.until.get() {
            sleep_until(self.until.get()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_after_the_last_step() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let start = Instant::now();
            let patience = Patience::new(Duration::from_secs(30));
            let steps = async {
                for _ in 0..3 {
                    tokio::time::sleep(Duration::from_secs(20)).await;
                    patience.renew();
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = patience.end() => {}
                () = steps => {}
            }
            assert_eq!(start.elapsed().as_secs(), 90);
        });
    }
}
