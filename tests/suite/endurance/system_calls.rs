//! How many system calls a session and a chunk of bytes cost, counted by strace.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::harness::program::{Program, Software, free_address};
use crate::harness::{Axis, Config, Family, Proxy, Served, connect, scale, until};

#[test]
fn system_calls_per_session() {
    let Some(software) = Software::find("system_calls_per_session", &["strace"]) else {
        return;
    };
    // Where servers are: a port that no connect draws as its own, which need not be looked at.
    let backend = Served::echo_at(address_below_ephemeral_ports());
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    let Some(tracer) = Tracer::attach("system_calls_per_session", &software, &proxy) else {
        return;
    };
    let front = proxy.front();
    for _ in 0..SESSIONS {
        exchange(&mut connect(front));
    }
    proxy.wait_quiet();
    let calls = tracer.end();
    proxy.finish();

    println!("{SESSIONS} sessions of one exchange:\n{calls}");
    let carried = calls.count(|name, bytes| is_data(name) && bytes > 0);
    assert!(
        carried >= 4 * SESSIONS,
        "{carried} calls carried bytes: not all was traced"
    );
    let others = calls.count(|name, bytes| name != "epoll_wait" && !(is_data(name) && bytes > 0));
    println!("besides moving bytes and waiting, {others} calls");
    // Whole ones: the other threads have some of their own.
    assert!(
        others / SESSIONS <= SESSION_CALLS_MAX,
        "more than {SESSION_CALLS_MAX} per session"
    );
}

#[test]
fn system_calls_per_chunk() {
    let Some(software) = Software::find("system_calls_per_chunk", &["strace"]) else {
        return;
    };
    let backend = Served::echo(Family::V4);
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    let mut streams: Vec<TcpStream> = (0..STREAMS).map(|_| connect(proxy.front())).collect();
    streams.iter_mut().for_each(exchange);
    let Some(tracer) = Tracer::attach("system_calls_per_chunk", &software, &proxy) else {
        return;
    };
    let rounds = scale::amount(50, 1_000);
    std::thread::scope(|scope| {
        for stream in &mut streams {
            scope.spawn(move || (0..rounds).for_each(|_| exchange(stream)));
        }
    });
    let calls = tracer.end();
    drop(streams);
    proxy.finish();

    println!("{STREAMS} connections of {rounds} exchanges each:\n{calls}");
    let chunks = calls.count(|name, bytes| name == "recvfrom" && bytes > 0);
    let expected = 2 * STREAMS * rounds;
    assert!(
        chunks >= expected * 9 / 10,
        "{chunks} chunks of {expected}: not all was traced"
    );
    let all = calls.count(|_, _| true);
    println!("{all} calls for {chunks} chunks");
    assert!(
        all * 10 <= chunks * CHUNK_CALLS_MAX_TENTHS,
        "more than 2.2 per chunk"
    );
}

const SESSIONS: u64 = 1_000;

/// Calls per session that neither carry bytes nor wait: accept; the backend's socket, its two options
/// and its connect; both registered; both ends of streams read, one of them passed on; both closed.
const SESSION_CALLS_MAX: u64 = 12;

/// Connections under way at once.
const STREAMS: u64 = 64;

/// A read and a write, and a tenth of a wait for either.
const CHUNK_CALLS_MAX_TENTHS: u64 = 22;

/// On an address of its own, so that nobody else takes the port.
fn address_below_ephemeral_ports() -> SocketAddr {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let first: u16 = text.split_whitespace().next().unwrap().parse().unwrap();
    SocketAddr::new(free_address().ip(), first - 1)
}

/// Sends 64 bytes and reads them back.
fn exchange(stream: &mut TcpStream) {
    let sent = [7; 64];
    stream.write_all(&sent).unwrap();
    let mut got = [0; 64];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, sent);
}

fn is_data(name: &str) -> bool {
    matches!(
        name,
        "read" | "recvfrom" | "write" | "writev" | "sendto" | "splice"
    )
}

/// strace, attached to all threads of a proxy.
struct Tracer {
    program: Program,
    file: PathBuf,
}

impl Tracer {
    /// Without the right to trace, the case is skipped.
    fn attach(case: &str, software: &Software, proxy: &Proxy) -> Option<Self> {
        let file = proxy.folder().join("calls");
        let mut command = software.command("strace");
        command
            .args(["-f", "-s", "0", "-e", "signal=none", "-o"])
            .arg(&file);
        command.args(["-p", &proxy.id().to_string()]);
        let program = Program::start(command, Signal::SIGINT);
        until("strace is attached or refused", || {
            program.log.has("attached") || program.log.has("not permitted")
        });
        if program.log.has("not permitted") {
            scale::skip(case, "we may not trace");
            return None;
        }
        Some(Self { program, file })
    }

    /// Detaches and returns what it saw.
    fn end(mut self) -> Calls {
        self.program.end();
        Calls::read(&std::fs::read_to_string(&self.file).unwrap())
    }
}

/// How often each system call returned, and how often with each result.
#[derive(Debug, Default)]
struct Calls(BTreeMap<String, Vec<i64>>);

impl Calls {
    fn read(text: &str) -> Self {
        let mut calls = Self::default();
        for line in text.lines() {
            // "ID NAME(…) = RESULT …", or the second half of it, "ID <... NAME resumed>…) = RESULT …".
            let Some((_, call)) = line.split_once(' ') else {
                continue;
            };
            let call = call.trim_start().trim_start_matches("<... ");
            let Some((_, result)) = call.rsplit_once(" = ") else {
                continue;
            };
            let end = call.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &call[..end.unwrap_or(call.len())];
            let result = result
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
            let results = calls.0.entry(name.to_owned()).or_default();
            results.push(result.unwrap_or(0));
        }
        calls
    }

    /// How many calls `is_meant`, by name and result.
    fn count(&self, is_meant: impl Fn(&str, i64) -> bool) -> u64 {
        let per_name = self.0.iter().map(|(name, results)| {
            results
                .iter()
                .filter(|&&result| is_meant(name, result))
                .count() as u64
        });
        per_name.sum()
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>8} {:>8} {:>8}  call", "all", "nothing", "failed")?;
        for (name, results) in &self.0 {
            let nothing = results.iter().filter(|&&result| result == 0).count();
            let failed = results.iter().filter(|&&result| result < 0).count();
            writeln!(f, "{:>8} {nothing:>8} {failed:>8}  {name}", results.len())?;
        }
        Ok(())
    }
}

#[test]
fn a_trace_is_read_as_it_is_meant() {
    let calls = Calls::read(
        "7 recvfrom(9, \"\"..., 65536, 0, NULL, NULL) = 64\n\
         7 recvfrom(9, 0x1, 65536, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)\n\
         8 epoll_wait(3,  <unfinished ...>\n\
         7 close(9)                = 0\n\
         8 <... epoll_wait resumed>[], 512, 1000) = 0\n\
         8 accept4(5, {sa_family=AF_INET, sin_port=htons(1) = 2}, [128 => 16], 0) = 12\n\
         8 +++ exited with 0 +++\n",
    );
    assert_eq!(calls.count(|_, _| true), 5);
    assert_eq!(
        calls.count(|name, bytes| name == "recvfrom" && bytes > 0),
        1
    );
    assert_eq!(
        calls.count(|name, result| name == "recvfrom" && result < 0),
        1
    );
    assert_eq!(calls.count(|name, _| name == "epoll_wait"), 1);
    assert_eq!(
        calls.count(|name, result| name == "accept4" && result == 12),
        1
    );
}
