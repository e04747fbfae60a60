//! Delays in the system calls of one thread, by strace.

use std::fs;
use std::process::{Child, Command, Stdio};

use super::wait::until;

/// A thread that strace holds back until this is dropped.
#[derive(Debug)]
pub struct Tampered(Child);

/// Tampers with the thread of this name in process `id`: `calls` are names with commas in between,
/// `how` is what strace injects.
#[track_caller]
pub fn tamper(id: u32, thread: &str, calls: &str, how: &str) -> Tampered {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).expect("a running process");
    let is_it = |task: &fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm"));
        name.is_ok_and(|name| name.trim() == thread)
    };
    let task = tasks.flatten().find(is_it).expect("the thread");
    let mut strace = Command::new("strace");
    strace.arg("-qq").arg("-o/dev/null");
    strace.arg("-p").arg(task.file_name());
    strace.arg(format!("-etrace={calls}"));
    strace.arg(format!("-einject={calls}:{how}"));
    strace
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let tampered = Tampered(strace.spawn().expect("strace is installed"));
    let traced = format!("TracerPid:\t{}\n", tampered.0.id());
    until("strace holds the thread", || {
        let status = fs::read_to_string(task.path().join("status"));
        status.is_ok_and(|status| status.contains(&traced))
    });
    tampered
}

impl Drop for Tampered {
    fn drop(&mut self) {
        // It may have ended with its process.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
