//! Commands that end by themselves.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::EVENKEEL;
use super::wait::DEADLINE;

/// How a command ended and what it said.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// `None`: a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub time: Duration,
}

/// Runs `evenkeel` with these arguments to its end.
#[track_caller]
pub fn evenkeel<T: AsRef<OsStr>>(arguments: impl IntoIterator<Item = T>) -> Outcome {
    let mut command = Command::new(EVENKEEL);
    command.args(arguments);
    end_of(command)
}

/// Runs a command to its end, which must come within [`DEADLINE`].
#[track_caller]
pub fn end_of(mut command: Command) -> Outcome {
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let start = Instant::now();
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let id = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(DEADLINE) else {
        kill(id, Signal::SIGKILL).expect("our child");
        panic!("{command:?} did not end");
    };
    let output = output.expect("our child");
    Outcome {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
        time: start.elapsed(),
    }
}
