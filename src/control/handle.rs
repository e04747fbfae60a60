//! What the process and the tasks of the control plane ask of its supervisor, and what the process is
//! told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::admin::messages::{Explained, Order, Planned, Sessions};
use super::status::Status;

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

/// What a task of the control plane asks, and the way back to it. Each waits for its answer, so no
/// more are under way than there are who ask.
#[derive(Debug)]
pub enum Question {
    /// How everything is now.
    Status(Reply<Status>),
    /// Read the configuration again and put it in force: how that has ended.
    Reload(Reply<Outcome>),
    /// Who is open.
    Sessions(Wanted, Reply<Sessions>),
    /// What would become of a client; an error says what is wrong with the question.
    Explain(Newcomer, Reply<Result<Explained, String>>),
    /// What a reload to this file would change; an error says what is wrong with it.
    Plan(File, Reply<Result<Planned, String>>),
    /// Carry out an order for a backend: what was done, or why not.
    Backend(Order, Reply<Outcome>),
}

/// A configuration that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// What its errors call it.
    pub name: String,
    /// What it holds.
    pub text: Vec<u8>,
}

/// Of whom is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Those of this pool; `None` = of any.
    pub pool: Option<String>,
    /// Those on the backend of this name; `None` = on any, or none yet.
    pub backend: Option<String>,
    /// So many at most.
    pub most: usize,
}

/// A client that might come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// The listener that it would come by.
    pub listener: String,
    /// Its address.
    pub source: SocketAddr,
    /// Where it would connect to; `None` = to the first address that the listener has.
    pub destination: Option<SocketAddr>,
}

/// The way back to whoever asks. One who has gone needs no answer.
pub type Reply<T> = oneshot::Sender<T>;

/// What was done, or why not, on one line or more.
pub type Outcome = Result<String, String>;

/// What comes to the supervisor.
#[derive(Debug)]
pub(super) enum Post {
    Request(Request),
    Question(Question),
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
    /// Metrics and the dashboard are at this address from now on.
    Http(SocketAddr),
    /// Every worker has turned since the last time this was said.
    Alive,
}

/// The way to the control plane, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    sender: UnboundedSender<Post>,
    reload_waits: Arc<AtomicBool>,
}

/// The control plane's end.
#[derive(Debug)]
pub struct Requests {
    receiver: UnboundedReceiver<Post>,
    handle: Handle,
}

/// A new pair.
pub fn requests() -> (Handle, Requests) {
    let (sender, receiver) = unbounded_channel();
    let handle = Handle {
        sender,
        reload_waits: Arc::default(),
    };
    let own = handle.clone();
    (
        handle,
        Requests {
            receiver,
            handle: own,
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
        let _ended = self.sender.send(Post::Request(request));
    }

    /// Asks a question, made with the way back, and waits for the answer; `None` = the supervisor has
    /// ended.
    pub async fn ask<T>(&self, question: impl FnOnce(Reply<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let question = Post::Question(question(reply));
        self.sender.send(question).ok()?;
        answer.await.ok()
    }
}

impl Requests {
    /// Another way to here, for tasks of the control plane.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What comes next; never ends as long as it is polled.
    pub(super) async fn next(&mut self) -> Post {
        let Some(post) = self.receiver.recv().await else {
            return std::future::pending().await; // our own way to here is open
        };
        if let Post::Request(Request::Reload) = post {
            // Before the file is read: a signal after this asks for another reload.
            let waits = &self.handle.reload_waits;
            debug_assert!(waits.load(Acquire), "set when it was posted");
            waits.store(false, std::sync::atomic::Ordering::Release);
        }
        post
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
        let mut next = || match runtime.block_on(requests.next()) {
            Post::Request(request) => request,
            Post::Question(question) => panic!("{question:?}"),
        };
        assert_eq!(next(), Request::Reload);
        handle.post(Request::Reload);
        assert_eq!(next(), Request::Drain);
        assert_eq!(next(), Request::Reload);
        assert!(requests.receiver.is_empty());
    }
}
