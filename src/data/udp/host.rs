//! The addresses of this host, for the few datagrams whose sender may be ourselves.

use std::net::IpAddr;
use std::time::Duration;

use crate::lb::time::Tick;
use crate::sys::interface;

/// What they were when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct HostAddresses {
    found: Vec<IpAddr>,
    /// When to look again.
    stale: Tick,
}

impl HostAddresses {
    /// Whether this host has `ip`, or had it a moment ago.
    pub(super) fn contains(&mut self, ip: IpAddr, now: Tick) -> bool {
        if self.stale <= now {
            self.stale = now.after(FRESH);
            match interface::addresses() {
                Ok(found) => self.found = found,
                Err(error) => log::debug!("cannot list the addresses of this host: {error}"),
            }
        }
        self.found.contains(&ip)
    }
}

/// Time for which a list is good enough: a flood that asks for it costs a list in each.
const FRESH: Duration = Duration::from_secs(1);
