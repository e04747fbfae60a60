//! What can be asked by HTTP: metrics, health and readiness.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::backend::dead;
use crate::harness::http::{Metrics, ask, get};
use crate::harness::proxy::Folder;
use crate::harness::wait::DEADLINE;
use crate::harness::{
    Axis, Config, Family, Listening, Proxy, Served, connect, ping, read_all, refused, served, udp,
    until,
};

const AXIS: Axis = Axis {
    workers: 2,
    ..Axis::PLAIN
};

const HTTP: &str = "http = \"127.0.0.1:0\"";

/// A listener for datagrams beside "front".
fn with_datagrams(config: Config, backend: SocketAddr) -> Config {
    config.more(&format!(
        "[[listener]]\nname = \"dns\"\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"names\"\n\
         [pool.names]\nhealth.type = \"none\"\nudp.idle_timeout = \"300ms\"\n\
         [[pool.names.backend]]\nname = \"ns\"\naddress = \"{backend}\"\n"
    ))
}

fn readme() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap()
}

/// The names of labels of a family's series.
fn labels_of(metrics: &Metrics, family: &str) -> BTreeSet<String> {
    let names = metrics.series.keys().filter(|name| {
        let rest = name.strip_prefix(family).unwrap_or("-");
        rest.is_empty() || rest.starts_with('{') || rest.starts_with("_bucket{")
    });
    let labels = names.filter_map(|name| name.split_once('{'));
    let keys = labels.flat_map(|(_, labels)| {
        let labels: Vec<&str> = labels.trim_end_matches('}').split("\",").collect();
        labels
            .into_iter()
            .map(|label| label.split('=').next().unwrap().to_owned())
    });
    keys.filter(|key| key != "le").collect()
}

#[test]
fn the_readme_names_every_metric() {
    let names = udp::socket(Family::V4);
    let backend = Served::echo(Family::V4);
    let config = Config::of(AXIS, &[backend.address]).global(HTTP);
    let proxy = Proxy::start(&with_datagrams(config, names.local_addr().unwrap()));
    let metrics = proxy.metrics();
    let rows = metrics.families.iter().map(|(name, (kind, help))| {
        assert!(name.starts_with("evenkeel_"), "{name}");
        assert_eq!(
            kind == "counter",
            name.ends_with("_total"),
            "{name} is a {kind}"
        );
        let labels = labels_of(&metrics, name);
        let labels: Vec<String> = labels.into_iter().collect();
        format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
    });
    let table: String = rows.collect();
    assert!(metrics.families.len() > 30, "{:?}", metrics.families.keys());
    let text = readme();
    let (before, rest) = text
        .split_once("<!-- metrics -->\n")
        .expect("the table of metrics");
    let (written, after) = rest.split_once("<!-- end of metrics -->").expect("its end");
    let wanted = format!("| metric | type | labels | |\n|---|---|---|---|\n{table}");
    if std::env::var_os("EVENKEEL_WRITE_REFERENCE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let text = format!("{before}<!-- metrics -->\n{wanted}<!-- end of metrics -->{after}");
        std::fs::write(path, text).unwrap();
    } else {
        assert_eq!(written, wanted, "run this with EVENKEEL_WRITE_REFERENCE=1");
    }
    for (name, value) in &metrics.series {
        let family = name.split('{').next().unwrap();
        let family = family
            .trim_end_matches("_bucket")
            .trim_end_matches("_count");
        let family = family.trim_end_matches("_sum");
        assert!(metrics.families.contains_key(family), "{name} has no type");
        assert!(*value >= 0.0, "{name} {value}");
    }
    proxy.finish();
}

/// Fails if a counter has gone back or has vanished, but for those of `gone`.
#[track_caller]
fn compare(before: &Metrics, after: &Metrics, gone: &str) {
    let is_counter = |name: &&String| {
        let family = name.split('{').next().unwrap();
        family.ends_with("_total") || family.ends_with("_bucket") || family.ends_with("_count")
    };
    let mut looked_at = 0;
    for name in before.series.keys().filter(is_counter) {
        match after.series.get(name) {
            Some(value) => assert!(
                *value >= before.of(name),
                "{name}: {} {value}",
                before.of(name)
            ),
            None => assert!(!gone.is_empty() && name.contains(gone), "{name} has gone"),
        }
        looked_at += 1;
    }
    assert!(looked_at > 100, "{looked_at}");
}

