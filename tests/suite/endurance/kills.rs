//! Backends that are killed, each a process of its own, while connections come as fast as they can.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::harness::backend::listen;
use crate::harness::program::free_address;
use crate::harness::proxy::Folder;
use crate::harness::stream::connect_from;
use crate::harness::wait::within;
use crate::harness::{Axis, Config, Proxy, connect, ping, scale, until};

/// Names a backend and its address to the process that is to serve there.
const SERVE: &str = "EVENKEEL_TEST_BACKEND";

/// Not a case: a process of the case below. It sends its letter, and then back whatever comes.
#[test]
fn a_backend_as_a_process() {
    let Ok(told) = std::env::var(SERVE) else {
        return;
    };
    let (tag, address) = told.split_once('@').unwrap();
    let tag = tag.as_bytes()[0];
    for stream in listen(address.parse().unwrap()).incoming() {
        let Ok(mut stream) = stream else { continue };
        std::thread::spawn(move || {
            stream.write_all(&[tag])?;
            let mut copy = stream.try_clone()?;
            io::copy(&mut copy, &mut stream)
        });
    }
}

/// A backend that can be killed and started again.
struct Backend {
    name: char,
    address: SocketAddr,
    process: Child,
    /// Between which moments it was killed, each time.
    killed: Vec<(Instant, Instant)>,
}

impl Backend {
    fn start(name: char) -> Self {
        let address = free_address();
        Self {
            name,
            address,
            process: Self::process(name, address),
            killed: Vec::new(),
        }
    }

    fn process(name: char, address: SocketAddr) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "endurance::kills::a_backend_as_a_process"])
            .env(SERVE, format!("{name}@{address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().unwrap();
        until("the backend listens", || {
            TcpStream::connect(address).is_ok()
        });
        process
    }

    /// As by `kill -9`.
    fn kill(&mut self) {
        let before = Instant::now();
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.killed.push((before, Instant::now()));
    }

    fn revive(&mut self) {
        self.process = Self::process(self.name, self.address);
    }

    /// Whether it was killed while this connection lived.
    fn explains(&self, lost: &Lost) -> bool {
        let mut killed = self.killed.iter();
        killed.any(|(before, after)| lost.began <= *after && lost.ended >= *before)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A connection that came to nothing.
#[derive(Debug)]
struct Lost {
    client: SocketAddr,
    /// The backend that it was on, if that had said so.
    tag: Option<char>,
    began: Instant,
    ended: Instant,
    why: String,
}

/// Clients that connect, exchange a few bytes and leave, again and again; and what they lost.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    served: AtomicU64,
    lost: Mutex<Vec<Lost>>,
}

impl Load {
    /// One client, from an address of its own.
    fn run(&self, front: SocketAddr, source: IpAddr) {
        while !self.stop.load(SeqCst) {
            let began = Instant::now();
            // Whatever becomes of backends, the proxy takes connections.
            let mut stream = connect_from(source, front).unwrap();
            let client = stream.local_addr().unwrap();
            let tag = read_tag(&mut stream);
            let exchanged = tag.as_ref().map_or_else(
                |error| Err(io::Error::from(error.kind())),
                |_| exchange(&mut stream),
            );
            match exchanged {
                Ok(()) => {
                    self.served.fetch_add(1, SeqCst);
                }
                Err(error) => self.lost.lock().unwrap().push(Lost {
                    client,
                    tag: tag.ok(),
                    began,
                    ended: Instant::now(),
                    why: error.to_string(),
                }),
            }
        }
    }
}

fn read_tag(stream: &mut TcpStream) -> io::Result<char> {
    let mut tag = [0];
    stream.read_exact(&mut tag)?;
    Ok(char::from(tag[0]))
}

fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    ping(stream)?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("more than was sent")),
    }
}

