//! `evenkeel demo`: three embedded backends that stream tokens slowly, the balancer in front of
//! them, a small load, and one line a second. One backend dies and comes back on the way.
//!
//! Nothing is faked: the lines count what the clients received through real sockets.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::exit::Exit;
use super::{run::seed, signals};
use crate::config;
use crate::control::handle::{Event, Handle, Request, requests};
use crate::control::loader::Source;
use crate::control::sandbox::Confinement;
use crate::control::supervisor::{self, Settings};
use crate::sys::limits;

/// Runs the demonstration.
pub(super) fn run(seconds: u64) -> Exit {
    match demonstrate(Duration::from_secs(seconds)) {
        Ok(0) => Exit::Done,
        Ok(_) => Exit::Failed,
        Err(error) => {
            eprintln!("demo: {error}");
            Exit::Failed
        }
    }
}

/// Runs it and returns how many streams failed without a reason.
#[expect(clippy::print_stdout, reason = "the demonstration is its output")]
fn demonstrate(length: Duration) -> io::Result<u64> {
    let backends = NAMES
        .map(Backend::start)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()?;
    let address = free_address()?;
    let Balancer {
        handle,
        ended,
        dashboard,
    } = start_balancer(address, &backends)?;
    println!(
        "evenkeel in front of {} backends on {address}; Ctrl-C ends it",
        backends.len()
    );
    println!("dashboard: http://{dashboard}/");
    println!("{}", header());

    let tally = Arc::new(Tally::default());
    for _ in 0..CLIENTS {
        let tally = Arc::clone(&tally);
        thread::Builder::new().spawn(move || client(address, &tally))?;
    }
    let start = Instant::now();
    let mut before = tally.shares();
    let mut was_killed = false;
    while ended.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let elapsed = start.elapsed();
        if elapsed >= length {
            break;
        }
        let is_dead = elapsed > length / 3 && elapsed <= length * 2 / 3;
        if is_dead && !was_killed {
            tally.victim_is_dead.store(true, Relaxed);
            backends[VICTIM].kill();
            was_killed = true;
        } else if was_killed && !is_dead && !backends[VICTIM].is_alive() {
            backends[VICTIM].revive()?;
            tally.victim_is_dead.store(false, Relaxed);
        }
        let now = tally.shares();
        println!("{}", line(elapsed, &tally, &before, &now, &backends));
        before = now;
    }
    tally.is_over.store(true, Relaxed);
    handle.post(Request::Stop);
    let (whole, cut, lost) = tally.outcomes();
    println!(
        "{whole} streams arrived whole, {cut} were cut with the backend that died, {lost} failed \
         otherwise"
    );
    Ok(lost)
}

fn header() -> String {
    format!(
        "{:>5} {:>5} {:>7}   {:<45} backends",
        "time", "open", "whole", "share of new streams"
    )
}

fn line(
    elapsed: Duration,
    tally: &Tally,
    before: &[u64; 3],
    now: &[u64; 3],
    backends: &[Backend],
) -> String {
    let fresh: Vec<u64> = now
        .iter()
        .zip(before)
        .map(|(now, before)| now - before)
        .collect();
    let all = fresh.iter().sum::<u64>().max(1);
    let mut shares = String::new();
    let mut states = String::new();
    for (backend, count) in backends.iter().zip(&fresh) {
        let percent = count * 100 / all;
        let bar = "#".repeat(usize::try_from(percent / 12).unwrap_or(0));
        shares += &format!("{} {percent:>3}% {bar:<8} ", backend.name);
        let state = if backend.is_alive() { "alive" } else { "DEAD" };
        states += &format!("{} {state}  ", backend.name);
    }
    let open = tally.open.load(Relaxed);
    let whole = tally.whole.load(Relaxed);
    format!(
        "{:>4}s {open:>5} {whole:>7}   {shares:<45} {}",
        elapsed.as_secs(),
        states.trim_end()
    )
}

