//! The unit for systemd, and `scripts/install`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{TWO_WORKERS, ping};
use crate::harness::namespace::has;
use crate::harness::proxy::Folder;
use crate::harness::{Config, EVENKEEL, Proxy, Served, connect, scale, until};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn unit() -> String {
    fs::read_to_string(repository("conf/evenkeel.service")).unwrap()
}

/// What `systemd-analyze security` says of a unit: its exposure, and the whole text.
fn exposure(unit: &Path) -> (f64, String) {
    let mut analyze = Command::new("systemd-analyze");
    analyze
        .args(["security", "--offline=true", "--no-pager"])
        .arg(unit);
    let text = text_of(&analyze.output().unwrap());
    let (_, rest) = text.split_once("exposure level for ").expect("a verdict");
    let (_, rest) = rest.split_once(": ").expect("a number");
    let number = rest.split_whitespace().next().unwrap();
    (number.parse().unwrap(), text)
}

fn text_of(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).unwrap()
}

#[test]
fn the_unit_exposes_little() {
    if !has("systemd-analyze") {
        return scale::skip(
            "the_unit_exposes_little",
            "systemd-analyze is not installed",
        );
    }
    let folder = Folder::new();
    let (with_capability, text) = exposure(&repository("conf/evenkeel.service"));
    assert!(with_capability <= 1.6, "{text}");
    // As conf/evenkeel.socket says.
    let path = folder.path().join("evenkeel.service");
    let without = unit()
        .lines()
        .filter(|line| !line.contains("=CAP_NET_BIND_SERVICE"))
        .map(|line| match line {
            "[Service]" => "[Service]\nCapabilityBoundingSet=\nPrivateUsers=yes\n",
            line => line,
        })
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(&path, without).unwrap();
    let (without_capability, text) = exposure(&path);
    assert!(without_capability <= 1.1, "{text}");
}

#[test]
fn the_units_have_no_mistakes() {
    if !has("systemd-analyze") {
        return scale::skip(
            "the_units_have_no_mistakes",
            "systemd-analyze is not installed",
        );
    }
    let folder = Folder::new();
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no"]);
    for name in ["evenkeel.service", "evenkeel.socket"] {
        let text = fs::read_to_string(repository("conf").join(name)).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, text.replace("/usr/local/bin/evenkeel", EVENKEEL)).unwrap();
        analyze.arg(path);
    }
    let output = analyze.output().unwrap();
    // The one line that systemd before 253 has to say.
    let is_known = |line: &&str| line.ends_with("ignoring: notify-reload");
    let text = text_of(&output);
    let mistakes: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("evenkeel") && !is_known(line))
        .collect();
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert!(output.status.success(), "{text}");
}

