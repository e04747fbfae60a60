//! Clients that wait while every backend is full.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::backend::{Gauge, dead};
use crate::harness::clients::{Clients, finish_session};
use crate::harness::faults::Swallowing;
use crate::harness::proxy::Folder;
use crate::harness::scale::amount;
use crate::harness::stream::is_silent_for;
use crate::harness::wait::DEADLINE;
use crate::harness::{
    Axis, Config, End, Family, Listening, Proxy, Served, connect, connect_from, on_every_axis,
    read_all, refused, reset, served, try_served, until,
};

const FULL: &str = "queue.limit is reached";

/// Clients that wait one behind the other, each of which has sent its number.
fn line(proxy: &Proxy, quiet: usize, open: usize, numbers: std::ops::Range<u8>) -> Vec<TcpStream> {
    let clients = (1..).zip(numbers).map(|(place, number)| {
        let mut client = connect(proxy.front());
        client.write_all(&[number]).unwrap();
        proxy.wait_open(quiet + open + place);
        client
    });
    clients.collect()
}

/// The number of the next client that the backend gets, and its connection.
fn next(backend: &Listening) -> (u8, TcpStream) {
    let mut server = backend.accept();
    let mut number = [0];
    server.read_exact(&mut number).unwrap();
    (number[0], server)
}

fn one_slot(axis: Axis, backend: &Listening) -> Config {
    Config::of(axis, &[backend.address]).pool("max_connections = 1")
}

#[test]
fn a_slot_goes_to_whoever_has_waited_longest() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&one_slot(axis, &backend));
        let quiet = proxy.open_descriptors();
        let mut open = backend.pair(proxy.front());
        let clients = line(&proxy, quiet, 2, 0..6);
        for (expected, client) in (0..6).zip(clients) {
            assert!(backend.try_accept().is_none(), "there is one slot");
            drop(open);
            let (number, server) = next(&backend);
            assert_eq!(number, expected);
            open = (client, server);
        }
        drop(open);
        let totals = proxy.finish();
        assert_eq!(totals.queue("served"), 6);
        assert_eq!(totals.front("refused"), 0);
    });
}

#[test]
fn con_16_who_goes_away_leaves_the_queue_at_once() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&one_slot(axis, &backend));
        let quiet = proxy.open_descriptors();
        let open = backend.pair(proxy.front());
        let mut clients = line(&proxy, quiet, 2, 0..9);
        // Every third stays, the others close or reset.
        for place in (0..9).rev().filter(|place| place % 3 != 0) {
            let client = clients.remove(place);
            if place % 3 == 1 {
                reset(client);
            }
        }
        proxy.wait_open(quiet + 2 + 3);
        drop(open);
        for expected in [0, 3, 6] {
            let (number, server) = next(&backend);
            assert_eq!(number, expected, "nobody else is brought to the backend");
            drop((clients.remove(0), server));
        }
        let totals = proxy.finish();
        assert_eq!((totals.queue("served"), totals.queue("gone")), (3, 6));
    });
}

#[test]
fn con_17_nobody_waits_for_a_pool_that_cannot_serve() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = one_slot(axis, &backend)
            .pool("fail_open = false")
            .health("type = \"tcp\"")
            .health("interval = \"1s\"\ntimeout = \"1s\"\nfall = 1");
        let mut proxy = Proxy::start(&config);
        proxy.expect("is down");
        proxy.expect("client refused: no backend is up");
        let mut client = connect(proxy.front());
        client.write_all(b"here").unwrap();
        // The probes come to the same door.
        let server = std::iter::repeat_with(|| backend.accept())
            .find_map(|mut server| server.read_exact(&mut [0; 4]).is_ok().then_some(server));
        let mut open = (client, server.unwrap());
        let mut waiting: Vec<_> = (0..4).map(|_| connect(proxy.front())).collect();
        drop(backend);
        for client in &mut waiting {
            assert_eq!(read_all(client), (vec![], End::Reset));
        }
        let (client, server) = &mut open;
        client.write_all(b"on").unwrap();
        server.read_exact(&mut [0; 2]).unwrap();
        drop((open, waiting));
        let totals = proxy.finish();
        assert_eq!(totals.queue("hopeless"), 4);
        assert_eq!(totals.front("refused"), 4);
    });
}

