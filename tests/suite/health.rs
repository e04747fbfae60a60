//! Probes and what follows from them: conformance G.

mod dialogs;
mod elsewhere;
mod exec;
mod flapping;
mod grpc;
mod http;
mod introduced;
mod panicking;
mod passive;
mod progress;
mod returning;
mod shared;
mod tls;

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::harness::backend::dead;
use crate::harness::faults::Swallowing;
use crate::harness::process::descriptors;
use crate::harness::proxy::Folder;
use crate::harness::scale::amount;
use crate::harness::stream::is_silent_for;
use crate::harness::wait::within;
use crate::harness::{
    Axis, Config, EVENKEEL, End, Family, Listening, Proxy, Served, Tagged, ping, read_all, refused,
    served, until,
};

#[test]
fn hlt_01_a_closed_listener_takes_its_backend_down() {
    let mut backends = [(); 2].map(|()| Served::echo(Family::V4));
    let mut proxy = Proxy::start(&probing(&backends).pool("balance = \"round_robin\""));
    proxy.expect("backend \"pool/a\" is down");
    backends[0].kill();
    proxy
        .log
        .wait(0, "with the error and where it was met", |line| {
            let (_, why) = line.split_once("backend \"pool/a\" is down: ")?;
            let after =
                why.strip_prefix("Connection refused (os error 111), at the connect after ")?;
            has(after, " ms (3 probes in a row failed)")
        });
    for _ in 0..20 {
        served(proxy.front());
    }
    let totals = proxy.finish();
    assert_eq!(
        totals.backend("a", "connect failures"),
        0,
        "it is not even tried"
    );
    assert_eq!(totals.backend("b", "sessions"), 20);
}

#[test]
fn hlt_01_a_failed_connect_brings_the_next_probe_forward() {
    let mut backends = [(); 2].map(|()| Served::echo(Family::V4));
    let config = probing(&backends)
        .pool("balance = \"first\"")
        .health("interval = \"1d\"")
        .health("fast_interval = \"20ms\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\": connect failed");
    proxy.expect("backend \"pool/a\" is down");
    served(proxy.front());
    backends[0].kill();
    served(proxy.front());
    proxy.log.wait_text("backend \"pool/a\" is down");
    served(proxy.front());
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 1);
    assert_eq!(totals.backend("b", "sessions"), 2);
}

#[test]
fn hlt_01_failed_connects_do_not_make_probes_of_a_backend_that_is_down() {
    let (service, _port) = dead(Family::V4);
    let (probed, port) = dead(Family::V4);
    let config = Config::of(Axis::PLAIN, &[service])
        .health(&format!("port = {}", probed.port()))
        .health("interval = \"1d\"")
        .health("fast_interval = \"20ms\"")
        .health("down_interval = \"1d\"")
        .health("rise = 1000");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\"");
    proxy.expect("client refused");
    refused(proxy.front());
    proxy.log.wait_text("backend \"pool/a\" is down");
    SockRef::from(&port).listen(100).unwrap();
    port.set_nonblocking(true).unwrap();
    for _ in 0..20 {
        refused(proxy.front()); // tried, because all are down
    }
    let is_probed = within(Duration::from_millis(200), || port.accept().is_ok());
    assert!(!is_probed, "the next probe is due in a day");
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 21);
}

#[test]
fn hlt_02_a_listener_that_returns_gets_its_share_back() {
    let mut tagged = Tagged::start(2);
    let config = probing(&tagged.backends).pool("balance = \"round_robin\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    for _ in 0..2 {
        assert_eq!(tagged.shares(proxy.front(), 10), [5, 5]);
        let mark = proxy.log.mark();
        tagged.backends[0].kill();
        proxy.log.wait(mark, "that it is down", |line| {
            has(line, "\"pool/a\" is down")
        });
        assert_eq!(tagged.shares(proxy.front(), 10), [0, 10]);
        tagged.backends[0].revive();
        proxy
            .log
            .wait(mark, "that it is up", |line| has(line, "\"pool/a\" is up"));
    }
    assert_eq!(tagged.shares(proxy.front(), 10), [5, 5]);
    proxy.finish();
}

#[test]
fn hlt_06_another_port_can_be_probed() {
    for family in [Family::V4, Family::V6] {
        let service = Served::echo(family);
        let probed = Listening::start(family);
        let port = format!("port = {}", probed.address.port());
        elsewhere::is_probed(&service, probed, &port, Axis::plain(family));
    }
}

