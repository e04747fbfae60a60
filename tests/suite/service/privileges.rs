//! What a process that serves can still do, and what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::process::Command;

use super::{TWO_WORKERS, ping};
use crate::harness::{Config, Listening, Proxy, Served, connect, connect_from, process, scale};

#[test]
fn sec_01_nothing_is_left_of_root_in_any_thread() {
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("sec_01", "only root has privileges to lose");
    }
    let backend = Served::echo(TWO_WORKERS.family);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    // A group that root has by any name must go as well.
    let config = Config::of(TWO_WORKERS, &[backend.address])
        .global("user = \"nobody\"")
        .health("interval = \"50ms\"");
    let proxy = Proxy::start_with(&config, |command| super::with_groups(&command, "0,1,2,3"));
    // A reload may start threads.
    proxy.reload(&config.with("weight = 1")).unwrap();
    ping(&mut connect(proxy.front()));
    let four = |number: u32| [number; 4].map(|number| number.to_string()).join("\t");
    let threads = threads(proxy.id());
    assert!(threads.len() >= 4, "two workers, control and signals");
    for fields in threads {
        for (key, expected) in [
            ("Uid", four(nobody.uid.as_raw())),
            ("Gid", four(nobody.gid.as_raw())),
            ("Groups", String::new()),
            ("CapInh", NONE.to_owned()),
            ("CapPrm", NONE.to_owned()),
            ("CapEff", NONE.to_owned()),
            ("CapAmb", NONE.to_owned()),
            ("NoNewPrivs", "1".to_owned()),
        ] {
            assert_eq!(fields[key], expected, "{key} of {fields:#?}");
        }
    }
    proxy.finish();
}

/// What the kernel says of each thread of process `id`.
pub(super) fn threads(id: u32) -> Vec<BTreeMap<String, String>> {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let fields = |task: fs::DirEntry| {
        // A thread that ends meanwhile has nothing at all.
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        Some(
            lines
                .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
                .collect(),
        )
    };
    tasks.flatten().filter_map(fields).collect()
}

/// No capability, as the kernel shows it.
pub(super) const NONE: &str = "0000000000000000";

#[test]
fn con_20_only_the_one_capability_is_kept_and_only_where_it_is_used() {
    const NET_ADMIN: &str = "0000000000001000";
    const NET_RAW: &str = "0000000000002000";
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("con_20", "only root has privileges to lose");
    }
    let backend = Listening::start(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address])
        .global("user = \"nobody\"")
        .pool("source = \"client\"");
    for (without, kept) in [("-sys_admin", NET_ADMIN), ("-net_admin", NET_RAW)] {
        let proxy = Proxy::start_with(&config, |command| {
            let mut inside = Command::new("setpriv");
            inside.arg(format!("--bounding-set={without}"));
            inside.arg(command.get_program()).args(command.get_args());
            inside
        });
        proxy.reload(&config.clone().with("weight = 1")).unwrap();
        let client = connect_from([127, 0, 0, 9].into(), proxy.front()).unwrap();
        let server = backend.accept();
        assert_eq!(
            server.peer_addr().unwrap().ip(),
            IpAddr::from([127, 0, 0, 9])
        );
        let mut holders = 0;
        for fields in threads(proxy.id()) {
            let held = ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|key| fields[key].as_str());
            let held_by_it = match fields["Name"].as_str() {
                "signals" => NONE,
                // It reads files for control, and may be older than the change of the account.
                "tokio-rt-worker" if fields["CapEff"] == NONE => NONE,
                _ => kept,
            };
            holders += usize::from(held_by_it == kept);
            assert_eq!(held, [NONE, held_by_it, held_by_it, NONE], "{fields:#?}");
            assert_eq!(fields["NoNewPrivs"], "1");
            assert!(!fields["Uid"].contains('0'), "{}", fields["Uid"]);
        }
        assert!(holders >= 3, "two workers and control: {holders}");
        drop((client, server));
        proxy.finish();
    }
}