#[test]
fn adm_05_counters_never_go_back_and_gauges_end_at_zero() {
    let (a, b) = (Served::echo(Family::V4), Served::echo(Family::V4));
    let whole = Config::of(AXIS, &[a.address, b.address])
        .global(HTTP)
        .pool("balance = \"round_robin\"");
    let half = Config::of(AXIS, &[a.address])
        .global(HTTP)
        .pool("balance = \"round_robin\"");
    let proxy = Proxy::start(&whole);
    let mut before = proxy.metrics();
    let sessions = "evenkeel_backend_sessions_total{backend=\"b\",pool=\"pool\"}";
    for round in 1..4 {
        let mut clients: Vec<_> = (0..20).map(|_| served(proxy.front())).collect();
        for client in &mut clients {
            ping(client).unwrap();
        }
        proxy.wait_metric("evenkeel_connections_open{listener=\"front\"}", |open| {
            open == 20.0
        });
        let now = proxy.metrics();
        compare(&before, &now, "");
        assert_eq!(
            now.of("evenkeel_config_generation"),
            f64::from(2 * round - 1)
        );
        assert_eq!(
            now.of(sessions),
            f64::from(10 * round),
            "it counts on where it was"
        );
        drop(clients);
        proxy.wait_metric("evenkeel_connections_open{listener=\"front\"}", |open| {
            open == 0.0
        });
        proxy.reload(&half).unwrap();
        let without = proxy.metrics();
        compare(&now, &without, "backend=\"b\"");
        assert!(!without.series.contains_key(sessions), "it has gone");
        proxy.reload(&whole).unwrap();
        before = proxy.metrics();
        compare(&now, &before, "");
    }
    let now = proxy.metrics();
    for gauge in [
        "evenkeel_connections_open{",
        "evenkeel_backend_open{",
        "evenkeel_queue_length{",
        "evenkeel_worker_sessions{",
    ] {
        assert_eq!(now.sum(gauge), 0.0, "{gauge}");
    }
    assert_eq!(now.of("evenkeel_reloads_total{result=\"succeeded\"}"), 6.0);
    proxy.finish();
}

/// What came in is open, refused or ended: nobody is lost, and nobody is counted twice.
#[track_caller]
fn check_balance(metrics: &Metrics) {
    let of = |what: &str| metrics.sum(&format!("evenkeel_connections_{what}{{"));
    let (opened, open) = (of("opened_total"), of("open"));
    let (refused, ended) = (of("refused_total"), of("ended_total"));
    assert_eq!(
        opened,
        open + refused + ended,
        "{open} + {refused} + {ended}"
    );
}

