//! Reloads that fail: nothing has changed then, and the next good one works.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nix::sys::signal::Signal;

use super::{TWO_WORKERS, ask, exchange};
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, Proxy, Served, Tagged, connect, process, scale};

/// Something that can be wrong with a file, how it comes to be, and what the log must say.
type Bad = (&'static str, fn(&Path, &str), &'static str);

const BAD_FILES: &[Bad] = &[
    (
        "a syntax error",
        |path, text| write(path, &text.replacen("[[listener]]", "[[listener]", 1)),
        "evenkeel.toml:",
    ),
    (
        "an unknown key",
        |path, text| write(path, &text.replacen("workers", "wrokers", 1)),
        "evenkeel.toml:2:1: `wrokers` is no key of [global]; did you mean `workers`?",
    ),
    (
        "no file",
        |path, _| fs::remove_file(path).unwrap(),
        "evenkeel.toml: cannot be read: No such file",
    ),
    (
        "a file that may not be read",
        |path, text| {
            write(path, text);
            fs::set_permissions(path, fs::Permissions::from_mode(0o200)).unwrap();
        },
        "evenkeel.toml: cannot be read: Permission denied",
    ),
    (
        "an empty file",
        |path, _| write(path, ""),
        "evenkeel.toml:1:1: ",
    ),
    (
        "a file of 100 MB",
        |path, text| {
            write(path, text);
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(100 << 20).unwrap();
        },
        "the file is longer than",
    ),
    (
        "binary junk",
        |path, _| fs::write(path, [0x7f, b'E', b'L', b'F', 2, 1, 0xff, 0, 0x80]).unwrap(),
        "evenkeel.toml:1:7: this is not UTF-8 text; save the file as UTF-8",
    ),
    (
        "a folder",
        |path, _| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        },
        "evenkeel.toml: cannot be read: Is a directory",
    ),
    (
        "a link to nowhere",
        |path, _| {
            fs::remove_file(path).unwrap();
            std::os::unix::fs::symlink("nowhere", path).unwrap();
        },
        "evenkeel.toml: cannot be read: No such file",
    ),
    (
        "a host name that does not exist",
        |path, text| write(path, &text.replacen("127.0.0.1:", "no such host:", 2)),
        "evenkeel.toml:",
    ),
];

#[test]
fn rld_05_a_bad_file_changes_nothing_and_the_next_good_one_applies() {
    // Root reads everything, so the proxy is somebody else as soon as it serves.
    let is_root = nix::unistd::geteuid().is_root();
    let backends = Tagged::start(2);
    let of = |name: &str| {
        let other = if name == "a" { "b" } else { "a" };
        let config = Config::of(TWO_WORKERS, &backends.addresses()).without(other);
        if is_root {
            config.global("user = \"nobody\"")
        } else {
            config
        }
    };
    let mut proxy = Proxy::start(&of("a"));
    proxy.expect("reload failed");
    let path = proxy.folder().join("evenkeel.toml");
    let mut session = connect(proxy.front());
    assert_eq!(Tagged::read_tag(&mut session), 0);
    let descriptors = proxy.open_descriptors();
    for (turn, (what, make, reason)) in BAD_FILES.iter().enumerate() {
        let (now, next) = if turn % 2 == 0 {
            ("a", "b")
        } else {
            ("b", "a")
        };
        println!("{what}");
        make(&path, &of(next).text());
        let mark = proxy.log.mark();
        let error = proxy.reload_file().expect_err(what);
        assert!(
            error.contains(&format!("generation {} stays in force", turn + 1)),
            "{error}"
        );
        proxy
            .log
            .wait(mark, reason, |line| line.contains(reason).then_some(()));
        assert_eq!(ask(proxy.front()), Ok(turn % 2), "{what}: {now} serves");
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        proxy.reload(&of(next)).expect(what);
        assert_eq!(
            ask(proxy.front()),
            Ok(1 - turn % 2),
            "{what}: {next} serves"
        );
    }
    super::until("sessions have ended", || {
        proxy.open_descriptors() == descriptors
    });
    crate::harness::stream::is_silent_for(&mut session, std::time::Duration::from_millis(1));
    drop(session);
    proxy.finish();
}