#[test]
fn sec_01_without_a_user_it_warns_and_gains_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("sec_01", "only root is warned");
    }
    let backend = Served::echo(TWO_WORKERS.family);
    let proxy = Proxy::start(&Config::of(TWO_WORKERS, &[backend.address]));
    assert_eq!(proxy.log.count("running as root: set global.user"), 1);
    assert_eq!(process::status(proxy.id(), "NoNewPrivs:"), "1");
    proxy.finish();
}

#[test]
fn an_account_that_does_not_exist_is_an_error_before_anybody_is_served() {
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("an_account", "only root can become somebody");
    }
    let folder = crate::harness::proxy::Folder::new();
    let path = folder.path().join("socket");
    let config = Config::new(TWO_WORKERS)
        .backend("127.0.0.1:1")
        .also_listening("socket", &format!("\"unix:{}\"", path.display()))
        .global("user = \"no-such-user\"");
    fs::write(folder.config(), config.text()).unwrap();
    let mut command = Command::new(crate::harness::EVENKEEL);
    command.arg("run").arg("-c").arg(folder.config());
    let output = command.output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(
        log.contains("global.user: no user \"no-such-user\""),
        "{log}"
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(!path.exists(), "the socket's file is gone");
}

#[test]
fn sec_03_at_rest_it_holds_what_it_needs_and_hands_nothing_on() {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]).health("interval = \"50ms\"");
    let proxy = Proxy::start(&config);
    let sockets = || {
        let listening = process::listening_inodes(proxy.front());
        listening
            .iter()
            .map(|inode| format!("socket:[{inode}]"))
            .collect::<Vec<_>>()
    };
    for round in 0..2 {
        ping(&mut connect(proxy.front()));
        proxy.wait_quiet();
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for line in process::descriptor_list(proxy.id()) {
            let (number, target) = line.split_once(" -> ").unwrap();
            let is_standard = number.parse::<u32>().unwrap() < 3;
            let of = |id: &str| is_kept_at_exec(&format!("/proc/{id}/fdinfo/{number}"));
            let is_kept = of(&proxy.id().to_string()).unwrap_or(false);
            // What the suite itself was started with goes down to every process.
            if is_kept && !is_standard && of("self") == Some(true) {
                continue;
            }
            assert!(!is_kept || is_standard, "{line} outlives an exec");
            let kind = match target {
                _ if is_standard => "standard",
                _ if sockets().iter().any(|socket| socket == target) => "listening",
                _ if target.starts_with("socket:") => "socket",
                _ if target.starts_with("pipe:") => "pipe",
                "anon_inode:[eventpoll]" => "epoll",
                "anon_inode:[eventfd]" => "eventfd",
                other => panic!("{number} is {other}"),
            };
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        println!("{kinds:?}");
        assert_eq!(kinds["listening"], 2, "one for each worker");
        // Each worker and the control plane have one; the control plane registers a copy of it.
        assert!((3..=4).contains(&kinds["epoll"]), "{kinds:?}");
        assert!((3..=4).contains(&kinds["eventfd"]), "{kinds:?}");
        // Signals take a pair, tokio's own may take another, and a probe is under way.
        assert!(
            kinds.get("socket").is_none_or(|&count| count <= 5),
            "{kinds:?}"
        );
        if round == 0 {
            proxy.reload(&config.clone().with("weight = 1")).unwrap();
        }
    }
    proxy.finish();
}

/// Whether a descriptor is handed on when a file is executed; `None` if it is closed by now.
fn is_kept_at_exec(info: &str) -> Option<bool> {
    let text = fs::read_to_string(info).ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = u32::from_str_radix(flags.expect("they are always there").trim(), 8);
    Some(flags.expect("octal") & O_CLOEXEC == 0)
}

/// As the kernel shows it in /proc/ID/fdinfo.
const O_CLOEXEC: u32 = 0o2_000_000;