#[test]
fn adm_06_every_end_has_its_counter() {
    let backend = Listening::start(Family::V4);
    let (nowhere, _held) = dead(Family::V4);
    let health = |config: Config| config.global(HTTP).pool("max_connections = 2");
    let config = health(Config::of(AXIS, &[backend.address]))
        .pool("queue.limit = 1")
        .pool("queue.timeout = \"300ms\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("client refused");
    proxy.expect("connect failed");
    let quiet = proxy.open_descriptors();
    let open = backend.pair(proxy.front());
    let (ended, server) = backend.pair(proxy.front());
    let waiting = connect(proxy.front());
    proxy.wait_open(quiet + 5);
    refused(proxy.front()); // the queue is full
    drop(waiting);
    proxy.wait_metric(
        "evenkeel_queue_left_total{pool=\"pool\",reason=\"gone\"}",
        |left| left == 1.0,
    );
    refused(proxy.front()); // its time in the queue is over
    drop((ended, server));
    proxy.wait_metric("evenkeel_connections_open{listener=\"front\"}", |open| {
        open == 1.0
    });
    let deny = health(Config::of(AXIS, &[backend.address])).listener("deny = [\"127.0.0.0/8\"]");
    proxy.reload(&deny).unwrap();
    refused(proxy.front());
    proxy.reload(&health(Config::of(AXIS, &[nowhere]))).unwrap();
    refused(proxy.front()); // nobody is there
    drop(open);
    proxy.wait_metric("evenkeel_connections_open{listener=\"front\"}", |open| {
        open == 0.0
    });
    let metrics = proxy.metrics();
    for (series, count) in [
        (
            "refused_total{listener=\"front\",reason=\"queue_full\"}",
            1.0,
        ),
        (
            "refused_total{listener=\"front\",reason=\"queue_timeout\"}",
            1.0,
        ),
        ("refused_total{listener=\"front\",reason=\"denied\"}", 1.0),
        (
            "refused_total{listener=\"front\",reason=\"unreachable\"}",
            1.0,
        ),
        ("ended_total{listener=\"front\",reason=\"gone\"}", 1.0),
        ("opened_total{listener=\"front\"}", 7.0),
    ] {
        assert_eq!(
            metrics.of(&format!("evenkeel_connections_{series}")),
            count,
            "{series}"
        );
    }
    check_balance(&metrics);
    let waited = metrics.of("evenkeel_queue_wait_seconds_count{pool=\"pool\"}");
    assert_eq!(waited, 2.0, "one has gone, one had to go");
    let connected = "evenkeel_backend_connect_seconds_count{backend=\"a\",pool=\"pool\"}";
    assert_eq!(metrics.of(connected), 2.0);
    proxy.finish();
}

#[test]
fn what_an_open_session_moves_is_counted() {
    let backend = Served::echo(Family::V4);
    let proxy = Proxy::start(&Config::of(AXIS, &[backend.address]).global(HTTP));
    let mut client = served(proxy.front());
    let bytes = vec![7; 100_000];
    let mut written = client.try_clone().unwrap();
    let writer = std::thread::spawn(move || written.write_all(&bytes).unwrap());
    client.read_exact(&mut vec![0; 100_000]).unwrap();
    writer.join().unwrap();
    for direction in ["to_backend", "to_client"] {
        let of_backend = format!(
            "evenkeel_backend_bytes_total{{backend=\"a\",direction=\"{direction}\",pool=\"pool\"}}"
        );
        let of_listener =
            format!("evenkeel_bytes_total{{direction=\"{direction}\",listener=\"front\"}}");
        for series in [of_backend, of_listener] {
            // What said that the session is served is among them.
            proxy.wait_metric(&series, |bytes| (100_000.0..100_100.0).contains(&bytes));
        }
    }
    assert_eq!(
        proxy
            .metrics()
            .of("evenkeel_connections_open{listener=\"front\"}"),
        1.0
    );
    drop(client);
    proxy.finish();
}

#[test]
fn datagrams_are_counted_while_their_flow_is_open() {
    let names = udp::socket(Family::V4);
    let backend = Served::echo(Family::V4);
    let config = Config::of(AXIS, &[backend.address]).global(HTTP);
    let config = with_datagrams(config, names.local_addr().unwrap());
    let proxy = Proxy::start(&config);
    let client = udp::client(proxy.address("dns"));
    for _ in 0..3 {
        client.send(b"question").unwrap();
        let (question, from) = udp::receive_from(&names);
        assert_eq!(question, b"question");
        names.send_to(b"answers", from).unwrap();
        assert_eq!(udp::receive(&client), b"answers");
    }
    for (direction, bytes) in [("to_backend", 24.0), ("to_client", 21.0)] {
        let of = |what: &str| {
            format!("evenkeel_{what}_total{{direction=\"{direction}\",listener=\"dns\"}}")
        };
        proxy.wait_metric(&of("udp_datagrams"), |count| count == 3.0);
        assert_eq!(proxy.metrics().of(&of("bytes")), bytes);
    }
    proxy.wait_metric(
        "evenkeel_udp_flows_ended_total{listener=\"dns\",reason=\"idle\"}",
        |ended| ended == 1.0,
    );
    proxy.wait_metric("evenkeel_udp_flows_open{listener=\"dns\"}", |open| {
        open == 0.0
    });
    assert_eq!(
        proxy
            .metrics()
            .of("evenkeel_udp_flows_opened_total{listener=\"dns\"}"),
        1.0
    );
    proxy.finish();
}

#[test]
fn readiness_says_what_is_lacking() {
    let backend = Listening::start(Family::V4);
    let config = Config::of(AXIS, &[backend.address])
        .global(HTTP)
        .listener("max_connections = 1");
    let mut proxy = Proxy::start(&config.global("drain_timeout = \"20s\""));
    proxy.expect("is reached, clients wait");
    let http = proxy.http();
    assert_eq!(
        (get(http, "/readyz").status, get(http, "/healthz").status),
        (200, 200)
    );
    let (client, server) = backend.pair(proxy.front());
    let waiting = connect(proxy.front());
    until("it is full", || get(http, "/readyz").status == 503);
    assert!(
        get(http, "/readyz")
            .body
            .contains("listener \"front\" takes nobody")
    );
    assert_eq!(get(http, "/healthz").status, 200);
    drop((client, server));
    drop((waiting, backend.accept()));
    until("it takes clients", || get(http, "/readyz").status == 200);
    let (client, server) = backend.pair(proxy.front());
    proxy.signal(Signal::SIGTERM);
    until("it drains", || {
        get(http, "/readyz").body.contains("draining")
    });
    assert_eq!(get(http, "/readyz").status, 503);
    assert_eq!(get(http, "/healthz").status, 200);
    assert_eq!(proxy.metrics().of("evenkeel_draining"), 1.0);
    drop((client, server));
    assert!(proxy.wait_exit(DEADLINE).success());
    proxy.check_end();
}

#[test]
fn only_what_is_there_is_answered_and_only_read() {
    let backend = Served::echo(Family::V4);
    let proxy = Proxy::start(&Config::of(AXIS, &[backend.address]).global(HTTP));
    let http = proxy.http();
    let of = |request: &str| ask(http, &format!("{request}\r\nConnection: close\r\n\r\n"));
    assert_eq!(get(http, "/nothing").status, 404);
    assert_eq!(get(http, "/../etc/passwd").status, 404);
    assert_eq!(
        of("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0").status,
        405
    );
    assert_eq!(
        of("DELETE /metrics HTTP/1.1\r\nHost: localhost").status,
        405
    );
    assert_eq!(of("HEAD /metrics HTTP/1.1\r\nHost: localhost").body, "");
    assert_eq!(of("GET /metrics HTTP/1.1\r\nHost: localhost").status, 200);
    assert_eq!(of("GET / HTTP/1.1\r\nHost: elsewhere.example").status, 403);
    let long = "a".repeat(64 * 1024);
    assert_eq!(
        of(&format!("GET /{long} HTTP/1.1\r\nHost: localhost")).status / 100,
        4
    );
    for path in ["/", "/dashboard.js", "/dashboard.css"] {
        let page = get(http, path);
        assert_eq!(page.status, 200, "{path}");
        let policy = "content-security-policy: default-src 'none'; script-src 'self';";
        assert!(page.head.contains(policy), "{}", page.head);
        assert!(
            page.head.contains("x-content-type-options: nosniff"),
            "{}",
            page.head
        );
        for elsewhere in [
            "http://",
            "https://",
            "//cdn",
            "style=",
            "onclick",
            "innerHTML",
        ] {
            let text = page.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains(elsewhere), "{path} has {elsewhere}");
        }
    }
    proxy.finish();
}

