//! How much a case does: little by default, more by request.
//!
//! `EVENKEEL_TEST_SCALE=10` makes the long cases ten times longer; `full` runs them whole.

use std::sync::OnceLock;

#[derive(Clone, Copy, Debug)]
enum Scale {
    Times(u64),
    Full,
}

/// `usual` times the scale, at most `full`.
pub fn amount(usual: u64, full: u64) -> u64 {
    static SCALE: OnceLock<Scale> = OnceLock::new();
    let scale = *SCALE.get_or_init(|| match std::env::var("EVENKEEL_TEST_SCALE").as_deref() {
        Err(_) => Scale::Times(1),
        Ok("full") => Scale::Full,
        Ok(times) => Scale::Times(
            times
                .parse()
                .expect("EVENKEEL_TEST_SCALE: a number or \"full\""),
        ),
    });
    match scale {
        Scale::Times(times) => usual.saturating_mul(times).min(full),
        Scale::Full => full,
    }
}

/// Says that a case cannot run here, where `scripts/test` collects it. Never silent.
pub fn skip(case: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("SKIPPED {case}: {reason}");
    if let Some(path) = std::env::var_os("EVENKEEL_TEST_SKIPPED") {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        writeln!(file.expect("a writable file"), "{case}: {reason}").expect("a writable file");
    }
}

/// The seed of a case that chooses at random; printed, so that `EVENKEEL_TEST_SEED` replays it.
pub fn seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    let seed = std::env::var("EVENKEEL_TEST_SEED").map_or_else(
        |_| RandomState::new().hash_one(0),
        |seed| seed.parse().expect("EVENKEEL_TEST_SEED: a number"),
    );
    println!("EVENKEEL_TEST_SEED={seed}");
    seed
}
