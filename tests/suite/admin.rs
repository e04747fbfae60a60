//! The admin socket itself: who may open it, what it takes, and who has done what. Conformance K.
//! The commands that use it are in the files below.

mod backends;
mod explain;
mod plan;
mod sessions;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::command::end_of;
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, EVENKEEL, Proxy, Rng, Served, connect, evenkeel, scale, until};

const TWO_WORKERS: Axis = Axis {
    workers: 2,
    ..Axis::PLAIN
};

#[track_caller]
fn ping(stream: &mut TcpStream) {
    crate::harness::ping(stream).expect("an echo");
}

fn start() -> (Proxy, Served) {
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]).admin();
    (Proxy::start(&config), backend)
}

#[test]
fn adm_01_the_socket_is_for_the_user_of_the_process_alone() {
    let (proxy, _backend) = start();
    let file = std::fs::symlink_metadata(proxy.admin()).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let socket = proxy.admin();
    proxy.finish();
    assert!(!socket.exists(), "it is removed at the end");
}

#[test]
fn adm_01_the_socket_belongs_to_whom_the_process_becomes() {
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("adm_01", "only root can become somebody else");
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let backend = Served::echo(TWO_WORKERS.family);
    let config = Config::of(TWO_WORKERS, &[backend.address]).admin();
    let mut proxy = Proxy::start(&config.global("user = \"nobody\""));
    let file = std::fs::symlink_metadata(proxy.admin()).unwrap();
    let found = (file.permissions().mode() & 0o777, file.uid(), file.gid());
    assert_eq!(found, (0o600, nobody.uid.as_raw(), nobody.gid.as_raw()));
    // Its own user may ask, and another one may not.
    let mut ask = Command::new("setpriv");
    ask.args([
        "--reuid=nobody",
        "--clear-groups",
        EVENKEEL,
        "status",
        "--admin",
    ]);
    let outcome = end_of({
        ask.arg(proxy.admin());
        ask
    });
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let mut ask = Command::new("setpriv");
    ask.args(["--reuid=1", "--clear-groups", EVENKEEL, "status", "--admin"]);
    ask.arg(proxy.admin());
    let outcome = end_of(ask);
    assert_eq!(outcome.code, Some(4), "{outcome:?}");
    assert!(outcome.err.contains("Permission denied"), "{outcome:?}");
    // Its folder belongs to root, so it cannot be removed.
    proxy.expect("admin.sock: cannot be removed: Permission denied");
    proxy.finish();
}

#[test]
fn adm_01_a_live_socket_is_left_alone_and_a_stale_one_replaced() {
    let (proxy, _backend) = start();
    let folder = Folder::new();
    let config = Config::of(TWO_WORKERS, &["127.0.0.1:1".parse().unwrap()]);
    let config = config.global(&format!(
        "admin_socket = {:?}",
        proxy.admin().display().to_string()
    ));
    std::fs::write(folder.config(), config.text()).unwrap();
    let outcome = evenkeel(["run", "-c", &folder.config().display().to_string()]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.err.contains("global.admin_socket: "), "{outcome:?}");
    assert!(
        outcome.err.contains("another process serves it"),
        "{outcome:?}"
    );
    proxy.told("status");
    // One that nobody serves any more.
    let stale = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let before = std::fs::symlink_metadata(&stale).unwrap().ino();
    let other = Config::of(TWO_WORKERS, &["127.0.0.1:1".parse().unwrap()]);
    let other = other.global(&format!("admin_socket = {:?}", stale.display().to_string()));
    let second = Proxy::start(&other);
    assert_ne!(std::fs::symlink_metadata(&stale).unwrap().ino(), before);
    second.finish();
    proxy.finish();
}

