//! Floor 4: the process: command line, logging, signals, systemd, exit codes.
pub mod cli;
