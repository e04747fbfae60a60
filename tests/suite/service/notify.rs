//! What the service manager is told.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{TWO_WORKERS, after, ping};
use crate::harness::namespace::has;
use crate::harness::proxy::Folder;
use crate::harness::stream::uninterrupted;
use crate::harness::tamper::tamper;
use crate::harness::{Config, DEADLINE, EVENKEEL, Proxy, Served, connect, process, scale, until};

/// A service manager's end of the notification socket.
struct Manager {
    folder: Folder,
    socket: UnixDatagram,
}

impl Manager {
    fn start() -> Self {
        let folder = Folder::new();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Self { folder, socket }
    }

    /// A command that talks to it.
    fn introduce(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", self.folder.path().join("notify"));
        command
    }

    /// The lines of the next message, if one comes within `time`.
    fn next_within(&self, time: Duration) -> Option<Vec<String>> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut buffer = [0; 4096];
        match uninterrupted(|| self.socket.recv(&mut buffer)) {
            Ok(count) => {
                let text = std::str::from_utf8(&buffer[..count]).unwrap();
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[track_caller]
    fn next(&self) -> Vec<String> {
        self.next_within(DEADLINE).expect("a message")
    }

    /// Forgets what has been said so far.
    fn catch_up(&self) {
        while self.next_within(Duration::from_millis(1)).is_some() {}
    }

    /// How many signs of life come within `time`, all told.
    fn signs_within(&self, time: Duration) -> usize {
        let start = std::time::Instant::now();
        let mut signs = 0;
        while let Some(left) = time
            .checked_sub(start.elapsed())
            .filter(|left| !left.is_zero())
        {
            match self.next_within(left) {
                Some(message) => {
                    assert_eq!(message, ["WATCHDOG=1"]);
                    signs += 1;
                }
                None => break,
            }
        }
        signs
    }
}

/// Microseconds of the monotonic clock, give or take the hundredth of a second the kernel shows.
fn uptime() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: f64 = text.split(' ').next().unwrap().parse().unwrap();
    Duration::from_secs_f64(seconds)
        .as_micros()
        .try_into()
        .unwrap()
}

#[test]
fn rld_33_the_manager_hears_of_start_reload_failure_and_stop_in_order() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let manager = Manager::start();
    let mut proxy = Proxy::start_with(&config, |command| manager.introduce(command));
    proxy.expect("reload failed");
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving"]);
    let reloading = |before: u64| {
        let [first, second] = &manager.next()[..] else {
            panic!("two lines");
        };
        assert_eq!(first, "RELOADING=1");
        let time = second.strip_prefix("MONOTONIC_USEC=").unwrap();
        let time: u64 = time.parse().unwrap();
        // systemd drops a message that is older than its request to reload.
        assert!(
            (before - 10_000..=uptime() + 10_000).contains(&time),
            "{before} {time}"
        );
    };
    let before = uptime();
    proxy.reload(&config).unwrap();
    reloading(before);
    let done = manager.next();
    assert_eq!(done[0], "READY=1");
    assert!(
        done[1].starts_with("STATUS=reload: generation 2 in force: nothing changed ("),
        "{done:?}"
    );
    let before = uptime();
    proxy.write(b"[global]\nworkers = 0\nwrokers = 1\n");
    proxy.reload_file().unwrap_err();
    reloading(before);
    let failed = manager.next();
    assert_eq!(
        (failed.len(), failed[0].as_str()),
        (2, "READY=1"),
        "{failed:?}"
    );
    for part in [
        "STATUS=reload failed, generation 2 stays in force: ",
        "evenkeel.toml:2:11: ",
        "; /",
        "evenkeel.toml:3:1: `wrokers` is no key",
    ] {
        assert!(failed[1].contains(part), "{part} in {failed:?}");
    }
    let mut session = connect(proxy.front());
    ping(&mut session);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(manager.next(), ["STOPPING=1", "STATUS=draining"]);
    ping(&mut session);
    drop(session);
    assert!(proxy.wait_exit(DEADLINE).success());
    proxy.check_end();
    assert_eq!(manager.next_within(Duration::from_millis(1)), None);
}

#[test]
fn rld_33_an_end_without_a_drain_is_told_as_well() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let manager = Manager::start();
    let mut proxy = Proxy::start_with(&config, |command| manager.introduce(command));
    manager.next();
    proxy.signal(Signal::SIGINT);
    assert_eq!(manager.next()[0], "STOPPING=1");
    assert!(proxy.wait_exit(DEADLINE).success());
}