#[test]
fn slow_clients_keep_nobody_out() {
    let backend = Served::echo(Family::V4);
    let proxy = Proxy::start(&Config::of(AXIS, &[backend.address]).global(HTTP));
    let http = proxy.http();
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..300 {
        let mut stream = connect(http);
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: ")
            .unwrap();
        slow.push(stream);
    }
    let mut greedy = connect(http); // it asks again and again, and reads nothing
    for _ in 0..200 {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        if greedy.write(request.as_bytes()).is_err() {
            break;
        }
    }
    for _ in 0..20 {
        assert_eq!(get(http, "/healthz").status, 200);
    }
    assert_eq!(proxy.metrics().of("evenkeel_config_generation"), 1.0);
    let open = proxy.open_descriptors();
    assert!(open < 200, "{open} descriptors are open");
    assert!(
        matches!(slow[0].read(&mut [0]), Ok(0) | Err(_)),
        "the first has made room"
    );
    drop((slow, greedy));
    proxy.finish();
}

#[test]
fn a_reload_moves_it_and_takes_it_away() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(AXIS, &[backend.address]);
    let mut proxy = Proxy::start(&config.clone().global(HTTP));
    proxy.expect("reload failed");
    let first = proxy.http();
    let mut events = connect(first);
    events
        .write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut start = [0; 12];
    events.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    proxy
        .reload(&config.clone().global(HTTP).pool("retries = 1"))
        .unwrap();
    assert_eq!(proxy.http(), first, "it is the same");
    assert_eq!(get(first, "/healthz").status, 200);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let named = config.clone().global(&format!("http = \"{address}\""));
    let error = proxy.reload(&named).unwrap_err();
    assert!(
        error.contains(&format!("global.http: cannot listen on {address}")),
        "{error}"
    );
    assert_eq!(
        get(first, "/healthz").status,
        200,
        "what was there is there"
    );
    drop(taken);
    let outcome = proxy.reload(&named).unwrap();
    assert!(
        outcome.contains(&format!("http 127.0.0.1:0 → {address}")),
        "{outcome}"
    );
    assert_eq!(proxy.http(), address);
    assert_eq!(get(address, "/healthz").status, 200);
    until("the first is closed", || TcpStream::connect(first).is_err());
    read_all(&mut events);
    proxy.reload(&config).unwrap();
    until("nobody listens", || TcpStream::connect(address).is_err());
    proxy.finish();
}

