//! Many short connections while everything around them changes.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use crate::harness::clients::Clients;
use crate::harness::stream::uninterrupted;
use crate::harness::{
    Axis, Config, Family, Payload, Proxy, Rng, Served, connect_from, scale, until,
};

#[test]
fn connections_across_reloads_lose_nothing() {
    let start = Instant::now();
    let wanted = scale::amount(20_000, 200_000);
    let seed = scale::seed();
    let backends: Vec<Served> = (0..4)
        .map(|_| Served::start(Family::V4.any(), answer))
        .collect();
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let mut proxy = Proxy::start(&generation(0, &addresses));
    proxy.expect("reload failed");
    let fronts = Arc::new(RwLock::new(vec![proxy.front()]));
    let bytes = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let clients = Clients::start(CLIENTS, proxy.front(), {
        let (fronts, bytes) = (Arc::clone(&fronts), Arc::clone(&bytes));
        move |_, n| {
            // A listener is removed only when none of our connections is on its way to it.
            let fronts = fronts.read().unwrap();
            let front = fronts[usize::try_from(n).unwrap() % fronts.len()];
            let [up, down] = ask(front, n, seed).map_err(|error| format!("{n}: {error}"))?;
            bytes[0].fetch_add(up, SeqCst);
            bytes[1].fetch_add(down, SeqCst);
            Ok(())
        }
    });
    for reload in 1..=RELOADS {
        let share = wanted * reload / (RELOADS + 1);
        until("the next share of the connections", || {
            clients.done() >= share
        });
        if let Some(text) = broken_file(reload) {
            proxy.write(text);
            proxy.reload_file().expect_err("a broken file");
            continue;
        }
        let config = generation(reload, &addresses);
        fronts.write().unwrap().truncate(1);
        proxy.reload(&config).unwrap();
        if has_second_listener(reload) {
            fronts
                .write()
                .unwrap()
                .push(proxy.address(&second_listener(reload)));
        }
    }
    until("the last of the connections", || clients.done() >= wanted);
    fronts.write().unwrap().truncate(1);
    let (made, failures) = clients.stop();
    proxy.reload(&generation(0, &addresses)).unwrap();
    assert!(
        failures.is_empty(),
        "{} failed: {:?}",
        failures.len(),
        failures.first()
    );
    let totals = proxy.finish();
    let served: u64 = backends.iter().map(Served::served).sum();
    assert_eq!(served, made, "served by the backends");
    assert_eq!(totals.listeners("accepted"), made);
    assert_eq!(totals.listeners("refused"), 0);
    assert_eq!(totals.backends("sessions"), made);
    assert_eq!(totals.backends("connect failures"), 0);
    assert_eq!(totals.backends("bytes to backend"), bytes[0].load(SeqCst));
    assert_eq!(totals.backends("bytes to client"), bytes[1].load(SeqCst));
    println!(
        "{made} connections across {RELOADS} reloads, 0 failed, {} MiB, {:.1} s",
        (bytes[0].load(SeqCst) + bytes[1].load(SeqCst)) >> 20,
        start.elapsed().as_secs_f64()
    );
}

/// Reloads while connections are made; a quarter of them find a broken file.
const RELOADS: u64 = 20;

/// Clients at a time.
const CLIENTS: u64 = 16;

/// The configuration of a reload: other backends, other weights, another policy, and a second
/// listener or none.
fn generation(number: u64, addresses: &[SocketAddr]) -> Config {
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let policies = [
        "hash",
        "round_robin",
        "least_connections",
        "random",
        "power_of_two",
    ];
    let policy = policies[usize::try_from(number).unwrap() % policies.len()];
    let mut config = Config::new(axis).pool(&format!("balance = \"{policy}\""));
    for (place, address) in (0..).zip(addresses) {
        config = config.backend(&address.to_string());
        config = config.with(&format!("weight = {}", 1 + (number * 7 + place * 3) % 20));
    }
    if number > 0 {
        let gone = ["a", "b", "c", "d"][usize::try_from(number).unwrap() % 4];
        config = config.without(gone);
    }
    if has_second_listener(number) {
        config = config.also_listening(&second_listener(number), "\"127.0.0.1:0\"");
    }
    config
}