/// A balancer that runs.
struct Balancer {
    handle: Handle,
    /// Ends with it.
    ended: mpsc::Receiver<()>,
    dashboard: SocketAddr,
}

/// Starts the balancer on a thread of its own.
fn start_balancer(address: SocketAddr, backends: &[Backend]) -> io::Result<Balancer> {
    // The default, which is easy to remember, where nobody has it.
    let is_free = TcpListener::bind(DASHBOARD).is_ok();
    let http = if is_free { DASHBOARD } else { "127.0.0.1:0" };
    let mut text = format!(
        "[global]\nadmin_socket = \"\"\nhttp = \"{http}\"\n\
         [[listener]]\nname = \"demo\"\nbind = \"{address}\"\npool = \"tokens\"\n\
         [pool.tokens]\nbalance = \"least_connections\"\n\
         [pool.tokens.health]\ninterval = \"500ms\"\nfast_interval = \"200ms\"\n\
         down_interval = \"500ms\"\ntimeout = \"500ms\"\n"
    );
    for Backend { name, address, .. } in backends {
        text += &format!("[[pool.tokens.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    let plan = config::load(&text, "demo").map_err(io::Error::other)?;
    let (handle, requests) = requests();
    signals::catch()?.forward(handle.clone())?;
    let (ready, is_ready) = mpsc::channel();
    let (running, ended) = mpsc::channel();
    let settings = Settings {
        source: Source::Fixed(Box::new(plan.clone())),
        plan,
        inherited: Vec::new(),
        descriptors: limits::raise_descriptors()?,
        on_bound: Box::new(|_| Ok(Confinement::None)),
        observer: Arc::new(move |event| {
            if let Event::Http(address) = event {
                // The one who waits for it has gone only if the demonstration is over.
                let _over = ready.send(address);
            }
        }),
        alive_every: None,
        seed: seed(),
    };
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            if let Err(failure) = supervisor::run(settings, requests) {
                eprintln!("demo: {failure}");
            }
            drop(running);
        })?;
    let dashboard = is_ready
        .recv()
        .map_err(|_| io::Error::other("the balancer did not start"))?;
    Ok(Balancer {
        handle,
        ended,
        dashboard,
    })
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind(LOCALHOST)?.local_addr()
}

/// What the clients have seen.
#[derive(Debug, Default)]
struct Tally {
    open: AtomicU64,
    whole: AtomicU64,
    cut: AtomicU64,
    lost: AtomicU64,
    /// Streams begun, per backend.
    begun: [AtomicU64; 3],
    /// Streams may break that have not said yet whose they are.
    victim_is_dead: AtomicBool,
    is_over: AtomicBool,
}

impl Tally {
    fn shares(&self) -> [u64; 3] {
        [0, 1, 2].map(|index: usize| self.begun[index].load(Relaxed))
    }

    fn outcomes(&self) -> (u64, u64, u64) {
        (
            self.whole.load(Relaxed),
            self.cut.load(Relaxed),
            self.lost.load(Relaxed),
        )
    }
}

/// One client: stream after stream until the demonstration is over.
fn client(address: SocketAddr, tally: &Tally) {
    while !tally.is_over.load(Relaxed) {
        tally.open.fetch_add(1, Relaxed);
        let result = one_stream(address, tally);
        tally.open.fetch_sub(1, Relaxed);
        if tally.is_over.load(Relaxed) {
            return;
        }
        let count = match result {
            Ok(()) => &tally.whole,
            Err(Some(VICTIM)) => &tally.cut,
            Err(None) if tally.victim_is_dead.load(Relaxed) => &tally.cut,
            Err(_) => &tally.lost,
        };
        count.fetch_add(1, Relaxed);
    }
}

/// Asks for a stream and reads it to its last token; fails with the backend that began it, if known.
fn one_stream(address: SocketAddr, tally: &Tally) -> Result<(), Option<usize>> {
    let mut lines = ask(address).map_err(|_| None)?;
    let name = lines.next().ok_or(None)?.map_err(|_| None)?;
    let backend = NAMES.iter().position(|known| *known == name).ok_or(None)?;
    tally.begun[backend].fetch_add(1, Relaxed);
    match lines.collect::<io::Result<Vec<String>>>() {
        Ok(tokens) if tokens.len() == TOKENS => Ok(()),
        Ok(_) | Err(_) => Err(Some(backend)),
    }
}

