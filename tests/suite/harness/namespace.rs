//! A network of the case's own: a namespace that this thread, the threads it starts and its child
//! processes live in. It goes when the last of them does.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

use super::scale::skip;

/// Runs `case` in a namespace of its own, after the commands of `setup` (`ip`, `nft`), one a line.
/// Skips it where that is not possible.
pub fn in_namespace(name: &str, setup: &str, case: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        return skip(name, "only root can make a network namespace");
    }
    for tool in ["ip", "nft"] {
        if setup.lines().any(|line| line.trim().starts_with(tool)) && !has(tool) {
            return skip(name, &format!("{tool} is not installed"));
        }
    }
    std::thread::scope(|threads| {
        let inside = threads.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
            run("ip link set lo up");
            run_each(setup);
            case();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Another host: a network of its own at the other end of a cable. It goes with this.
#[derive(Debug)]
pub struct Host(File);

impl Host {
    /// Lays the cable: the end `here` is in the network of the calling thread.
    pub fn new(here: &str, there: &str) -> Self {
        let made = std::thread::scope(|threads| {
            let inside = threads.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
                File::open("/proc/thread-self/ns/net").expect("this thread's own")
            });
            inside.join().expect("it does not fail")
        });
        let path = format!("/proc/{}/fd/{}", std::process::id(), made.as_raw_fd());
        run(&format!(
            "ip link add {here} type veth peer name {there} netns {path}"
        ));
        plug_in(here);
        let host = Self(made);
        host.run(|| {
            run("ip link set lo up");
            plug_in(there);
        });
        host
    }

    /// Does something there. Sockets that it makes stay there, whoever uses them.
    pub fn run<T: Send>(&self, task: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|threads| {
            let inside = threads.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("a network");
                task()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// Takes an end of a cable in use. Its IPv6 addresses are its own at once, without asking around.
fn plug_in(end: &str) {
    let setting = format!("/proc/sys/net/ipv6/conf/{end}/accept_dad");
    std::fs::write(setting, "0").expect("root may set it");
    run(&format!("ip link set {end} up"));
}

/// Whether a program is installed.
pub fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// Runs a command for each line that is not empty.
#[track_caller]
pub fn run_each(lines: &str) {
    let lines = lines.lines().map(str::trim);
    lines.filter(|line| !line.is_empty()).for_each(run);
}

/// Runs a command, in the namespace of the calling thread.
#[track_caller]
pub fn run(line: &str) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
    assert!(
        output.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
