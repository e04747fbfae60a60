//! Floor 4: the process: command line, logging, signals, systemd, exit codes.

pub mod cli;
mod client;
mod demo;
pub mod exit;
pub mod help;
mod logging;
mod run;
mod signals;
mod systemd;

pub use run::run;
