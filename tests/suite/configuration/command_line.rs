//! The command line: exit codes, what a start that cannot be says, and the flags of the quick start.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::Signal;

use super::files::NOBODY;
use crate::harness::backend::listen;
use crate::harness::command::end_of;
use crate::harness::proxy::Folder;
use crate::harness::scale::skip;
use crate::harness::{Axis, Config, EVENKEEL, Family, Proxy, Tagged, evenkeel};

#[test]
fn cfg_10_help_names_what_there_is() {
    for (arguments, code) in [(&["--help"][..], 0), (&["-h"], 0), (&["help"], 0), (&[], 2)] {
        let outcome = evenkeel(arguments);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        let help = outcome.out + &outcome.err;
        assert!(help.contains("Usage: evenkeel"), "{help}");
        for command in ["run", "check", "demo"] {
            assert!(
                help.contains(&format!("\n  {command} ")),
                "{command}: {help}"
            );
        }
    }
    let help = evenkeel(["run", "--help"]);
    for flag in [
        "--config",
        "--listen",
        "--backend",
        "--balance",
        "--hash-key",
        "--health",
        "--health-interval",
        "--workers",
        "--drain-timeout",
        "--verbose",
    ] {
        assert!(
            help.out.contains(&format!("{flag} ")) || help.out.contains(&format!("{flag}.")),
            "{flag}"
        );
    }
    let version = evenkeel(["--version"]);
    assert_eq!(version.code, Some(0));
    assert_eq!(
        version.out,
        format!("evenkeel {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn cfg_05_wrong_use_ends_with_2() {
    for (arguments, expected) in [
        (&["fly"][..], "unrecognized subcommand 'fly'"),
        (&["chekc", "x.toml"], "a similar subcommand exists: 'check'"),
        (&["check"], "<FILE>"),
        (&["check", "a", "b"], "unexpected argument 'b'"),
        (
            &["run", "--liste", "tcp://127.0.0.1:0"],
            "a similar argument exists: '--listen'",
        ),
        (&["run", "-c", "x", "--workers", "2"], "cannot be used with"),
        (
            &["run"],
            "nothing to run: give -c FILE, or --listen and --backend",
        ),
        (
            &["run", "--listen", "tcp://127.0.0.1:0"],
            "--backend: missing",
        ),
        (&["run", "--backend", "127.0.0.1:1"], "--listen: missing"),
        (&["run", "--balance", "hash"], "--listen: missing"),
        (&["demo", "--seconds", "0"], "0 is not in 1..=86400"),
    ] {
        let outcome = evenkeel(arguments);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(
            outcome.err.contains(expected),
            "{expected}: {}",
            outcome.err
        );
        assert!(outcome.out.is_empty(), "{outcome:?}");
    }
}

/// A flag, a value that is wrong for it, and how the error begins.
const WRONG_FLAGS: &[(&str, &str, &str)] = &[
    (
        "--balance",
        "hsah",
        "--balance hsah: \"hsah\" is not known; did you mean \"hash\"?",
    ),
    (
        "--workers",
        "0",
        "--workers 0: `workers` is 0; write \"auto\" or a whole number",
    ),
    (
        "--hash-key",
        "cookie",
        "--hash-key cookie: \"cookie\" is no part of a key",
    ),
    (
        "--health",
        "http:health",
        "--health http:health: \"health\" is no path",
    ),
    (
        "--health",
        "tcp:80",
        "--health tcp:80: `type` is \"tcp:80\"; write \"tcp\", \"send_expect\", \"http\",",
    ),
    (
        "--health",
        "udp:53",
        "--health udp:53: `type` is \"udp:53\"; write \"tcp\", \"send_expect\", \"http\",",
    ),
    (
        "--health-interval",
        "2",
        "--health-interval 2: `interval` is \"2\"; write a duration",
    ),
    (
        "--drain-timeout",
        "9",
        "--drain-timeout 9: `drain_timeout` is \"9\"; write a duration",
    ),
    (
        "--backend",
        "b:1,weight=x",
        "--backend b:1,weight=x: `weight` is \"x\"; write a whole",
    ),
    (
        "--admin",
        "a.sock",
        "--admin a.sock: \"a.sock\" is not an absolute path; write /PATH",
    ),
    (
        "--http",
        "9910",
        "--http 9910: \"9910\" has no host and port; write IP:PORT",
    ),
];

#[test]
fn cfg_05_an_error_in_a_flag_names_the_flag() {
    let start = [
        "run",
        "--listen",
        "tcp://127.0.0.1:0",
        "--backend",
        "127.0.0.1:1",
    ];
    for &(flag, value, expected) in WRONG_FLAGS {
        let outcome = evenkeel(start.iter().chain(&[flag, value]));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(
            outcome.err.starts_with(expected),
            "{expected}\n{}",
            outcome.err
        );
        assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
    }
}

#[test]
fn cfg_05_what_is_planned_says_so() {
    for arguments in [
        &["top"][..],
        &["scale", "p", "auto"],
        &["simulate", "--trace", "steady"],
        &["upgrade"],
    ] {
        let outcome = evenkeel(arguments);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert_eq!(
            outcome.err,
            format!("evenkeel {}: not supported yet\n", arguments[0])
        );
    }
}

/// Fails unless a start with this configuration ends with 1 and one line that says all of
/// `expected`.
#[track_caller]
fn assert_fails(config: &Config, user: Option<u32>, expected: &[&str]) {
    let folder = Folder::new();
    std::fs::write(folder.config(), config.text()).unwrap();
    let mut command = Command::new(EVENKEEL);
    command.arg("run").arg("-c").arg(folder.config());
    if let Some(user) = user {
        command.uid(user).gid(user);
    }
    let outcome = end_of(command);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let is_harmless = |line: &&str| line.contains(" INFO ") || line.contains("running as root");
    let lines: Vec<&str> = outcome
        .err
        .lines()
        .filter(|line| !is_harmless(line))
        .collect();
    let [error] = lines[..] else {
        panic!("not one line: {lines:#?}")
    };
    for text in expected {
        assert!(error.contains(text), "no {text:?} in {error}");
    }
}

fn config() -> Config {
    Config::of(Axis::PLAIN, &["127.0.0.1:1".parse().unwrap()])
}

#[test]
fn cfg_01_an_address_that_cannot_be_bound_is_named() {
    let taken = listen(Family::V4.any());
    let address = taken.local_addr().unwrap();
    let folder = Folder::new();
    let socket = folder.path().join("front.sock");
    let bind = |address: &str| config().listener(&format!("bind = [{address}]"));
    assert_fails(
        &bind(&format!("\"unix:{}\", \"{address}\"", socket.display())),
        None,
        &[
            &format!("listener \"front\": bind {address}: Address already in use"),
            "; stop what listens there",
        ],
    );
    assert!(!socket.exists(), "what was bound before is gone");
    assert_fails(
        &bind("\"192.0.2.1:0\""),
        None,
        &[
            "listener \"front\": bind 192.0.2.1:0: ",
            "; no interface has this address",
        ],
    );
    assert_fails(
        &bind("\"unix:/no/such/folder/x.sock\""),
        None,
        &[
            "bind unix:/no/such/folder/x.sock: ",
            "; its directory does not exist",
        ],
    );
}

#[test]
fn cfg_01_a_privileged_port_asks_for_the_capability() {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim() == "0" {
        return skip(
            "cfg_01 (privileged port)",
            "every port is free for everyone here",
        );
    }
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "cfg_01 (privileged port)",
            "only root can become somebody else",
        );
    }
    assert_fails(
        &config().listener("bind = \"127.0.0.1:7\""),
        Some(NOBODY),
        &[
            "listener \"front\": bind 127.0.0.1:7: Permission denied",
            "CAP_NET_BIND_SERVICE",
        ],
    );
    assert_fails(
        &config().global("user = \"root\""),
        Some(NOBODY),
        &["global.user: Operation not permitted"],
    );
}

