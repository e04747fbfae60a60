//! Waiting for a condition; the only sleep of the suite.

use std::time::{Duration, Instant};

/// How long anything may take that takes milliseconds on an idle machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds, and fails naming `what` after [`DEADLINE`].
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(DEADLINE, condition), "never came: {what}");
}

/// Whether `condition` comes to hold within `time`.
pub fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= time {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
