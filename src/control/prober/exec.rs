//! A program of the operator's own that looks at a backend: it exits with 0 when all is well.
//!
//! It runs without a shell, in `/`, in a process group of its own, with no input, and its output goes
//! nowhere. Its environment is the one below and nothing of ours.

use std::io;
use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::look::Sight;
use crate::control::aside::aside;
use crate::sys::process;
use crate::sys::socket::{Target, is_exhaustion};

/// Runs `command` and waits for its end. Whoever stops waiting kills it, and what it started.
pub(super) async fn probe(command: &[String], sight: &Sight) -> io::Result<()> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into()); // the plan was checked
    };
    let mut prepared = Command::new(program);
    prepared
        .args(arguments)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .envs(environment(sight))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    // On a thread of its own, because a program may be on a disk that does not answer.
    // What it is a child of is the runtime that hears of its end.
    let runtime = Handle::current();
    let started = aside(move || {
        let _entered = runtime.enter();
        prepared.spawn().map(Group)
    });
    let mut group = started.await?.map_err(|error| {
        if is_exhaustion(&error) || error.kind() == io::ErrorKind::WouldBlock {
            return error;
        }
        io::Error::other(format!("{program} cannot be run: {error}"))
    })?;
    let status = group.0.wait().await?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("{program}: {status}"))),
    }
}

/// What the program is told.
fn environment(sight: &Sight) -> [(&'static str, String); 5] {
    let (address, port) = match &sight.target {
        Target::Tcp(address) => (address.ip().to_string(), address.port().to_string()),
        Target::Unix(path) => (path.display().to_string(), String::new()),
    };
    let (pool, backend) = sight.told.clone().unwrap_or_default();
    [
        ("EVENKEEL_POOL", pool),
        ("EVENKEEL_BACKEND", backend),
        ("EVENKEEL_HOST", sight.host.clone()),
        ("EVENKEEL_ADDRESS", address),
        ("EVENKEEL_PORT", port),
    ]
}

/// A process and those that it started.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // There is an id for as long as nobody has waited for it.
        if let Some(id) = self.0.id()
            && let Err(error) = process::kill_group(id)
        {
            log::error!("process group {id} cannot be killed: {error}");
        }
    }
}
