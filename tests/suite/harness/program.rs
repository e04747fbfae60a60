//! Software of others: found or the case is skipped, run without privileges, ended by its id.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

use super::log::Log;
use super::proxy::Folder;
use super::scale;
use super::wait::{DEADLINE, within};

/// Programs of this machine that a case needs.
#[derive(Debug)]
pub struct Software(Vec<(&'static str, PathBuf)>);

impl Software {
    /// Finds all of `names`; otherwise the case is skipped.
    pub fn find(case: &str, names: &[&'static str]) -> Option<Self> {
        let mut found = Vec::new();
        for &name in names {
            match path_of(name) {
                Some(path) => found.push((name, path)),
                None => {
                    scale::skip(case, &format!("there is no {name} here"));
                    return None;
                }
            }
        }
        Some(Self(found))
    }

    /// A command that runs one of them.
    #[track_caller]
    pub fn command(&self, name: &str) -> Command {
        let found = self.0.iter().find(|(other, _)| *other == name);
        Command::new(&found.expect("one of those that were looked for").1)
    }
}

/// Where a program is. Servers are not on the path of every user.
fn path_of(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin".into(), "/sbin".into()]);
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter();
    folders.splice(
        0..0,
        versions.flatten().flatten().map(|v| v.path().join("bin")),
    );
    let mut paths = folders.into_iter().map(|folder| folder.join(name));
    paths.find(|path| path.is_file())
}

/// A program that runs beside the case, until it is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    /// Its standard error.
    pub log: Log,
    farewell: Signal,
}

impl Program {
    /// Starts it; `farewell` asks it to end.
    pub fn start(mut command: Command, farewell: Signal) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a program that was found");
        let (log, _collector) = Log::collect(child.stderr.take().expect("piped"));
        Self {
            child,
            log,
            farewell,
        }
    }

    /// Asks it to end and waits until it has; kills it if it does not.
    pub fn end(&mut self) {
        if !self.has_ended() {
            let id = i32::try_from(self.child.id()).expect("a process id");
            // It may have ended in the meantime.
            let _ended = kill(Pid::from_raw(id), self.farewell);
            if !within(DEADLINE, || self.has_ended()) {
                let _killed = self.child.kill();
                let _status = self.child.wait();
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("log of the program:\n{}", self.log.lines().join("\n"));
        }
    }
}

/// What a program printed that has run to its end.
#[derive(Debug)]
pub struct Printed {
    /// Its standard output, in a file.
    pub output: PathBuf,
    /// Its standard error.
    pub error: String,
}

impl Printed {
    pub fn text(&self) -> String {
        std::fs::read_to_string(&self.output).expect("text")
    }
}

/// Runs a program to its end, which must be a success and come within `time`.
#[track_caller]
pub fn run(mut command: Command, folder: &Folder, time: Duration) -> Printed {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let path = |kind: &str| folder.path().join(format!("{kind}-{number}"));
    let (output, error) = (path("output"), path("error"));
    let create = |path: &Path| File::create(path).expect("a writable folder");
    let mut child = command
        .stdout(create(&output))
        .stderr(create(&error))
        .spawn()
        .expect("a program that was found");
    let mut status = None;
    let ended = within(time, || {
        status = child.try_wait().expect("our child");
        status.is_some()
    });
    if !ended {
        let _killed = child.kill();
        let _status = child.wait();
    }
    let error = std::fs::read_to_string(&error).expect("text");
    let is_well = status.is_some_and(|status| status.success());
    assert!(
        is_well,
        "{command:?}: {status:?} within {time:?}\n{}\n{error}",
        std::fs::read_to_string(&output).unwrap_or_default()
    );
    Printed { output, error }
}

/// Makes a command run as somebody without privileges, which some servers insist on. What it writes
/// to must be [`hand_over`]ed.
pub fn unprivileged(mut command: Command) -> Command {
    if let Some((user, group)) = nobody() {
        command.uid(user).gid(group);
    }
    command
}

/// Gives a file or a folder to whom [`unprivileged`] commands run as.
pub fn hand_over(path: &Path) {
    if let Some((user, group)) = nobody() {
        chown(path, Some(user), Some(group)).expect("root may");
    }
}

/// The account without privileges; none if we are not root ourselves.
fn nobody() -> Option<(u32, u32)> {
    if !geteuid().is_root() {
        return None;
    }
    let user = User::from_name("nobody").expect("a readable user database");
    user.map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// An address for a server that cannot choose a port itself: on an address of its own, so that
/// nobody takes the port before the server does.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let third = u8::try_from(NEXT.fetch_add(1, Relaxed) % 100).expect("below 100");
    let address = IpAddr::V4(Ipv4Addr::new(127, 100 + third, high, low));
    let listener = TcpListener::bind((address, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}
