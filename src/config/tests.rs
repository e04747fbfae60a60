//! Whole configurations: defaults, odd texts, mutations, sizes.

mod defaults;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::diff::diff;
use super::plan::*;
use super::{MAX_TEXT, load, load_bytes};
use crate::lb::admission::queue;
use crate::lb::admission::source::Limits;
use crate::lb::balance::key::KeyPart;
use crate::lb::balance::pick::{Policy, Settings};
use crate::lb::health::outlier;
use crate::lb::rng::Rng;
use crate::lb::traffic::flow::{Answers, Rules};

const MINIMAL: &str = "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1\"\npool = \"p\"\n\
                       [[pool.p.backend]]\naddress = \"10.0.0.1:2\"\n";

const CORPUS: [&str; 11] = [
    include_str!("../../conf/minimal.toml"),
    include_str!("../../conf/inference.toml"),
    include_str!("../../conf/database.toml"),
    include_str!("../../conf/dns.toml"),
    include_str!("../../conf/web.toml"),
    include_str!("../../tests/config/valid/every_key.toml"),
    include_str!("../../tests/config/invalid/values.toml"),
    include_str!("../../conf/llama_cpp.toml"),
    include_str!("../../conf/behind_proxy.toml"),
    include_str!("../../conf/tls_by_name.toml"),
    include_str!("../../conf/http3.toml"),
];

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn settings_that_are_written_arrive() {
    let plan = load(CORPUS[5], "every_key.toml").unwrap();
    assert_eq!(plan.global.workers, Some(4));
    assert_eq!(plan.global.user.as_deref(), Some("nobody"));
    assert_eq!(plan.global.splice, Splice::Always);
    assert_eq!(plan.global.drain_timeout, Duration::ZERO);
    let names: Vec<_> = plan
        .listeners
        .iter()
        .map(|listener| listener.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(plan.listeners[0].max_connections, u32::MAX);
    let limited = &plan.listeners[1];
    assert_eq!(limited.per_source.open, u32::MAX);
    assert_eq!(limited.per_source.pace.unwrap().to_string(), "1000000/m");
    assert_eq!((limited.allow.len(), limited.deny.len()), (4, 3));
    assert_eq!(
        limited.allow[2], limited.deny[0],
        "a mapped network is IPv4"
    );
    assert_eq!(plan.listeners[0].bind[2], Bind::Unix("/tmp/a.sock".into()));
    let [one, two] = &plan.pools[..] else {
        panic!("two pools")
    };
    assert_eq!(one.balance.policy, Policy::Rendezvous);
    assert_eq!(
        one.balance.hash_key,
        [KeyPart::SourceNet(48), KeyPart::DestinationPort]
    );
    assert_eq!(one.balance.load_factor, 10.0);
    assert!(!one.balance.fail_open);
    assert_eq!(one.on_down, OnDown::Drain(Duration::from_millis(1 << 32)));
    assert_eq!(one.refuse, Refuse::Bytes(b"busy\r\n".to_vec()));
    assert_eq!(one.backends[0].max_connections, 3, "its own");
    assert_eq!(
        one.backends[1].max_connections, 0,
        "its own, which lifts the pool's"
    );
    assert_eq!(one.backends[1].name, "[fe80::1%eth0]:80");
    let Health::Probed(probe) = &one.health else {
        panic!("probes")
    };
    assert_eq!(
        (probe.rise, probe.fall, probe.port, probe.initial_up),
        (1, 1000, 65535, false)
    );
    assert_eq!(probe.address, Some(IpAddr::from([10, 0, 0, 9])));
    assert!(!probe.progress_is_alive);
    assert_eq!(
        (two.balance.policy, &two.health),
        (Policy::PowerOfTwo, &Health::None)
    );
    assert_eq!(
        two.backends[0].address,
        Address::Host("localhost".to_owned(), 80)
    );
}

#[test]
fn a_backend_inherits_the_limit_of_its_pool() {
    let plan = load(
        &MINIMAL.replace("[[pool", "[pool.p]\nmax_connections = 8\n[[pool"),
        "f",
    );
    assert_eq!(plan.unwrap().pools[0].backends[0].max_connections, 8);
}

#[test]
fn a_short_interval_shortens_the_defaults_that_may_not_exceed_it() {
    let text = format!("{MINIMAL}[pool.p.health]\ninterval = \"100ms\"\n");
    let plan = load(&text, "f").unwrap();
    let Health::Probed(probe) = &plan.pools[0].health else {
        panic!("probes")
    };
    assert_eq!(probe.timeout, Duration::from_millis(100));
    assert_eq!(probe.fast_interval, Duration::from_millis(100));
    assert_eq!(probe.down_interval, Duration::from_secs(5));
}

/// `plan` with its listeners by name: their order in the file means nothing.
fn in_order(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    plan.listeners.sort_by(|a, b| a.name.cmp(&b.name));
    plan
}

/// Loads twice; the outcome must be the same and errors must lie in the text.
fn check(text: &str) {
    let outcome = load(text, "f");
    assert_eq!(outcome, load(text, "f"), "two meanings of {text:?}");
    let Err(errors) = outcome else { return };
    assert!(!errors.list.is_empty(), "no reason given for {text:?}");
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').split('\n').collect();
    let mut last = (0, 0);
    for error in &errors.list {
        assert!(
            (1..=lines.len()).contains(&error.line),
            "{error} in {text:?}"
        );
        let length = lines[error.line - 1].chars().count();
        assert!(
            (1..=length + 1).contains(&error.column),
            "{error} in {text:?}"
        );
        assert!(
            last <= (error.line, error.column),
            "unsorted: {error} in {text:?}"
        );
        assert!(
            !error.what.contains('\n') && !error.cure.contains('\n'),
            "{error:?}"
        );
        assert!(
            !error.what.is_empty() && !error.cure.is_empty(),
            "{error:?}"
        );
        last = (error.line, error.column);
    }
}

#[test]
fn odd_texts_give_clean_errors() {
    let deep_list = format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_table = "{a=".repeat(100_000);
    let long_line = format!(
        "# {}\n{MINIMAL}x = \"{}\"",
        "x".repeat(1 << 20),
        "y".repeat(1 << 20)
    );
    let dotted = format!("{}b = 1", "a.".repeat(500_000));
    let headers = format!("[{}b]\n", "a.".repeat(70)).repeat(1000);
    // As deep as the bounds allow, and deeper; a test's stack has 2 MiB.
    let nested = |parts: usize| {
        let key = vec!["a"; parts].join(".");
        format!(
            "x = {}1{}",
            format!("{{{key} = ").repeat(79),
            "}".repeat(79)
        )
    };
    let (deepest, too_deep) = (nested(16), nested(79));
    let nul = "\0".repeat(300_000);
    for text in [
        "",
        "\n",
        "\r",
        "\u{feff}",
        "\u{feff}\u{feff}",
        "\0",
        "\u{7f}ELF\u{2}\u{1}\u{1}\0",
        "[[[[[[",
        "]",
        "=",
        "a",
        "\"",
        "'''",
        "pool.\"\".backend = []",
        "pool.p.backend = [[]]",
        "é = \"é\"\nü = 1é",
        &deep_list,
        &deep_table,
        &long_line,
        &dotted,
        &headers,
        &deepest,
        &too_deep,
        &format!("{deepest}\nx = 2\n"),
        &nul,
    ] {
        check(text);
        assert!(
            load(text, "f").is_err(),
            "{:?}",
            &text[..text.len().min(80)]
        );
    }
    let too_long = " ".repeat(MAX_TEXT + 1);
    let error = load(&too_long, "f").unwrap_err().to_string();
    assert!(error.starts_with("f:1:1: the file is longer"), "{error}");
}

#[test]
fn what_is_no_text_says_where() {
    for (bytes, place) in [
        (&b"\xff\xfe[\0"[..], "1:1"),
        (b"# one\n# caf\xc3\xa9 \xe9\n", "2:8"),
        (b"[global]\n\xc3", "2:1"),
    ] {
        let error = load_bytes(bytes, "f").unwrap_err().to_string();
        let expected = format!("f:{place}: this is not UTF-8 text; save the file as UTF-8");
        assert_eq!(error, expected);
    }
    // Cut off within a character, it is too long all the same.
    let mut too_long = "é".repeat(MAX_TEXT / 2).into_bytes();
    too_long.push("é".as_bytes()[0]);
    let error = load_bytes(&too_long, "f").unwrap_err().to_string();
    assert!(error.starts_with("f:1:1: the file is longer"), "{error}");
}

#[test]
fn mutated_configurations_never_panic_and_have_one_meaning() {
    const ROUNDS: u64 = 10_000;
    let originals: Vec<_> = CORPUS
        .iter()
        .filter_map(|text| load(text, "f").ok())
        .collect();
    assert_eq!(
        originals.len(),
        CORPUS.len() - 1,
        "one of them is meant to be wrong"
    );
    let mut accepted = 0;
    for seed in 0..ROUNDS {
        let text = mutate(&mut Rng::new(seed));
        let outcome = std::panic::catch_unwind(|| check(&text));
        assert!(outcome.is_ok(), "seed {seed}: {text:?}");
        let Ok(mutant) = load(&text, "f") else {
            continue;
        };
        accepted += 1;
        for plan in originals.iter().chain([&mutant]) {
            let same = in_order(plan) == in_order(&mutant);
            assert_eq!(
                diff(plan, &mutant).is_empty(),
                same,
                "seed {seed}: {text:?}"
            );
        }
    }
    assert!(
        accepted > ROUNDS / 100,
        "only {accepted} mutants were accepted"
    );
    assert!(
        accepted < ROUNDS * 9 / 10,
        "{accepted} mutants were accepted"
    );
}

/// One text of the corpus with a few bytes, words or lines changed.
fn mutate(rng: &mut Rng) -> String {
    const SPLICED: [&str; 16] = [
        "\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        "\n",
        ".",
        "0",
        "-1",
        "99999999999999999999",
        "\u{feff}",
        "\0",
        "é",
        "[[listener]]\n",
        "pool.",
    ];
    let mut below = |bound: usize| usize::try_from(rng.below(bound as u64)).unwrap();
    let mut text: Vec<char> = CORPUS[below(CORPUS.len())].chars().collect();
    for _ in 0..=below(4) {
        let at = below(text.len() + 1);
        let end = (at + below(12)).min(text.len());
        match below(5) {
            0 => drop(text.drain(at..end)),
            1 => drop(text.splice(at..at, SPLICED[below(SPLICED.len())].chars())),
            2 => text.truncate(at),
            3 => {
                let copy: Vec<char> = text[at..(at + below(200)).min(text.len())].to_vec();
                let to = below(text.len() + 1);
                drop(text.splice(to..to, copy));
            }
            _ => {
                if let Some(c) = text.get_mut(at) {
                    *c = char::from_u32(u32::try_from(below(128)).unwrap()).unwrap();
                }
            }
        }
    }
    text.into_iter().collect()
}

proptest! {
    #[test]
    fn any_text_has_one_outcome(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_value_of_any_key_has_one_outcome(
        section in prop::sample::select(vec![
            "global", "[listener]", "pool.p", "pool.p.health", "[pool.p.backend]",
        ]),
        row in 0usize..32,
        value in prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            any::<bool>().prop_map(|flag| flag.to_string()),
            any::<String>().prop_map(|text| format!("{text:?}")),
            "[a-z0-9:./%\\[\\]]{0,20}".prop_map(|text| format!("\"{text}\"")),
            "[0-9]{1,20} ?(ns|us|ms|s|m|h|d|w|M|y)".prop_map(|text| format!("\"{text}\"")),
            Just("[]".to_owned()),
            Just("[\"source_ip\", 1]".to_owned()),
            Just("{}".to_owned()),
            Just("1979-05-27".to_owned()),
        ],
    ) {
        let header = section.trim_matches(['[', ']']);
        let found = super::keys::SECTIONS.iter().find(|s| {
            s.header.replace("NAME", "p").trim_matches(['[', ']']) == header
        });
        let rows = found.expect("a section").rows;
        let key = rows[row % rows.len()].key;
        check(&format!("{MINIMAL}[{section}]\n{key} = {value}\n"));
    }
}

#[test]
fn thousands_of_listeners_and_backends_load_at_once() {
    let mut text = String::new();
    for index in 0..1000 {
        let (high, low) = (index / 250, index % 250);
        writeln!(
            text,
            "[[listener]]\nname = \"l{index}\"\npool = \"p{index}\"\n\
             bind = \"127.0.{high}.{low}:80\""
        )
        .unwrap();
        for backend in 0..10 {
            writeln!(
                text,
                "[[pool.p{index}.backend]]\nname = \"b{backend}\"\n\
                 address = \"10.{high}.{low}.{backend}:80\""
            )
            .unwrap();
        }
    }
    let plan = load(&text, "f").unwrap();
    assert_eq!((plan.listeners.len(), plan.pools.len()), (1000, 1000));
    assert_eq!(
        plan.pools
            .iter()
            .map(|pool| pool.backends.len())
            .sum::<usize>(),
        10_000
    );
    // One pool with all of them, and every check that compares them.
    let mut text = MINIMAL.to_owned();
    for backend in 0..10_000 {
        writeln!(
            text,
            "[[pool.p.backend]]\naddress = \"10.1.{}.{}:80\"",
            backend / 100,
            backend % 100
        )
        .unwrap();
    }
    assert_eq!(load(&text, "f").unwrap().pools[0].backends.len(), 10_001);
    // As many errors as there are lines.
    let wrong = text.replace("address", "adress");
    assert_eq!(load(&wrong, "f").unwrap_err().list.len(), super::MAX_ERRORS);
}
