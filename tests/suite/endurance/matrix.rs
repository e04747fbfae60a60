//! Every system call fails in every way, at every time: one proxy for each failure.

mod calls;
mod scenario;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use self::calls::{CALLS, LEFT_OUT};
use self::scenario::{Backends, End, Trace, play};
use crate::harness::program::Software;
use crate::harness::{Rng, scale};

/// `EVENKEEL_TEST_FAULT=CALL:error=ERROR:when=NUMBER` tries this failure alone, or several with commas.
#[test]
fn no_failure_of_a_system_call_does_more_than_end_a_session() {
    if Software::find("failures_of_system_calls", &["strace"]).is_none() {
        return;
    }
    let Some(counts) = counts() else {
        return scale::skip("failures_of_system_calls", "we may not trace");
    };
    let known = |name: &str| {
        let is_left_out = |(names, _): &(&str, &str)| names.split(' ').any(|it| it == name);
        CALLS.iter().any(|call| call.name == name) || LEFT_OUT.iter().any(is_left_out)
    };
    let unknown: BTreeSet<_> = counts.keys().filter(|name| !known(name)).collect();
    assert!(
        unknown.is_empty(),
        "neither tried nor left out: {unknown:?}"
    );

    let faults = std::env::var("EVENKEEL_TEST_FAULT").map_or_else(
        |_| sample(all(&counts), scale::seed()),
        |some| some.split(',').map(str::to_owned).collect(),
    );
    let start = Instant::now();
    let tally = Tally::default();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let backends = Backends::start();
                while let number = next.fetch_add(1, SeqCst)
                    && let Some(fault) = faults.get(number)
                {
                    tally.add(fault, number, &backends);
                }
            });
        }
    });
    println!(
        "{} failures in {:.0} s: {}",
        faults.len(),
        start.elapsed().as_secs_f64(),
        tally.told()
    );
    let broken = tally.broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// However few descriptors there are, the start says so, or succeeds.
#[test]
fn no_lack_of_descriptors_crashes_the_start() {
    let backends = Backends::start();
    let served = (3..SWEPT).filter(|&limit| backends.starts_with(limit));
    let served = served.count();
    println!("{served} of {SWEPT} limits are enough");
    assert!(served > 0 && served < 100, "{served}");
}

/// More descriptors than a start takes.
const SWEPT: u32 = 120;

/// Proxies at a time.
const AT_ONCE: usize = 2;

/// How often a thread makes each call when nothing fails: the most of all threads. `None` where
/// tracing is not allowed.
fn counts() -> Option<BTreeMap<String, usize>> {
    let backends = Backends::start();
    let mut most = BTreeMap::new();
    // One of each configuration.
    for number in 0..3 {
        let trace = Trace::new();
        if play(&backends, "", number, &trace).end == End::NotStarted {
            return None;
        }
        let calls = trace.calls();
        let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
        for line in calls.lines() {
            if let Some((thread, call)) = line.split_once(' ')
                && let Some((name, _)) = call.trim_start().split_once('(')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            {
                *counts.entry((thread, name)).or_default() += 1;
            }
        }
        for ((_, name), count) in counts {
            let entry = most.entry(name.to_owned()).or_default();
            *entry = count.max(*entry);
        }
    }
    Some(most)
}

/// Every failure: of each call the first times, and some of the later ones; of some three in a row.
fn all(counts: &BTreeMap<String, usize>) -> Vec<String> {
    let mut faults = Vec::new();
    for call in CALLS {
        let Some(&count) = counts.get(call.name) else {
            continue;
        };
        let later = (FIRST + 1..=count).step_by((count / LATER).max(1));
        for number in (1..=count.min(FIRST)).chain(later) {
            let once = number.to_string();
            let thrice = format!("{number}..{}", number + 2);
            let whens = [Some(once), (number % 3 == 1).then_some(thrice)];
            for when in whens.into_iter().flatten() {
                let of = |error: &&str| format!("{}:error={error}:when={when}", call.name);
                faults.extend(call.errors.iter().map(of));
            }
        }
    }
    faults
}

