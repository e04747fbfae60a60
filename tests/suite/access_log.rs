//! The access log: a line for each session and flow that ends, which says why.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read as _, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;

use crate::harness::backend::dead;
use crate::harness::process;
use crate::harness::proxy::Folder;
use crate::harness::udp::{self, Echo};
use crate::harness::{
    Axis, Config, End, Family, Listening, Proxy, Served, on_every_axis, ping, read_all, refused,
    reset, served, until,
};

/// A file of its own for the access log of a case.
struct AccessLog(Folder);

impl AccessLog {
    fn new() -> Self {
        Self(Folder::new())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("access.log")
    }

    /// The setting that asks for it.
    fn setting(&self, format: &str) -> String {
        let path = self.path();
        format!("access_log = {{ path = {path:?}, format = \"{format}\" }}")
    }

    /// Waits until so many lines are there, the last of them whole.
    #[track_caller]
    fn wait(&self, count: usize) -> Vec<String> {
        wait_lines(&self.path(), count)
    }
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(str::to_owned).collect()
}

#[track_caller]
fn wait_lines(path: &Path, count: usize) -> Vec<String> {
    until("lines of the access log", || lines(path).len() >= count);
    let found = lines(path);
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

/// A line taken apart: what is told by its place, and the rest by name.
struct Line {
    protocol: String,
    listener: String,
    client: String,
    backend: String,
    cause: String,
    values: HashMap<String, String>,
}

impl Line {
    #[track_caller]
    fn of(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [
            time,
            protocol,
            listener,
            client,
            backend,
            cause,
            values @ ..,
        ] = &words[..]
        else {
            panic!("{line}");
        };
        assert!(time.len() == 24 && time.ends_with('Z'), "{line}");
        let values = values.iter().map(|word| word.split_once('=').unwrap());
        Self {
            protocol: (*protocol).to_owned(),
            listener: (*listener).to_owned(),
            client: (*client).to_owned(),
            backend: (*backend).to_owned(),
            cause: (*cause).to_owned(),
            values: values
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        }
    }

    #[track_caller]
    fn number(&self, key: &str) -> u64 {
        self.values[key].parse().unwrap()
    }
}

#[test]
fn a_session_is_a_line_that_says_what_it_was() {
    on_every_axis(|axis| {
        let log = AccessLog::new();
        let backend = Listening::start(axis.family);
        let (dead, _held) = dead(axis.family);
        let config = Config::of(axis, &[dead, backend.address]);
        let config = config
            .pool("balance = \"first\"")
            .global(&log.setting("text"));
        let mut proxy = Proxy::start(&config);
        proxy.expect("connect failed");
        let (mut client, mut server) = backend.pair(proxy.front());
        let address = client.local_addr().unwrap();
        client.write_all(&[1; 10_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server), (vec![1; 10_000], End::Fin));
        server.write_all(&[2; 70_000]).unwrap();
        drop(server);
        assert_eq!(read_all(&mut client), (vec![2; 70_000], End::Fin));
        let line = Line::of(&log.wait(1)[0]);
        assert_eq!(line.protocol, "tcp");
        assert_eq!(line.listener, "front");
        assert_eq!(line.client, address.to_string());
        assert_eq!(line.backend, "pool/b");
        assert_eq!(line.cause, "CN");
        assert_eq!(line.number("bytes_to_backend"), 10_000);
        assert_eq!(line.number("bytes_to_client"), 70_000);
        assert_eq!(line.number("attempts"), 2);
        let (queue, connect) = (line.number("queue_ms"), line.number("connect_ms"));
        assert!(queue + connect <= line.number("first_byte_ms"));
        assert!(line.number("first_byte_ms") <= line.number("total_ms"));
        proxy.finish();
    });
}

/// A session that ends as `play` lets it, and the cause that the log names.
#[track_caller]
fn assert_cause(
    proxy: &Proxy,
    log: &AccessLog,
    backend: &Listening,
    cause: &str,
    play: impl FnOnce(TcpStream, TcpStream),
) {
    let before = lines(&log.path()).len();
    let (mut client, mut server) = backend.pair(proxy.front());
    // Both sides are there.
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    play(client, server);
    let found = log.wait(before + 1);
    assert_eq!(Line::of(&found[before]).cause, cause, "{found:#?}");
}

#[test]
fn a_line_says_who_ended_a_session_and_how() {
    let log = AccessLog::new();
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).global(&log.setting("text"));
    let slow = config.clone().pool("idle_timeout = \"1h\"");
    let proxy = Proxy::start(&slow);
    assert_cause(&proxy, &log, &backend, "CN", |client, mut server| {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server).1, End::Fin);
    });
    assert_cause(&proxy, &log, &backend, "BN", |mut client, server| {
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client).1, End::Fin);
    });
    assert_cause(&proxy, &log, &backend, "CR", |client, mut server| {
        reset(client);
        assert_eq!(read_all(&mut server).1, End::Reset);
    });
    assert_cause(&proxy, &log, &backend, "BR", |mut client, server| {
        reset(server);
        assert_eq!(read_all(&mut client).1, End::Reset);
    });
    proxy
        .reload(&config.clone().pool("idle_timeout = \"50ms\""))
        .unwrap();
    assert_cause(&proxy, &log, &backend, "EI", |mut client, _server| {
        assert_eq!(read_all(&mut client).1, End::Reset);
    });
    let half = config.pool("half_close_timeout = \"50ms\"");
    proxy.reload(&half).unwrap();
    assert_cause(&proxy, &log, &backend, "ET", |mut client, server| {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client).1, End::Reset);
        drop(server);
    });
    proxy.finish();
}