#[test]
fn limits_of_the_queue_hold() {
    let backend = Listening::start(Family::V4);
    let config = one_slot(Axis::PLAIN, &backend).pool("queue = { limit = 3, per_source = 2 }");
    let mut proxy = Proxy::start(&config);
    proxy.expect(FULL);
    proxy.expect("queue.per_source is reached");
    let quiet = proxy.open_descriptors();
    let open = backend.pair(proxy.front());
    let first = line(&proxy, quiet, 2, 0..2);
    refused(proxy.front());
    let other = IpAddr::from(Ipv4Addr::new(127, 210, 0, 9));
    let mut second = connect_from(other, proxy.front()).unwrap();
    second.write_all(&[2]).unwrap();
    proxy.wait_open(quiet + 2 + 3);
    refused(proxy.front());
    drop(open);
    let mut all = first;
    all.push(second);
    for (expected, client) in (0..3).zip(all) {
        let (number, server) = next(&backend);
        assert_eq!(number, expected);
        drop((client, server));
    }
    let totals = proxy.finish();
    let counts = ["source full", "full", "served"].map(|what| totals.queue(what));
    assert_eq!(counts, [1, 1, 3]);
    assert_eq!(totals.front("refused"), 2);
}

#[test]
fn sources_take_turns_where_they_are_to() {
    let backend = Listening::start(Family::V4);
    let config = |setting: &str| {
        let queue = format!("queue = {{ {setting} }}");
        one_slot(Axis::PLAIN, &backend).pool(&queue)
    };
    let source = |number: u8| -> IpAddr { Ipv4Addr::new(127, 213, 0, number).into() };
    for (setting, expected) in [
        ("fair = false", [0, 1, 2, 3, 4, 5, 6]),
        ("fair = true", [0, 3, 6, 1, 4, 2, 5]),
    ] {
        let proxy = Proxy::start(&config(setting));
        let quiet = proxy.open_descriptors();
        let mut open = backend.pair(proxy.front());
        let crowd = [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 1), (6, 3)];
        let mut clients = Vec::new();
        for (place, (number, of)) in (1..).zip(crowd) {
            let mut client = connect_from(source(of), proxy.front()).unwrap();
            client.write_all(&[number]).unwrap();
            proxy.wait_open(quiet + 2 + place);
            clients.push(Some(client));
        }
        for number in expected {
            drop(open);
            let (found, server) = next(&backend);
            assert_eq!(found, number, "{setting}");
            open = (clients[usize::from(number)].take().unwrap(), server);
        }
        drop(open);
        proxy.finish();
    }
}

#[test]
fn who_waits_for_too_long_is_told_why() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = one_slot(axis, &backend)
            .pool("queue = { timeout = \"200ms\" }")
            .pool(r#"refuse = 'bytes:"503 busy\r\n"'"#);
        let folder = Folder::new();
        let log = folder.path().join("access.log");
        let mut proxy = Proxy::start(&config.global(&format!("access_log = {{ path = {log:?} }}")));
        proxy.expect("queue.timeout is over");
        let open = backend.pair(proxy.front());
        let start = Instant::now();
        let mut client = connect(proxy.front());
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_all(&mut client), (b"503 busy\r\n".into(), End::Fin));
        // The clock of a turn stands still, so a little may be missing.
        assert!(start.elapsed() >= Duration::from_millis(150));
        drop((client, open));
        let totals = proxy.finish();
        assert_eq!(totals.queue("timed out"), 1);
        assert_eq!(totals.front("refused"), 1);
        let lines = std::fs::read_to_string(&log).unwrap();
        let line = lines.lines().find(|line| line.contains(" EQ ")).unwrap();
        let (_, queued) = line.split_once("queue_ms=").unwrap();
        let (queued, _) = queued.split_once(' ').unwrap();
        assert!(queued.parse::<u64>().unwrap() >= 190, "{line}");
    });
}

#[test]
fn who_has_sent_everything_may_wait_for_the_answer() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = one_slot(axis, &backend).pool("queue = { abort_on_close = false }");
        let proxy = Proxy::start(&config);
        let quiet = proxy.open_descriptors();
        let open = backend.pair(proxy.front());
        let mut client = connect(proxy.front());
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        proxy.wait_open(quiet + 2 + 1);
        is_silent_for(&mut client, Duration::from_millis(50));
        drop(open);
        let mut server = backend.accept();
        assert_eq!(read_all(&mut server), (b"request".into(), End::Fin));
        server.write_all(b"answer").unwrap();
        drop(server);
        assert_eq!(read_all(&mut client), (b"answer".into(), End::Fin));
        drop(client);
        proxy.finish();
    });
}

