//! Reads headers of the PROXY protocol with the product's parser and with two public ones, and
//! checks each difference against the rules that explain it.
//!
//!     differential [COUNT] [SEED]
//!
//! Headers are made, and most of them changed. A difference that no rule explains ends the run, with
//! the bytes. The rules that were used are counted.

mod differential {
    pub mod generate;
    pub mod parsers;
    pub mod rules;
}

use std::collections::BTreeMap;
use std::process::ExitCode;

use differential::generate::header;
use differential::parsers::{Verdict, ours, ppp, proxy_header};
use differential::rules::{Rule, explain, is_sound};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise| match arguments.next() {
        Some(text) => text.parse().expect("differential [COUNT] [SEED]"),
        None => otherwise,
    };
    let (count, seed) = (number(1_000_000), number(fastrand::u64(..)));
    println!("{count} headers, seed {seed}");

    let mut random = fastrand::Rng::with_seed(seed);
    let mut rules = BTreeMap::<(&str, Rule), u64>::new();
    let mut verdicts = BTreeMap::<&str, u64>::new();
    for number in 0..count {
        let bytes = header(&mut random);
        let verdict = ours(&bytes);
        *verdicts.entry(verdict.name()).or_default() += 1;
        // What is known of a start must hold for the whole.
        let start = ours(&bytes[..random.usize(..=bytes.len())]);
        if start != Verdict::Incomplete && start != verdict {
            return fail(
                number,
                &bytes,
                &format!("{start:?} at first, then {verdict:?}"),
            );
        }
        if !is_sound(&bytes, &verdict) {
            return fail(
                number,
                &bytes,
                "the extensions or their checksum are others",
            );
        }
        for (name, other) in [("ppp", ppp(&bytes)), ("proxy-header", proxy_header(&bytes))] {
            if verdict == other {
                continue;
            }
            let Some(rule) = explain(name, &bytes, &verdict, &other) else {
                let what = format!("{verdict:?}, but {other:?} says {name}");
                return fail(number, &bytes, &what);
            };
            *rules.entry((name, rule)).or_default() += 1;
        }
    }
    for (verdict, count) in verdicts {
        println!("{count:>10} {verdict}");
    }
    println!("differences, all of them explained:");
    for ((name, rule), count) in rules {
        println!("{count:>10} {name}: {}", rule.reason());
    }
    ExitCode::SUCCESS
}

fn fail(number: u64, bytes: &[u8], what: &str) -> ExitCode {
    println!("header {number}, \"{}\": {what}", bytes.escape_ascii());
    ExitCode::FAILURE
}
