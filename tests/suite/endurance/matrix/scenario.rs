//! What a proxy is put through while one of its system calls fails: conversations whose bytes are
//! known, probes, reloads, an end.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::faults::with_descriptors;
use crate::harness::process::descriptors;
use crate::harness::proxy::Folder;
use crate::harness::stream::{bounded, is_reset, uninterrupted};
use crate::harness::wait::within;
use crate::harness::{Axis, Config, DEADLINE, EVENKEEL, Family, Payload, Proxy, Served, udp};

/// Backends for many proxies, one after the other.
pub(super) struct Backends {
    streams: Served,
    datagrams: udp::Echo,
}

/// How a proxy got on.
pub(super) struct Story {
    pub(super) end: End,
    /// Conversations that failed, each with a reset.
    pub(super) failed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It did not start, and said why.
    NotStarted,
    /// It served to the end.
    Served,
}

/// The letter with which the backend answers datagrams.
const TAG: u8 = b'u';

impl Backends {
    pub(super) fn start() -> Self {
        Self {
            streams: Served::echo(Family::V4),
            datagrams: udp::Echo::start(TAG, Family::V4.any()),
        }
    }

    /// Whether a proxy starts with so few descriptors. Fails if it crashes.
    pub(super) fn starts_with(&self, descriptors: u32) -> bool {
        let folder = Folder::new();
        let config = self.config(folder.path(), 0);
        std::fs::write(folder.config(), config.text()).unwrap();
        let mut command = Command::new(EVENKEEL);
        command.arg("run").arg("-c").arg(folder.config());
        let mut proxy = Proxy::launch(with_descriptors(&command, descriptors), folder);
        let starts = proxy.is_alive();
        if starts {
            proxy.signal(Signal::SIGTERM);
        }
        let status = proxy.wait_exit(DEADLINE);
        let log = proxy.log.lines();
        let code = status.code();
        assert!(
            code.is_some_and(|code| (code == 0) == starts) && !log.is_empty(),
            "{descriptors} descriptors: {status}, {log:?}"
        );
        proxy.check_no_panic();
        starts
    }

    fn config(&self, folder: &Path, number: usize) -> Config {
        let axis = Axis {
            splice: ["auto", "always", "off"][number % 3],
            workers: if number.is_multiple_of(2) { 1 } else { 2 },
            ..Axis::PLAIN
        };
        let path = folder.join("access.log");
        Config::of(axis, &[self.streams.address])
            .global("drain_timeout = \"1s\"")
            .global(&format!("access_log = {{ path = \"{}\" }}", path.display()))
            // Until then what was sent before a failure is waited for to arrive.
            .pool("half_close_timeout = \"2s\"")
            .health("interval = \"200ms\"")
            .health("fast_interval = \"50ms\"")
            .health("down_interval = \"50ms\"")
            .more(&format!(
                "[[listener]]\nname = \"datagrams\"\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\n\
                 pool = \"datagrams\"\n[pool.datagrams.udp]\nidle_timeout = \"300ms\"\n\
                 [[pool.datagrams.backend]]\naddress = \"{}\"",
                self.datagrams.address
            ))
    }
}

/// Runs a proxy under strace, with `inject` as in `strace -e inject=` unless it is empty. Fails if
/// it breaks a promise: it crashes, hangs, leaks, or passes on what was not sent.
pub(super) fn play(backends: &Backends, inject: &str, number: usize, trace: &Trace) -> Story {
    let folder = Folder::new();
    let config = backends.config(folder.path(), number);
    std::fs::write(folder.config(), config.text()).unwrap();
    let command = traced(inject, trace, &folder.config());
    let mut proxy = Proxy::launch(command, folder);
    if !proxy.is_alive() {
        let status = proxy.wait_exit(DEADLINE);
        let log = proxy.log.lines();
        assert!(
            status.code().is_some_and(|code| code != 0) && !log.is_empty(),
            "it did not start, {status}: {log:?}"
        );
        proxy.check_no_panic();
        return Story {
            end: End::NotStarted,
            failed: 0,
        };
    }
    proxy.rebase();
    let before = descriptors(proxy.id()).others;
    let mut failed = talk(&proxy, number);
    let more = config.clone().also_listening("more", "\"127.0.0.1:0\"");
    for config in [&more, &config] {
        reload(&proxy, config);
        failed += usize::from(!converse(proxy.front(), 7, 3_000));
    }
    must_serve(&proxy);
    // A close that is made to fail does not close.
    let mut now = 0;
    let is_back = within(DEADLINE, || {
        now = descriptors(proxy.id()).others;
        now <= before + trace.injected().len()
    });
    assert!(is_back, "{now} descriptors are open, {before} at the start");
    assert!(proxy.is_alive(), "it has ended");
    proxy.signal(Signal::SIGTERM);
    let is_over = within(DEADLINE / 4, || !proxy.is_alive());
    if !is_over {
        proxy.signal(Signal::SIGTERM); // the first may have been lost
    }
    let status = proxy.wait_exit(DEADLINE);
    assert!(status.code() == Some(0), "it ended with {status}");
    proxy.check_no_panic();
    Story {
        end: End::Served,
        failed,
    }
}

/// Where strace writes the system calls of a proxy, one a line.
pub(super) struct Trace(Folder);

impl Trace {
    pub(super) fn new() -> Self {
        Self(Folder::new())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("calls")
    }

    pub(super) fn calls(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap_or_default()
    }

