//! When a certificate ends.
#![no_main]

use evenkeel::wire::certificate::not_after;
use libfuzzer_sys::fuzz_target;

/// The end of the year 9999, which is the last that can be written.
const LAST: u64 = 253_402_300_800;

fuzz_target!(|bytes: &[u8]| {
    if let Some(end) = not_after(bytes) {
        assert!(end < LAST + 100 * 86_400, "{end}");
    }
});
