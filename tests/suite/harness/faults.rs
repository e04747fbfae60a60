//! Making the system fail under a running proxy: errors of system calls, few descriptors, few ports,
//! backends that swallow.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::backend::listen_with_backlog;
use super::proxy::Proxy;
use super::wait::until;
use super::{Family, process};

/// An injected error, until it is dropped. `strace` counts the calls of each thread from the start.
#[derive(Debug)]
pub struct Injected {
    strace: Child,
    calls: PathBuf,
}

impl Injected {
    /// Lets system calls of a proxy fail; `what` is as in `strace -e inject=`. `None` where that is
    /// not possible.
    pub fn start(proxy: &Proxy, what: &str) -> Option<Self> {
        Self::watching(proxy, what, "")
    }

    /// The same, and notes `others` too: names of system calls, each with a comma before it.
    pub fn watching(proxy: &Proxy, what: &str, others: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let calls = proxy.folder().join(format!("calls-{number}"));
        let system_call = what.split(':').next().expect("a name");
        let mut command = Command::new("strace");
        command
            .args(["-f", "-e", &format!("trace={system_call}{others}")])
            .args(["-e", &format!("inject={what}"), "-o"])
            .arg(&calls)
            .args(["-p", &proxy.id().to_string()]);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut strace = command.spawn().ok()?;
        let stderr = strace.stderr.take().expect("piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        if !lines.any(|line| line.contains("attached")) {
            strace.wait().expect("our child");
            return None;
        }
        // It says so once it is attached to every thread; what else it says is of no interest, but
        // it must not wait for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { strace, calls })
    }

    /// How many system calls have failed by injection.
    pub fn count(&self) -> usize {
        self.calls().matches("(INJECTED)").count()
    }

    /// The calls so far, one a line, behind the id of their thread.
    pub fn calls(&self) -> String {
        fs::read_to_string(&self.calls).unwrap_or_default()
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        // SIGTERM lets it detach, so that the proxy goes on as before.
        let id = self.strace.id().to_string();
        let told = Command::new("kill").args(["-TERM", &id]).status();
        if !told.is_ok_and(|status| status.success()) {
            drop(self.strace.kill());
        }
        drop(self.strace.wait());
    }
}

/// The same command under a limit on open descriptors, soft and hard.
pub fn with_descriptors(command: &Command, limit: u32) -> Command {
    let mut limited = Command::new("sh");
    limited
        .arg("-c")
        .arg(format!("ulimit -n {limit} && exec \"$0\" \"$@\""))
        .arg(command.get_program())
        .args(command.get_args());
    limited
}

/// Leaves a running proxy room for `more` descriptors, by its soft limit; `None` takes the limit
/// away. False where that is not possible.
pub fn leave_descriptors(proxy: &Proxy, more: Option<usize>) -> bool {
    let id = proxy.id();
    let soft = match more {
        Some(more) => {
            let entries = fs::read_dir(format!("/proc/{id}/fd")).expect("a running process");
            let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<usize>().ok();
            let open: HashSet<_> = entries.flatten().filter_map(number).collect();
            // The kernel gives the lowest free number, and none from the limit on.
            let mut free = (0..).filter(|number| !open.contains(number));
            free.nth(more).expect("endless").to_string()
        }
        None => process::hard_descriptors(id),
    };
    let status = Command::new("prlimit")
        .args(["--pid", &id.to_string(), &format!("--nofile={soft}:")])
        .status();
    status.is_ok_and(|status| status.success())
}

/// A backend whose queue is full: it lets every SYN pass without an answer, on every address of the
/// machine if it is bound to none.
#[derive(Debug)]
pub struct Swallowing {
    pub address: SocketAddr,
    _listener: TcpListener,
    _filling: Vec<TcpStream>,
}

impl Swallowing {
    pub fn start(family: Family) -> Self {
        Self::at(family.any())
    }

    pub fn at(address: SocketAddr) -> Self {
        let listener = listen_with_backlog(address, 0);
        let mut address = listener.local_addr().expect("bound");
        if address.ip().is_unspecified() {
            address.set_ip(Family::V4.ip());
        }
        let mut filling = Vec::new();
        until("a full queue", || {
            let connected = TcpStream::connect_timeout(&address, FULL_AFTER);
            connected.map(|stream| filling.push(stream)).is_err()
        });
        Self {
            address,
            _listener: listener,
            _filling: filling,
        }
    }
}

/// A connect without an answer for so long meets a full queue.
const FULL_AFTER: Duration = Duration::from_millis(300);
