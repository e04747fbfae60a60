//! What a reload would change, and what it then does.

use std::net::Ipv4Addr;

use serde_json::Value;

use super::{TWO_WORKERS, ping};
use crate::harness::backend::Tagged;
use crate::harness::{Config, Proxy, Served, connect, connect_from, read_all, reset};

/// Puts a configuration beside that of the proxy: the command that asks what it would change.
fn line(proxy: &Proxy, config: &Config) -> String {
    let path = proxy.folder().join("next.toml");
    let folder = proxy.folder().display().to_string();
    std::fs::write(&path, config.text().replace("@FOLDER@", &folder)).unwrap();
    format!("plan {}", path.display())
}

#[test]
fn plan_tells_what_a_reload_would_change_and_changes_nothing() {
    let backends = [0, 1].map(|_| Served::echo(TWO_WORKERS.family));
    let config = Config::of(TWO_WORKERS, &backends.each_ref().map(|it| it.address)).admin();
    let config = config.pool("balance = \"round_robin\"");
    let proxy = Proxy::start(&config);
    let mut clients = [0, 1, 2].map(|_| connect(proxy.front()));
    clients.iter_mut().for_each(ping);
    let same = proxy.json(&line(&proxy, &config));
    assert_eq!(
        (&same["summary"], &same["changes"]),
        (&"nothing changed".into(), &Value::Array(vec![]))
    );
    let next = config
        .clone()
        .without("a")
        .pool("retries = 0")
        .also_listening("more", "\"127.0.0.1:0\"");
    let answer = proxy.json(&line(&proxy, &next));
    assert_eq!(
        answer["summary"],
        "1 backend removed, 1 pool changed, 1 listener added"
    );
    let change = |what: &str| {
        let mut changes = answer["changes"].as_array().unwrap().iter();
        let found = changes.find(|change| change["what"].as_str().unwrap().starts_with(what));
        found.unwrap_or_else(|| panic!("no {what} in {answer}"))["sessions"].clone()
    };
    let on_a = proxy.backend("a")["open"].clone();
    assert!([1, 2].map(Value::from).contains(&on_a), "{on_a}");
    assert_eq!(change("backend pool/a: removed"), on_a);
    assert_eq!(change("pool pool: retries 2 → 0"), 3);
    assert_eq!(change("listener more: added"), 0);
    let text = proxy.told(&line(&proxy, &next));
    assert!(
        text.contains(&format!("\n{on_a}\tbackend pool/a: removed\n")),
        "{text}"
    );
    assert_eq!(proxy.status()["generation"], 1);
    // What a reload would refuse is told, and so is what is no configuration.
    let outcome = proxy.client(&line(&proxy, &config.clone().global("workers = 1")));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.out.contains("takes a restart"), "{outcome:?}");
    let outcome = proxy.client(&line(&proxy, &config.pool("retries = -1")));
    assert_eq!(
        (outcome.code, outcome.out.as_str()),
        (Some(3), ""),
        "{outcome:?}"
    );
    assert!(outcome.err.contains("`retries` is -1"), "{outcome:?}");
    let outcome = proxy.client("plan /nowhere.toml");
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    clients.into_iter().for_each(reset);
    proxy.finish();
}

#[test]
fn the_share_that_plan_tells_is_near_what_moves() {
    const SOURCES: u32 = 400;
    let backends = Tagged::start(5);
    let addresses = backends.addresses();
    let hashed = "hash_key = [\"source_ip\"]";
    let before = Config::of(TWO_WORKERS, &addresses[..4])
        .admin()
        .pool(hashed);
    let after = Config::of(TWO_WORKERS, &addresses).admin().pool(hashed);
    let proxy = Proxy::start(&before);
    let owners = || -> Vec<usize> {
        let owner = |n: u32| {
            let source = Ipv4Addr::from_bits(u32::from_be_bytes([127, 20, 0, 1]) + n);
            let mut stream = connect_from(source.into(), proxy.front()).unwrap();
            let owner = Tagged::read_tag(&mut stream);
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            read_all(&mut stream);
            owner
        };
        (0..SOURCES).map(owner).collect()
    };
    let line = line(&proxy, &after);
    let answer = proxy.json(&line);
    assert_eq!(answer["moved"][0]["pool"], "pool");
    let told = answer["moved"][0]["share"].as_f64().unwrap();
    assert!((0.18..0.24).contains(&told), "a fifth and a little: {told}");
    let was = owners();
    proxy.reload(&after).unwrap();
    let moved = was
        .iter()
        .zip(owners())
        .filter(|(was, is)| **was != *is)
        .count();
    let moved = f64::from(u32::try_from(moved).unwrap()) / f64::from(SOURCES);
    assert!((moved - told).abs() < 0.08, "{moved} moved, {told} told");
    proxy.reload(&before).unwrap();
    assert_eq!(
        proxy.client(&format!("{line} --max-moved 30%")).code,
        Some(0)
    );
    let outcome = proxy.client(&format!("{line} --max-moved 10%"));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(
        outcome
            .err
            .ends_with("of the keys of a pool would move, which is too much\n")
    );
    for wrong in ["10", "101%", "x%"] {
        let outcome = proxy.client(&format!("{line} --max-moved {wrong}"));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
    }
    proxy.finish();
}