const fn has_second_listener(number: u64) -> bool {
    number % 2 == 1
}

fn second_listener(number: u64) -> String {
    format!("second-{number}")
}

/// What the file holds at a reload that must fail.
fn broken_file(reload: u64) -> Option<&'static [u8]> {
    match reload {
        4 => Some(b"[global]\nworkers = "),
        8 => Some(b""),
        12 => Some(b"\xff\xfe\x00"),
        16 => Some(b"[[listener]]\nname = \"front\"\nbind = \"127.0.0.1:0\"\npool = \"nowhere\"\n"),
        20 => Some(b"[global]\nwrokers = 2\n"),
        _ => None,
    }
}

/// What a client asks for: all of it follows from its number.
struct Request {
    seed: u64,
    up: u16,
    down: u32,
    backend_closes: bool,
}

impl Request {
    const LEN: usize = 15;

    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let large = rng.below(50) == 0;
        Self {
            seed,
            up: u16::try_from(rng.below(2_000)).unwrap(),
            down: u32::try_from(rng.below(if large { 200_000 } else { 4_000 })).unwrap(),
            backend_closes: rng.below(2) == 0,
        }
    }

    fn bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.seed.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.up.to_be_bytes());
        bytes[10..14].copy_from_slice(&self.down.to_be_bytes());
        bytes[14] = u8::from(self.backend_closes);
        bytes
    }

    fn read(bytes: [u8; Self::LEN]) -> Self {
        let (seed, rest) = bytes.split_first_chunk().unwrap();
        let (up, rest) = rest.split_first_chunk().unwrap();
        let (down, rest) = rest.split_first_chunk().unwrap();
        Self {
            seed: u64::from_be_bytes(*seed),
            up: u16::from_be_bytes(*up),
            down: u32::from_be_bytes(*down),
            backend_closes: rest[0] == 1,
        }
    }

    fn upload(&self) -> Vec<u8> {
        Payload::new(self.seed).bytes(self.up.into())
    }

    fn download(&self) -> Vec<u8> {
        Payload::new(!self.seed).bytes(usize::try_from(self.down).unwrap())
    }
}

/// One connection from an address of its own; the bytes both ways.
fn ask(front: SocketAddr, n: u64, seed: u64) -> io::Result<[u64; 2]> {
    let [.., high, low] = u16::try_from(n % 1_000).unwrap().to_be_bytes();
    let source = IpAddr::V4(Ipv4Addr::new(127, 20, high, low));
    let mut stream = connect_from(source, front)?;
    let request = Request::new(seed.wrapping_add(n));
    let upload = request.upload();
    stream.write_all(&request.bytes())?;
    stream.write_all(&upload)?;
    let expected = request.download();
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got)?;
    if got != expected {
        return Err(io::Error::other("not what the backend sent"));
    }
    if request.backend_closes && uninterrupted(|| stream.read(&mut [0]))? != 0 {
        return Err(io::Error::other("more than the backend sent"));
    }
    Ok([(Request::LEN + upload.len()) as u64, expected.len() as u64])
}

/// Answers one request; a wrong one gets no answer.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; Request::LEN];
    stream.read_exact(&mut bytes)?;
    let request = Request::read(bytes);
    let mut upload = vec![0; request.up.into()];
    stream.read_exact(&mut upload)?;
    if upload != request.upload() {
        return Ok(());
    }
    stream.write_all(&request.download())?;
    if !request.backend_closes {
        stream.read_exact(&mut [0]).expect_err("nothing follows");
    }
    Ok(())
}