#[test]
fn a_socket_that_nobody_has_named_is_done_without_where_it_cannot_be() {
    let folder = Folder::new();
    let text = Config::of(TWO_WORKERS, &["127.0.0.1:1".parse().unwrap()]).text();
    std::fs::write(folder.config(), text.replace("admin_socket = \"\"\n", "")).unwrap();
    // Nobody's own view of /run, so that no other process is in the way.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs none /run && exec \"$0\" run -c \"$1\"");
    command.arg(EVENKEEL).arg(folder.config());
    if !nix::unistd::geteuid().is_root() {
        return scale::skip("admin", "only root can have a /run of its own");
    }
    let proxy = Proxy::start_command(command, folder);
    proxy
        .log
        .wait_text("no admin socket: /run/evenkeel/admin.sock: No such file or directory");
    proxy.finish();
}

#[test]
fn the_socket_comes_goes_and_moves_with_a_reload() {
    let (mut proxy, backend) = start();
    let config = Config::of(TWO_WORKERS, &[backend.address]);
    let at = |name: &str| {
        config
            .clone()
            .global(&format!("admin_socket = \"@FOLDER@/{name}\""))
    };
    let exists = |proxy: &Proxy, name: &str| proxy.folder().join(name).exists();
    proxy.reload(&config).unwrap();
    assert!(!exists(&proxy, "admin.sock"));
    assert_eq!(proxy.client("status").code, Some(4));
    proxy.reload(&at("other.sock")).unwrap();
    assert!(exists(&proxy, "other.sock"));
    proxy.reload(&at("admin.sock")).unwrap();
    assert!(!exists(&proxy, "other.sock"));
    assert_eq!(proxy.status()["generation"], 4);
    // One that cannot be leaves everything as it was.
    let error = proxy
        .reload(&at("nowhere/admin.sock").pool("retries = 1"))
        .unwrap_err();
    assert!(error.contains("global.admin_socket: "), "{error}");
    assert!(error.contains("its directory does not exist"), "{error}");
    assert_eq!(proxy.status()["generation"], 4);
    // A reload that fails after it was bound leaves no trace of it.
    let taken = format!("[\"{}\"]", backend.address);
    let conflict = at("late.sock").also_listening("late", &taken);
    assert!(proxy.reload(&conflict).is_err());
    assert!(!exists(&proxy, "late.sock"));
    proxy.told("status");
    proxy.expect("reload failed");
    proxy.finish();
}

#[test]
fn curl_is_client_enough() {
    let (proxy, _backend) = start();
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--unix-socket"])
            .arg(proxy.admin());
        command
            .args(["--write-out", "%{http_code}"])
            .args(arguments);
        end_of(command).out
    };
    if Command::new("curl").arg("--version").output().is_err() {
        return scale::skip("curl", "there is no curl here");
    }
    let status = curl(&["http://x/v1/status"]);
    let status: Value = serde_json::from_str(status.strip_suffix("200").unwrap()).unwrap();
    assert_eq!(status["pid"], proxy.id());
    assert_eq!(status["listeners"][0]["name"], "front");
    assert_eq!(status["listeners"][0]["bind"][0], proxy.front().to_string());
    let order = r#"{"pool": "pool", "backend": "a", "what": {"weight": 7}}"#;
    let answer = curl(&["http://x/v1/backend", "--json", order]);
    assert!(
        answer.ends_with("200") && answer.contains("weight 7"),
        "{answer}"
    );
    assert_eq!(proxy.backend("a")["weight"], 7);
    let answer = curl(&["http://x/v1/reload", "--request", "POST"]);
    assert!(
        answer.ends_with("200") && answer.contains("nothing changed"),
        "{answer}"
    );
    for (arguments, code, error) in [
        (&["http://x/v1/reload"][..], "405", "/v1/reload takes POST"),
        (&["http://x/v2/status"], "404", "there are /v1/status, "),
        (
            &["http://x/v1/backend", "--json", "{}"],
            "400",
            "missing field `pool`",
        ),
        (
            &[
                "http://x/v1/backend",
                "--json",
                r#"{"pool":"p","backend":"a","what":"drain"}"#,
            ],
            "409",
            "there is no pool \\\"p\\\"",
        ),
    ] {
        let answer = curl(arguments);
        assert!(answer.ends_with(code) && answer.contains(error), "{answer}");
    }
    proxy.finish();
}