#[test]
fn hlt_07_an_interval_below_the_time_out_is_an_error() {
    let config = Config::of(Axis::PLAIN, &[SocketAddr::from(([127, 0, 0, 1], 1))]);
    for (settings, error) in [
        (
            ["interval = \"100ms\"", "timeout = \"200ms\""],
            "`timeout` 200ms is longer than",
        ),
        (
            ["interval = \"100ms\"", "fast_interval = \"1s\""],
            "`fast_interval` 1s is longer than",
        ),
        (["interval = \"0s\"", "fall = 3"], "interval"),
        (["interval = \"2s\"", "timeout = \"0s\""], "timeout"),
    ] {
        let folder = Folder::new();
        let config = config.clone().health(settings[0]).health(settings[1]);
        std::fs::write(folder.config(), config.text()).unwrap();
        let output = Command::new(EVENKEEL)
            .arg("check")
            .arg(folder.config())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(error), "{text}");
    }
}

#[test]
fn hlt_07_an_interval_of_a_millisecond_is_possible() {
    let backend = Served::echo(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .health("interval = \"1ms\"")
        .health("fall = 1000"); // a busy machine does not answer within a millisecond
    let proxy = Proxy::start(&config);
    until("many probes", || backend.served() > 200);
    served(proxy.front());
    proxy.finish();
}

#[test]
fn hlt_09_probes_are_spread_over_the_interval() {
    let (everywhere, seen) = Everywhere::start();
    let config = everywhere
        .config(1_000)
        .health("interval = \"2s\"")
        .health("timeout = \"2s\"")
        .health("fall = 100");
    let start = Instant::now();
    let proxy = Proxy::start(&config);
    seen.check_spread(start, 1_000);
    // Every prober starts anew, and again they do not start together.
    let start = seen.forget();
    proxy.reload(&config.health("rise = 3")).unwrap();
    seen.check_spread(start, 1_000);
    proxy.finish();
}

#[test]
fn hlt_10_swallowed_probes_are_bounded_and_hurt_nobody() {
    let swallowing = Swallowing::at((Ipv4Addr::UNSPECIFIED, 0).into());
    let live = Served::echo(Family::V4);
    let mut config = Config::new(Axis::PLAIN)
        .pool("balance = \"first\"")
        .health("interval = \"1s\"")
        .health("timeout = \"500ms\"")
        .health("fall = 1");
    for address in loopbacks(swallowing.address.port()).take(1_000) {
        config = config.backend(&address.to_string());
    }
    let config = config.more(&format!(
        "[[listener]]\nname = \"live\"\nbind = \"127.0.0.1:0\"\npool = \"live\"\n\
         [[pool.live.backend]]\nname = \"a\"\naddress = \"{}\"",
        live.address
    ));
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down: no answer within 500ms");
    let before = descriptors(proxy.id()).others;
    let mut client = served(proxy.address("live"));
    let (mut most, mut slowest) = (0, Duration::ZERO);
    until("all are down", || {
        most = most.max(descriptors(proxy.id()).others - before);
        let start = Instant::now();
        ping(&mut client).unwrap();
        slowest = slowest.max(start.elapsed());
        proxy.log.count("is down: no answer") >= 1_000
    });
    assert!(
        most > 100,
        "only {most} probes at once: nothing was put to the test"
    );
    assert!(most <= 256 + 10, "{most} probes at once");
    assert!(
        slowest < Duration::from_secs(1),
        "{slowest:?} for an answer"
    );
    drop(client);
    // What is under way now stays so until its time-out.
    proxy
        .reload(&Config::of(Axis::PLAIN, &[live.address]))
        .unwrap();
    proxy.finish();
}

#[test]
fn hlt_12_keep_leaves_the_sessions_of_a_backend_that_goes_down() {
    let mut open = Open::start("keep");
    open.go_down();
    is_silent_for(&mut open.sessions[0].0, Duration::from_millis(300));
    open.sessions.iter_mut().for_each(exchange);
    open.finish();
}

#[test]
fn hlt_12_reset_ends_the_sessions_of_a_backend_that_goes_down() {
    let mut open = Open::start("reset");
    open.go_down();
    open.expect_resets();
    open.finish();
}

#[test]
fn hlt_12_drain_keeps_the_sessions_for_a_while() {
    let mut open = Open::start("drain:2s");
    let start = Instant::now();
    open.go_down();
    open.sessions.iter_mut().for_each(exchange);
    open.expect_resets();
    assert!(start.elapsed() >= Duration::from_secs(2));
    open.finish();
}

#[test]
fn hlt_12_a_backend_that_comes_back_in_time_keeps_its_sessions() {
    let mut open = Open::start("drain:1s");
    open.go_down();
    open.probed.revive();
    open.proxy.log.wait_text("backend \"pool/a\" is up");
    is_silent_for(&mut open.sessions[0].0, Duration::from_millis(1_500));
    open.sessions.iter_mut().for_each(exchange);
    open.finish();
}

#[test]
fn hlt_12_a_client_that_is_not_connected_yet_gets_another_backend() {
    let swallowing = Swallowing::start(Family::V4);
    let probed = Listening::start(Family::V4);
    let port = probed.address.port();
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let (live, _probed) = (
        Served::echo_at((other, 0).into()),
        Listening::at((other, port).into()),
    );
    let config = quick(Config::of(Axis::PLAIN, &[swallowing.address, live.address]))
        .pool("balance = \"first\"")
        .pool("connect_timeout = \"1h\"")
        .pool("on_down = \"reset\"")
        .health(&format!("port = {port}"));
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\" is down");
    proxy.expect("backend \"pool/a\": connect failed: its backend is down");
    let mut client = crate::harness::connect(proxy.front());
    client.write_all(b"ping").unwrap();
    is_silent_for(&mut client, Duration::from_millis(50));
    drop(probed);
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    drop(client);
    let totals = proxy.finish();
    assert_eq!(totals.backend("b", "sessions"), 1);
}

