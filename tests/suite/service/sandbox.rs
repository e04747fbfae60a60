//! What a process that serves has given up, and that it serves all the same.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use rcgen::{CertificateParams, KeyPair};

use super::privileges::{NONE, threads};
use super::{TWO_WORKERS, ping};
use crate::harness::proxy::Folder;
use crate::harness::{Config, Proxy, Served, connect, scale, until};

/// What the log says of the sandbox.
fn said(proxy: &Proxy) -> String {
    let lines = proxy.log.lines();
    let mut said = lines.iter().filter_map(|line| line.split_once("sandbox: "));
    let (_, said_once) = said.next().expect("a line about the sandbox");
    assert!(said.next().is_none(), "said twice: {lines:#?}");
    said_once.to_owned()
}

/// Whether the kernel has Landlock, by what the log says; a case that needs it is skipped otherwise.
fn has_landlock(proxy: &Proxy, case: &str) -> bool {
    let has = said(proxy).contains("landlock ABI ");
    if !has {
        scale::skip(case, "this kernel has no Landlock");
    }
    has
}

fn config(backend: &Served, sandbox: &str) -> Config {
    Config::of(TWO_WORKERS, &[backend.address]).global(&format!("sandbox = \"{sandbox}\""))
}

#[test]
fn sec_02_each_thread_is_confined_as_the_log_says() {
    let backend = Served::echo(TWO_WORKERS.family);
    for (sandbox, expected, mode) in [
        ("files", "no_new_privs, landlock ABI ", "0"),
        ("strict", "no_new_privs, landlock ABI ", "2"),
        (
            "off",
            "no_new_privs and nothing else: as the configuration asks",
            "0",
        ),
    ] {
        let mut config = config(&backend, sandbox).health("interval = \"50ms\"");
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            config = config.global("user = \"nobody\"");
        }
        let proxy = Proxy::start(&config);
        if sandbox != "off" && !has_landlock(&proxy, "sec_02") {
            proxy.finish();
            return;
        }
        let said = said(&proxy);
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(
            said.contains(" calls allowed"),
            sandbox == "strict",
            "{said}"
        );
        // What a reload starts is confined as well.
        proxy.reload(&config.clone().with("weight = 1")).unwrap();
        ping(&mut connect(proxy.front()));
        let threads = threads(proxy.id());
        assert!(threads.len() >= 4, "two workers, control and signals");
        for fields in threads {
            assert_eq!(fields["NoNewPrivs"], "1", "{fields:#?}");
            assert_eq!(fields["Seccomp"], mode, "{fields:#?}");
            if is_root {
                for kind in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                    assert_eq!(fields[kind], NONE, "{fields:#?}");
                }
            }
        }
        proxy.finish();
    }
}

#[test]
fn sec_02_a_service_is_confined_unless_it_is_told_otherwise() {
    let backend = Served::echo(TWO_WORKERS.family);
    let plain = Config::of(TWO_WORKERS, &[backend.address]).global("sandbox = \"auto\"");
    let by_hand = Proxy::start(&plain);
    assert!(said(&by_hand).contains("neither global.user nor a service manager"));
    by_hand.finish();
    let managed = Proxy::start_with(&plain, |mut command| {
        command.env("NOTIFY_SOCKET", "/nowhere/notify");
        command
    });
    has_landlock(&managed, "sec_02");
    managed.finish();
    if nix::unistd::geteuid().is_root() {
        let dropped = Proxy::start(&plain.global("user = \"nobody\""));
        has_landlock(&dropped, "sec_02");
        dropped.finish();
    }
}

#[test]
fn sec_02_whoever_is_not_root_keeps_only_what_a_reload_may_need() {
    const BIND: &str = "0000000000000400";
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("sec_02", "only root can hand down capabilities");
    }
    let backend = Served::echo(TWO_WORKERS.family);
    // As a unit would with more in AmbientCapabilities= than it should have.
    let proxy = Proxy::start_with(&config(&backend, "files"), |command| {
        let folder = Path::new(command.get_args().last().unwrap())
            .parent()
            .unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        let given = "+net_bind_service,+net_admin,+sys_ptrace";
        let mut inside = std::process::Command::new("setpriv");
        inside.args(["--reuid=65534", "--clear-groups"]);
        inside
            .arg(format!("--inh-caps={given}"))
            .arg(format!("--ambient-caps={given}"));
        inside.arg(command.get_program()).args(command.get_args());
        inside
    });
    ping(&mut connect(proxy.front()));
    let mut holders = 0;
    for fields in threads(proxy.id()) {
        let expected = if fields["Name"] == "signals" {
            NONE
        } else {
            BIND
        };
        holders += usize::from(expected == BIND);
        let held = ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|kind| fields[kind].as_str());
        assert_eq!(held, [NONE, expected, expected, NONE], "{fields:#?}");
    }
    assert!(holders >= 3, "two workers and control: {holders}");
    proxy.finish();
}

/// A file with the certificate of an authority.
fn authority(folder: &Path) -> PathBuf {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let path = folder.join("ca.pem");
    fs::write(&path, certificate.pem()).unwrap();
    path
}

