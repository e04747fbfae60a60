//! Who is busy: told from who sends when. What each script does is known, so what the proxy makes of it
//! can be counted.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crate::harness::backend::Gauge;
use crate::harness::clients::{Clients, finish_session};
use crate::harness::scale::{amount, seed};
use crate::harness::stream::{bounded, is_silent_for, send_aside};
use crate::harness::wait::within;
use crate::harness::{
    Axis, Config, End, Listening, Proxy, Rng, Served, Tagged, connect, on_every_axis, read_all,
    reset, until,
};

/// Short, so that a case need not wait long until a session is idle.
const LINGER: &str = "busy_linger = \"100ms\"";

/// A client and its connection at the backend.
type Pair = (TcpStream, TcpStream);

fn send(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

/// A question and its answer.
fn exchange((client, server): &mut Pair) {
    send(client, server, &[b'q'; 300]);
    send(server, client, &[b'a'; 900]);
}

/// How many answers are counted when this script is played.
fn answers(axis: Axis, settings: &[&str], script: impl FnOnce(&mut Pair)) -> u64 {
    let backend = Listening::start(axis.family);
    let config = Config::of(axis, &[backend.address]);
    let config = settings.iter().fold(config, |config, it| config.pool(it));
    let proxy = Proxy::start(&config);
    let mut pair = backend.pair(proxy.front());
    script(&mut pair);
    drop(pair);
    proxy.finish().backend("a", "answers")
}

#[test]
fn answers_are_counted_as_they_are_given() {
    on_every_axis(|axis| {
        let keep_alive = answers(axis, &[], |pair| (0..7).for_each(|_| exchange(pair)));
        assert_eq!(keep_alive, 7);
        let after_pauses = answers(axis, &["busy_linger = \"1ms\""], |pair| {
            for _ in 0..3 {
                exchange(pair);
                is_silent_for(&mut pair.0, Duration::from_millis(30));
            }
        });
        assert_eq!(after_pauses, 3);
        let server_first = answers(axis, &[], |pair| {
            let (client, server) = pair;
            send(server, client, b"220 ready\r\n");
            exchange(pair);
            exchange(pair);
        });
        assert_eq!(server_first, 2, "a greeting is no answer");
        let in_pieces = answers(axis, &[], |(client, server)| {
            (0..3).for_each(|_| send(client, server, &[b'q'; 100]));
            (0..9).for_each(|_| send(server, client, &[b'a'; 100]));
        });
        assert_eq!(in_pieces, 1);
        let half_closed = answers(axis, &[], |(client, server)| {
            send(client, server, b"all there is to ask");
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(server), (vec![], End::Fin));
            send(server, client, b"the answer");
        });
        assert_eq!(half_closed, 1);
    });
}

/// What cannot be told apart, as the documentation says it.
#[test]
fn questions_asked_together_are_answered_as_one() {
    let pipelined = answers(Axis::PLAIN, &[], |(client, server)| {
        (0..3).for_each(|_| send(client, server, &[b'q'; 100]));
        (0..3).for_each(|_| send(server, client, &[b'a'; 100]));
    });
    assert_eq!(pipelined, 1);
    let pings = |settings: &[&str]| {
        answers(Axis::PLAIN, settings, |(client, server)| {
            for _ in 0..5 {
                send(client, server, &[b'.'; 17]);
                send(server, client, &[b'.'; 17]);
            }
        })
    };
    assert_eq!(pings(&[]), 5);
    assert_eq!(pings(&["busy_min_bytes = 64"]), 0);
}

/// What the status says of the backend.
fn busy(proxy: &Proxy) -> u64 {
    let backend = proxy.backend("a");
    assert!(
        backend["busy"].as_u64() <= backend["open"].as_u64(),
        "{backend}"
    );
    backend["busy"].as_u64().expect("a number")
}

