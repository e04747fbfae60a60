//! The last bytes for a peer before it is reset: a reset drops what the kernel has not delivered yet,
//! so it waits until the peer has acknowledged everything, or takes nothing any more.

use std::time::Duration;

use crate::lb::time::Tick;
use crate::lb::traffic::relay::Side;

/// A wait for a peer's acknowledgements.
#[derive(Debug)]
pub(super) struct Flush {
    /// Who is to be reset.
    pub(super) side: Side,
    unacknowledged: u32,
    /// When that count last fell.
    progress: Tick,
    /// How long the next look waits: doubles, because nothing wakes us.
    wait: Duration,
    /// When to look next.
    pub(super) next: Tick,
}

impl Flush {
    pub(super) fn new(side: Side, unacknowledged: u32, now: Tick) -> Self {
        Self {
            side,
            unacknowledged,
            progress: now,
            wait: WAIT_MIN,
            next: now.after(WAIT_MIN),
        }
    }

    /// So much is left now: sets when to look next. False if nothing has been taken for `patience`.
    pub(super) fn look(&mut self, left: u32, patience: Duration, now: Tick) -> bool {
        if left < self.unacknowledged {
            self.unacknowledged = left;
            self.progress = now;
            self.wait = WAIT_MIN;
        } else if now.since(self.progress) >= patience {
            return false;
        } else {
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
        self.next = now.after(self.wait);
        true
    }
}

/// Between looks at what a peer kernel has acknowledged, at first …
const WAIT_MIN: Duration = Duration::from_millis(10);
/// … and at last: a client that takes nothing for long is not worth a look every tick.
const WAIT_MAX: Duration = Duration::from_secs(1);