#[test]
fn hlt_13_with_all_down_fail_open_decides() {
    let mut probed = Served::echo(Family::V4);
    let tagged = Tagged::start(2);
    let config = probing(&tagged.backends)
        .health(&format!("port = {}", probed.address.port()))
        .pool("balance = \"round_robin\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down");
    proxy.expect("client refused: no backend is up");
    probed.kill();
    proxy.log.wait_text("backend \"pool/a\" is down");
    proxy.log.wait_text("backend \"pool/b\" is down");
    assert_eq!(
        tagged.shares(proxy.front(), 10),
        [5, 5],
        "fail_open = true by default"
    );

    proxy.reload(&config.pool("fail_open = false")).unwrap();
    refused(proxy.front());
    probed.revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    proxy.log.wait_text("backend \"pool/b\" is up");
    assert_eq!(tagged.shares(proxy.front(), 10), [5, 5]);
    let totals = proxy.finish();
    assert_eq!(totals.front("refused"), 1);
}

#[test]
fn hlt_17_the_state_before_the_first_result_is_a_setting() {
    let backend = Served::echo(Family::V4);
    let mut probed = Served::echo(Family::V4);
    probed.kill();
    let config = quick(Config::of(Axis::PLAIN, &[backend.address]))
        .health(&format!("port = {}", probed.address.port()))
        .pool("fail_open = false");

    let mut proxy = Proxy::start(&config.clone().health("initial = \"down\""));
    proxy.expect("client refused: no backend is up");
    refused(proxy.front());
    probed.revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    served(proxy.front());
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "sessions"), 1);
    probed.kill();

    let mut proxy = Proxy::start(&config.health("fall = 100"));
    proxy.expect("backend \"pool/a\" is down");
    served(proxy.front()); // up is the default
    proxy.finish();
}

#[test]
fn hlt_19_a_reload_keeps_state_and_history_of_what_did_not_change() {
    let mut backends = [(); 2].map(|()| Served::echo(Family::V4));
    let config = probing(&backends)
        .pool("balance = \"first\"")
        .health("interval = \"1d\"")
        .health("fast_interval = \"2s\"")
        .health("down_interval = \"1d\"")
        .health("fall = 2");
    let mut proxy = Proxy::start(&config);
    proxy.expect("backend \"pool/a\": connect failed");
    proxy.expect("backend \"pool/a\" is down");
    backends[0].kill();
    // A first failure. The second one comes at the fast interval; anew it would come within a day.
    served(proxy.front());
    proxy
        .reload(&config.clone().listener("max_connections = 100"))
        .unwrap();
    proxy.log.wait_text("ms (2 probes in a row failed)");

    let mark = proxy.log.mark();
    let more = config.clone().also_listening("side", "\"127.0.0.1:0\"");
    proxy.reload(&more).unwrap();
    served(proxy.front());
    served(proxy.address("side"));
    proxy.reload(&config).unwrap();
    assert_eq!(
        proxy.log.find(mark, |line| has(line, "backend \"pool/a\"")),
        None
    );
    let log = proxy.log.clone();
    let totals = proxy.finish();
    assert_eq!(totals.backend("a", "connect failures"), 1, "down as before");
    log.wait(0, "on what the last probe found", |line| {
        let (_, last) = line.split_once(", open 0, last probe ")?;
        has(
            last,
            " ms ago: Connection refused (os error 111), at the connect",
        )
    });
}