#[test]
fn a_named_address_must_be_had_and_the_default_need_not() {
    let backend = Served::echo(Family::V4);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config::of(AXIS, &[backend.address]).global(&format!("http = \"{address}\""));
    let folder = Folder::new();
    std::fs::write(folder.config(), config.text()).unwrap();
    let run = || {
        let mut command = std::process::Command::new(crate::harness::EVENKEEL);
        command.arg("run").arg("-c").arg(folder.config());
        command
    };
    let output = run().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = format!("global.http: cannot listen on {address}");
    assert!(
        error.contains(&expected) && error.contains("write another address"),
        "{error}"
    );
    // Whoever comes second goes without: the port may be somebody else's, too.
    let text = config
        .text()
        .replace(&format!("http = \"{address}\"\n"), "");
    assert!(!text.contains("http ="), "{text}");
    let start = || {
        let folder = Folder::new();
        std::fs::write(folder.config(), &text).unwrap();
        let mut command = std::process::Command::new(crate::harness::EVENKEEL);
        command.arg("run").arg("-c").arg(folder.config());
        Proxy::start_command(command, folder)
    };
    let (first, second) = (start(), start());
    let without = |proxy: &Proxy| proxy.log.has("no http: cannot listen on 127.0.0.1:9910");
    assert!(without(&second), "one of two goes without");
    assert!(without(&first) || first.http().port() == 9910);
    first.finish();
    second.finish();
}

#[test]
fn adm_04_metrics_of_a_thousand_backends_are_a_page_like_any_other() {
    let mut sizes = Vec::new();
    for count in [10_u32, 1_000] {
        let backends = (0..count).map(|number| {
            let address = Ipv4Addr::from(0x7f01_0000 + number);
            format!("[[pool.pool.backend]]\nname = \"b-{number}\"\naddress = \"{address}:1\"\n")
        });
        let config = Config::new(AXIS).global(HTTP).health("type = \"none\"");
        let config = config.more(&backends.collect::<String>());
        let mut proxy = Proxy::start(&config);
        proxy.allow_resident(256 * 1024 * 1024);
        let began = Instant::now();
        let page = get(proxy.http(), "/metrics").body;
        let took = began.elapsed();
        println!("{count} backends: {} bytes in {took:?}", page.len());
        assert!(took < Duration::from_secs(10), "{took:?}");
        sizes.push((count, page.lines().count()));
        proxy.finish();
    }
    let [(few, lines), (many, more_lines)] = sizes[..] else {
        panic!("two sizes")
    };
    let per_backend = (more_lines - lines) / usize::try_from(many - few).unwrap();
    assert!(per_backend <= 120, "{per_backend} series a backend");
}
