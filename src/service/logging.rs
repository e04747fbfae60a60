//! The log: lines on standard error, which the service manager keeps.

use std::io::Write;

use env_logger::{Builder, Env};

/// Starts the log. `verbose` counts the -v; RUST_LOG has the last word.
pub(super) fn start(verbose: u8) {
    start_at(match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    });
}

/// Starts the log for a demonstration: only what backends come to, unless -v asks for more.
pub(super) fn start_quiet(verbose: u8) {
    match verbose {
        0 => start_at("error,evenkeel::control::prober=info"),
        _ => start(verbose - 1),
    }
}

fn start_at(filter: &str) {
    Builder::from_env(Env::default().default_filter_or(filter))
        .format(|line, record| {
            writeln!(
                line,
                "{} {:5} {}",
                line.timestamp_millis(),
                record.level(),
                record.args()
            )
        })
        .init();
}