#[test]
fn the_status_says_who_is_busy() {
    for workers in [1, 2] {
        let axis = Axis {
            workers,
            ..Axis::PLAIN
        };
        let backend = Listening::start(axis.family);
        let config = Config::of(axis, &[backend.address]).pool(LINGER).admin();
        let mut proxy = Proxy::start(&config);
        proxy.rebase();
        let mut pairs: Vec<Pair> = (0..6).map(|_| backend.pair(proxy.front())).collect();
        until("sessions that say nothing are idle", || busy(&proxy) == 0);
        let [greeted, waiting, answered, finished, ended, gone] = &mut pairs[..] else {
            unreachable!("six pairs")
        };
        send(&mut greeted.1, &mut greeted.0, b"220 ready");
        for (client, server) in [&mut *waiting, answered, finished, ended, gone] {
            send(client, server, b"a question");
        }
        until("answers are waited for", || busy(&proxy) >= 5);
        until("a greeting is over", || busy(&proxy) == 5);
        is_silent_for(&mut waiting.0, Duration::from_millis(300));
        assert_eq!(busy(&proxy), 5, "however long it takes");
        send(&mut answered.1, &mut answered.0, b"an answer");
        until("an answer is over", || busy(&proxy) == 4);
        // The backend has nothing more to say, although the client may.
        finished.1.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut finished.0), (vec![], End::Fin));
        until("a backend that has finished is idle", || busy(&proxy) == 3);
        let (client, _server) = pairs.pop().expect("six pairs");
        reset(client);
        until("a reset gives back", || busy(&proxy) == 2);
        drop(pairs.pop());
        until("an end gives back", || busy(&proxy) == 1);
        let gaps = &proxy.backend("a");
        assert_eq!(gaps["first_byte"]["count"], 1, "{gaps}");
        drop(pairs);
        assert_eq!(proxy.finish().backend("a", "answers"), 1);
    }
}

/// What the proxy cannot deliver because its client does not read keeps the backend busy.
#[test]
fn an_answer_that_is_not_taken_is_not_over() {
    let backend = Listening::start(Axis::PLAIN.family);
    let config = Config::of(Axis::PLAIN, &[backend.address])
        .pool(LINGER)
        .admin();
    let mut proxy = Proxy::start(&config);
    proxy.rebase();
    let (mut client, mut server) = backend.pair(proxy.front());
    send(&mut client, &mut server, b"all of it");
    let answer = vec![b'a'; 32 << 20];
    let sender = send_aside(server, answer.clone());
    let is_sent = within(Duration::from_millis(500), || sender.is_finished());
    assert!(!is_sent, "it is too much for all buffers");
    assert_eq!(busy(&proxy), 1);
    let mut got = vec![0; answer.len()];
    client.read_exact(&mut got).unwrap();
    assert!(got == answer, "every byte");
    until("it is over", || busy(&proxy) == 0);
    drop((client, sender.join().unwrap()));
    proxy.finish();
}

/// Three sessions on "a" that have had their answers, and one on "b" that waits for its own.
fn idle_and_waiting(proxy: &Proxy, config: &Config, [a, b]: [&Listening; 2]) -> Vec<Pair> {
    let only = |name: &str| config.clone().without(name);
    proxy.reload(&only("b")).unwrap();
    let mut held: Vec<Pair> = (0..3).map(|_| a.pair(proxy.front())).collect();
    held.iter_mut().for_each(exchange);
    proxy.reload(&only("a")).unwrap();
    let (mut client, mut server) = b.pair(proxy.front());
    send(&mut client, &mut server, b"think long");
    held.push((client, server));
    proxy.reload(config).unwrap();
    held
}

/// Which of the two gets the next client, which then leaves.
fn next_owner(proxy: &Proxy, backends: [&Listening; 2]) -> usize {
    let quiet = proxy.open_descriptors();
    let client = connect(proxy.front());
    let mut owner = None;
    until("a connection at a backend", || {
        owner = (backends.iter()).position(|backend| backend.try_accept().is_some());
        owner.is_some()
    });
    drop(client);
    proxy.wait_open(quiet);
    owner.expect("just seen")
}