#[test]
fn killed_backends_cost_only_their_sessions() {
    let start = Instant::now();
    let mut backends: Vec<Served> = (0..4).map(tagged_echo).collect();
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
    let config = Config::of(
        Axis {
            workers: 2,
            ..Axis::PLAIN
        },
        &addresses,
    )
    .pool("balance = \"round_robin\"")
    .health("interval = \"200ms\"")
    .health("fast_interval = \"50ms\"")
    .health("down_interval = \"100ms\"")
    .health("timeout = \"200ms\"");
    let mut proxy = Proxy::start(&config);
    for expected in ["connect failed", "is down", "suppressed"] {
        proxy.expect(expected);
    }
    // Sessions on the backend that is never killed.
    let mut survivors = Vec::new();
    while survivors.len() < SURVIVORS {
        let (tag, stream) = greet(proxy.front()).unwrap();
        if tag == NEVER_KILLED {
            survivors.push(stream);
        }
    }
    let losses = Arc::new(Mutex::new(Vec::new()));
    let clients = Clients::start(CLIENTS, proxy.front(), {
        let losses = Arc::clone(&losses);
        move |front, _| {
            let begin = Instant::now();
            talk(front).map_err(|(tag, error)| {
                let end = Instant::now();
                losses.lock().unwrap().push(Loss {
                    begin,
                    end,
                    tag,
                    error,
                });
                String::new()
            })
        }
    });

    let kills = kill_in_turn(&mut backends, &clients, &mut survivors);
    let (done, _) = clients.stop();
    survivors
        .iter_mut()
        .for_each(|stream| exchange(stream).unwrap());
    drop(survivors);
    proxy.finish();

    let losses = losses.lock().unwrap();
    for loss in losses.iter() {
        let is_explained = kills.iter().any(|kill| kill.explains(loss));
        assert!(is_explained, "lost although its backend lived: {loss:?}");
    }
    println!(
        "{} kills, {done} connections went well, {} were lost with their backend, {:.1} s",
        kills.len(),
        losses.len(),
        start.elapsed().as_secs_f64()
    );
}

/// Kills one backend after the other and revives it, each while clients are served.
fn kill_in_turn(
    backends: &mut [Served],
    clients: &Clients,
    survivors: &mut [TcpStream],
) -> Vec<Kill> {
    let mut kills = Vec::new();
    for round in 0..scale::amount(12, 60) {
        let victim = u8::try_from(round % u64::from(NEVER_KILLED)).unwrap();
        let backend = &mut backends[usize::from(victim)];
        let done = clients.done();
        until("the clients go on", || clients.done() >= done + 200);
        let begin = Instant::now();
        backend.kill();
        let end = Instant::now();
        kills.push(Kill { begin, end, victim });
        let done = clients.done();
        until("the clients go on without it", || {
            clients.done() >= done + 200
        });
        for stream in &mut *survivors {
            exchange(stream).unwrap();
        }
        backend.revive();
        let before = backend.served();
        until("it is used again", || backend.served() >= before + 20);
    }
    kills
}

/// From before until after a backend was killed.
struct Kill {
    begin: Instant,
    end: Instant,
    victim: u8,
}

impl Kill {
    fn explains(&self, loss: &Loss) -> bool {
        let is_its_own = loss.tag.is_none_or(|tag| tag == self.victim);
        is_its_own && self.begin <= loss.end && loss.begin <= self.end
    }
}

const SURVIVORS: usize = 10;
const NEVER_KILLED: u8 = 3;

/// A connection that failed.
#[derive(Debug)]
struct Loss {
    begin: Instant,
    end: Instant,
    /// Its backend, if that had said a word.
    tag: Option<u8>,
    #[expect(dead_code, reason = "printed with a loss that nothing explains")]
    error: io::Error,
}

/// Says who it is and sends back whatever comes.
fn tagged_echo(tag: u8) -> Served {
    Served::start(Family::V4.any(), move |mut stream| {
        stream.write_all(&[tag])?;
        let mut buffer = [0; 64];
        loop {
            let count = uninterrupted(|| stream.read(&mut buffer))?;
            if count == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..count])?;
        }
    })
}

/// A connection and who serves it.
fn greet(front: SocketAddr) -> io::Result<(u8, TcpStream)> {
    let mut stream = connect_from(Family::V4.ip(), front)?;
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    Ok((tag[0], stream))
}

/// A few exchanges on one connection; who failed to serve it, if that is known.
fn talk(front: SocketAddr) -> Result<(), (Option<u8>, io::Error)> {
    let (tag, mut stream) = greet(front).map_err(|error| (None, error))?;
    for _ in 0..5 {
        exchange(&mut stream).map_err(|error| (Some(tag), error))?;
    }
    Ok(())
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut got = [0; 4];
    stream.read_exact(&mut got)?;
    if &got == b"ping" {
        Ok(())
    } else {
        Err(io::Error::other("not what was sent"))
    }
}