#[test]
fn rld_33_signs_of_life_come_twice_in_the_time_allowed() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let manager = Manager::start();
    let mut proxy = Proxy::start_with(&config, |command| {
        let mut command = manager.introduce(after("export WATCHDOG_PID=$$", &command));
        command.env("WATCHDOG_USEC", "600000");
        command
    });
    manager.next();
    // With nothing to do a worker sleeps for a second, and must show that it could be woken.
    let signs = manager.signs_within(Duration::from_secs(3));
    assert!(
        (5..=11).contains(&signs),
        "{signs} signs in 10 times 300 ms"
    );
    // A process that is stopped as a whole says nothing, and is well again after that.
    proxy.signal(Signal::SIGSTOP);
    until("it is stopped", || {
        process::status(proxy.id(), "State:").starts_with('T')
    });
    manager.catch_up();
    assert_eq!(manager.signs_within(Duration::from_secs(1)), 0);
    proxy.expect("a worker has not turned for a while"); // while it was stopped
    proxy.signal(Signal::SIGCONT);
    assert!(manager.signs_within(Duration::from_secs(2)) >= 2);
    proxy.finish();
}

#[test]
fn rld_33_a_worker_that_hangs_ends_the_signs_of_life() {
    const CASE: &str = "rld_33_a_worker_that_hangs_ends_the_signs_of_life";
    if !has("strace") {
        return scale::skip(CASE, "strace, which holds one thread, is not installed");
    }
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let manager = Manager::start();
    let mut proxy = Proxy::start_with(&config, |command| {
        let mut command = manager.introduce(command);
        command.env("WATCHDOG_USEC", "500000");
        command
    });
    proxy.expect("a worker has not turned for a while");
    manager.next();
    assert!(manager.signs_within(Duration::from_secs(1)) > 0);
    let held = tamper(
        proxy.id(),
        "worker-1",
        "epoll_wait,epoll_pwait",
        "delay_enter=600000000",
    );
    proxy.log.wait_text("a worker has not turned for a while");
    manager.catch_up();
    assert_eq!(manager.signs_within(Duration::from_secs(1)), 0);
    drop(held);
    until("signs of life", || {
        manager.signs_within(Duration::from_secs(1)) > 0
    });
    proxy.finish();
}

#[test]
fn rld_33_signs_meant_for_another_process_are_not_given() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let manager = Manager::start();
    let proxy = Proxy::start_with(&config, |command| {
        let mut command = manager.introduce(command);
        command
            .env("WATCHDOG_USEC", "100000")
            .env("WATCHDOG_PID", "1");
        command
    });
    manager.next();
    assert_eq!(manager.signs_within(Duration::from_millis(500)), 0);
    proxy.finish();
}

#[test]
fn rld_34_it_is_ready_when_its_listeners_are_and_not_before() {
    let backend = Served::echo(TWO_WORKERS.family);
    let manager = Manager::start();
    let path = manager.folder.path().join("socket");
    // Probes have not begun: they wait, and so does nobody else.
    let config = Config::of(TWO_WORKERS, &[backend.address])
        .health("interval = \"1h\"")
        .also_listening("socket", &format!("\"unix:{}\"", path.display()));
    let proxy = std::thread::scope(|threads| {
        let first = threads.spawn(|| {
            assert_eq!(manager.next()[0], "READY=1");
            ping(&mut UnixStream::connect(&path).unwrap());
        });
        let proxy = Proxy::start_with(&config, |command| manager.introduce(command));
        first.join().unwrap();
        proxy
    });
    proxy.finish();
}

#[test]
fn rld_34_it_is_never_ready_if_a_listener_cannot_be_bound() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let manager = Manager::start();
    let config = Config::new(TWO_WORKERS)
        .backend("127.0.0.1:1")
        .also_listening("late", &format!("\"{}\"", taken.local_addr().unwrap()));
    fs::write(manager.folder.config(), config.text()).unwrap();
    let mut command = manager.introduce(Command::new(EVENKEEL));
    command.arg("run").arg("-c").arg(manager.folder.config());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("listener \"late\": bind 127.0.0.1:"), "{log}");
    assert_eq!(manager.next_within(Duration::from_millis(1)), None);
}