    /// Those that failed by injection. Strace tells of a call in two lines if another thread makes one
    /// meanwhile.
    pub(super) fn injected(&self) -> Vec<String> {
        let mut unfinished = HashMap::new();
        let mut injected = Vec::new();
        for line in self.calls().lines() {
            let (thread, call) = line.split_once(' ').unwrap_or_default();
            let begun = match call.split_once("resumed>") {
                Some(_) => unfinished.remove(thread).unwrap_or_default(),
                None => String::new(),
            };
            if call.contains("<unfinished") {
                unfinished.insert(thread.to_owned(), call.to_owned());
            }
            if call.contains("(INJECTED)") {
                injected.push(format!("{thread} {begun}{call}"));
            }
        }
        injected
    }
}

/// The proxy, from its first system call on under an strace that is not its parent.
fn traced(inject: &str, trace: &Trace, config: &Path) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-D", "-f", "-qq", "-s", "16", "-o"])
        .arg(trace.path());
    if let Some((name, _)) = inject.split_once(':') {
        command
            .args(["--seccomp-bpf", "-yy"])
            .arg(format!("-etrace={name}"))
            .arg(format!("-einject={inject}"));
    }
    command.arg(EVENKEEL).arg("run").arg("-c").arg(config);
    for variable in ["RUST_LOG", "RUST_BACKTRACE", "NOTIFY_SOCKET"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Several conversations at once, by streams and by datagrams: how many streams failed.
fn talk(proxy: &Proxy, number: usize) -> usize {
    let (front, datagrams) = (proxy.front(), proxy.address("datagrams"));
    let seed = number as u64 * 16;
    std::thread::scope(|scope| {
        let sizes = [1, 3_000, 70_000, 600_000];
        let streams: Vec<_> = (seed..)
            .zip(sizes)
            .map(|(seed, size)| scope.spawn(move || converse(front, seed, size)))
            .collect();
        let asking: Vec<_> = (0..2)
            .map(|_| scope.spawn(move || ask(datagrams, 3)))
            .collect();
        asking.into_iter().for_each(|thread| _ = joined(thread));
        let whole = streams.into_iter().map(joined);
        whole.filter(|is_whole| !is_whole).count()
    })
}

fn joined<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Sends a stream to a backend that sends it back. False if it failed, with a reset; what comes is
/// right in any case, and an end without a reset comes after all of it.
fn converse(front: SocketAddr, seed: u64, size: usize) -> bool {
    let mut stream = match TcpStream::connect_timeout(&front, DEADLINE) {
        Ok(stream) => bounded(stream),
        Err(error) if error.kind() == ErrorKind::TimedOut => panic!("no connect to {front}"),
        Err(_) => return false,
    };
    let payload = Payload::new(seed);
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let bytes = payload.bytes(size);
            writer.write_all(&bytes).is_ok() && writer.shutdown(Shutdown::Write).is_ok()
        });
        let (mut piece, mut position) = (vec![0; 64 * 1024], 0);
        loop {
            match uninterrupted(|| stream.read(&mut piece)) {
                Ok(0) => {
                    let is_whole = position == size as u64;
                    // A reset is told once: to whoever writes, if that comes first.
                    let is_written = writing.join().unwrap();
                    assert!(is_whole || !is_written, "it looks complete and is not");
                    return is_whole;
                }
                Ok(count) => {
                    payload.check(position, &piece[..count]);
                    position += count as u64;
                }
                Err(error) if is_reset(&error) => return false,
                Err(error) => panic!("after {position} bytes of {size}: {error}"),
            }
        }
    })
}

/// Asks some questions by datagrams, each again if it is not answered: how many were answered.
fn ask(front: SocketAddr, questions: u32) -> u32 {
    let client = udp::client(front);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let answered = (0..questions).filter(|number| {
        let question = number.to_be_bytes();
        (0..TRIES).any(|_| client.send(&question).is_ok() && is_answered(&client, *number))
    });
    u32::try_from(answered.count()).unwrap()
}

/// Whether an answer comes. An earlier one may come late; one to what was not asked may not come.
fn is_answered(client: &UdpSocket, number: u32) -> bool {
    let mut answer = [0; 64];
    while let Ok(count) = uninterrupted(|| client.recv(&mut answer)) {
        let known = (0..=number).find(|number| {
            let [a, b, c, d] = number.to_be_bytes();
            answer[..count] == [TAG, a, b, c, d]
        });
        match known {
            None => panic!("{:?} is no answer", &answer[..count]),
            Some(other) if other == number => return true,
            Some(_) => {}
        }
    }
    false
}

/// Asks for a reload until the file is in force: a signal may be lost, and a reload may fail. Some fail
/// each time, because each is on a thread of its own, which meets the failure anew; then they say so.
fn reload(proxy: &Proxy, config: &Config) {
    proxy.write(config.text().as_bytes());
    let mut outcome = None;
    let is_in_force = (0..TRIES).any(|_| {
        let mark = proxy.log.mark();
        outcome = None;
        proxy.signal(Signal::SIGHUP);
        within(DEADLINE / 4, || {
            outcome = proxy.log.find(mark, |line| {
                let is_done = line.contains("reload: generation");
                (is_done || line.contains("reload failed")).then_some(is_done)
            });
            outcome.is_some()
        });
        outcome == Some(true)
    });
    assert!(
        is_in_force || outcome.is_some(),
        "a reload without an outcome"
    );
}

/// Fails unless it serves somebody by each protocol, where one more may meet a failure.
fn must_serve(proxy: &Proxy) {
    let front = proxy.front();
    let served = (0..TRIES).any(|number| converse(front, u64::from(number), 10_000));
    assert!(served, "no stream is served any more");
    let datagrams = proxy.address("datagrams");
    let answered = (0..TRIES).any(|_| ask(datagrams, 1) == 1);
    assert!(answered, "no datagram is answered any more");
}

/// More than there are failures to meet.
const TRIES: u32 = 8;

/// How long an answer is waited for before the question is asked again.
const PATIENCE: Duration = Duration::from_millis(400);
