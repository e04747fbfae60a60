//! Whole files: what `check` touches, contradictions, addresses, sizes, and files that are none.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{assert_has_place, check, check_file};
use crate::harness::command::end_of;
use crate::harness::proxy::Folder;
use crate::harness::scale::skip;
use crate::harness::{
    Axis, Config, EVENKEEL, End, Family, Listening, Proxy, Served, Tagged, connect, read_all,
};

/// A file that is valid but for `more`, which comes first.
fn minimal(more: &str) -> String {
    format!(
        "{more}[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\npool = \"p\"\n\
         [[pool.p.backend]]\naddress = \"10.0.0.1:1\"\n"
    )
}

#[test]
fn cfg_01_check_opens_nothing_and_disturbs_nobody() {
    let backend = Listening::start(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]);
    let proxy = Proxy::start(&config);
    let (mut client, mut server) = backend.pair(proxy.front());
    // The very addresses of the running process, and some that could not be bound or found.
    let socket = proxy.folder().join("front.sock");
    let file = proxy.folder().join("other.toml");
    let bind = format!(
        "bind = [\"{}\", \"unix:{}\", \"192.0.2.1:80\"]",
        proxy.front(),
        socket.display()
    );
    let text = config
        .listener(&bind)
        .global("user = \"nobody-of-that-name\"")
        .backend("nowhere.invalid:80")
        .text();
    std::fs::write(&file, text).unwrap();
    for _ in 0..5 {
        let checked = check_file(&file);
        assert!(
            checked
                .outcome
                .out
                .ends_with(": ok: 1 listeners, 1 pools, 2 backends\n"),
            "{:?}",
            checked.outcome
        );
    }
    assert!(!socket.exists());
    client.write_all(b"undisturbed").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut server), (b"undisturbed".to_vec(), End::Fin));
    drop((client, server));
    drop(backend.pair(proxy.front()));
    proxy.finish();
}

#[test]
fn cfg_01_check_makes_no_system_call_on_sockets() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("cfg_01 (system calls)", "strace is not installed");
    }
    let folder = Folder::new();
    std::fs::write(folder.config(), minimal("")).unwrap();
    let trace = folder.path().join("trace");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-e", "trace=%network,openat", "-o"])
        .arg(&trace)
        .args([EVENKEEL, "check"])
        .arg(folder.config());
    let outcome = end_of(command);
    if outcome.err.contains("Operation not permitted") {
        return skip("cfg_01 (system calls)", "strace may not trace here");
    }
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let calls = std::fs::read_to_string(trace).unwrap();
    assert!(calls.contains("evenkeel.toml"), "{calls}");
    let others: Vec<&str> = calls
        .lines()
        .filter(|line| !line.contains("openat(") && !line.contains("+++ exited"))
        .collect();
    assert!(others.is_empty(), "{others:#?}");
}

#[test]
fn cfg_03_doubles_are_refused_and_change_nothing() {
    let backends = Tagged::start(1);
    let good = Config::of(Axis::PLAIN, &backends.addresses());
    let mut proxy = Proxy::start(&good);
    proxy.expect("reload failed, generation 1 stays in force");
    let address = backends.backends[0].address;
    let also = |name: &str, bind: &str| good.clone().also_listening(name, bind);
    for (config, expected) in [
        (
            also("front", "\"127.0.0.1:0\""),
            "another listener is named \"front\"; change or remove one".to_owned(),
        ),
        (
            also("b", "[\"127.0.0.1:81\", \"[::ffff:127.0.0.1]:81\"]"),
            "127.0.0.1:81 is bound already; change or remove one".to_owned(),
        ),
        (
            also("b", "[\"0.0.0.0:81\", \"127.0.0.1:81\"]"),
            "127.0.0.1:81 is bound already, as part of 0.0.0.0:81; \
             remove one, or use another port"
                .to_owned(),
        ),
        (
            also("b", "[\"127.0.0.1:81\", \"[::]:81\"]"),
            "127.0.0.1:81 is bound already, as part of [::]:81; remove one, or use another port"
                .to_owned(),
        ),
        (
            also("b", "[\"unix:/tmp/x\", \"unix:/tmp/x\"]"),
            "unix:/tmp/x is bound already; change or remove one".to_owned(),
        ),
        (
            good.clone().backend("127.0.0.2:1").with("name = \"a\""),
            "another backend of pool \"pool\" is named \"a\"; change one".to_owned(),
        ),
        (
            good.clone().backend(&address.to_string()),
            format!(
                "another backend of pool \"pool\" has the address {address}; change or remove one"
            ),
        ),
        (
            good.clone().more("[global]\nuser = \"nobody\""),
            "\"global\" is there already; keep one of them".to_owned(),
        ),
        (
            good.clone().more("[pool.pool]\nretries = 1"),
            "\"pool\" is there already; keep one of them".to_owned(),
        ),
    ] {
        let errors = check(config.text()).errors;
        let [error] = &errors[..] else {
            panic!("one error and not {errors:#?} for {expected}")
        };
        assert_has_place(error);
        assert!(error.ends_with(&format!(": {expected}")), "{error}");
        let refused = proxy.reload(&config).unwrap_err();
        assert!(refused.contains(&expected), "{refused}");
        assert_eq!(Tagged::ask(proxy.front()).0, 0);
    }
    proxy.finish();
}