#[test]
fn a_backend_that_fails_leaves_its_client_at_the_front() {
    on_every_axis(|axis| {
        let (refusing, _port) = dead(axis.family);
        let backend = Listening::start(axis.family);
        let config = one_slot(axis, &backend).pool("balance = \"first\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("connect failed");
        let quiet = proxy.open_descriptors();
        let open = backend.pair(proxy.front());
        let clients = line(&proxy, quiet, 2, 0..2);
        // The first in the queue is called, finds nobody there, and waits before the other one.
        let both = config.backend(&refusing.to_string());
        proxy.reload(&both).unwrap();
        proxy.log.wait_text("connect failed");
        proxy.wait_open(quiet + 2 + 2);
        drop(open);
        for (expected, client) in (0..2).zip(clients) {
            let (number, server) = next(&backend);
            assert_eq!(number, expected);
            drop((client, server));
        }
        proxy.finish();
    });
}

#[test]
fn a_reload_keeps_the_order_and_finds_the_limit_in_force() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = one_slot(axis, &backend);
        let proxy = Proxy::start(&config);
        let quiet = proxy.open_descriptors();
        let open = backend.pair(proxy.front());
        let clients = line(&proxy, quiet, 2, 0..5);
        proxy.reload(&config.clone().pool("retries = 1")).unwrap();
        assert!(backend.try_accept().is_none());
        // Two more slots.
        proxy
            .reload(&config.clone().pool("max_connections = 3"))
            .unwrap();
        let mut servers: Vec<_> = (0..2).map(|_| next(&backend)).collect();
        servers.sort_by_key(|(number, _)| *number);
        assert_eq!([servers[0].0, servers[1].0], [0, 1]);
        proxy.reload(&config).unwrap();
        // One slot: who is open must be over before the next has its turn.
        drop((open, servers));
        for client in &clients[..2] {
            client.shutdown(Shutdown::Both).unwrap();
        }
        for (expected, client) in (2..5).zip(&clients[2..]) {
            let (number, server) = next(&backend);
            assert_eq!(number, expected);
            client.shutdown(Shutdown::Both).unwrap();
            drop(server);
        }
        drop(clients);
        proxy.finish();
    });
}

#[test]
fn who_waits_follows_the_listener_to_another_pool() {
    on_every_axis(|axis| {
        let [full, free] = [(); 2].map(|()| Listening::start(axis.family));
        let pool = |name: &str, backend: &Listening| {
            let address = backend.address;
            format!(
                "[pool.{name}]\nmax_connections = 1\nhealth = {{ type = \"none\" }}\n\
                 [[pool.{name}.backend]]\naddress = \"{address}\"\n"
            )
        };
        let config = one_slot(axis, &full);
        let mut proxy = Proxy::start(&config);
        proxy.expect("client refused: it was removed");
        let quiet = proxy.open_descriptors();
        let open = full.pair(proxy.front());
        let mut clients = line(&proxy, quiet, 2, 0..2);
        // Its pool goes with the listener to it.
        let text = config.more(&pool("other", &free));
        let text = text.also_listening("rest", "\"127.0.0.1:0\"").text();
        proxy.write(text.replacen("\"pool\"", "\"other\"", 1).as_bytes());
        proxy.reload_file().unwrap();
        // They may be of two workers, which follow the change one after the other.
        let (number, server) = next(&free);
        let mut left = clients.remove(usize::from(1 - number));
        // A pool and a listener that are gone.
        let rest = format!(
            "{}[[listener]]\nname = \"last\"\nbind = \"127.0.0.1:0\"\npool = \"last\"\n",
            pool("last", &full)
        );
        let workers = format!(
            "[global]\nworkers = {}\nsplice = \"{}\"\nhttp = \"\"\n",
            axis.workers, axis.splice
        );
        proxy.write(format!("{workers}{rest}").as_bytes());
        proxy.reload_file().unwrap();
        assert_eq!(read_all(&mut left), (vec![], End::Reset));
        drop((open, server, clients, left));
        let totals = proxy.finish();
        assert_eq!(totals.queue("moved"), 2);
        assert_eq!(totals.queues["other"]["hopeless"], 1);
    });
}

