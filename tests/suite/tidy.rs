//! What must be true of the sources: floors look down only, and files stay readable.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file below `src/`.
struct Source {
    /// From the root of the repository.
    path: String,
    text: String,
}

impl Source {
    /// The folder below `src/` that it is in; files beside `lib.rs` have none.
    fn floor(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        below.split_once('/').map(|(floor, _)| floor)
    }

    /// Its lines before its tests, numbered from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("tests.rs");
        let lines = self.text.lines().enumerate().map(|(n, line)| (n + 1, line));
        lines.take_while(move |(_, line)| !is_test && !line.starts_with("#[cfg(test)]"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources(folder: &str) -> Vec<Source> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let sources: Vec<Source> = files(folder)
        .into_iter()
        .filter(is_rust)
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("UTF-8"),
            path: path
                .strip_prefix(root())
                .expect("below it")
                .display()
                .to_string(),
        })
        .collect();
    assert!(!sources.is_empty(), "no sources in {folder}");
    sources
}

#[track_caller]
fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n{}", found.join("\n"));
}

/// For each floor: the paths below `crate::` that it may use beside its own, and the crates.
/// A path allows everything below it.
const FLOORS: &[(&str, &[&str], &[&str])] = &[
    ("lb", &[], &["slotmap", "twox_hash"]),
    ("wire", &[], &[]),
    (
        "config",
        &["lb", "wire"],
        &["humantime", "regex", "strsim", "toml", "toml_parser"],
    ),
    (
        "sys",
        &[],
        &[
            "landlock",
            "libc",
            "nix",
            "rustix",
            "seccompiler",
            "socket2",
        ],
    ),
    (
        "data",
        &["lb", "wire", "config::plan", "sys"],
        &["crossbeam", "libc", "log", "mio", "slotmap"],
    ),
    (
        "control",
        &[
            "lb",
            "wire",
            "config",
            "sys",
            "data::mailbox",
            "data::worker",
            "data::PIPES_PER_WORKER",
        ],
        &[
            "crossbeam",
            "form_urlencoded",
            "h2",
            "hickory_resolver",
            "http_body_util",
            "humantime",
            "hyper",
            "hyper_util",
            "libc",
            "log",
            "prometheus_client",
            "rustls_native_certs",
            "serde",
            "serde_json",
            "tokio",
            "tokio_rustls",
        ],
    ),
    (
        "service",
        &["lb", "config", "sys", "data", "control"],
        &[
            "clap",
            "clap_complete",
            "clap_mangen",
            "env_logger",
            "form_urlencoded",
            "http_body_util",
            "humantime",
            "hyper",
            "hyper_util",
            "log",
            "sd_notify",
            "serde",
            "serde_json",
            "signal_hook",
            "tokio",
        ],
    ),
];

/// Crates that a file names: those of the manifest whose name starts a path.
fn crates_of(line: &str, all: &[String]) -> Vec<String> {
    let named = |name: &&String| {
        line.match_indices(&format!("{name}::")).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
        })
    };
    all.iter().filter(named).cloned().collect()
}

/// The dependencies of the product, as Rust names them.
fn dependencies() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let (_, section) = manifest
        .split_once("[dependencies]\n")
        .expect("dependencies");
    let section = section.split("\n[").next().expect("a section");
    let names = section.lines().filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

#[test]
fn floors_look_down_only() {
    let all = dependencies();
    assert!(all.contains(&"mio".to_owned()), "{all:?}");
    let mut wrong = Vec::new();
    let mut looked_at = 0;
    for source in sources("src") {
        let Some(floor) = source.floor() else {
            continue;
        };
        let (_, paths, crates) = FLOORS
            .iter()
            .find(|(name, ..)| *name == floor)
            .unwrap_or_else(|| panic!("src/{floor} is no floor"));
        for (number, line) in source.lines().filter(|(_, line)| !is_comment(line)) {
            for (at, _) in line.match_indices("crate::") {
                looked_at += 1;
                let path = &line[at + "crate::".len()..];
                let own = starts_path(path, floor);
                if !own && !paths.iter().any(|allowed| starts_path(path, allowed)) {
                    wrong.push(format!("{}:{number}: {}", source.path, line.trim()));
                }
            }
            for name in crates_of(line, &all) {
                if !crates.contains(&name.as_str()) {
                    wrong.push(format!("{}:{number}: crate {name} in {floor}", source.path));
                }
            }
        }
    }
    none("upward uses", &wrong);
    assert!(looked_at > 50, "only {looked_at} uses seen");
}