#[test]
fn adm_03_garbage_and_too_much_are_refused_and_hurt_nobody() {
    let (proxy, _backend) = start();
    let mut rng = Rng::new(scale::seed());
    for length in [1, 8, 100, 5_000, 100_000] {
        let bytes: Vec<u8> = (0..length)
            .map(|_| u8::try_from(rng.below(256)).unwrap())
            .collect();
        let mut stream = proxy.dial_admin();
        let _cut = stream.write_all(&bytes);
        let _shut = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }
    let many = "x: y\r\n".repeat(100);
    let long = format!("x: {}\r\n", "y".repeat(40_000));
    for head in [&many, &long] {
        let answer =
            proxy.raw(format!("GET /v1/status HTTP/1.1\r\nhost: x\r\n{head}\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let body = |length: &str, body: &str| {
        let head = "POST /v1/backend HTTP/1.1\r\nhost: x\r\ncontent-length: ";
        proxy.raw(format!("{head}{length}\r\n\r\n{body}").as_bytes())
    };
    // A length that only is said costs nothing.
    let answer = body("18446744073709551615", "{");
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer}"
    );
    let answer = body("1000000000", &"x".repeat(100_000));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("length limit exceeded"), "{answer}");
    let resident = crate::harness::process::resident(proxy.id());
    assert!(resident < 32 << 20, "{resident} bytes");
    proxy.told("status");
    proxy.finish();
}

#[test]
fn slow_clients_and_many_of_them_keep_nobody_from_being_served() {
    let (proxy, _backend) = start();
    // So many that all places are taken, and others wait behind them.
    let mut clients: Vec<_> = (0..200).map(|_| proxy.dial_admin()).collect();
    for client in &mut clients {
        client.write_all(b"GET /v1/st").unwrap();
    }
    ping(&mut connect(proxy.front()));
    // Each place is given up within seconds, to the next in the line.
    let start = Instant::now();
    for client in clients.drain(..150) {
        drop(client);
    }
    proxy.told("status");
    let waited = start.elapsed();
    assert!(waited < Duration::from_secs(50), "{waited:?}");
    drop(clients);
    // All of 200 at once are served who do say what they want.
    let mut clients: Vec<_> = (0..200).map(|_| proxy.dial_admin()).collect();
    for client in &mut clients {
        client
            .write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
    }
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    proxy.finish();
}

