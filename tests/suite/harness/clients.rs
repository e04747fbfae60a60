//! Many clients at once, for cases that count.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;

use super::stream::{End, read_all};

/// Clients that repeat one action until they are stopped, and count how it ends.
#[derive(Debug)]
pub struct Clients {
    stop: Arc<AtomicBool>,
    pub done: Arc<AtomicU64>,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// `count` threads; each calls `action(front, n)` again and again with a number that no other
    /// call gets.
    pub fn start(
        count: u64,
        front: SocketAddr,
        action: impl Fn(SocketAddr, u64) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
        let action = Arc::new(action);
        let next = Arc::new(AtomicU64::new(0));
        let threads = (0..count)
            .map(|_| {
                let (stop, done, failures) =
                    (Arc::clone(&stop), Arc::clone(&done), Arc::clone(&failures));
                let (action, next) = (Arc::clone(&action), Arc::clone(&next));
                std::thread::spawn(move || {
                    while !stop.load(SeqCst) {
                        match action(front, next.fetch_add(1, SeqCst)) {
                            Ok(()) => drop(done.fetch_add(1, SeqCst)),
                            Err(error) => failures.lock().expect("not poisoned").push(error),
                        }
                    }
                })
            })
            .collect();
        Self {
            stop,
            done,
            failures,
            threads,
        }
    }

    /// Actions that went well so far.
    pub fn done(&self) -> u64 {
        self.done.load(SeqCst)
    }

    /// Lets every client finish what it does and returns how often the action went well, and what
    /// went wrong.
    pub fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, SeqCst);
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        let failures = std::mem::take(&mut *self.failures.lock().expect("not poisoned"));
        (self.done.load(SeqCst), failures)
    }
}

/// Ends a session from the client's side and waits until the backend has ended it too.
pub fn finish_session(mut client: TcpStream) -> Result<(), String> {
    client
        .shutdown(Shutdown::Write)
        .map_err(|error| error.to_string())?;
    match read_all(&mut client) {
        (bytes, End::Fin) if bytes.is_empty() => Ok(()),
        other => Err(format!("{other:?} instead of an end")),
    }
}
