//! Ejecting a backend on which real traffic fails, for a time that grows: what probes do not see, be
//! it that they ask another port, ask too little or come too late.
//!
//! Failures in a row count, with nothing that went well in between and no longer ago than an ejection
//! takes. The time of an ejection grows with each that follows: once, twice, up to ten times
//! `eject_time`. Each `eject_time` that a backend is back for takes one of them off again. A probe that
//! passes does not end an ejection, since probes may well pass all along; coming up after probes had
//! taken the backend down does, since then they have seen what was wrong, and that it is over.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::lb::time::Tick;

/// When a backend is ejected, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Failures in a row that eject a backend; 0 = nothing does.
    pub consecutive_failures: u16,
    /// How long it is ejected for the first time, and how long a failure counts.
    pub eject_time: Duration,
    /// The share of a pool's members that may be ejected at once, from 0 to 1.
    pub max_ejected: f64,
}

impl Settings {
    /// Whether anything ejects a backend.
    pub const fn is_on(&self) -> bool {
        self.consecutive_failures > 0
    }

    /// How many of so many members may be ejected at once: one, however small the share is (unless it
    /// is 0), and never all.
    pub fn ejected_max(&self, members: u32) -> u32 {
        if members < 2 || self.max_ejected <= 0.0 {
            return 0;
        }
        let share = (self.max_ejected * f64::from(members) + ROUNDING).floor();
        (1..members)
            .rev()
            .find(|&count| f64::from(count) <= share)
            .unwrap_or(1)
    }
}

/// A backend is ejected now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// For how long.
    pub time: Duration,
    /// Until when.
    pub until: Tick,
    /// Failures in a row that led to it.
    pub failures: u16,
}

/// What traffic has said of one backend.
#[derive(Debug, Default)]
pub struct Record {
    /// A [`Run`].
    run: AtomicU64,
    /// When the last ejection ends, or has ended; 0 = there was none.
    until: AtomicU64,
    /// Ejections that make the next one longer.
    ejections: AtomicU32,
}

impl Record {
    /// Whether it is ejected.
    pub fn is_ejected(&self, now: Tick) -> bool {
        now < self.ejected_until()
    }

    /// When the last ejection ends, or has ended; [`Tick::ZERO`] if there was none.
    pub fn ejected_until(&self) -> Tick {
        Tick::from_ms(self.until.load(Relaxed))
    }

    /// Something went well.
    pub fn on_success(&self) {
        // Nearly always so, and a look alone leaves the other workers' caches as they are.
        if self.run.load(Relaxed) != 0 {
            self.run.store(0, Relaxed);
        }
    }

    /// Something failed. Ejects the backend if that was one failure too many and `is_allowed`.
    pub fn on_failure(
        &self,
        settings: &Settings,
        now: Tick,
        is_allowed: impl FnOnce() -> bool,
    ) -> Option<Ejection> {
        let before = self.ejected_until();
        if !settings.is_on() || now < before {
            return None; // what fails now was begun before the ejection, or had no other backend
        }
        let count = |run| Run::of(run).after_failure(now, settings.eject_time);
        let next = |run| Some(count(run).packed());
        let run = self.run.fetch_update(Relaxed, Relaxed, next);
        let failures = run.map_or(0, |run| count(run).failures);
        if failures < settings.consecutive_failures || !is_allowed() {
            return None;
        }
        let ejections = next_ejections(self.ejections.load(Relaxed), now.since(before), settings);
        let time = settings.eject_time * ejections;
        let until = now.after(time);
        // Of several workers that come here at once, one ejects.
        self.until
            .compare_exchange(before.as_ms(), until.as_ms(), Relaxed, Relaxed)
            .ok()?;
        self.ejections.store(ejections, Relaxed);
        self.run.store(0, Relaxed);
        Some(Ejection {
            time,
            until,
            failures,
        })
    }

    /// It came up after it had been down: what was wrong is over.
    pub fn on_up(&self, now: Tick) {
        self.until.fetch_min(now.as_ms(), Relaxed);
        self.run.store(0, Relaxed);
    }
}

/// Failures in a row: in one atomic, so that all workers together count each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// When the first of them was, in milliseconds.
    since: u64,
    failures: u16,
}

impl Run {
    fn of(packed: u64) -> Self {
        let (since, failures) = (packed >> u16::BITS, packed & u64::from(u16::MAX));
        Self {
            since,
            failures: u16::try_from(failures).expect("16 bits"),
        }
    }

    fn packed(self) -> u64 {
        self.since << u16::BITS | u64::from(self.failures)
    }

    /// With one more at `now`. A run that began longer than `window` ago is forgotten.
    fn after_failure(self, now: Tick, window: Duration) -> Self {
        let is_over = now.since(Tick::from_ms(self.since)) > window;
        if self.failures == 0 || is_over {
            let since = now.as_ms();
            return Self { since, failures: 1 };
        }
        Self {
            failures: self.failures.saturating_add(1),
            ..self
        }
    }
}

/// How many times `eject_time` the next ejection takes, after so many and so much time since the last.
fn next_ejections(before: u32, back_for: Duration, settings: &Settings) -> u32 {
    let forgotten = back_for.as_millis() / settings.eject_time.as_millis().max(1);
    let left = before.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
    (left + 1).min(EJECTIONS_MAX)
}

/// The longest ejection, in times of the first one.
const EJECTIONS_MAX: u32 = 10;

