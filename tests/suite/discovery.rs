//! Backends that are found rather than written.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::harness::names::{Mood, Names};
use crate::harness::stream::is_silent_for;
use crate::harness::{
    Axis, Config, Listening, Proxy, Served, Tagged, connect, ping, refused, served, until,
};

const HOST: &str = "models.internal";

/// Addresses with one port that is free on all of them.
fn one_port(count: u8) -> Vec<SocketAddr> {
    let address = |n: u8| Ipv4Addr::new(127, 214, 0, n);
    loop {
        let first = TcpListener::bind((address(1), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let others = (2..=count).map(|n| TcpListener::bind((address(n), port)));
        if others.collect::<Result<Vec<_>, _>>().is_ok() {
            return (1..=count).map(|n| (address(n), port).into()).collect();
        }
    }
}

fn v4(address: SocketAddr) -> Ipv4Addr {
    match address {
        SocketAddr::V4(address) => *address.ip(),
        SocketAddr::V6(_) => panic!("{address}"),
    }
}

fn config(discover: &str) -> Config {
    let two_workers = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::new(two_workers).pool("balance = \"round_robin\"");
    config.pool(&format!("discover = {{ {discover} }}")).admin()
}

fn by_name(names: &Names, port: u16, more: &str) -> Config {
    let resolver = names.address;
    config(&format!(
        "dns = \"{HOST}:{port}\", resolver = \"{resolver}\"{more}"
    ))
}

/// The names of the backends in force.
fn backends(proxy: &Proxy) -> Vec<String> {
    let status = proxy.status();
    let backends = status["pools"][0]["backends"].as_array().unwrap().iter();
    backends
        .map(|backend| backend["name"].as_str().unwrap().to_owned())
        .collect()
}

#[track_caller]
fn wait_for(proxy: &Proxy, expected: &[SocketAddr]) {
    let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
    expected.sort();
    until("these backends", || backends(proxy) == expected);
}

#[test]
fn addresses_of_a_host_come_and_go_and_sessions_stay() {
    let names = Names::start();
    let addresses = one_port(3);
    let listening: Vec<_> = addresses.iter().map(|&at| Served::echo_at(at)).collect();
    names.host(HOST, 1, &[v4(addresses[0])]);
    let proxy = Proxy::start(&by_name(&names, addresses[0].port(), ""));
    wait_for(&proxy, &addresses[..1]);
    let mut early = connect(proxy.front());
    ping(&mut early).unwrap();

    names.host(
        HOST,
        1,
        &[v4(addresses[2]), v4(addresses[1]), v4(addresses[0])],
    );
    wait_for(&proxy, &addresses);
    for _ in 0..6 {
        served(proxy.front());
    }
    until("all have served", || {
        listening.iter().all(|it| it.served() >= 2)
    });
    assert_eq!(
        proxy.backend(&addresses[0].to_string())["sessions"],
        3,
        "it goes on counting"
    );

    names.host(HOST, 1, &[v4(addresses[1])]);
    wait_for(&proxy, &addresses[1..2]);
    let before = listening[1].served();
    for _ in 0..4 {
        served(proxy.front());
    }
    until("one has served", || listening[1].served() == before + 4);
    ping(&mut early).unwrap(); // its backend has gone from the answer, not from the world
    drop(early);
    assert!(proxy.log.has("discovery: generation"));
    proxy.finish();
}

#[test]
fn a_name_server_that_fails_changes_nothing() {
    let names = Names::start();
    let addresses = one_port(2);
    let _listening: Vec<_> = addresses.iter().map(|&at| Served::echo_at(at)).collect();
    names.host(HOST, 1, &[v4(addresses[0])]);
    let mut proxy = Proxy::start(&by_name(&names, addresses[0].port(), ""));
    for (mood, told) in [
        (Mood::Failing, "its last 1 backends stay"),
        (Mood::Silent, "its last 1 backends stay"),
    ] {
        proxy.expect(told);
        names.mood(mood);
        let before = names.asked(HOST);
        until("it has asked in vain", || names.asked(HOST) > before + 2);
        served(proxy.front());
    }
    // And neither does one that says there is nothing.
    names.mood(Mood::Truthful);
    names.host(HOST, 1, &[]);
    until("the log", || proxy.log.has("it names no backend any more"));
    served(proxy.front());
    names.host(HOST, 1, &[v4(addresses[1])]);
    until("the log", || proxy.log.has("answers again"));
    wait_for(&proxy, &addresses[1..]);
    served(proxy.front());
    proxy.finish();
}

#[test]
fn an_empty_answer_is_believed_where_it_is_to_be() {
    let names = Names::start();
    let addresses = one_port(1);
    let _listening = Served::echo_at(addresses[0]);
    names.host(HOST, 1, &[]);
    // The start has found nothing, and serves nobody until something is there.
    let mut proxy = Proxy::start(&by_name(&names, addresses[0].port(), ", keep_last = false"));
    proxy.expect("client refused: no backend is up");
    refused(proxy.front());
    names.host(HOST, 1, &[v4(addresses[0])]);
    wait_for(&proxy, &addresses);
    served(proxy.front());
    names.host(HOST, 1, &[]);
    wait_for(&proxy, &[]);
    refused(proxy.front());
    proxy.finish();
}

#[test]
fn an_answer_is_asked_for_again_when_it_has_expired_and_no_sooner() {
    let names = Names::start();
    let addresses = one_port(1);
    let backend = Listening::at(addresses[0]);
    names.host(HOST, 3_600, &[v4(addresses[0])]);
    let proxy = Proxy::start(&by_name(&names, addresses[0].port(), ""));
    let asked = names.asked(HOST);
    drop(backend.pair(proxy.front()));
    // A reload goes by what is known.
    proxy
        .reload(&by_name(&names, addresses[0].port(), "").pool("retries = 1"))
        .unwrap();
    drop(backend.pair(proxy.front()));
    assert_eq!(names.asked(HOST), asked);
    // Another question is asked at once.
    proxy
        .reload(&by_name(&names, addresses[0].port(), ", keep_last = false"))
        .unwrap();
    assert!(names.asked(HOST) > asked);
    drop(backend.pair(proxy.front()));
    proxy.finish();
}

#[test]
fn servers_of_a_service_have_weights_and_stand_in_for_others() {
    let names = Names::start();
    let mut tagged = Tagged::start(3);
    let ports: Vec<_> = tagged.addresses().iter().map(SocketAddr::port).collect();
    names.host("a.internal", 1, &[Ipv4Addr::LOCALHOST]);
    let servers = [
        (10, 1, ports[0], "a.internal"),
        (10, 3, ports[1], "a.internal"),
        (20, 1, ports[2], "a.internal"),
    ];
    names.service("_http._tcp.internal", 1, &servers);
    let resolver = names.address;
    let dns = format!("dns = \"srv:_http._tcp.internal\", resolver = \"{resolver}\"");
    let probes = [
        "type = \"tcp\"",
        "interval = \"50ms\"",
        "fast_interval = \"50ms\"",
    ];
    let config = probes
        .iter()
        .fold(config(&dns), |config, setting| config.health(setting));
    let mut proxy = Proxy::start(&config);
    proxy.expect(" is down: ");
    assert_eq!(tagged.shares(proxy.front(), 8), [2, 6, 0]);
    tagged.backends[0].kill();
    tagged.backends[1].kill();
    until("the backup", || {
        let names = tagged.addresses();
        let is_down = |n: usize| proxy.backend(&names[n].to_string())["is_up"] == false;
        is_down(0) && is_down(1)
    });
    assert_eq!(Tagged::ask(proxy.front()).0, 2);
    // A service of which there is none: its target is the root.
    names.service("_http._tcp.internal", 1, &[(0, 0, 0, ".")]);
    proxy.expect("it names no backend any more");
    until("the log", || proxy.log.has("it names no backend any more"));
    proxy.finish();
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let tagged = Tagged::start(3);
    let addresses = tagged.addresses();
    let config = config("file = \"@FOLDER@/backends.toml\"");
    let config = config.backend(&addresses[0].to_string());
    let table =
        |n: usize, more: &str| format!("[[backend]]\naddress = \"{}\"\n{more}", addresses[n]);
    let mut proxy = Proxy::start(&config);
    proxy.expect("it cannot be read: No such file");
    let path = proxy.folder().join("backends.toml");
    assert_eq!(tagged.shares(proxy.front(), 3), [3, 0, 0]);
    // Written in place.
    fs::write(&path, table(1, "weight = 200\n")).unwrap();
    until("a second backend", || backends(&proxy).len() == 2);
    assert_eq!(tagged.shares(proxy.front(), 6), [2, 4, 0]);
    // One that is wrong changes nothing, and the log says where.
    proxy.expect("backends.toml:3:1: `wait` is no key");
    fs::write(&path, table(1, "wait = 200\n")).unwrap();
    until("the log", || {
        proxy.log.has("backends.toml:3:1: `wait` is no key")
    });
    assert_eq!(tagged.shares(proxy.front(), 6), [2, 4, 0]);
    // Another one takes its place; the backend that is written already is not there twice.
    let next = proxy.folder().join("next.toml");
    let mut file = fs::File::create(&next).unwrap();
    file.write_all(
        (table(0, "") + &table(2, "name = \"third\"\nmax_connections = 9\n")).as_bytes(),
    )
    .unwrap();
    fs::rename(&next, &path).unwrap();
    until("the third backend", || backends(&proxy) == ["a", "third"]);
    assert_eq!(tagged.shares(proxy.front(), 4), [2, 0, 2]);
    assert_eq!(proxy.backend("third")["max_connections"], 9);
    // It goes away, and what it has said stays.
    fs::remove_file(&path).unwrap();
    until("the log", || proxy.log.has("its last 2 backends stay"));
    assert_eq!(backends(&proxy), ["a", "third"]);
    // A configuration that does not ask for it ends that.
    let plain = Config::of(Axis::PLAIN, &addresses[..1])
        .global("workers = 2")
        .admin();
    proxy.reload(&plain).unwrap();
    assert_eq!(backends(&proxy), ["a"]);
    proxy.finish();
}

#[test]
fn nobody_is_found_who_is_ourselves() {
    let names = Names::start();
    let addresses = one_port(2);
    let _backend = Served::echo_at(addresses[1]);
    names.host(HOST, 1, &[v4(addresses[0]), v4(addresses[1])]);
    let bind = format!("bind = \"{}\"", addresses[0]);
    let proxy = Proxy::start(&by_name(&names, addresses[0].port(), "").listener(&bind));
    assert_eq!(backends(&proxy), [addresses[1].to_string()]);
    served(proxy.front());
    proxy.finish();
}

#[test]
fn a_client_waits_for_no_backend_that_is_not_there() {
    let names = Names::start();
    let addresses = one_port(1);
    names.mood(Mood::Silent);
    let mut proxy = Proxy::start(&by_name(&names, addresses[0].port(), ""));
    proxy.expect("no answer in time");
    proxy.expect("its last 0 backends stay");
    proxy.expect("client refused: no backend is up");
    refused(proxy.front());
    let backend = Served::echo_at(addresses[0]);
    names.host(HOST, 1, &[v4(addresses[0])]);
    names.mood(Mood::Truthful);
    wait_for(&proxy, &addresses);
    let mut client = connect(proxy.front());
    ping(&mut client).unwrap();
    is_silent_for(&mut client, Duration::from_millis(5));
    drop(client);
    drop(backend);
    proxy.finish();
}