#[test]
fn cfg_04_addresses_have_a_grammar() {
    let bind = |address: &str| minimal("").replace("127.0.0.1:1", address);
    let backend = |address: &str| minimal("").replace("10.0.0.1:1", address);
    for (address, can_bind, can_connect) in [
        ("10.0.0.1:80", true, true),
        ("[::1]:80", true, true),
        ("[fe80::1%2]:80", true, true),
        ("[fe80::1%eth0]:80", false, true),
        ("[::ffff:10.0.0.1]:80", true, true),
        ("unix:/run/app.sock", true, true),
        ("host.example:80", false, true),
        ("localhost:80", false, true),
        ("0.0.0.0:80", true, false),
        ("[::]:80", true, false),
        ("10.0.0.1:0", true, false), // any free port
        ("10.0.0.1:65535", true, true),
        ("10.0.0.1:65536", false, false),
        ("10.0.0.1:8000-8010", false, false),
        ("10.0.0.1", false, false),
        ("10.0.0.256:80", false, false),
        (":80", false, false),
        ("*:80", false, false),
        ("::1:80", false, false),
        ("[::1]", false, false),
        ("unix:run/app.sock", false, false),
        ("unix:@app", false, false),
        ("@app", false, false),
        ("http://10.0.0.1:80", false, false),
        ("", false, false),
    ] {
        for (text, is_good) in [(bind(address), can_bind), (backend(address), can_connect)] {
            let errors = check(&text).errors;
            assert_eq!(
                errors.is_empty(),
                is_good,
                "{address:?}: {errors:?}\n{text}"
            );
            assert!(errors.len() <= 1, "{errors:?}");
            errors.iter().for_each(|error| assert_has_place(error));
        }
    }
}

#[test]
fn cfg_04_every_form_of_address_serves() {
    let folder = Folder::new();
    let (own, theirs) = (
        folder.path().join("front.sock"),
        folder.path().join("app.sock"),
    );
    let unix = UnixListener::bind(&theirs).unwrap();
    let server = std::thread::spawn(move || {
        // One connection through each address of the listener.
        for _ in 0..4 {
            unix.accept().unwrap().0.write_all(b"d").unwrap();
        }
    });
    let tagged = |address: SocketAddr, tag: u8| {
        Served::start(address, move |mut stream| stream.write_all(&[tag]))
    };
    let v4 = tagged((Ipv4Addr::LOCALHOST, 0).into(), b'a');
    let v6 = tagged((Ipv6Addr::LOCALHOST, 0).into(), b'b');
    let named = tagged((Ipv6Addr::UNSPECIFIED, 0).into(), b'c'); // IPv4 too
    let bind = format!(
        "bind = [\"127.0.0.1:0\", \"[::1]:0\", \"[::]:0\", \"unix:{}\"]",
        own.display()
    );
    let config = Config::new(Axis::PLAIN)
        .listener(&bind)
        .pool("balance = \"round_robin\"")
        .backend(&v4.address.to_string())
        .backend(&v6.address.to_string())
        .backend(&format!("localhost:{}", named.address.port()))
        .backend(&format!("unix:{}", theirs.display()));
    let proxy = Proxy::start(&config);
    let mut addresses = proxy.addresses("front");
    assert_eq!(addresses.len(), 3);
    assert!(
        addresses.iter().all(|address| address.port() != 0),
        "{addresses:?}"
    );
    // The wildcard takes IPv4 as well.
    addresses[2].set_ip(Ipv4Addr::LOCALHOST.into());
    let each_once = |ask: &dyn Fn() -> Vec<u8>| {
        let mut letters: Vec<u8> = (0..4).flat_map(|_| ask()).collect();
        letters.sort_unstable();
        assert_eq!(letters, b"abcd");
    };
    for address in addresses {
        each_once(&|| read_all(&mut connect(address)).0);
    }
    each_once(&|| read_all(&mut UnixStream::connect(&own).unwrap()).0);
    server.join().unwrap();
    proxy.finish();
    assert!(!own.exists(), "its socket is removed with it");
}

