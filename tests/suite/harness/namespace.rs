//! A network of the case's own: a namespace that this thread, the threads it starts and its child
//! processes live in. It goes when the last of them does.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

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
            setup
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .for_each(run);
            case();
        });
        if let Err(panic) = inside.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Whether a program is installed.
pub fn has(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
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