/// The file of the proxy's configuration is replaced by a new one.
fn replace(proxy: &Proxy, config: &Config) {
    let new = proxy.folder().join("new");
    fs::write(&new, config.text()).unwrap();
    fs::rename(new, proxy.folder().join("evenkeel.toml")).unwrap();
}

#[test]
fn a_process_in_its_sandbox_does_all_that_it_did() {
    for sandbox in ["files", "strict"] {
        let backend = Served::echo(TWO_WORKERS.family);
        let (folder, places) = (Folder::new(), Folder::new());
        let logged = folder.path().join("access.log");
        let plain = config(&backend, sandbox)
            .global(&format!("access_log = {{ path = {logged:?} }}"))
            .also_listening(
                "first",
                &format!("\"unix:{}\"", places.path().join("first").display()),
            );
        let mut proxy = Proxy::start(&plain);
        ping(&mut connect(proxy.front()));
        ping(&mut UnixStream::connect(places.path().join("first")).unwrap());
        // A new file, with sockets beside what there was, a name to resolve and an authority.
        let beside = proxy.folder().join("beside");
        let admin = proxy.folder().join("admin");
        let more = plain
            .clone()
            .global(&format!("admin_socket = {admin:?}"))
            .backend("localhost:1")
            .with("weight = 0")
            .also_listening(
                "second",
                &format!("\"unix:{}\"", places.path().join("second").display()),
            )
            .also_listening("third", &format!("\"unix:{}\"", beside.display()))
            .health("type = \"tls\"")
            .health("interval = \"50ms\"")
            .health(&format!("tls_ca = {:?}", authority(proxy.folder())));
        replace(&proxy, &more);
        proxy.expect("is down");
        proxy.reload_file().unwrap();
        proxy.log.wait_text("backend \"pool/a\" is down");
        let mode = fs::metadata(&admin).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for path in [places.path().join("second"), beside.clone()] {
            ping(&mut UnixStream::connect(path).unwrap());
        }
        proxy.reload(&plain).unwrap();
        until("the socket's file is removed", || !beside.exists());
        // The log goes on under its name after it was renamed.
        proxy.wait_quiet();
        fs::rename(&logged, folder.path().join("before.log")).unwrap();
        proxy.signal(Signal::SIGUSR1);
        proxy.log.wait_text("opened anew");
        ping(&mut connect(proxy.front()));
        until("a line", || {
            fs::read_to_string(&logged).is_ok_and(|text| !text.is_empty())
        });
        proxy.finish();
    }
}

#[test]
fn a_reload_beyond_the_sandbox_changes_nothing_and_says_why() {
    let backend = Served::echo(TWO_WORKERS.family);
    let elsewhere = Folder::new();
    let log = elsewhere.path().join("access.log");
    let socket = elsewhere.path().join("socket");
    let authority = authority(elsewhere.path());
    for sandbox in ["files", "off"] {
        let plain = config(&backend, sandbox);
        let mut proxy = Proxy::start(&plain);
        if sandbox == "files" && !has_landlock(&proxy, "a_reload_beyond_the_sandbox") {
            proxy.finish();
            return;
        }
        for (config, expected) in [
            (
                plain
                    .clone()
                    .global(&format!("access_log = {{ path = {log:?} }}")),
                "cannot open",
            ),
            (
                plain
                    .clone()
                    .also_listening("socket", &format!("\"unix:{}\"", socket.display())),
                "listener \"socket\"",
            ),
            (
                plain
                    .clone()
                    .health("type = \"tls\"")
                    .health(&format!("tls_ca = {authority:?}")),
                "tls_ca",
            ),
            (
                plain.clone().global("exec_probes = true"),
                "global.exec_probes",
            ),
        ] {
            proxy.expect("reload failed");
            proxy.expect("is down");
            let outcome = proxy.reload(&config);
            if sandbox == "off" {
                outcome.unwrap();
                continue;
            }
            let error = outcome.unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(
                error.contains("sandbox") && error.contains("restart"),
                "{error}"
            );
            ping(&mut connect(proxy.front()));
        }
        proxy.finish();
    }
}

#[test]
fn with_programs_to_run_there_is_no_sandbox_and_it_says_so() {
    let backend = Served::echo(TWO_WORKERS.family);
    let folder = Folder::new();
    let ran = folder.path().join("ran");
    let config = config(&backend, "strict")
        .global("exec_probes = true")
        .health("type = \"exec\"")
        .health(&format!("command = [\"/usr/bin/touch\", {ran:?}]"))
        .health("interval = \"50ms\"");
    let proxy = Proxy::start(&config);
    until("it runs", || ran.exists());
    let said = said(&proxy);
    assert!(said.contains("exec_probes lets programs run"), "{said}");
    let mut text = String::new();
    let mut file = fs::File::open(format!("/proc/{}/status", proxy.id())).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert!(text.contains("\nSeccomp:\t0\n"), "{text}");
    connect(proxy.front()).write_all(b"x").unwrap();
    proxy.finish();
}