#[test]
fn the_side_that_was_reset_first_has_ended_a_session() {
    let log = AccessLog::new();
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).global(&log.setting("text"));
    let proxy = Proxy::start(&config);
    let (mut other, mut far) = backend.pair(proxy.front());
    let (client, mut server) = backend.pair(proxy.front());
    // More than the client takes in, so that the reset waits behind it.
    let stuck = Duration::from_millis(200);
    server.set_write_timeout(Some(stuck)).unwrap();
    while server.write(&[0; 65_536]).is_ok() {}
    let ports = (server.peer_addr().unwrap().port(), backend.address.port());
    reset(server);
    until("the kernel knows of the reset", || {
        !process::tcp_sockets().contains_key(&ports)
    });
    // A turn of the worker in which it hears of that.
    other.write_all(b"x").unwrap();
    far.read_exact(&mut [0]).unwrap();
    reset(client);
    assert_eq!(Line::of(&log.wait(1)[0]).cause, "BR");
    drop((other, far));
    proxy.finish();
}

#[test]
fn what_goes_before_the_bytes_of_a_client_is_not_counted_as_theirs() {
    let log = AccessLog::new();
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).pool("send_proxy = \"v1\"");
    let proxy = Proxy::start(&config.global(&log.setting("text")));
    let (mut client, mut server) = backend.pair(proxy.front());
    client.write_all(b"1234567").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (got, _) = read_all(&mut server);
    assert!(got.starts_with(b"PROXY TCP4 ") && got.ends_with(b"\r\n1234567"));
    drop(server);
    assert_eq!(Line::of(&log.wait(1)[0]).number("bytes_to_backend"), 7);
    proxy.finish();
}

#[test]
fn a_client_that_gets_no_backend_has_a_line() {
    let log = AccessLog::new();
    let (first, _held) = dead(Family::V4);
    let (second, _too) = dead(Family::V4);
    let config = Config::of(Axis::PLAIN, &[first, second]).global(&log.setting("text"));
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused");
    refused(proxy.front());
    let line = Line::of(&log.wait(1)[0]);
    assert_eq!((&*line.cause, &*line.backend), ("BC", "pool/-"));
    assert_eq!(line.number("attempts"), 2);
    assert_eq!(line.values["connect_ms"], "-");
    assert_eq!(line.values["first_byte_ms"], "-");
    let nobody = config
        .without("a")
        .with("name = \"c\"")
        .pool("fail_open = false");
    let nobody = nobody.health("type = \"tcp\"").health("initial = \"down\"");
    proxy.reload(&nobody).unwrap();
    refused(proxy.front());
    let line = Line::of(&log.wait(2)[1]);
    assert_eq!((&*line.cause, line.number("attempts")), ("EC", 0));
    proxy.finish();
}

#[test]
fn sessions_that_a_stop_cuts_have_their_lines() {
    let log = AccessLog::new();
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let config = config.global(&log.setting("json"));
    let mut proxy = Proxy::start(&config);
    let clients: Vec<TcpStream> = (0..50).map(|_| served(proxy.front())).collect();
    proxy.signal(Signal::SIGINT);
    proxy.wait_exit(crate::harness::DEADLINE);
    let found = lines(&log.path());
    assert_eq!(found.len(), clients.len());
    let is_cut = |line: &String| line.contains("\"cause\":\"ED\"");
    assert!(found.iter().all(is_cut), "{found:#?}");
}