#[test]
fn cfg_07_thousands_of_listeners_and_backends_are_checked_in_bounds() {
    let mut text = String::new();
    for listener in 0..1_000 {
        let (high, low) = (listener / 250, listener % 250);
        writeln!(
            text,
            "[[listener]]\nname = \"l{listener}\"\nbind = \"127.0.{high}.{low}:80\"\n\
             pool = \"p{listener}\""
        )
        .unwrap();
        for backend in 0..10 {
            writeln!(
                text,
                "[[pool.p{listener}.backend]]\naddress = \"10.{high}.{low}.{backend}:80\""
            )
            .unwrap();
        }
    }
    let folder = Folder::new();
    for (text, code) in [(text.clone(), 0), (text.replace("address", "adress"), 3)] {
        std::fs::write(folder.config(), text).unwrap();
        let mut command = Command::new("prlimit");
        command
            .args([&format!("--as={MEMORY_MAX}"), EVENKEEL, "check"])
            .arg(folder.config());
        let outcome = end_of(command);
        println!("exit code {code} in {:?}", outcome.time);
        assert_eq!(outcome.code, Some(code), "{}", outcome.err);
        assert!(outcome.time < Duration::from_secs(10), "{:?}", outcome.time);
        assert!(outcome.err.lines().count() <= 101, "{}", outcome.err);
    }
}

#[test]
fn cfg_07_a_thousand_listeners_serve_and_reload() {
    const LISTENERS: usize = 1_000;
    let backends = Tagged::start(2);
    let mut config = Config::of(Axis::PLAIN, &backends.addresses()).pool("balance = \"first\"");
    for listener in 1..LISTENERS {
        config = config.also_listening(&format!("l{listener}"), "\"127.0.0.1:0\"");
    }
    let start = Instant::now();
    let proxy = Proxy::start(&config);
    println!("{LISTENERS} listeners after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10));
    let addresses: Vec<SocketAddr> = (1..LISTENERS)
        .map(|listener| proxy.address(&format!("l{listener}")))
        .collect();
    let ask_all = |owner: usize| {
        for address in addresses.iter().step_by(37) {
            assert_eq!(Tagged::ask(*address).0, owner);
        }
    };
    ask_all(0);
    let start = Instant::now();
    proxy.reload(&config.without("a")).unwrap();
    println!("reloaded in {:?}", start.elapsed());
    ask_all(1);
    proxy.finish();
}

/// Address space that checking a large file may take: its code, its stack and some copies of it.
const MEMORY_MAX: u64 = 128 * 1024 * 1024;

/// Texts that are no configuration, and what each of them is.
fn odd_texts() -> Vec<(&'static str, Vec<u8>)> {
    let after = |bytes: &[u8]| [minimal("").as_bytes(), bytes].concat();
    let utf16: Vec<u8> = minimal("\u{feff}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    vec![
        ("empty", Vec::new()),
        ("a byte order mark alone", b"\xef\xbb\xbf".to_vec()),
        ("NUL", after(b"\0")),
        ("only NULs", vec![0; 100_000]),
        (
            "NUL in a text",
            minimal("").replace("10.0.0.1", "10.0\0.0.1").into_bytes(),
        ),
        (
            "a lone carriage return",
            minimal("[global]\rworkers = 1\n").into_bytes(),
        ),
        ("Latin-1", after(b"# caf\xe9\n")),
        ("UTF-16", utf16),
        (
            "an ELF file",
            std::fs::read(EVENKEEL).unwrap()[..100_000].to_vec(),
        ),
        (
            "deep lists",
            after(format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000)).as_bytes()),
        ),
        ("deep tables", after("{a=".repeat(100_000).as_bytes())),
        (
            "a deep key",
            after(format!("{}b = 1", "a.".repeat(100_000)).as_bytes()),
        ),
        (
            "deep headers",
            after(format!("[{}b]", "a.".repeat(100_000)).as_bytes()),
        ),
        (
            "a line of 1 MiB",
            after(format!("x = \"{}\"", "y".repeat(1 << 20)).as_bytes()),
        ),
        (
            "a key of 1 MiB",
            after(format!("{} = 1", "y".repeat(1 << 20)).as_bytes()),
        ),
        (
            "an open text",
            after(format!("x = \"{}", "y".repeat(1 << 20)).as_bytes()),
        ),
        (
            "17 MiB of comments",
            after("# comment\n".repeat(17 << 17).as_bytes()),
        ),
        ("17 MiB of é", after("#é".repeat(6 << 20).as_bytes())),
    ]
}