#[test]
fn a_backend_that_is_killed_costs_the_connections_on_it_and_no_other() {
    let mut backends = NAMES.map(Backend::start);
    let folder = Folder::new();
    let access_log = folder.path().join("access.log");
    let axis = Axis {
        workers: 2,
        ..Axis::PLAIN
    };
    let config = Config::of(axis, &backends.each_ref().map(|backend| backend.address))
        .global(&format!(
            "access_log = {{ path = \"{}\" }}",
            access_log.display()
        ))
        .pool("balance = \"round_robin\"")
        .health("interval = \"1s\"")
        .health("fast_interval = \"100ms\"")
        .health("down_interval = \"100ms\"")
        .outlier("consecutive_failures = 1")
        .outlier("eject_time = \"1s\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down");
    proxy.expect("is ejected");
    proxy.expect("connect failed");
    let front = proxy.front();
    let load = Load::default();
    let kills = scale::amount(4, 60);
    std::thread::scope(|scope| {
        for n in 1..=CLIENTS {
            let load = &load;
            scope.spawn(move || load.run(front, Ipv4Addr::new(127, 0, 9, n).into()));
        }
        let _stop = StopAtEnd(&load.stop);
        for kill in 0..kills {
            let start = Instant::now();
            let place = usize::try_from(kill).unwrap() % backends.len();
            kill_one(&mut backends[place], &proxy);
            if kills > 4 {
                within(PERIOD.saturating_sub(start.elapsed()), || false);
            }
        }
    });
    let totals = proxy.finish();
    let (served, lost) = (load.served.into_inner(), load.lost.into_inner().unwrap());
    check(&lost, &access_log, &backends);
    assert_eq!(totals.front("refused"), 0, "somebody got no backend");
    let failed = totals.backends("connect failures");
    // One failure ejects; each worker may be about to find that out by itself.
    let most = kills * u64::from(axis.workers);
    assert!(failed <= most, "{failed} failed connects in {kills} kills");
    println!(
        "{kills} kills: {served} connections served, {} lost, {} failed connects to dead backends",
        lost.len(),
        failed
    );
    assert!(served > 100 * kills, "{served} connections: no load at all");
}

/// Stops the clients, also when the case fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Kills a backend, looks what becomes of connections that are held open on all, and brings it back.
fn kill_one(backend: &mut Backend, proxy: &Proxy) {
    let held = (0..HELD).map(|_| {
        let mut stream = connect(proxy.front());
        (read_tag(&mut stream).unwrap(), stream)
    });
    let held: Vec<_> = held.collect();
    let (mark, name) = (proxy.log.mark(), backend.name);
    let wait = |state: &str| {
        let line = format!("backend \"pool/{name}\" is {state}");
        let is_it = |other: &str| other.contains(&line).then_some(());
        proxy.log.wait(mark, &line, is_it);
    };
    backend.kill();
    wait("down");
    let mut on_it = 0;
    for (tag, mut stream) in held {
        let is_on_it = tag == name;
        on_it += usize::from(is_on_it);
        assert_eq!(ping(&mut stream).is_err(), is_on_it, "on {tag} of {name}");
    }
    assert!(on_it > 0, "none was on it");
    backend.revive();
    wait("up");
}

/// Every connection that was lost was on a backend that was killed meanwhile. Of one that had not
/// heard from its backend, the access log knows which that was.
fn check(lost: &[Lost], access_log: &Path, backends: &[Backend]) {
    let log = std::fs::read_to_string(access_log).unwrap();
    let unexplained = lost.iter().filter(|lost| {
        let is_on = |backend: &&Backend| match lost.tag {
            Some(tag) => backend.name == tag,
            None => {
                let ends = format!(" {} pool/{} ", lost.client, backend.name);
                log.contains(&ends)
            }
        };
        let mut on = backends.iter().filter(is_on);
        !on.any(|backend| backend.explains(lost))
    });
    let unexplained = unexplained.map(|lost| format!("{}: {lost:?}", lost.why));
    let unexplained: Vec<_> = unexplained.collect();
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
}

const NAMES: [char; 4] = ['a', 'b', 'c', 'd'];

/// Connections held open at each kill.
const HELD: usize = 64;

/// Clients at once.
const CLIENTS: u8 = 8;

/// From kill to kill, in the long run.
const PERIOD: Duration = Duration::from_secs(3);