#[test]
fn a_flow_is_a_line() {
    on_every_axis(|axis| {
        let log = AccessLog::new();
        let backend = Echo::start(b'a', axis.family.any());
        let config = Config::udp(axis, &[backend.address]).global(&log.setting("text"));
        let proxy = Proxy::start(&config);
        let client = udp::client(proxy.front());
        for _ in 0..3 {
            assert_eq!(udp::ask(&client, b"12345"), b"a12345");
        }
        let line = Line::of(&log.wait(1)[0]);
        assert_eq!((&*line.protocol, &*line.cause), ("udp", "EI"));
        assert_eq!(line.client, client.local_addr().unwrap().to_string());
        assert_eq!((&*line.listener, &*line.backend), ("front", "pool/a"));
        assert_eq!(line.number("bytes_to_backend"), 15);
        assert_eq!(line.number("bytes_to_client"), 18);
        assert_eq!(line.values["connect_ms"], "-");
        assert!(line.number("first_byte_ms") <= line.number("total_ms"));
        proxy
            .reload(&config.flows("session = \"oneshot\""))
            .unwrap();
        let client = udp::client(proxy.front());
        assert_eq!(udp::ask(&client, b""), b"a");
        let line = Line::of(&log.wait(2)[1]);
        assert_eq!((&*line.cause, line.number("bytes_to_client")), ("BN", 1));
        proxy.finish();
    });
}

#[test]
fn a_flow_that_moves_is_one_line_with_all_its_bytes() {
    let log = AccessLog::new();
    let backends = Echo::several(2, Family::V4);
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let config = Config::udp(Axis::PLAIN, &addresses).pool("balance = \"first\"");
    let config = config
        .flows("idle_timeout = \"1m\"")
        .global(&log.setting("text"));
    let proxy = Proxy::start(&config);
    let client = udp::client(proxy.front());
    assert_eq!(udp::ask(&client, b"12"), b"a12");
    proxy.reload(&config.clone().without("a")).unwrap();
    assert_eq!(udp::ask(&client, b"345"), b"b345");
    proxy
        .reload(
            &config
                .without("a")
                .listener("bind = \"127.0.0.1:0\"")
                .listener("protocol = \"tcp\""),
        )
        .unwrap();
    let line = Line::of(&log.wait(1)[0]);
    assert_eq!((&*line.cause, &*line.backend), ("ED", "pool/b"));
    assert_eq!(line.number("bytes_to_backend"), 5);
    assert_eq!(line.number("bytes_to_client"), 7);
    assert_eq!(line.number("attempts"), 2);
    proxy.finish();
}

#[test]
fn a_signal_opens_the_file_anew_and_no_line_is_lost() {
    let log = AccessLog::new();
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).global(&log.setting("text"));
    let proxy = Proxy::start(&config);
    let old = log.0.path().join("access.log.1");
    drop(served(proxy.front()));
    log.wait(1);
    fs::rename(log.path(), &old).unwrap();
    drop(served(proxy.front()));
    wait_lines(&old, 2);
    proxy.signal(Signal::SIGUSR1);
    until("a new file", || log.path().exists());
    for _ in 0..3 {
        drop(served(proxy.front()));
    }
    log.wait(3);
    assert_eq!(lines(&old).len(), 2);
    proxy.finish();
}

#[test]
fn a_reload_turns_it_on_and_off_and_to_another_file() {
    let (first, second) = (AccessLog::new(), AccessLog::new());
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let mut proxy = Proxy::start(&config);
    let unlogged = served(proxy.front());
    let with_first = config.clone().global(&first.setting("text"));
    proxy.reload(&with_first).unwrap();
    proxy.rebase();
    let mut kept = served(proxy.front());
    drop(unlogged);
    drop(served(proxy.front()));
    first.wait(1);
    // Nothing is opened anew for a change of something else.
    proxy.reload(&with_first.pool("retries = 1")).unwrap();
    drop(served(proxy.front()));
    first.wait(2);
    let nowhere = "access_log = { path = \"/nowhere/access.log\" }";
    let error = proxy.reload(&config.clone().global(nowhere)).unwrap_err();
    assert!(
        error.contains("cannot open /nowhere/access.log: No such file"),
        "{error}"
    );
    proxy.expect("cannot open /nowhere/access.log");
    proxy
        .reload(&config.clone().global(&second.setting("json")))
        .unwrap();
    ping(&mut kept).unwrap();
    drop(kept);
    let found = second.wait(1);
    assert!(found[0].starts_with("{\"time\":\""), "{found:#?}");
    assert_eq!(first.wait(2).len(), 2);
    proxy.reload(&config).unwrap();
    drop(served(proxy.front()));
    proxy.finish();
    assert_eq!(second.wait(1).len(), 1);
}