#[test]
fn rld_06_an_address_taken_refuses_the_whole_file() {
    let backends = Tagged::start(2);
    let folder = Folder::new();
    let socket = folder.path().join("socket");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    // A stranger that would share its port is in the way as well.
    let shared = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    shared.set_reuse_port(true).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    shared.bind(&any.into()).unwrap();
    shared.listen(1).unwrap();
    let shared = TcpListener::from(shared);
    let old = Config::of(TWO_WORKERS, &backends.addresses()).without("b");
    let new = Config::of(TWO_WORKERS, &backends.addresses())
        .without("a")
        .also_listening(
            "extra",
            &format!("[\"127.0.0.1:0\", \"unix:{}\"]", socket.display()),
        );
    let mut proxy = Proxy::start(&old);
    proxy.expect("reload failed");
    let before = process::descriptors(proxy.id());
    for other in [&taken, &shared] {
        let address = other.local_addr().unwrap();
        let config = new
            .clone()
            .also_listening("late", &format!("\"{address}\""));
        for _ in 0..10 {
            let error = proxy.reload(&config).unwrap_err();
            let what = format!("listener \"late\": bind {address}: Address already in use");
            assert!(error.contains(&what), "{error}");
            assert!(error.contains("stop what listens there"), "{error}");
        }
        assert!(proxy.addresses("extra").is_empty());
        assert!(!socket.exists(), "the file of the listener before it");
        assert_eq!(ask(proxy.front()), Ok(0), "the backends are the old ones");
        assert_eq!(process::listening_inodes(address).len(), 1);
    }
    super::until("no descriptor is left", || {
        process::descriptors(proxy.id()) == before
    });
    let address = taken.local_addr().unwrap();
    drop(taken);
    proxy
        .reload(&new.also_listening("late", &format!("\"{address}\"")))
        .unwrap();
    assert_eq!(ask(address), Ok(1));
    assert_eq!(ask(proxy.address("extra")), Ok(1));
    proxy.reload(&old).unwrap(); // so that the descriptors are those of the start
    proxy.finish();
}

#[test]
fn rld_07_a_port_that_needs_lost_privileges_refuses_the_whole_file() {
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("rld_07", "only root has privileges to lose");
    }
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let first: u16 = first.trim().parse().unwrap();
    // Bound once to see that nobody has it.
    let Some(port) = (1..first)
        .rev()
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
    else {
        return scale::skip("rld_07", "this machine lets everybody bind every port");
    };
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]).global("user = \"nobody\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("reload failed");
    let before = process::descriptors(proxy.id());
    let error = proxy
        .reload(
            &config
                .also_listening("extra", "\"127.0.0.1:0\"")
                .also_listening("low", &format!("\"127.0.0.1:{port}\"")),
        )
        .unwrap_err();
    for part in [
        format!("listener \"low\": bind 127.0.0.1:{port}: Permission denied"),
        "CAP_NET_BIND_SERVICE or socket activation".to_owned(),
    ] {
        assert!(error.contains(&part), "{error}");
    }
    assert!(proxy.addresses("extra").is_empty());
    assert_eq!(process::descriptors(proxy.id()), before);
    exchange(proxy.front(), 0).unwrap();
    proxy.finish();
}

#[test]
fn rld_08_many_bad_files_and_then_a_good_one() {
    let backends = Tagged::start(2);
    let config = Config::of(Axis::PLAIN, &backends.addresses());
    let mut proxy = Proxy::start(&config.clone().without("b"));
    proxy.expect("reload failed");
    proxy.write(b"[global]\nworkers = 0\n");
    for _ in 0..10 {
        proxy.reload_file().unwrap_err();
    }
    proxy.reload(&config.without("a")).unwrap();
    assert_eq!(ask(proxy.front()), Ok(1));
    proxy.finish();
}

#[test]
fn what_takes_a_restart_is_refused_and_says_so() {
    let backends = Tagged::start(2);
    let config = Config::of(Axis::PLAIN, &backends.addresses());
    let mut proxy = Proxy::start(&config.clone().without("b"));
    proxy.expect("reload failed");
    for (setting, change) in [
        ("workers = 2", "global: workers 1 → 2 (takes a restart)"),
        (
            "splice = \"off\"",
            "global: splice auto → off (takes a restart)",
        ),
        ("user = \"nobody\"", "(takes a restart)"),
    ] {
        let error = proxy
            .reload(&config.clone().without("a").global(setting))
            .unwrap_err();
        assert!(error.contains(change), "{error}");
        assert_eq!(ask(proxy.front()), Ok(0), "the backends are the old ones");
    }
    let workers = fs::read_dir(format!("/proc/{}/task", proxy.id())).unwrap();
    let is_worker = |entry: &fs::DirEntry| {
        fs::read_to_string(entry.path().join("comm"))
            .unwrap()
            .starts_with("worker-")
    };
    assert_eq!(workers.flatten().filter(is_worker).count(), 1);
    proxy.finish();
}

/// A pipe that nobody writes to, as a disk that does not answer.
#[test]
fn a_file_that_cannot_be_read_in_time_is_given_up_and_a_later_one_applies() {
    let backends = Tagged::start(2);
    let config = Config::of(TWO_WORKERS, &backends.addresses());
    let mut proxy = Proxy::start(&config.clone().without("b"));
    proxy.expect("reload failed");
    let path = proxy.folder().join("evenkeel.toml");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
    proxy.signal(Signal::SIGHUP);
    // It is open for reading as soon as it can be opened for writing; nothing is written.
    let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
    proxy.write(config.without("a").text().as_bytes());
    proxy.signal(Signal::SIGHUP);
    assert_eq!(ask(proxy.front()), Ok(0));
    proxy
        .log
        .wait_text("evenkeel.toml: cannot be read: timed out");
    super::until("the file that came after it", || {
        ask(proxy.front()) == Ok(1)
    });
    drop(writer);
    proxy.finish();
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