/// 0.29 of 100 members are 29, not 28.999….
const ROUNDING: f64 = 1e-9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings {
        consecutive_failures: 3,
        eject_time: Duration::from_secs(30),
        max_ejected: 0.5,
    };

    fn second(number: u64) -> Tick {
        Tick::from_ms(1_000 * number)
    }

    fn fail(record: &Record, at: u64) -> Option<u64> {
        let ejection = record.on_failure(&SETTINGS, second(at), || true)?;
        assert_eq!(ejection.until, second(at).after(ejection.time));
        Some(ejection.time.as_secs())
    }

    /// Fails until it is ejected: for how long.
    fn eject(record: &Record, at: u64) -> u64 {
        assert_eq!([fail(record, at), fail(record, at)], [None; 2]);
        fail(record, at).expect("an ejection")
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_starts_anew() {
        let record = Record::default();
        assert_eq!([fail(&record, 1), fail(&record, 1)], [None; 2]);
        record.on_success();
        assert_eq!([fail(&record, 2), fail(&record, 3)], [None; 2]);
        assert_eq!(fail(&record, 4), Some(30));
        assert!(record.is_ejected(second(4)) && record.is_ejected(second(33)));
        assert!(!record.is_ejected(second(34)));
    }

    #[test]
    fn failures_long_ago_are_forgotten() {
        let record = Record::default();
        for at in [100, 116, 132, 148, 164] {
            assert_eq!(fail(&record, at), None, "{at}: two in any 30 s");
        }
        assert_eq!(fail(&record, 165), None);
        assert_eq!(fail(&record, 166), Some(30));
    }

    #[test]
    fn failures_of_what_was_begun_before_do_not_prolong_an_ejection() {
        let record = Record::default();
        assert_eq!(eject(&record, 10), 30);
        assert_eq!([11; 10].map(|at| fail(&record, at)), [None; 10]);
        assert!(!record.is_ejected(second(40)));
        assert_eq!(fail(&record, 40), None, "and do not count after it");
    }

    #[test]
    fn ejections_take_longer_until_they_are_long_ago() {
        let record = Record::default();
        let mut at = 100;
        for times in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10] {
            let time = eject(&record, at);
            assert_eq!(time, 30 * times);
            at += time;
        }
        // Back for three times 30 s and a little more.
        let time = eject(&record, at + 100);
        assert_eq!(time, 30 * (10 - 3 + 1));
        assert_eq!(eject(&record, at + 100 + time + 3_600), 30);
    }

    #[test]
    fn coming_up_ends_an_ejection_but_not_its_growth() {
        let record = Record::default();
        assert_eq!(eject(&record, 10), 30);
        record.on_up(second(20));
        assert!(!record.is_ejected(second(20)));
        assert_eq!(eject(&record, 21), 60);
        assert_eq!(fail(&record, 81), None);
        record.on_up(second(82));
        assert_eq!(record.ejected_until(), second(81), "it was over already");
        assert_eq!([fail(&record, 82), fail(&record, 82)], [None; 2]);
    }

    #[test]
    fn who_may_not_be_ejected_is_as_soon_as_it_may() {
        let record = Record::default();
        for _ in 0..10 {
            assert_eq!(record.on_failure(&SETTINGS, second(1), || false), None);
        }
        let ejection = record.on_failure(&SETTINGS, second(2), || true).unwrap();
        assert_eq!(ejection.failures, 11);
    }

    #[test]
    fn never_all_are_ejected_and_one_is_however_small_the_share() {
        let of = |max_ejected, members| {
            let settings = Settings {
                max_ejected,
                ..SETTINGS
            };
            settings.ejected_max(members)
        };
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 10].map(|n| of(0.5, n)),
            [0, 0, 1, 1, 2, 2, 5]
        );
        assert_eq!([1, 2, 10].map(|n| of(1.0, n)), [0, 1, 9]);
        assert_eq!([1, 2, 1_000].map(|n| of(0.0001, n)), [0, 1, 1]);
        assert_eq!([2, 1_000].map(|n| of(0.0, n)), [0, 0]);
        assert_eq!(of(0.29, 100), 29);
    }

    #[test]
    fn nothing_ejects_when_it_is_off() {
        let record = Record::default();
        let settings = Settings {
            consecutive_failures: 0,
            ..SETTINGS
        };
        for _ in 0..100 {
            assert_eq!(record.on_failure(&settings, second(1), || true), None);
        }
    }

    #[test]
    fn several_workers_eject_once() {
        let record = Record::default();
        let ejections = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let ejection = record.on_failure(&SETTINGS, second(1), || true);
                        ejections.fetch_add(u32::from(ejection.is_some()), Relaxed);
                    }
                });
            }
        });
        assert_eq!(ejections.load(Relaxed), 1);
    }

    proptest! {
        /// Against a model that keeps every failure.
        #[test]
        fn ejects_exactly_after_failures_in_a_row_within_the_window(
            limit in 1..5u16, window in 1..20u64,
            steps in proptest::collection::vec((0..6u64, 0..5u8), 0..200),
        ) {
            let settings = Settings {
                consecutive_failures: limit,
                eject_time: Duration::from_secs(window),
                max_ejected: 1.0,
            };
            let record = Record::default();
            let (mut now, mut until, mut run) = (1, 0, Vec::new());
            for (pause, what) in steps {
                now += pause;
                prop_assert_eq!(record.is_ejected(second(now)), now < until);
                if what == 0 {
                    record.on_success();
                    run.clear();
                    continue;
                }
                let ejection = record.on_failure(&settings, second(now), || true);
                if now < until {
                    prop_assert_eq!(ejection, None);
                    continue;
                }
                if run.first().is_some_and(|first| now - first > window) {
                    run.clear();
                }
                run.push(now);
                prop_assert_eq!(ejection.is_some(), run.len() >= usize::from(limit));
                if let Some(ejection) = ejection {
                    run.clear();
                    let times = ejection.time.as_secs() / window;
                    prop_assert!((1..=10).contains(&times));
                    until = now + ejection.time.as_secs();
                }
            }
        }
    }
}
