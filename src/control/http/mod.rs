//! What people and monitoring ask by HTTP: metrics, whether all is well, and the dashboard. Nothing can
//! be changed this way.
//!
//! It goes on the control plane's thread, beside probes and reloads, so nobody may hold much of it: few
//! connections, short heads, and who does not go on is cut. Where more come than may, the one that has
//! been there for longest makes room, so that slow clients keep nobody out.

mod answer;
mod body;
mod events;
mod metrics;
mod patience;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{self, TcpStream};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use self::answer::Site;
use self::patience::Patience;
use super::handle::Handle;
use crate::config::plan::HttpAddress;

/// The server in force, if there is one.
#[derive(Debug)]
pub(super) struct Server {
    handle: Handle,
    /// Connections open at once.
    visitors: u32,
    current: Option<Running>,
}

/// What a new plan asks for.
#[derive(Debug)]
pub(super) enum Next {
    /// What is there goes on.
    Same,
    /// This instead.
    Other(Option<Bound>),
}

/// A socket that listens, and nobody is served by it.
#[derive(Debug)]
pub(super) struct Bound {
    wanted: HttpAddress,
    listener: net::TcpListener,
    local: SocketAddr,
}

#[derive(Debug)]
struct Running {
    wanted: HttpAddress,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// None yet; `handle` is the way to who knows how everything is. So many connections are open at
    /// once: a scrape takes milliseconds, and a dashboard has two.
    pub(super) const fn new(handle: Handle, visitors: u32) -> Self {
        Self {
            handle,
            visitors,
            current: None,
        }
    }

    /// Binds what `wanted` asks for, unless that is so already. The default address need not be had:
    /// another process may have it.
    pub(super) fn next(&self, wanted: Option<HttpAddress>) -> Result<Next, String> {
        let Some(wanted) = wanted else {
            return Ok(Next::Other(None));
        };
        let current = self.current.as_ref().map(|running| running.wanted.address);
        if current == Some(wanted.address) {
            return Ok(Next::Same);
        }
        match Bound::new(wanted) {
            Ok(bound) => Ok(Next::Other(Some(bound))),
            Err(error) if wanted.is_default => {
                let address = wanted.address;
                log::info!("no http: cannot listen on {address}: {error}; set global.http");
                Ok(Next::Other(None))
            }
            Err(error) => Err(format!(
                "global.http: cannot listen on {}: {error}; write another address, or \"\" for none",
                wanted.address
            )),
        }
    }

    /// Serves by what [`Server::next`] gave, and by nothing else; where it listens, if that is news.
    pub(super) fn put_in_force(&mut self, next: Next, tasks: &LocalSet) -> Option<SocketAddr> {
        let Next::Other(bound) = next else {
            return None;
        };
        self.current = None;
        let Bound {
            wanted,
            listener,
            local,
        } = bound?;
        log::info!("http listening on {local}");
        let site = Rc::new(Site::new(self.handle.clone(), local));
        let task = tasks.spawn_local(serve_all(listener, site, self.visitors as usize));
        self.current = Some(Running { wanted, task });
        Some(local)
    }
}

impl Bound {
    fn new(wanted: HttpAddress) -> io::Result<Self> {
        let listener = TcpListener::bind(wanted.address)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            wanted,
            local: listener.local_addr()?,
            listener: net::TcpListener::from_std(listener)?,
        })
    }
}

/// A connection, which ends with this.
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve_all(listener: net::TcpListener, site: Rc<Site>, visitors: usize) {
    let mut connections = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is left, most likely: the kernel keeps who waits.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        connections.retain(|connection: &Connection| !connection.0.is_finished());
        if connections.len() >= visitors {
            connections.pop_front();
        }
        let connection = spawn_local(serve(stream, Rc::clone(&site)));
        connections.push_back(Connection(connection));
    }
}

async fn serve(stream: TcpStream, site: Rc<Site>) {
    let patience = Patience::new(STALL_MAX);
    let service = service_fn(|request| {
        let (site, patience) = (Rc::clone(&site), patience.clone());
        async move { site.answer(&request, patience).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Its errors are the client's.
        ended = connection => drop(ended),
        () = patience.end() => {}
    }
}

/// Bytes of the head of a request, and of what is buffered to be written.
const HEAD_MAX: usize = 16 * 1024;

/// How long the head of a request may take.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a connection may stand still: between requests, and while it takes nothing of an answer.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How long nobody is accepted after that has failed.
const PAUSE: Duration = Duration::from_millis(100);
