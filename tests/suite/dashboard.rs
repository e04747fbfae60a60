//! The dashboard as a browser shows it, and what comes with it for Prometheus and Grafana.

use std::collections::BTreeSet;

use crate::harness::browser::Browser;
use crate::harness::proxy::Folder;
use crate::harness::{Axis, Config, Family, Proxy, Served, ping, served, udp};

const HTTP: &str = "http = \"127.0.0.1:0\"";

/// The row of a backend as text.
fn row(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#pools tbody tr')]\
         .find((row) => row.querySelector('.name-of').textContent === {name:?})"
    )
}

#[test]
fn a_backend_that_dies_turns_red_and_its_share_moves() {
    let folder = Folder::new();
    let case = "a_backend_that_dies_turns_red_and_its_share_moves";
    let Some(mut browser) = Browser::start(case, folder.path()) else {
        return;
    };
    let (mut a, b) = (Served::echo(Family::V4), Served::echo(Family::V4));
    let config = Config::of(Axis::PLAIN, &[a.address]).global(HTTP);
    let markup = "<b>b</b>";
    let config = config
        .backend(&b.address.to_string())
        .with(&format!("name = \"{markup}\""))
        .pool("balance = \"round_robin\"")
        .health("interval = \"200ms\"")
        .health("fast_interval = \"100ms\"");
    let mut proxy = Proxy::start(&config);
    proxy.expect("is down");
    proxy.expect("connect failed");
    browser.open(&format!("http://{}/", proxy.http()));
    browser.wait("document.querySelectorAll('#pools tbody tr').length === 2");
    browser.wait("document.querySelector('#activity').textContent === 'Serving'");
    let badge = |name: &str| format!("{}.querySelector('.badge')", row(name));
    browser.wait(&format!("{}.textContent === 'Up'", badge("a")));
    // A name is text, whatever it says.
    browser.wait(&format!("{} !== undefined", row(markup)));
    assert_eq!(
        browser.evaluate("document.querySelector('#pools tbody b')"),
        serde_json::Value::Null
    );
    let mut clients: Vec<_> = (0..10).map(|_| served(proxy.front())).collect();
    let share = |name: &str| format!("{}.children[4].textContent", row(name));
    browser.wait(&format!("{} === '50 %'", share("a")));
    for client in &mut clients {
        ping(client).unwrap();
    }
    drop(clients);
    a.kill();
    browser.wait(&format!(
        "{0}.textContent === 'Down' && {0}.classList.contains('bad')",
        badge("a")
    ));
    browser.wait("document.querySelector('#news').textContent.includes('a of pool: down')");
    browser.wait(&format!(
        "{}.querySelectorAll('.history .failed').length > 2",
        row("a")
    ));
    let more: Vec<_> = (0..10).map(|_| served(proxy.front())).collect();
    browser.wait(&format!("parseInt({}) > 60", share(markup)));
    drop(more);
    a.revive();
    browser.wait(&format!("{}.textContent === 'Up'", badge("a")));
    for (width, is_dark) in [(1280, false), (1280, true), (390, false)] {
        browser.resize(width, is_dark);
        browser.wait(&format!("innerWidth === {width}"));
        let fits = "document.documentElement.scrollWidth <= innerWidth";
        assert_eq!(browser.evaluate(fits), true, "{width}: nothing is cut off");
    }
    let roles = "document.querySelectorAll('#pools [role=cell]').length === 18 \
                 && document.querySelectorAll('[role=status][aria-live]').length === 2";
    assert_eq!(browser.evaluate(roles), true, "it can be read aloud");
    drop(browser);
    proxy.finish();
}

#[test]
fn rules_and_panels_name_metrics_that_exist() {
    let backend = Served::echo(Family::V4);
    let names = udp::socket(Family::V4);
    let config = Config::of(Axis::PLAIN, &[backend.address]).global(HTTP).more(&format!(
        "[[listener]]\nname = \"dns\"\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"names\"\n\
         [pool.names]\nhealth.type = \"none\"\n\
         [[pool.names.backend]]\naddress = \"{}\"\n",
        names.local_addr().unwrap()
    ));
    let proxy = Proxy::start(&config);
    let metrics = proxy.metrics();
    let known: BTreeSet<&str> = metrics
        .series
        .keys()
        .map(|name| name.split('{').next().unwrap())
        .collect();
    for file in ["alerts.yml", "grafana.json"] {
        let path = format!("{}/conf/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("evenkeel_")).collect();
        assert!(named.len() > 8, "{file}: {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
        // The values of labels that they name exist, too.
        for label in ["reason", "result"] {
            let values = text.split(label).skip(1).filter_map(|rest| {
                let rest = rest.trim_start_matches(['!', '=', '~', '\\']);
                rest.strip_prefix('"')?.split(['"', '\\']).next()
            });
            for value in values.flat_map(|values| values.split('|')) {
                let value = value.trim_end_matches(".*");
                let start = format!("{label}=\"{value}");
                let is_there = metrics.series.keys().any(|name| name.contains(&start));
                assert!(is_there, "{file}: {label} {value}");
            }
        }
    }
    let grafana = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/grafana.json");
    let board: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(grafana).unwrap()).unwrap();
    assert!(board["panels"].as_array().unwrap().len() > 10);
    proxy.finish();
}
