//! The process as the service manager sees it: conformance I and L.

mod activation;
mod manual;
mod notify;
mod package;
mod privileges;
mod sandbox;
mod unit;

use std::io::{Read, Write};
use std::process::Command;

use crate::harness::Axis;

/// Whatever needs two workers to go wrong.
const TWO_WORKERS: Axis = Axis {
    workers: 2,
    ..Axis::PLAIN
};

/// Runs `command` through a shell that first does `before`; `$$` is its process id already.
fn after(before: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg(format!("{before}; exec \"$@\""))
        .arg("sh");
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// Fails unless an echoing backend answers on this session.
#[track_caller]
fn ping(stream: &mut (impl Read + Write)) {
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

/// The command with these supplementary groups, as a login would leave them.
fn with_groups(command: &Command, groups: &str) -> Command {
    let mut inside = Command::new("setpriv");
    inside
        .arg(format!("--groups={groups}"))
        .arg(command.get_program());
    inside.args(command.get_args());
    inside
}