#[test]
fn new_work_goes_where_sessions_are_idle() {
    let (a, b) = (
        Listening::start(Axis::PLAIN.family),
        Listening::start(Axis::PLAIN.family),
    );
    for workers in [1, 2] {
        let axis = Axis {
            workers,
            ..Axis::PLAIN
        };
        for (balance, expected) in [("least_busy", 0), ("least_connections", 1)] {
            let config = Config::of(axis, &[a.address, b.address])
                .pool(&format!("balance = \"{balance}\""))
                .pool(LINGER);
            let proxy = Proxy::start(&config);
            let held = idle_and_waiting(&proxy, &config, [&a, &b]);
            if balance == "least_busy" {
                // Sessions that have just been answered are busy for a moment.
                until("idle sessions", || next_owner(&proxy, [&a, &b]) == 0);
            }
            for _ in 0..5 {
                assert_eq!(next_owner(&proxy, [&a, &b]), expected, "{balance}");
            }
            drop(held);
            let totals = proxy.finish();
            assert_eq!(totals.backend("a", "answers"), 3);
            assert_eq!(totals.backend("b", "answers"), 0);
        }
    }
}

#[test]
fn who_answers_late_gets_less() {
    let after = |time: Duration| {
        Served::start((Ipv4Addr::LOCALHOST, 0).into(), move |mut stream| {
            let mut question = [0; 4];
            while stream.read_exact(&mut question).is_ok() {
                if !time.is_zero() {
                    is_silent_for(&mut stream, time);
                }
                stream.write_all(&question)?;
            }
            Ok(())
        })
    };
    let (quick, slow) = (after(Duration::ZERO), after(Duration::from_millis(300)));
    let config =
        Config::of(Axis::PLAIN, &[quick.address, slow.address]).pool("balance = \"least_latency\"");
    let proxy = Proxy::start(&config);
    for _ in 0..20 {
        let mut client = connect(proxy.front());
        client.write_all(b"tell").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client), (vec![], End::Fin));
    }
    assert_eq!(slow.served(), 1, "once to see how long it takes");
    assert_eq!(quick.served(), 19);
    proxy.finish();
}

fn busy_slots(axis: Axis, count: u32, backends: &[std::net::SocketAddr]) -> Config {
    Config::of(axis, backends)
        .pool(LINGER)
        .pool("limit_counts = \"busy\"")
        .pool(&format!("max_connections = {count}"))
}

/// No session ends: each slot is free when the one before is idle.
#[test]
fn who_waits_gets_the_slot_of_a_session_that_becomes_idle() {
    on_every_axis(|axis| {
        let backend = Listening::start(axis.family);
        let proxy = Proxy::start(&busy_slots(axis, 1, &[backend.address]));
        let quiet = proxy.open_descriptors();
        let mut held = vec![backend.pair(proxy.front())];
        for count in 1..=3 {
            let (client, server) = &mut held[count - 1];
            send(client, server, b"think");
            let client = connect(proxy.front());
            proxy.wait_open(quiet + 2 * count + 1);
            assert!(backend.try_accept().is_none(), "the slot is busy");
            let (before, server) = &mut held[count - 1];
            send(server, before, b"thought");
            held.push((client, backend.accept()));
        }
        // Whoever is there already is not held back.
        held.iter_mut().for_each(exchange);
        drop(held);
        let totals = proxy.finish();
        assert_eq!((totals.queue("served"), totals.front("refused")), (3, 0));
    });
}

#[test]
fn a_session_that_says_nothing_holds_no_busy_slot_for_long() {
    let backend = Listening::start(Axis::PLAIN.family);
    let proxy = Proxy::start(&busy_slots(Axis::PLAIN, 1, &[backend.address]));
    let held: Vec<_> = (0..5).map(|_| backend.pair(proxy.front())).collect();
    drop(held);
    proxy.finish();
}