/// Whether `path` is `start` or lies below it. A group such as `config::{self, …}` lies below
/// `config` only.
fn starts_path(path: &str, start: &str) -> bool {
    path.strip_prefix(start).is_some_and(|rest| {
        let next = rest.chars().next();
        !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

#[test]
fn the_floor_rule_sees_what_it_forbids() {
    let all = vec!["mio".to_owned(), "log".to_owned()];
    assert_eq!(crates_of("use mio::Poll;", &all), ["mio"]);
    assert!(crates_of("self::mio::x, catalog::y", &all).is_empty());
    assert!(starts_path("lb::time::Tick", "lb"));
    assert!(!starts_path("lbx::time", "lb"));
    assert!(starts_path("config::plan::Plan", "config::plan"));
    assert!(!starts_path("config::diff::diff", "config::plan"));
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources("src")
        .iter()
        .map(|source| (source.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines before its tests"))
        .collect();
    none("too long", &long);
}

#[test]
fn lines_are_short_and_cite_no_line_numbers() {
    let mut wrong = Vec::new();
    for source in ["src", "tests"].into_iter().flat_map(sources) {
        for (number, line) in source.text.lines().enumerate() {
            let at = format!("{}:{}", source.path, number + 1);
            if line.chars().count() > LINE_LENGTH_MAX {
                wrong.push(format!("{at}: {} characters", line.chars().count()));
            }
            let mut places = line
                .match_indices(concat!(".rs", ":"))
                .map(|(at, _)| &line[at + 4..]);
            if is_comment(line) && places.any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            {
                wrong.push(format!("{at}: cites a line of a file, which will move"));
            }
        }
    }
    none("lines", &wrong);
}

#[test]
fn unsafe_is_in_sys_only() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in sources("src") {
        for (number, line) in source.text.lines().enumerate() {
            let is_unsafe = line.contains(concat!("unsafe", " {")) && !is_comment(line);
            seen += usize::from(is_unsafe);
            if is_unsafe && source.floor() != Some("sys") {
                wrong.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    none("unsafe outside sys", &wrong);
    assert!(seen > 0, "the search finds nothing at all");
}

#[test]
fn tests_wait_for_conditions() {
    let sleeps: Vec<String> = sources("tests")
        .iter()
        .chain(&sources("src"))
        .flat_map(|source| {
            let hits = source
                .text
                .lines()
                .enumerate()
                .filter(|(_, line)| line.contains(concat!("thread::", "sleep(")));
            hits.map(|(number, _)| format!("{}:{}", source.path, number + 1))
                .collect::<Vec<_>>()
        })
        .filter(|place| !SLEEPS.iter().any(|allowed| place.starts_with(allowed)))
        .collect();
    none("sleeps that wait for nothing", &sleeps);
}

#[test]
fn the_top_level_is_what_it_is_meant_to_be() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "conf",
        "scripts",
        "tests",
        "target",
        "README.md",
        "LICENSE",
        "proptest-regressions", // not part of the repository
        "CHANGELOG.md",
        "SECURITY.md",
    ];
    let extra: Vec<String> = fs::read_dir(root())
        .expect("the repository")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| !name.starts_with('.') && !allowed.contains(&name.as_str()))
        .collect();
    none("at the top level", &extra);
}

/// Only what waits for a condition, and what plays a slow server or paces a load.
const SLEEPS: &[&str] = &[
    "tests/suite/harness/wait.rs",
    "src/service/demo.rs",
    "tests/bench/",
];

/// Lines of a file before its tests.
const FILE_LINES_MAX: usize = 500;

/// Characters of a line.
const LINE_LENGTH_MAX: usize = 110;