/// Everything the unit lets the process call, names of sets resolved.
fn allowed_calls() -> BTreeSet<String> {
    let mut allowed = expand("@default");
    for line in unit().lines() {
        let Some(names) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        let (names, forbids) = match names.strip_prefix('~') {
            Some(names) => (names, true),
            None => (names, false),
        };
        for name in names.split_whitespace() {
            for call in expand(name) {
                if forbids {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    allowed
}

fn expand(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["--no-pager", "syscall-filter", name]);
    let text = text_of(&analyze.output().unwrap());
    text.lines()
        .filter(|line| line.starts_with(' '))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .flat_map(expand)
        .collect()
}

#[test]
fn the_unit_lets_it_do_all_that_it_does() {
    const CASE: &str = "the_unit_lets_it_do_all_that_it_does";
    if !has("systemd-analyze") || !has("strace") {
        return scale::skip(CASE, "systemd-analyze or strace is not installed");
    }
    let allowed = allowed_calls();
    assert!(
        allowed.len() > 100 && !allowed.contains("setuid"),
        "{allowed:?}"
    );
    let backend = Served::echo(TWO_WORKERS.family);
    let axis = crate::harness::Axis {
        splice: "always",
        ..TWO_WORKERS
    };
    let folder = Folder::new();
    let path = folder.path().join("socket");
    let trace = folder.path().join("trace");
    let config = Config::of(axis, &[backend.address])
        .global(&format!("user = \"{}\"", somebody()))
        .backend("localhost:1") // a name to resolve
        .pool("balance = \"first\"")
        .health("interval = \"50ms\"");
    let with_socket = config
        .clone()
        .also_listening("socket", &format!("\"unix:{}\"", path.display()));
    fs::write(folder.config(), config.text()).unwrap();
    let mut proxy = Proxy::start_command(traced(&folder, &trace), folder);
    proxy.expect("backend \"pool/b\" is down");
    let mut session = connect(proxy.front());
    ping(&mut session);
    proxy.reload(&with_socket).unwrap();
    ping(&mut std::os::unix::net::UnixStream::connect(&path).unwrap());
    proxy.reload(&config).unwrap();
    ping(&mut session);
    proxy.signal(nix::sys::signal::Signal::SIGTERM);
    drop(session);
    assert!(proxy.wait_exit(crate::harness::DEADLINE).success());
    proxy.check_end();
    let called = calls_in(&trace, proxy.id());
    for name in ["splice", "accept4", "prlimit64"] {
        assert!(called.contains(name), "{name} is not among {called:?}");
    }
    let forbidden: Vec<_> = called.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}

/// Whom the proxy runs as: in the unit it is somebody from its start, and its file may say so.
fn somebody() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    let user = user.filter(|user| !user.uid.is_root());
    user.map_or_else(|| "nobody".to_owned(), |user| user.name)
}

/// A command that writes down what the proxy calls. strace is its grandchild, so that the process
/// itself is the proxy.
fn traced(folder: &Folder, trace: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-q", "-o"]).arg(trace);
    if nix::unistd::geteuid().is_root() {
        strace.args(["-u", &somebody()]);
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    }
    strace.args([EVENKEEL, "run", "-c"]).arg(folder.config());
    strace.stdin(Stdio::null()).stdout(Stdio::null());
    strace.env_remove("NOTIFY_SOCKET");
    strace
}

/// The system calls that strace has seen of process `id`, once it has seen its end.
fn calls_in(trace: &Path, id: u32) -> BTreeSet<String> {
    let mut text = String::new();
    until("the end of the trace", || {
        text = fs::read_to_string(trace).unwrap();
        let mut lines = text.lines();
        lines.any(|line| line.starts_with(&format!("{id} ")) && line.ends_with("exited with 0 +++"))
    });
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.lines()
        .filter_map(|line| line.split_once(' ')?.1.trim().split_once('('))
        .filter(|(name, _)| name.chars().all(is_name))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Runs `scripts/install` below a folder.
fn install(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(repository("scripts/install"));
    command
        .args(arguments)
        .env("DESTDIR", folder)
        .env_remove("PREFIX");
    command.output().unwrap()
}

/// Every file below a folder, with its mode and its text as far as it is text.
fn tree(folder: &Path) -> Vec<(String, u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8(text).unwrap_or_default();
            found.push((path.display().to_string(), mode, text));
        }
    }
    found.sort();
    found
}

#[test]
fn installing_twice_is_like_once_and_can_be_undone() {
    let folder = Folder::new();
    let root = folder.path();
    let path = |path: &str| root.join(path).display().to_string();
    let output = install(root, &["--binary", EVENKEEL]);
    let text = text_of(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("systemctl enable --now evenkeel"), "{text}");
    let installed = tree(root);
    let modes: Vec<(&str, u32)> = installed
        .iter()
        .map(|(path, mode, _)| (path.as_str(), *mode))
        .filter(|(path, _)| !path.contains("service.d")) // only beside an old systemd
        .collect();
    let expected = [
        (path("etc/evenkeel/evenkeel.toml"), 0o644),
        (path("etc/systemd/system/evenkeel.service"), 0o644),
        (path("usr/local/bin/evenkeel"), 0o755),
    ];
    assert_eq!(
        modes,
        expected
            .each_ref()
            .map(|(path, mode)| (path.as_str(), *mode))
    );
    assert_eq!(
        fs::read_to_string(path("etc/systemd/system/evenkeel.service")).unwrap(),
        unit()
    );
    let version = Command::new(path("usr/local/bin/evenkeel"))
        .arg("--version")
        .output()
        .unwrap();
    assert!(version.status.success());
    // The second time nothing changes, least of all what the operator has written.
    let own = fs::read_to_string(path("etc/evenkeel/evenkeel.toml")).unwrap() + "# mine\n";
    fs::write(path("etc/evenkeel/evenkeel.toml"), &own).unwrap();
    let before = tree(root);
    let output = install(root, &["--binary", EVENKEEL]);
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(tree(root), before);
    // A file that the new binary refuses stops it before anything is replaced.
    fs::write(
        path("etc/evenkeel/evenkeel.toml"),
        "[global]\nwrokers = 1\n",
    )
    .unwrap();
    fs::remove_file(path("usr/local/bin/evenkeel")).unwrap();
    let output = install(root, &["--binary", EVENKEEL]);
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("evenkeel.toml:2:1: `wrokers` is no key"),
        "{text}"
    );
    assert!(!root.join("usr/local/bin/evenkeel").exists());
    fs::write(path("etc/evenkeel/evenkeel.toml"), &own).unwrap();
    assert!(install(root, &["--binary", EVENKEEL]).status.success());
    for _ in 0..2 {
        let output = install(root, &["--uninstall"]);
        assert!(output.status.success(), "{}", text_of(&output));
        let left = tree(root);
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(
            (&left[0].0, &left[0].2),
            (&path("etc/evenkeel/evenkeel.toml"), &own)
        );
    }
}

#[test]
fn an_installation_elsewhere_names_its_binary_in_the_unit() {
    let folder = Folder::new();
    let mut command = Command::new(repository("scripts/install"));
    command.args(["--binary", EVENKEEL]);
    command
        .env("DESTDIR", folder.path())
        .env("PREFIX", "/opt/evenkeel");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(folder.path().join("opt/evenkeel/bin/evenkeel").exists());
    let unit = folder.path().join("etc/systemd/system/evenkeel.service");
    let unit = fs::read_to_string(unit).unwrap();
    assert!(
        unit.contains("\nExecStart=/opt/evenkeel/bin/evenkeel run -c /etc/"),
        "{unit}"
    );
    for wrong in [&["--binary"][..], &["--binary", "/nowhere"], &["--colour"]] {
        let output = install(folder.path(), wrong);
        assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    }
}