#[test]
fn hlt_20_a_change_of_one_pool_leaves_the_health_of_the_others() {
    let mut backends = [(); 2].map(|()| Served::echo(Family::V4));
    let other = |name: &str, settings: &str| {
        format!(
            "[[listener]]\nname = \"side\"\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\
             [pool.{name}]\nfail_open = false\n[pool.{name}.health]\ninterval = \"500ms\"\n\
             fast_interval = \"20ms\"\ndown_interval = \"20ms\"\n{settings}\n\
             [[pool.{name}.backend]]\nname = \"x\"\naddress = \"{}\"",
            backends[1].address
        )
    };
    let others = [
        other("other", ""),
        other("other", "rise = 4"),
        other("renamed", ""),
    ];
    let config = quick(Config::of(Axis::PLAIN, &[backends[0].address])).pool("fail_open = false");
    let mut proxy = Proxy::start(&config.clone().more(&others[0]));
    proxy.expect("is down: Connection refused");
    proxy.expect("client refused: no backend is up");
    proxy.expect("connect failed");
    proxy.expect("client refused: 1 backends tried");
    backends.iter_mut().for_each(Served::kill);
    for name in ["pool/a", "other/x"] {
        proxy.log.wait_text(&format!("backend \"{name}\" is down"));
    }
    let mark = proxy.log.mark();

    // Other settings of the probes are in force at once; until they say otherwise it is down.
    proxy.reload(&config.clone().more(&others[1])).unwrap();
    refused(proxy.address("side"));
    backends[1].revive();
    proxy.log.wait_text("backend \"other/x\" is up");
    served(proxy.address("side"));

    // Under another name it is another backend, which nothing is known of.
    proxy.reload(&config.more(&others[2])).unwrap();
    served(proxy.address("side"));
    backends[1].kill();
    proxy.log.wait_text("backend \"renamed/x\" is down");
    refused(proxy.address("side"));

    refused(proxy.front());
    assert_eq!(
        proxy.log.find(mark, |line| has(line, "backend \"pool/a\"")),
        None
    );
    backends[0].revive();
    proxy.log.wait_text("backend \"pool/a\" is up");
    served(proxy.front());
    proxy.finish();
}

#[test]
fn hlt_22_thousands_of_good_probes_take_nobody_down() {
    let (everywhere, seen) = Everywhere::start();
    // So long that only a fault of ours takes one down: a machine that has much else to do is late.
    let config = everywhere
        .config(2_000)
        .health("interval = \"3s\"")
        .health("timeout = \"3s\"")
        .health("fall = 3");
    let proxy = Proxy::start(&config);
    let wanted = usize::try_from(amount(6_000, 200_000)).unwrap();
    let time = Duration::from_secs(amount(60, 600));
    assert!(within(time, || seen.count() >= wanted));
    assert!(!proxy.log.has("is down"));
    proxy.finish();
}

/// Probes that soon see a change. Not by a short interval: a busy machine is not a dead one.
fn quick(config: Config) -> Config {
    config
        .health("interval = \"500ms\"")
        .health("fast_interval = \"20ms\"")
        .health("down_interval = \"20ms\"")
}

/// Probes of a type, often, that leave a busy backend the time to answer.
fn often(config: Config, kind: &str) -> Config {
    config
        .health(&format!("type = \"{kind}\""))
        .health("interval = \"1s\"")
        .health("fast_interval = \"20ms\"")
        .health("down_interval = \"20ms\"")
        .health("fall = 2")
}

/// No more probes of a backend that is down: at the end of a case none waits for an answer.
const DOWN_FOR_GOOD: &str = "down_interval = \"1d\"";

/// One pool of these backends, probed often.
fn probed(axis: Axis, kind: &str, backends: &[&Served]) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    often(Config::of(axis, &addresses), kind)
}

