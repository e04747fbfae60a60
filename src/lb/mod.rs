//! Floor 0: decisions. No I/O, no clock, no threads, no logging, no unsafe: time, randomness and
//! bytes come in as arguments, so that everything here is tested without a socket or a sleep.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod admin;
pub mod admission;
pub mod backend;
pub mod balance;
pub mod health;
pub mod histogram;
pub mod log_rate;
pub mod rng;
pub mod scale;
pub mod time;
pub mod traffic;