/// So many times from the first on are all tried.
const FIRST: usize = 22;

/// So many of those after them are.
const LATER: usize = 20;

/// As many of them as the scale asks for, by chance.
fn sample(mut faults: Vec<String>, seed: u64) -> Vec<String> {
    let all = faults.len();
    let mut rng = Rng::new(seed);
    for place in (1..all).rev() {
        faults.swap(place, rng.size(place + 1));
    }
    let wanted = scale::amount(USUAL, all as u64);
    faults.truncate(usize::try_from(wanted).unwrap());
    println!("{} of {all} failures", faults.len());
    faults
}

/// As many as take about a minute.
const USUAL: u64 = 60;

/// Whether a call, as strace writes it, is on something that is within the kernel and the process: an
/// eventfd, or the pair of sockets by which a signal's handler tells of it.
fn cannot_fail(line: &str) -> bool {
    let (name, arguments) = line.split_once('(').unwrap_or_default();
    let (first, _) = arguments.split_once(',').unwrap_or((arguments, ""));
    let moves_bytes = (["read", "write", "recvfrom", "sendto"].iter()).any(|it| name.ends_with(it));
    moves_bytes && (first.contains("eventfd") || first.contains("<UNIX"))
}

/// Whether a line of the log was lost, by which the proxy would have been watched.
fn is_blind(injected: &[String]) -> bool {
    injected.iter().any(|line| line.contains("write(2<"))
}

#[derive(Default)]
struct Tally {
    not_started: AtomicUsize,
    /// Proxies in which nothing failed: the call was not made so often.
    not_met: AtomicUsize,
    /// Proxies in which a call failed that cannot.
    impossible: AtomicUsize,
    /// Proxies whose log lost a line that was waited for.
    blind: AtomicUsize,
    /// System calls that failed.
    injected: AtomicUsize,
    failed_sessions: AtomicUsize,
    broken: Mutex<Vec<String>>,
}

impl Tally {
    /// Tries a failure and notes how it went.
    fn add(&self, fault: &str, number: usize, backends: &Backends) {
        let trace = Trace::new();
        let played = catch_unwind(AssertUnwindSafe(|| play(backends, fault, number, &trace)));
        let injected = trace.injected();
        let count = |of: &AtomicUsize, more: usize| _ = of.fetch_add(more, SeqCst);
        count(&self.not_met, usize::from(injected.is_empty()));
        if injected.iter().any(|line| cannot_fail(line)) {
            return count(&self.impossible, 1);
        }
        count(&self.injected, injected.len());
        match played {
            Ok(story) => {
                count(&self.not_started, usize::from(story.end == End::NotStarted));
                count(&self.failed_sessions, story.failed);
            }
            Err(panic) => {
                let text = (panic.downcast_ref::<String>().map(String::as_str))
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                let text = text.unwrap_or("it panicked");
                let is_seen = text.starts_with("it has ended") || text.contains("signal");
                if is_blind(&injected) && !is_seen {
                    return count(&self.blind, 1);
                }
                let line = format!("{fault} ({number}): {text}\n  {}", injected.join("\n  "));
                self.broken.lock().unwrap().push(line);
            }
        }
    }

    fn told(&self) -> String {
        format!(
            "{} system calls failed, {} proxies did not start and said why, {} met no failure, \
             {} met one that cannot be, {} could not tell by their log, \
             {} sessions were reset, {} broke a promise",
            self.injected.load(SeqCst),
            self.not_started.load(SeqCst),
            self.not_met.load(SeqCst),
            self.impossible.load(SeqCst),
            self.blind.load(SeqCst),
            self.failed_sessions.load(SeqCst),
            self.broken.lock().unwrap().len()
        )
    }
}
