//! What the process asks of the control plane, and what it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the configuration again and put it in force.
    Reload,
    /// Open the files of logs anew: the old ones have other names now.
    Reopen,
    /// Let the sessions end, then stop. Asked again: stop now.
    Drain,
    /// Stop now.
    Stop,
}

/// What happens, for whoever supervises the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Every listener accepts.
    Ready,
    /// A reload begins.
    Reloading,
    /// A reload has ended; the line says how.
    Reloaded(&'a str),
    /// No new connections from now on.
    Stopping,
    /// Every worker has turned since the last time this was said.
    Alive,
}

/// The way to the control plane, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    sender: UnboundedSender<Request>,
    reload_waits: Arc<AtomicBool>,
}

/// The control plane's end.
#[derive(Debug)]
pub struct Requests {
    receiver: UnboundedReceiver<Request>,
    reload_waits: Arc<AtomicBool>,
}

/// A new pair.
pub fn requests() -> (Handle, Requests) {
    let (sender, receiver) = unbounded_channel();
    let reload_waits = Arc::new(AtomicBool::new(false));
    let handle = Handle {
        sender,
        reload_waits: Arc::clone(&reload_waits),
    };
    (
        handle,
        Requests {
            receiver,
            reload_waits,
        },
    )
}

impl Handle {
    /// Asks. A reload that already waits is not asked for twice, so a storm of signals is one
    /// reload, of the file as it is after the last of them.
    pub fn post(&self, request: Request) {
        if request == Request::Reload && self.reload_waits.swap(true, AcqRel) {
            return;
        }
        // The control plane that has ended needs no requests.
        let _ended = self.sender.send(request);
    }
}

impl Requests {
    /// The next request; never ends as long as it is polled.
    pub(super) async fn next(&mut self) -> Request {
        match self.receiver.recv().await {
            Some(request) => {
                if request == Request::Reload {
                    // Before the file is read: a signal after this asks for another reload.
                    debug_assert!(self.reload_waits.load(Acquire), "set when it was posted");
                    self.reload_waits
                        .store(false, std::sync::atomic::Ordering::Release);
                }
                request
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_of_reloads_is_one_and_a_later_one_is_another() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (handle, mut requests) = requests();
        for _ in 0..1_000 {
            handle.post(Request::Reload);
        }
        handle.post(Request::Drain);
        assert_eq!(runtime.block_on(requests.next()), Request::Reload);
        handle.post(Request::Reload);
        assert_eq!(runtime.block_on(requests.next()), Request::Drain);
        assert_eq!(runtime.block_on(requests.next()), Request::Reload);
        assert!(requests.receiver.is_empty());
    }
}
