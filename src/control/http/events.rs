//! How everything is, once a second, for dashboards: asked for only while somebody listens, and once
//! for all who do.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::control::handle::{Handle, Question};

/// The way to those who listen.
#[derive(Debug)]
pub(super) struct Events {
    handle: Handle,
    sender: Sender<Bytes>,
    is_told: Cell<bool>,
}

impl Events {
    pub(super) fn new(handle: Handle) -> Rc<Self> {
        Rc::new(Self {
            handle,
            sender: Sender::new(Bytes::new()),
            is_told: Cell::new(false),
        })
    }

    /// What is told from now on; `None` = as many listen as may.
    pub(super) fn listen(self: &Rc<Self>) -> Option<Receiver<Bytes>> {
        if self.sender.receiver_count() >= LISTENERS_MAX {
            return None;
        }
        let receiver = self.sender.subscribe();
        if !self.is_told.replace(true) {
            spawn_local(Rc::clone(self).tell());
        }
        Some(receiver)
    }

    /// Tells until nobody listens.
    async fn tell(self: Rc<Self>) {
        let mut times = interval(EVERY);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            if self.sender.receiver_count() == 0 {
                break;
            }
            let Some(status) = self.handle.ask(Question::Status).await else {
                break;
            };
            match serde_json::to_string(&status) {
                Ok(json) => drop(self.sender.send(format!("data: {json}\n\n").into())),
                Err(error) => log::error!("http: no events: {error}"),
            }
        }
        self.is_told.set(false);
    }
}

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Dashboards open at once.
const LISTENERS_MAX: usize = 32;
