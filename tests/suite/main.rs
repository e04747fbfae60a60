//! The suite: the real `evenkeel` between real sockets, and what must be true of this repository.
//!
//! A case carries its id in its name (`tcp_05_…`); `cases` holds the list of ids and the reason for
//! each that has no case.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![expect(
    clippy::print_stdout,
    reason = "the test harness keeps it and shows it for a case that fails"
)]
#![expect(
    unreachable_pub,
    reason = "nothing is outside: a program has no users of its items"
)]

mod harness;

mod access_log;
mod admin;
mod admission;
mod balancing;
mod cases;
mod config_files;
mod configuration;
mod connecting;
mod dashboard;
mod discovery;
mod endurance;
mod health;
mod hostile;
mod metrics;
mod phases;
mod placement;
mod queue;
mod real;
mod reloading;
mod resources;
mod service;
mod sticky;
mod tcp;
mod tidy;
mod timeouts;
mod udp;