/// A backend that answers each request with the same bytes, and closes.
fn answering(family: Family, answer: &str) -> Served {
    let answer = answer.to_owned();
    Served::start(family.any(), move |mut stream| {
        request(&stream)?;
        stream.write_all(answer.as_bytes())
    })
}

/// What comes until an empty line, or the end.
fn request(stream: impl Read) -> io::Result<String> {
    let mut lines = BufReader::new(stream);
    let mut request = String::new();
    while lines.read_line(&mut request)? > 2 {}
    Ok(request)
}

/// One pool of these backends, quickly probed.
fn probing(backends: &[Served]) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    quick(Config::of(Axis::PLAIN, &addresses))
}

fn has(line: &str, text: &str) -> Option<()> {
    line.contains(text).then_some(())
}

/// Addresses of this machine, as many as anybody needs.
fn loopbacks(port: u16) -> impl Iterator<Item = SocketAddr> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
    (first..).map(move |address| (Ipv4Addr::from(address), port).into())
}

/// A backend at every address of the machine, which notes when each is probed.
struct Everywhere(Served);

/// When each address was probed.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Instant, IpAddr)>>>);

impl Everywhere {
    fn start() -> (Self, Seen) {
        let seen = Seen::default();
        let served = Served::start((Ipv4Addr::UNSPECIFIED, 0).into(), {
            let seen = seen.clone();
            move |stream| {
                let address = stream.local_addr()?.ip();
                seen.0.lock().unwrap().push((Instant::now(), address));
                Ok(())
            }
        });
        (Self(served), seen)
    }

    /// A pool of so many of its addresses.
    fn config(&self, count: usize) -> Config {
        let addresses: Vec<_> = loopbacks(self.0.address.port()).take(count).collect();
        Config::of(Axis::PLAIN, &addresses).pool("balance = \"first\"")
    }
}

impl Seen {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn forget(&self) -> Instant {
        self.0.lock().unwrap().clear();
        Instant::now()
    }

    /// Looks when each of `count` addresses is probed first after `start`, with an interval of 2 s. A
    /// busy machine makes it later, never sooner.
    #[track_caller]
    fn check_spread(&self, start: Instant, count: usize) {
        let mut first = HashMap::new();
        until("a probe of each", || {
            for &(at, address) in self.0.lock().unwrap().iter() {
                first.entry(address).or_insert(at);
            }
            first.len() == count
        });
        let mut times: Vec<_> = first.values().map(|&at| at - start).collect();
        times.sort_unstable();
        for (share, earliest_ms) in [(count / 2, 500), (count * 9 / 10, 900)] {
            let time = times[share];
            assert!(
                time >= Duration::from_millis(earliest_ms),
                "{share} of {count} within {time:?}"
            );
        }
    }
}

/// Open sessions on a backend whose health depends on another port, so that they outlive it.
struct Open {
    proxy: Proxy,
    probed: Served,
    sessions: Vec<(TcpStream, TcpStream)>,
}

impl Open {
    fn start(on_down: &str) -> Self {
        let service = Listening::start(Family::V4);
        let probed = Served::echo(Family::V4);
        let axis = Axis {
            workers: 2,
            ..Axis::PLAIN
        };
        let config = quick(Config::of(axis, &[service.address]))
            .pool(&format!("on_down = \"{on_down}\""))
            .health(&format!("port = {}", probed.address.port()));
        let mut proxy = Proxy::start(&config);
        proxy.expect("backend \"pool/a\" is down");
        let mut sessions: Vec<_> = (0..8).map(|_| service.pair(proxy.front())).collect();
        sessions.iter_mut().for_each(exchange);
        Self {
            proxy,
            probed,
            sessions,
        }
    }

    fn go_down(&mut self) {
        self.probed.kill();
        self.proxy.log.wait_text("backend \"pool/a\" is down");
    }

    fn expect_resets(&mut self) {
        for (client, server) in self.sessions.drain(..) {
            for mut end in [client, server] {
                assert_eq!(read_all(&mut end), (vec![], End::Reset));
            }
        }
    }

    fn finish(self) {
        drop(self.sessions);
        self.proxy.finish();
    }
}

/// A few bytes there and back.
fn exchange((client, server): &mut (TcpStream, TcpStream)) {
    let mut got = [0; 4];
    client.write_all(b"ping").unwrap();
    server.read_exact(&mut got).unwrap();
    server.write_all(b"pong").unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"pong");
}
