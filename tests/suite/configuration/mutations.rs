//! Files that are nearly right: each has one meaning or an error with its place, in one process and
//! through the reload of a running one.

use std::net::SocketAddr;

use evenkeel::config;
use evenkeel::config::plan::{Address, Bind, Health, Plan};

use super::assert_has_place;
use crate::harness::scale::{amount, seed};
use crate::harness::{Axis, Config, Proxy, Rng, Tagged};

/// Files of the repository that are valid.
const CORPUS: [&str; 11] = [
    include_str!("../../../conf/minimal.toml"),
    include_str!("../../../conf/inference.toml"),
    include_str!("../../../conf/database.toml"),
    include_str!("../../../conf/dns.toml"),
    include_str!("../../../conf/web.toml"),
    include_str!("../../config/valid/every_key.toml"),
    include_str!("../../config/valid/wildcards.toml"),
    include_str!("../../../conf/llama_cpp.toml"),
    include_str!("../../../conf/behind_proxy.toml"),
    include_str!("../../../conf/tls_by_name.toml"),
    include_str!("../../../conf/http3.toml"),
];

/// What is put somewhere.
const SPLICED: [&str; 14] = [
    "\"", "[", "]", "{", "}", "=", ".", ",", "#", "0", "-1", "\u{feff}", "\0", "é",
];

/// `text` with one to four lines, values, keys or letters changed, as people and editors do.
fn mutate(text: &str, rng: &mut Rng) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for _ in 0..=rng.below(4) {
        let at = rng.size(lines.len());
        let other = lines[rng.size(lines.len())].clone();
        match rng.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, other),
            2 => lines[at] = other,
            // The value of another key.
            3 => {
                if let (Some((key, _)), Some((_, value))) =
                    (lines[at].split_once(" = "), other.split_once(" = "))
                {
                    lines[at] = format!("{key} = {value}");
                }
            }
            // The key of another value.
            4 => {
                if let (Some((_, value)), Some((key, _))) =
                    (lines[at].split_once(" = "), other.split_once(" = "))
                {
                    lines[at] = format!("{key} = {value}");
                }
            }
            5 => lines.truncate(at + 1),
            kind => {
                let mut letters: Vec<char> = lines[at].chars().collect();
                let place = rng.size(letters.len() + 1);
                if kind == 6 || place == letters.len() {
                    let spliced = SPLICED[rng.size(SPLICED.len())];
                    letters.splice(place..place, spliced.chars());
                } else {
                    letters.remove(place);
                }
                lines[at] = letters.into_iter().collect();
            }
        }
        if lines.is_empty() {
            lines.push(String::new());
        }
    }
    lines.join("\n")
}

#[test]
fn cfg_06_mutants_have_one_meaning_or_an_error_with_its_place() {
    let count = amount(5_000, 500_000);
    let mut rng = Rng::new(seed());
    let mut accepted = 0;
    for _ in 0..count {
        let text = mutate(CORPUS[rng.size(CORPUS.len())], &mut rng);
        let outcome = config::load(&text, "f");
        assert_eq!(outcome, config::load(&text, "f"), "two meanings of\n{text}");
        // The end of its lines is none of its meaning, unless a text goes over several.
        if !text.contains(['\0', '\u{feff}']) && !text.contains("\"\"\"") && !text.contains("'''") {
            let with_returns = config::load(&(text.replace('\n', "\r\n") + "\r\n"), "f");
            assert_eq!(outcome.as_ref().ok(), with_returns.as_ref().ok(), "{text}");
        }
        let Err(errors) = outcome else {
            accepted += 1;
            continue;
        };
        for line in errors.to_string().lines() {
            let error = line
                .strip_prefix("f:")
                .unwrap_or_else(|| panic!("{line:?}\n{text}"));
            if !error.ends_with("more errors") {
                assert_has_place(error);
            }
        }
        let lines: Vec<&str> = text.trim_start_matches('\u{feff}').split('\n').collect();
        for error in &errors.list {
            let line = lines.get(error.line - 1).unwrap_or(&"");
            assert!(
                error.column <= line.chars().count() + 1,
                "{error} in\n{text}"
            );
        }
    }
    println!("{accepted} of {count} accepted");
    assert!(
        accepted > count / 50 && accepted < count * 49 / 50,
        "{accepted}"
    );
}

