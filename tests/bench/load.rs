//! The load of `scripts/bench`: a backend, and clients that measure what stands between them and it.
//!
//! ```text
//! load backend --listeners 5              prints {"ports":[…]}, serves until its input ends
//! load connections --target IP:PORT …     open, one exchange, close
//! load rounds --size 64 --target …        exchanges on connections that stay open
//! load download --bytes 1073741824 …      and upload: bulk transfers, every byte checked
//! load trains --target …                 trains of datagrams to one peer
//! load flows --flows 10000 --port N …      datagrams there and back on many flows
//! load idle --connections 4000 …          prints {"ready":N}, holds them until a line or the end
//!                                         of its input, then asks each once more
//! ```
//! Each client prints one line of JSON: count, seconds, rate, p50 and p99 latency, errors, and with
//! `--cpu-of` the processor time that those processes spent meanwhile. Exit code 1 if anything failed.
#![expect(clippy::print_stdout, reason = "its result is what it prints")]

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::backend::Backend;
use crate::bulk::{Bulk, Direction};
use crate::datagrams::Datagrams;
use crate::exchange::{Exchanges, Limit};
use crate::flows::Flows;
use crate::measure::{Stopwatch, Tally};
use crate::trains::Trains;

mod backend;
mod bulk;
mod calls;
#[cfg(test)]
mod checks;
mod datagrams;
mod exchange;
mod flows;
mod measure;
mod message;
mod trains;

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Options {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Serve on 127.0.0.1: echo, stream and swallow, as each client asks
    Backend {
        /// First port; 0 = any
        #[arg(long, default_value_t = 0)]
        port: u16,
        /// How many ports to listen on
        #[arg(long, default_value_t = 1)]
        listeners: u16,
    },
    /// Open, exchange 64 bytes, close
    Connections {
        #[command(flatten)]
        common: Common,
        /// Connections at a time
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
        /// Stop after so many
        #[arg(long, default_value_t = u64::MAX)]
        count: u64,
    },
    /// Exchange messages on connections that stay open
    Rounds {
        #[command(flatten)]
        common: Common,
        /// Bytes of a message
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Connections, each with one message under way
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
        /// Stop after so many
        #[arg(long, default_value_t = u64::MAX)]
        count: u64,
    },
    /// Fetch bytes from the backend
    Download(BulkOptions),
    /// Send bytes to the backend
    Upload(BulkOptions),
    /// Send trains of datagrams of 1,200 bytes
    Trains(Common),
    /// Exchange datagrams on many flows
    Flows {
        #[command(flatten)]
        common: Common,
        /// Bytes of a datagram
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Flows, each from an address of its own
        #[arg(long)]
        flows: usize,
        /// Local port of all of them; the same port again means the same flows
        #[arg(long)]
        port: u16,
        /// Datagrams under way at a time
        #[arg(long, default_value_t = 64)]
        concurrency: usize,
    },
    /// Open connections and hold them
    Idle {
        #[command(flatten)]
        common: Common,
        /// How many
        #[arg(long, default_value_t = 4000)]
        connections: usize,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// Where to connect to
    #[arg(long)]
    target: SocketAddr,
    /// Stop after this long; for bulk transfers and idle connections, fail after it
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Process ids whose processor time is measured
    #[arg(long, value_delimiter = ',')]
    cpu_of: Vec<u32>,
}

#[derive(Debug, Args)]
struct BulkOptions {
    #[command(flatten)]
    common: Common,
    /// Transfers side by side
    #[arg(long, default_value_t = 4)]
    streams: usize,
    /// Bytes in all
    #[arg(long)]
    bytes: u64,
}

/// Bytes of the message on a connection that then closes.
const CONNECTION_MESSAGE: usize = 64;
/// Bytes of the message on a connection that then idles.
const IDLE_MESSAGE: usize = 100;

fn main() -> ExitCode {
    let result = raise_file_limit().and_then(|()| run(Options::parse().role));
    match result {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the number of errors.
fn run(role: Role) -> io::Result<u64> {
    match role {
        Role::Backend { port, listeners } => serve(port, listeners).map(|()| 0),
        Role::Connections {
            common,
            concurrency,
            count,
        } => {
            let mut clients = Exchanges::new(common.target, CONNECTION_MESSAGE)?;
            measured(&common, || clients.churn(concurrency, common.limit(count)))
        }
        Role::Rounds {
            common,
            size,
            concurrency,
            count,
        } => {
            let mut clients = Exchanges::new(common.target, size)?;
            let opening = clients.open(concurrency)?;
            if opening.errors > 0 {
                return Err(failed(&opening));
            }
            measured(&common, || clients.repeat(common.limit(count)))
        }
        Role::Download(options) => bulk(Direction::Download, &options),
        Role::Upload(options) => bulk(Direction::Upload, &options),
        Role::Trains(common) => {
            let trains = Trains::new(common.target)?;
            measured(&common, || trains.run(common.time()))
        }
        Role::Flows {
            common,
            size,
            flows,
            port,
            concurrency,
        } => {
            let mut flows = Flows::new(common.target, port, flows, size)?;
            let opening = flows.open(concurrency)?;
            if opening.errors > 0 {
                return Err(failed(&opening));
            }
            measured(&common, || {
                flows.repeat(concurrency, common.limit(u64::MAX))
            })
        }
        Role::Idle {
            common,
            connections,
        } => idle(&common, connections),
    }
}

impl Common {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn limit(&self, count: u64) -> Limit {
        Limit {
            count,
            time: self.time(),
        }
    }
}

fn serve(port: u16, listeners: u16) -> io::Result<()> {
    let mut backend = Backend::bind(port, listeners)?;
    let mut datagrams = Datagrams::bind(&backend.ports()?)?;
    println!("{{\"ports\":{:?}}}", backend.ports()?);
    thread::spawn(move || datagrams.run());
    let waker = backend.waker();
    thread::spawn(move || {
        wait_for_end_of_input()?;
        waker.wake()
    });
    backend.run()
}

fn bulk(direction: Direction, options: &BulkOptions) -> io::Result<u64> {
    let amount = options.bytes / options.streams as u64;
    let mut bulk = Bulk::new(direction, amount);
    let common = &options.common;
    measured(common, || {
        bulk.run(common.target, options.streams, common.time())
    })
}

fn idle(common: &Common, connections: usize) -> io::Result<u64> {
    let mut clients = Exchanges::new(common.target, IDLE_MESSAGE)?;
    let opening = clients.open(connections)?;
    if opening.errors > 0 {
        return Err(failed(&opening));
    }
    println!("{{\"ready\":{}}}", opening.count);
    io::stdin().read_line(&mut String::new())?;
    measured(common, || clients.repeat(common.limit(opening.count)))
}

/// Runs a client, prints what came of it and returns the number of errors.
fn measured(common: &Common, client: impl FnOnce() -> io::Result<Tally>) -> io::Result<u64> {
    let stopwatch = Stopwatch::start(&common.cpu_of)?;
    let tally = client()?;
    let errors = tally.errors;
    println!("{}", stopwatch.finish(tally)?);
    Ok(errors)
}

fn failed(tally: &Tally) -> io::Error {
    let first = tally.first_error.as_deref().unwrap_or_default();
    io::Error::other(format!("{} failed: {first}", tally.errors))
}

fn wait_for_end_of_input() -> io::Result<u64> {
    io::copy(&mut io::stdin().lock(), &mut io::sink())
}

/// As many files as the system lets this process have: a connection needs one.
fn raise_file_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}
