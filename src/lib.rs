//! Evenkeel, a Layer 4 load balancer.
//!
//! # Floors
//! A file may use its own floor and the floors below it; `tests/suite/tidy.rs` enforces it.
//!
//! | floor | folder | holds |
//! |---|---|---|
//! | 0 | [`lb`] | decisions: picking, health counters, relay state, deadlines. No I/O, clock, threads, log |
//! | 0 | [`wire`] | byte formats: PROXY header, first bytes of TLS, HTTP and QUIC. Bounded, whatever comes |
//! | 0 | [`config`] | text ⇄ settings: `Model` (what was written), `Plan` (what runs), `diff` |
//! | 1 | [`sys`] | the kernel, thinly; the only folder where `unsafe` may be lifted |
//! | 2 | [`data`] | the packet path: one thread per worker, owning everything it touches |
//! | 3 | [`control`] | slow work on a current-thread tokio runtime: probes, reload, supervision |
//! | 4 | [`service`] | the process: command line, signals, systemd, exit codes |
//!
//! # The life of a byte
//! epoll → [`data::worker`] → a session of `data::tcp` → [`lb::traffic::relay`] says what to do → a call
//! in [`sys`] or a read or write through the worker's scratch buffer → the session's counters.
//!
//! # The life of a datagram
//! epoll → [`data::worker`] → a gate of `data::udp` receives a batch → [`lb::traffic::flow`] says which
//! flow each belongs to → the flow's own connected socket → the backend; answers come back through
//! that socket, and go to the client from the address that it had sent to.
//!
//! # The life of a setting
//! file → `control::loader` → `config::model` → [`config::plan`] (all errors at once) →
//! [`config::diff`] → `control::reload` (binds new sockets first; all or nothing) →
//! [`data::mailbox::Command::Install`] → each worker, which acknowledges it.

pub mod config;
pub mod control;
pub mod data;
pub mod lb;
pub mod service;
pub mod sys;
pub mod wire;
