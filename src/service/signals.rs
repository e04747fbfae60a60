//! Signals as requests. Everything not named here keeps its default; SIGPIPE is ignored by Rust's
//! runtime, which splice needs.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::control::handle::{Handle, Request};
use crate::sys::privilege;

/// Catches the signals from now on; they wait until [`Caught::forward`].
pub(super) fn catch() -> io::Result<Caught> {
    Ok(Caught(Signals::new([
        SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2,
    ])?))
}

/// Signals that are caught and not handled yet.
pub(super) struct Caught(Signals);

impl Caught {
    /// Starts the thread that turns signals into requests.
    pub(super) fn forward(mut self, handle: Handle) -> io::Result<()> {
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                if !privilege::is_root() {
                    privilege::shed_all();
                }
                for signal in self.0.forever() {
                    match signal {
                        SIGHUP => handle.post(Request::Reload),
                        SIGTERM => handle.post(Request::Drain),
                        SIGINT => handle.post(Request::Stop),
                        SIGUSR1 => handle.post(Request::Reopen),
                        SIGUSR2 => log::warn!("SIGUSR2: upgrade is not supported yet"),
                        _ => {}
                    }
                }
            })?;
        Ok(())
    }
}