#[test]
fn cfg_08_odd_texts_give_clean_errors() {
    for (what, bytes) in odd_texts() {
        let checked = check(&bytes);
        assert_eq!(checked.outcome.code, Some(3), "{what}");
        assert!(
            checked.outcome.time < Duration::from_secs(10),
            "{what}: {:?}",
            checked.outcome.time
        );
        assert!(
            checked.errors.len() <= 101,
            "{what}: {} errors",
            checked.errors.len()
        );
        for error in &checked.errors {
            let shown: String = error.chars().take(300).collect();
            assert_eq!(error.len(), shown.len(), "{what}: a long line: {shown}");
            assert!(!error.contains(char::is_control), "{what}: {error:?}");
            assert!(error.contains("; "), "{what}: no cure in {error:?}");
            assert_has_place(error);
        }
    }
}

#[test]
fn cfg_08_harmless_oddities_are_accepted() {
    for text in [
        minimal("\u{feff}"),
        minimal("").replace('\n', "\r\n"),
        minimal("\u{feff}").replace('\n', "\r\n"),
        minimal("# é\u{10ffff}\n"),
        minimal(&format!("# {}\n", "x".repeat(1 << 20))),
        minimal("").trim_end().to_owned(),
        minimal("").replace("name = \"a\"", "\"name\" = '''\na'''"),
    ] {
        assert_eq!(
            check(&text).errors,
            Vec::<String>::new(),
            "{:?}",
            &text[..40]
        );
    }
}

#[test]
fn cfg_08_an_odd_file_is_no_reload() {
    let backends = Tagged::start(1);
    let mut proxy = Proxy::start(&Config::of(Axis::PLAIN, &backends.addresses()));
    proxy.expect("reload failed, generation 1 stays in force");
    for (what, bytes) in odd_texts() {
        proxy.write(&bytes);
        assert!(proxy.reload_file().is_err(), "{what}");
        assert_eq!(Tagged::ask(proxy.front()).0, 0, "{what}");
    }
    proxy.finish();
}

#[test]
fn cfg_08_what_is_no_file_is_said_so() {
    if !nix::unistd::geteuid().is_root() {
        return skip(
            "cfg_08 (an unreadable file)",
            "only root can become somebody else",
        );
    }
    let folder = Folder::new();
    let missing = folder.path().join("missing.toml");
    let secret = folder.path().join("secret.toml");
    std::fs::write(&secret, minimal("")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&secret, mode).unwrap();
    for (file, reason) in [
        (missing.as_path(), "No such file or directory"),
        (folder.path(), "Is a directory"),
        (&secret, "Permission denied"),
        (Path::new("/dev/zero"), "the file is longer than"),
    ] {
        for arguments in [&["check"][..], &["run", "-c"]] {
            let mut command = Command::new(EVENKEEL);
            command.args(arguments).arg(file).uid(NOBODY);
            let outcome = end_of(command);
            assert_eq!(outcome.code, Some(3), "{outcome:?}");
            assert!(
                outcome.err.starts_with(&format!("{}:", file.display())),
                "{outcome:?}"
            );
            assert!(outcome.err.contains(reason), "{outcome:?}");
            assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
        }
    }
}

/// An account without any rights.
pub(super) const NOBODY: u32 = 65_534;

#[test]
fn the_log_begins_with_the_version_and_the_file() {
    let backend = Served::echo(Family::V4);
    let proxy = Proxy::start(&Config::of(Axis::PLAIN, &[backend.address]));
    let version = env!("CARGO_PKG_VERSION");
    let file = format!("{}/", proxy.folder().display());
    assert!(
        proxy
            .log
            .has(&format!("evenkeel {version}, configuration file {file}"))
    );
    proxy.finish();
}