#[test]
fn the_limit_of_busy_ones_is_never_exceeded() {
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let gauges = [Gauge::default(), Gauge::default()];
    let backends = gauges.each_ref().map(Gauge::echo);
    let addresses = backends.each_ref().map(|backend| backend.address);
    for balance in ["least_busy", "hash", "least_latency", "power_of_two"] {
        // A client that this machine holds up before it speaks is not to be taken for idle.
        let config = busy_slots(axis, 3, &addresses)
            .pool("busy_linger = \"1m\"")
            .pool(&format!("balance = \"{balance}\""));
        let proxy = Proxy::start(&config);
        let clients = Clients::start(12, proxy.front(), |front, _| {
            let mut client = connect(front);
            client.write_all(b"x").map_err(|error| error.to_string())?;
            client
                .read_exact(&mut [0])
                .map_err(|error| error.to_string())?;
            finish_session(client)
        });
        until("clients", || clients.done() >= amount(1_000, 20_000));
        let (_, failures) = clients.stop();
        assert!(failures.is_empty(), "{failures:?}");
        for gauge in &gauges {
            let most = gauge.most.load(SeqCst);
            assert!(most <= 3, "{balance}: {most} at once");
        }
        proxy.finish();
    }
}

#[test]
fn the_soft_limit_fills_one_backend_after_the_other_and_then_all() {
    let backends = Tagged::start(3);
    let config = Config::of(Axis::PLAIN, &backends.addresses())
        .pool("balance = \"first\"")
        .pool("soft_connections = 2");
    let proxy = Proxy::start(&config);
    let held: Vec<(usize, TcpStream)> = (0..9).map(|_| Tagged::ask(proxy.front())).collect();
    let owners: Vec<usize> = held.iter().map(|(owner, _)| *owner).collect();
    assert_eq!(owners, [0, 0, 1, 1, 2, 2, 0, 0, 0]);
    drop(held);
    proxy.finish();
}

/// What one client does, and how it leaves.
fn meddle(mut client: TcpStream, rng: &mut Rng) {
    let mut buffer = vec![b'x'; 1 + usize::try_from(rng.below(2_000)).expect("small")];
    // Whatever goes wrong on the way is one more way to end.
    for _ in 0..rng.below(4) {
        let is_sent = client.write_all(&buffer).is_ok();
        if !is_sent || rng.below(3) > 0 && client.read_exact(&mut buffer).is_err() {
            break;
        }
    }
    match rng.below(4) {
        0 => reset(client),
        1 => drop(client),
        2 => {
            drop(client.shutdown(Shutdown::Write));
            drop(read_all(&mut client));
        }
        _ => {
            // Long enough to be idle.
            client
                .set_read_timeout(Some(Duration::from_millis(8)))
                .unwrap();
            drop(client.read(&mut buffer));
        }
    }
}

#[test]
fn bal_07_no_phase_leaves_a_count_behind() {
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let resetting = Served::start((Ipv4Addr::LOCALHOST, 0).into(), |mut stream| {
        stream.read_exact(&mut [0])?;
        stream.write_all(b"an answer that breaks off")?;
        reset(stream);
        Ok(())
    });
    let echoing = [(); 2].map(|()| Served::echo(axis.family));
    let addresses = [echoing[0].address, echoing[1].address, resetting.address];
    let config = busy_slots(axis, 5, &addresses)
        .pool("busy_linger = \"3ms\"")
        .pool("balance = \"least_busy\"")
        .pool("queue = { limit = 2 }");
    let mut proxy = Proxy::start(&config);
    proxy.expect("refused");
    let seed = seed();
    let clients = Clients::start(12, proxy.front(), move |front, n| {
        // Who is refused may see that before it is connected.
        if let Ok(client) = TcpStream::connect(front) {
            meddle(bounded(client), &mut Rng::new(seed ^ n));
        }
        Ok(())
    });
    let mut reloads = 0;
    until("all clients", || {
        // Backends come and go, and with them what counts for the limit.
        let changed = match reloads % 3 {
            0 => config.clone().without("b"),
            1 => config.clone().pool("limit_counts = \"open\""),
            _ => config.clone(),
        };
        proxy.reload(&changed).unwrap();
        reloads += 1;
        clients.done() >= amount(3_000, 50_000) && reloads >= 6
    });
    clients.stop();
    proxy.finish(); // which looks at every count
}