/// Whether putting it in force reaches nobody beyond this machine, and needs no name server.
fn is_local(plan: &Plan) -> bool {
    let is_loopback = |address: &Address| match address {
        Address::Ip(address) => address.ip().is_loopback(),
        Address::Host(..) | Address::Unix(_) => false,
    };
    let takes_any_port = |bind: &Bind| {
        let address = bind.address();
        address.is_some_and(|address| address.ip().is_loopback() && address.port() == 0)
    };
    let mut binds = plan.listeners.iter().flat_map(|listener| &listener.bind);
    let mut backends = plan.pools.iter().flat_map(|pool| &pool.backends);
    plan.pools.iter().all(|pool| pool.health == Health::None)
        && backends.all(|backend| is_loopback(&backend.address))
        && binds.all(takes_any_port)
}

/// Two listeners and three pools, of which the listener "front" alone is looked at.
fn original(backends: &[SocketAddr]) -> Config {
    let mut config = Config::of(Axis::PLAIN, &backends[..1])
        .global("max_connections = 100")
        .global("drain_timeout = \"10s\"")
        .pool("balance = \"round_robin\"")
        .pool("retries = 1")
        .pool("idle_timeout = \"5m\"")
        .also_listening("second", "\"127.0.0.1:0\"");
    for (name, address) in ["x", "y"].iter().zip(&backends[1..]) {
        config = config.more(&format!(
            "[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n\
             [pool.{name}]\nbalance = \"hash\"\nhash_key = [\"source_ip\"]\n\
             [pool.{name}.health]\ntype = \"none\"\n\
             [[pool.{name}.backend]]\nname = \"1\"\naddress = \"{address}\"\nweight = 7"
        ));
    }
    config
}

#[test]
fn cfg_06_a_reload_of_a_mutant_is_whole_or_nothing() {
    let count = amount(250, 5_000);
    let backends = Tagged::start(3);
    let original = original(&backends.addresses());
    let mut proxy = Proxy::start(&original);
    proxy.expect("reload failed");
    let mut rng = Rng::new(seed());
    let (mut generation, mut accepted, mut refused) = (1, 0, 0);
    while accepted + refused < count {
        let text = mutate(&original.text(), &mut rng);
        let expected = config::load(&text, "f");
        if expected.as_ref().is_ok_and(|plan| !is_local(plan)) {
            continue;
        }
        let mark = proxy.log.mark();
        proxy.write(text.as_bytes());
        match (proxy.reload_file(), expected) {
            (Ok(line), Ok(_)) => {
                accepted += 1;
                // Back to what is known.
                let back = proxy.reload(&original).unwrap();
                assert!(
                    line.contains(&format!("generation {} ", generation + 1)),
                    "{line}"
                );
                assert!(
                    back.contains(&format!("generation {} ", generation + 2)),
                    "{back}"
                );
                generation += 2;
            }
            (Err(line), expected) => {
                refused += 1;
                assert!(
                    line.contains(&format!("failed, generation {generation} stays in force: ")),
                    "{line}"
                );
                if let Err(errors) = expected {
                    // Everything that `check` says, and nothing else.
                    let last = &errors.list[errors.list.len() - 1];
                    let text = format!("evenkeel.toml:{last}");
                    proxy
                        .log
                        .wait(mark, &text, |line| line.contains(&text).then_some(()));
                }
            }
            (Ok(line), Err(errors)) => panic!("{line}\n{errors}\n{text}"),
        }
        // In force is the original, whole.
        for (listener, owner) in [("front", 0), ("second", 0), ("x", 1), ("y", 2)] {
            assert_eq!(Tagged::ask(proxy.address(listener)).0, owner, "{text}");
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0);
    proxy.finish();
}