#[test]
fn res_20_a_log_that_nobody_reads_and_a_full_disk_hold_up_nobody() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let log_to = |path: &str| {
        config
            .clone()
            .global(&format!("access_log = {{ path = \"{path}\" }}"))
    };
    let (unread, full) = std::io::pipe().unwrap();
    fcntl(full.as_fd(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fill(&full);
    let mut proxy = Proxy::start_with(&log_to("-"), |mut command| {
        command.stdout(Stdio::from(full));
        command
    });
    // More lines than may wait.
    let front = proxy.front();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..2_300).for_each(|_| drop(served(front))));
        }
    });
    drop(served(proxy.front()));
    proxy
        .log
        .wait_text("its lines are not taken fast enough, some are lost");
    proxy.expect("its lines are not taken fast enough");
    proxy.reload(&log_to("/dev/full")).unwrap();
    proxy.rebase();
    drop(served(proxy.front()));
    proxy
        .log
        .wait_text("access log: cannot write to /dev/full: No space left on device");
    proxy.expect("access log: cannot write to /dev/full");
    drop(served(proxy.front()));
    drop(unread);
    proxy
        .log
        .wait_text("access log: cannot write to -: Broken pipe");
    proxy.expect("access log: cannot write to -");
    proxy.log.wait_text(" lines lost");
    proxy.expect(" lines lost");
    proxy.finish();
}

#[test]
fn reloads_leave_few_writers_behind_that_nobody_reads() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let as_format = |format: &str| {
        let setting = format!("access_log = {{ path = \"-\", format = \"{format}\" }}");
        config.clone().global(&setting)
    };
    let (unread, full) = std::io::pipe().unwrap();
    fcntl(full.as_fd(), FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    fill(&full);
    let mut proxy = Proxy::start_with(&as_format("text"), |mut command| {
        command.stdout(Stdio::from(full));
        command
    });
    let mut outcomes = ["json", "text"].iter().cycle().take(40).map(|format| {
        drop(served(proxy.front()));
        proxy.reload(&as_format(format))
    });
    let refused = outcomes.find_map(Result::err).unwrap();
    assert!(
        refused.contains("nobody takes the lines of those before"),
        "{refused}"
    );
    drop(outcomes);
    proxy.expect("nobody takes the lines of those before");
    drop(served(proxy.front()));
    drop(unread);
    proxy
        .log
        .wait_text("access log: cannot write to -: Broken pipe");
    proxy.expect("access log: cannot write to -");
    proxy.expect(" lost");
    proxy.reload(&config).unwrap();
    proxy.finish();
}

#[test]
fn a_sudden_stop_resets_what_workers_give_each_other_and_each_has_a_line() {
    let log = AccessLog::new();
    let address = Family::V4.any();
    let backend = Listening::with_backlog(address, 4_096);
    let four = Axis {
        workers: 4,
        ..Axis::PLAIN
    };
    let config = Config::of(four, &[backend.address]).global(&log.setting("text"));
    let path = log.0.path().join("front.sock");
    let config = config.listener(&format!("bind = \"unix:{}\"", path.display()));
    let mut proxy = Proxy::start(&config);
    // Stopped in the middle of a rush, of which every worker gives some to others.
    let clients = std::thread::scope(|scope| {
        let rush = || {
            let connect = |_| UnixStream::connect(&path).ok();
            let clients: Vec<_> = (0..1_000).map_while(connect).collect();
            clients
        };
        let rushes: Vec<_> = (0..4).map(|_| scope.spawn(rush)).collect();
        until("many sessions", || proxy.open_descriptors() > 1_000);
        proxy.signal(Signal::SIGINT);
        let clients = rushes.into_iter().map(|rush| rush.join().unwrap());
        clients.collect::<Vec<_>>()
    });
    proxy.wait_exit(crate::harness::DEADLINE);
    let mut accepted: Vec<_> = std::iter::from_fn(|| backend.try_accept()).collect();
    let ends: Vec<End> = accepted
        .iter_mut()
        .map(|server| read_all(server).1)
        .collect();
    assert!(!ends.is_empty() && !clients.is_empty());
    let finished = ends.iter().filter(|&&end| end == End::Fin).count();
    assert_eq!(finished, 0, "of {} at the backend", ends.len());
    let totals = proxy.log.find(0, |line| {
        let (_, counts) = line.split_once("listener \"front\": accepted ")?;
        counts.split(',').next()?.parse::<usize>().ok()
    });
    let told = lines(&log.path()).len();
    assert!(
        ends.len() <= told && told <= totals.unwrap(),
        "{} {told} {totals:?}",
        ends.len()
    );
}

/// Writes to a pipe until it takes nothing more.
fn fill(pipe: &std::io::PipeWriter) {
    let mut pipe = File::from(pipe.as_fd().try_clone_to_owned().unwrap());
    let set = |flags| fcntl(pipe.as_fd(), FcntlArg::F_SETFL(flags)).unwrap();
    set(OFlag::O_NONBLOCK);
    let mut taken = true;
    while taken {
        taken = (&pipe).write(&[b'\n'; 512]).is_ok();
    }
    set(OFlag::empty());
    drop(pipe.flush());
}