/// The lines of the answer to one request.
fn ask(address: SocketAddr) -> io::Result<io::Lines<BufReader<TcpStream>>> {
    let stream = TcpStream::connect(address)?;
    (&stream).write_all(b"tell me a story\n")?;
    Ok(BufReader::new(stream).lines())
}

/// A backend that streams tokens until it is killed.
#[derive(Debug)]
struct Backend {
    name: &'static str,
    address: SocketAddr,
    state: Arc<BackendState>,
}

#[derive(Debug, Default)]
struct BackendState {
    is_alive: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Backend {
    fn start(name: &'static str) -> io::Result<Self> {
        let listener = TcpListener::bind(LOCALHOST)?;
        let backend = Self {
            name,
            address: listener.local_addr()?,
            state: Arc::default(),
        };
        backend.serve(listener)?;
        Ok(backend)
    }

    fn revive(&self) -> io::Result<()> {
        self.serve(TcpListener::bind(self.address)?)
    }

    fn is_alive(&self) -> bool {
        self.state.is_alive.load(Relaxed)
    }

    /// Stops listening and breaks every stream.
    fn kill(&self) {
        self.state.is_alive.store(false, Relaxed);
        // Wakes the accept, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        let mut streams = self
            .state
            .streams
            .lock()
            .unwrap_or_else(|held| held.into_inner());
        for stream in streams.drain(..) {
            // A stream that has ended by itself need not be broken.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn serve(&self, listener: TcpListener) -> io::Result<()> {
        self.state.is_alive.store(true, Relaxed);
        let (name, state) = (self.name, Arc::clone(&self.state));
        thread::Builder::new().spawn(move || {
            for stream in listener.incoming().flatten() {
                if !state.is_alive.load(Relaxed) {
                    return;
                }
                let Ok(twin) = stream.try_clone() else {
                    continue;
                };
                {
                    let mut streams = state
                        .streams
                        .lock()
                        .unwrap_or_else(|held| held.into_inner());
                    if streams.len() >= STREAMS_KEPT {
                        streams.drain(..STREAMS_KEPT / 2);
                    }
                    streams.push(twin);
                }
                let told = thread::Builder::new().spawn(move || {
                    let told = tell(name, &stream);
                    // The twin keeps the socket open: only this ends the stream for the client.
                    let ended = stream.shutdown(Shutdown::Both);
                    told.and(ended)
                });
                if let Err(error) = told {
                    eprintln!("demo: backend {name}: {error}");
                }
            }
        })?;
        Ok(())
    }
}

/// Answers one request, a token at a time. Probes send none and get nothing.
fn tell(name: &str, mut stream: &TcpStream) -> io::Result<()> {
    let mut request = String::new();
    if BufReader::new(stream).read_line(&mut request)? == 0 {
        return Ok(());
    }
    writeln!(stream, "{name}")?;
    for token in 0..TOKENS {
        thread::sleep(TOKEN_TIME);
        writeln!(stream, "token {token}")?;
    }
    Ok(())
}

const NAMES: [&str; 3] = ["a", "b", "c"];
/// The one that dies and comes back.
const VICTIM: usize = 0;
/// Where the dashboard is if that is free.
const DASHBOARD: &str = "127.0.0.1:9910";
const LOCALHOST: (&str, u16) = ("127.0.0.1", 0);
/// Streams at a time.
const CLIENTS: usize = 12;
/// Tokens of a stream.
const TOKENS: usize = 20;
/// Between tokens.
const TOKEN_TIME: Duration = Duration::from_millis(25);
/// Streams a backend remembers in order to break them: far more than can be open.
const STREAMS_KEPT: usize = 256;