#[test]
fn a_drain_serves_those_who_wait() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let config = one_slot(axis, &backend).global("drain_timeout = \"20s\"");
        let mut proxy = Proxy::start(&config);
        let quiet = proxy.open_descriptors();
        let open = backend.pair(proxy.front());
        let clients = line(&proxy, quiet, 2, 0..3);
        proxy.signal(Signal::SIGTERM);
        proxy.log.wait_text("stopping");
        drop(open);
        for (expected, client) in (0..3).zip(clients) {
            let (number, server) = next(&backend);
            assert_eq!(number, expected);
            drop((client, server));
        }
        assert!(proxy.wait_exit(DEADLINE).success());
        assert_eq!(proxy.check_end().queue("served"), 3);
    });
}

/// A backend that lets each client wait for 50 ms and answers, and notes in which order they came.
fn slow(gauge: &Gauge, order: &Arc<Mutex<Vec<u32>>>) -> Served {
    let (Gauge { now, most }, order) = (gauge.clone(), Arc::clone(order));
    Served::start((Ipv4Addr::LOCALHOST, 0).into(), move |mut stream| {
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        let mut number = [0; 4];
        let read = stream.read_exact(&mut number);
        order.lock().unwrap().push(u32::from_be_bytes(number));
        stream.set_read_timeout(Some(SERVICE))?;
        drop(stream.read(&mut [0]));
        // Before the proxy sees the end.
        now.fetch_sub(1, SeqCst);
        read.and_then(|()| stream.write_all(b"done"))
    })
}

/// How long each client is served.
const SERVICE: Duration = Duration::from_millis(50);

/// A client that wants to be served once.
fn ask(front: SocketAddr, number: u32) -> TcpStream {
    let mut client = connect(front);
    client.write_all(&number.to_be_bytes()).unwrap();
    client
}

#[test]
fn eight_slots_serve_five_hundred_clients_in_order() {
    let (gauge, order) = (Gauge::default(), Arc::default());
    let backend = slow(&gauge, &order);
    let config = Config::of(Axis::PLAIN, &[backend.address]).pool("max_connections = 8");
    let proxy = Proxy::start(&config);
    let clients: Vec<_> = (0..500).map(|number| ask(proxy.front(), number)).collect();
    for mut client in clients {
        assert_eq!(read_all(&mut client), (b"done".into(), End::Fin));
    }
    assert_eq!(
        gauge.most.load(SeqCst),
        8,
        "as many as there may be, and no more"
    );
    // Each has a thread at the backend, so those that come together may be noted in any order.
    for (place, &number) in (0..).zip(order.lock().unwrap().iter()) {
        assert!(
            number.abs_diff(place) < 16,
            "{number} came as number {place}"
        );
    }
    let totals = proxy.finish();
    assert_eq!(totals.front("accepted"), 500);
    assert_eq!(totals.backend("a", "sessions"), 500);
    let waited = totals.queue("served");
    assert!((400..=492).contains(&waited), "{waited}");
}

#[test]
fn slots_hold_over_workers_reloads_and_a_backend_that_dies() {
    let gauges = [(); 2].map(|()| Gauge::default());
    let mut backends = gauges.each_ref().map(Gauge::echo);
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let addresses = backends.each_ref().map(|one| one.address);
    let config = Config::of(axis, &addresses)
        .pool("max_connections = 4")
        .pool("balance = \"least_connections\"")
        .pool("queue = { timeout = \"60s\" }");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    let failed = Arc::new(AtomicU64::new(0));
    let clients = Clients::start(48, proxy.front(), {
        let failed = Arc::clone(&failed);
        move |front, _| match try_served(front).map(finish_session) {
            Ok(Ok(())) => Ok(()),
            // Its backend died under it, which nobody can hide.
            Ok(Err(_)) | Err(_) => {
                failed.fetch_add(1, SeqCst);
                Ok(())
            }
        }
    });
    let total = |backends: &[Served; 2]| backends.iter().map(Served::served).sum::<u64>();
    for round in 1..=6 {
        let served = total(&backends);
        until("sessions go on", || {
            total(&backends) >= served + amount(100, 5_000)
        });
        if round % 2 == 0 {
            backends[0].revive();
        } else {
            backends[0].kill();
        }
        let limit = if round % 3 == 0 {
            "retries = 1"
        } else {
            "retries = 2"
        };
        proxy.reload(&config.clone().pool(limit)).unwrap();
    }
    let (_, failures) = clients.stop();
    assert_eq!(failures, Vec::<String>::new());
    // At most those that were open on it each time.
    let failed = failed.load(SeqCst);
    assert!(failed <= 3 * 4, "{failed} clients failed");
    for gauge in &gauges {
        assert!(gauge.most.load(SeqCst) <= 4);
    }
    let totals = proxy.finish();
    assert_eq!(totals.front("refused"), 0);
    assert!(totals.queue("served") > 100);
}