#[test]
fn who_has_changed_something_stands_in_the_log() {
    let (proxy, _backend) = start();
    let user = nix::unistd::geteuid();
    proxy.told("backend drain pool a");
    let line = format!("admin: uid {user}, pid ");
    let audited = |what: &str, end: &str| {
        let lines = proxy.log.lines();
        lines
            .iter()
            .any(|log| log.contains(&line) && log.ends_with(&format!(": {what}: {end}")))
    };
    until("an audit line", || {
        audited("backend \"pool/a\" drain", "done")
    });
    // Whatever a name holds, it does not break out of its line.
    let order = r#"{"pool": "p\nroot: \"x", "backend": "a", "what": "ready"}"#;
    let head = "POST /v1/backend HTTP/1.1\r\nhost: x\r\ncontent-length: ";
    let answer = proxy.raw(format!("{head}{}\r\n\r\n{order}", order.len()).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 409 "), "{answer}");
    until("an audit line", || {
        audited(r#"backend "p\nroot: \"x/a" ready"#, "refused")
    });
    assert_eq!(proxy.log.count("admin: uid"), 2, "reading is no change");
    proxy.told("status");
    proxy.told("reload");
    until("an audit line", || audited("reload", "done"));
    proxy.finish();
}

#[test]
fn nobody_answers_where_there_is_nobody() {
    let folder = Folder::new();
    let nowhere = folder.path().join("admin.sock").display().to_string();
    for command in ["status", "reload", "backend drain pool a"] {
        let words = command.split(' ').chain(["--admin", &nowhere]);
        let outcome = evenkeel(words);
        assert_eq!(outcome.code, Some(4), "{outcome:?}");
        assert_eq!(outcome.out, "");
        assert!(
            outcome.err.starts_with("no process answers at "),
            "{outcome:?}"
        );
        assert_eq!(outcome.err.lines().count(), 1);
    }
    let outcome = evenkeel(["status", "--json", "--admin", &nowhere]);
    let answer: Value = serde_json::from_str(&outcome.out).unwrap();
    assert!(
        answer["error"].as_str().unwrap().contains("No such file"),
        "{answer}"
    );
    // The environment names the socket, too.
    let (proxy, _backend) = start();
    let mut command = Command::new(EVENKEEL);
    command.arg("status").env("EVENKEEL_ADMIN", proxy.admin());
    assert_eq!(end_of(command).code, Some(0));
    proxy.finish();
}

#[test]
fn a_reload_is_waited_for_and_told() {
    let (mut proxy, backend) = start();
    let config = Config::of(TWO_WORKERS, &[backend.address]).admin();
    proxy.write(
        config
            .pool("retries = 1")
            .text()
            .replace("@FOLDER@", &proxy.folder().display().to_string())
            .as_bytes(),
    );
    let told = proxy.told("reload");
    assert!(
        told.starts_with("reload: generation 2 in force: 1 pool changed"),
        "{told}"
    );
    proxy.write(b"[global]\nwrokers = 0\n");
    proxy.expect("reload failed");
    let outcome = proxy.client("reload");
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (Some(1), ""),
        "{outcome:?}"
    );
    assert!(
        outcome.err.contains("`wrokers` is no key of [global]"),
        "{outcome:?}"
    );
    let outcome = proxy.client("reload --json");
    assert_eq!(outcome.code, Some(1));
    let answer: Value = serde_json::from_str(&outcome.out).unwrap();
    assert!(
        answer["error"].as_str().unwrap().contains("wrokers"),
        "{answer}"
    );
    let reloads = proxy.status()["reloads"].clone();
    assert_eq!(
        (reloads["succeeded"].clone(), reloads["failed"].clone()),
        (1.into(), 2.into())
    );
    assert!(
        reloads["last"].as_str().unwrap().contains("wrokers"),
        "{reloads}"
    );
    proxy.finish();
}

#[test]
fn status_tells_what_there_is() {
    let (proxy, backend) = start();
    let mut client = connect(proxy.front());
    ping(&mut client);
    let status = proxy.status();
    assert_eq!(status["state"], "serving");
    assert_eq!(status["connections"]["open"], 1);
    assert_eq!(status["workers"].as_array().unwrap().len(), 2);
    let listener = &status["listeners"][0];
    assert_eq!(
        (&listener["open"], &listener["accepted"]),
        (&1.into(), &1.into())
    );
    let pool = &status["pools"][0];
    assert_eq!(
        (&pool["name"], &pool["balance"]),
        (&"pool".into(), &"hash".into())
    );
    assert_eq!(
        (&pool["queue"]["length"], &pool["queue"]["limit"]),
        (&0.into(), &1024.into())
    );
    let a = &pool["backends"][0];
    assert_eq!(a["address"], backend.address.to_string());
    for (key, value) in [("state", "up"), ("admin", "ready")] {
        assert_eq!(a[key], value);
    }
    assert_eq!((&a["open"], &a["sessions"]), (&1.into(), &1.into()));
    // For people: not on a terminal, so tabs and no colours.
    let text = proxy.told("status");
    assert!(text.contains("\nfront\ttcp\t"), "{text}");
    assert!(text.contains("\npool\ta\t"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    drop(client);
    until("the session to end", || {
        proxy.status()["connections"]["open"] == 0
    });
    proxy.finish();
}