#[test]
fn cfg_01_what_this_machine_does_not_have_is_named() {
    let folder = Folder::new();
    let socket = folder.path().join("front.sock");
    let bound = config().listener(&format!("bind = \"unix:{}\"", socket.display()));
    for (key, name) in [("user", "no-such-user"), ("group", "no-such-group")] {
        assert_fails(
            &bound.clone().global(&format!("{key} = {name:?}")),
            None,
            &[&format!("global.{key}: no {key} \"{name}\"")],
        );
        assert!(!socket.exists(), "what was bound before is gone");
    }
    assert_fails(
        &bound.global("max_connections = 4000000000"),
        None,
        &["global.max_connections: 4000000000 is more than RLIMIT_NOFILE carries"],
    );
    assert!(!socket.exists(), "nothing was bound");
}

/// Apart from the others, because its name server may take its time.
#[test]
fn cfg_01_a_host_that_cannot_be_found_is_named() {
    assert_fails(
        &config().backend("nowhere.invalid:80"),
        None,
        &["backend \"pool/b\": address \"nowhere.invalid:80\" cannot be resolved: "],
    );
}

#[test]
fn cfg_10_flags_do_what_a_file_does() {
    let backends = Tagged::start(2);
    let [a, b] = backends.addresses()[..] else {
        unreachable!("two backends")
    };
    let folder = Folder::new();
    let socket = folder.path().join("front.sock");
    let mut command = Command::new(EVENKEEL);
    command
        .args(["run", "-v", "--listen", "tcp://127.0.0.1:0", "--listen"])
        .arg(format!("unix:{}", socket.display()))
        .args(["--backend", &format!("{a},name=one")])
        .args([
            "--backend",
            &format!("{b},weight=200,name=two,max_connections=1000"),
        ])
        .args([
            "--balance",
            "round_robin",
            "--health",
            "none",
            "--workers",
            "1",
        ])
        .args(["--drain-timeout", "3s"]);
    let mut proxy = Proxy::start_command(command, folder);
    let front = proxy.address("listen-1");
    // The weight of the first is the default one, 100.
    assert_eq!(backends.shares(front, 30), [10, 20]);
    assert!(socket.exists());
    assert!(proxy.reload_file().unwrap().contains("nothing changed"));
    assert_eq!(backends.shares(front, 3), [1, 2]);
    proxy.wait_quiet();
    // The drain time is that of the flag.
    let (_, held) = Tagged::ask(front);
    proxy.signal(Signal::SIGTERM);
    proxy.log.wait_text("stopping: 1 sessions have 3s to end");
    drop(held);
    assert!(proxy.wait_exit(crate::harness::DEADLINE).success());
    let totals = proxy.check_end();
    let sessions = ["default/one", "default/two"].map(|name| totals.backends[name]["sessions"]);
    assert_eq!(sessions.iter().sum::<u64>(), 30 + 3 + 1);
}