#[test]
fn a_full_queue_and_a_crowd_leave_nothing_behind() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .pool("max_connections = 2")
        .pool("queue = { limit = 32 }");
    let mut proxy = Proxy::start(&config);
    proxy.expect(FULL);
    let open = [served(proxy.front()), served(proxy.front())];
    // Some are refused before they know that they are connected.
    let crowd: Vec<_> = (0..amount(400, 4_000))
        .filter_map(|_| TcpStream::connect(proxy.front()).ok())
        .collect();
    proxy.log.wait_text(FULL);
    for client in crowd {
        reset(client);
    }
    drop(open);
    until("there is room again", || try_served(proxy.front()).is_ok());
    proxy.finish();
}

#[test]
fn nobody_waits_for_a_pool_that_is_gone() {
    on_every_axis(|axis| {
        let hole = Swallowing::start(axis.family);
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[hole.address, backend.address])
            .pool("balance = \"first\"")
            .pool("max_connections = 1")
            .pool("connect_timeout = \"1s\"");
        let mut proxy = Proxy::start(&config);
        proxy.expect("connect failed");
        proxy.expect("client refused: it was removed");
        let quiet = proxy.open_descriptors();
        let mut client = connect(proxy.front());
        proxy.wait_open(quiet + 2);
        let open = backend.pair(proxy.front());
        let other = format!(
            "[global]\nworkers = {}\nsplice = \"{}\"\nhttp = \"\"\n\
             [[listener]]\nname = \"other\"\nbind = \"127.0.0.1:0\"\npool = \"other\"\n\
             [pool.other]\nhealth = {{ type = \"none\" }}\n\
             [[pool.other.backend]]\naddress = \"{}\"\n",
            axis.workers, axis.splice, backend.address
        );
        proxy.write(other.as_bytes());
        proxy.reload_file().unwrap();
        // Its connect fails, the other backend is full, and nobody would call it.
        assert_eq!(read_all(&mut client), (vec![], End::Reset));
        drop(open);
        proxy.finish();
    });
}

#[test]
fn a_backend_that_dies_lets_all_go_who_wait_for_it() {
    let folder = Folder::new();
    let path = folder.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let config = Config::new(Axis::PLAIN)
        .backend(&format!("unix:{}", path.display()))
        .pool("max_connections = 1")
        .pool("retries = 0");
    let mut proxy = Proxy::start(&config);
    proxy.expect("connect failed");
    proxy.expect("client refused: 1 backends tried");
    let quiet = proxy.open_descriptors();
    let open = (connect(proxy.front()), listener.accept().unwrap());
    // One a second would take longer than anybody waits here.
    let mut clients: Vec<_> = (0..60).map(|_| connect(proxy.front())).collect();
    proxy.wait_open(quiet + 2 + 60);
    std::fs::remove_file(&path).unwrap();
    drop(listener);
    drop(open);
    for client in &mut clients {
        assert_eq!(read_all(client), (vec![], End::Reset));
    }
    proxy.finish();
}

#[test]
fn flows_do_not_pass_clients_that_wait() {
    let backend = Served::echo(Family::V4);
    let sink = UdpSocket::bind(backend.address).unwrap();
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .pool("max_connections = 2")
        .flows("idle_timeout = \"100ms\"")
        .more("[[listener]]\nname = \"flows\"\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"pool\"");
    let proxy = Proxy::start(&config);
    let flows: SocketAddr = udp_address(&proxy);
    let clients = Clients::start(8, proxy.front(), |front, _| {
        let client = try_served(front).map_err(|error| error.to_string())?;
        finish_session(client)
    });
    // New sources all the time, which never stop asking for a place.
    until("many are served", || {
        for _ in 0..20 {
            let source = UdpSocket::bind("127.0.0.1:0").unwrap();
            source.send_to(b"begin", flows).unwrap();
        }
        clients.done() > 500
    });
    assert_eq!(clients.stop().1, Vec::<String>::new());
    drop(sink);
    let totals = proxy.finish();
    assert!(totals.listeners["flows"]["dropped no backend:"] > 0);
}

fn udp_address(proxy: &Proxy) -> SocketAddr {
    *proxy.addresses("flows").last().unwrap()
}
