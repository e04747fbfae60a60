//! Every key, its range and its default, as the README's reference states them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use evenkeel::config;

use super::check;

/// One key of the reference.
#[derive(Clone, Debug)]
struct Row {
    /// The header of its table, with a name in place of `NAME`.
    header: String,
    key: String,
    takes: String,
    default: String,
}

/// The reference, read back from its text.
fn rows() -> Vec<Row> {
    let text = config::reference::markdown();
    let mut rows = Vec::new();
    let mut header = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("### ") {
            header = name.trim_matches('`').replace("NAME", "p");
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [key, takes, default, _] = cells[..]
            && let Some(key) = key.strip_prefix('`')
        {
            rows.push(Row {
                header: header.clone(),
                key: key.trim_matches('`').to_owned(),
                takes: takes.to_owned(),
                default: default.to_owned(),
            });
        }
    }
    assert!(rows.len() > 35, "{rows:#?}");
    rows
}

/// A file that is valid but for what is put into it: line by line, and the rows that these lines
/// hold values of.
#[derive(Default)]
struct File {
    text: String,
    lines: usize,
    values: Vec<(usize, Row)>,
}

impl File {
    /// A file with a value for each row for which `value` has one, and for those that are required.
    fn with(value: impl Fn(&Row) -> Option<String>) -> Self {
        let mut file = Self::default();
        let mut header = String::new();
        for row in rows() {
            let mut same = rows()
                .into_iter()
                .filter(|other| other.header == row.header);
            if row.header == "[[listener.route]]" && same.all(|row| value(&row).is_none()) {
                continue; // it asks for more than its own keys
            }
            if row.header != header {
                header.clone_from(&row.header);
                file.line(&header);
            }
            if let Some(value) = value(&row) {
                file.line(&format!("{} = {value}", row.key));
                file.values.push((file.lines, row));
            } else if let Some(value) = required(&row) {
                file.line(&format!("{} = {value}", row.key));
            }
        }
        // Whatever becomes of the one above.
        file.line("[[pool.p.backend]]");
        file.line("address = \"10.0.0.2:1\"");
        file
    }

    /// A file with one value.
    fn with_one(row: &Row, value: &str) -> Self {
        Self::with(|other| {
            let is_it = other.header == row.header && other.key == row.key;
            if is_it {
                return Some(value.to_owned());
            }
            // A dialog expects something.
            let suiting = match (row.key.as_str(), other.key.as_str(), value) {
                ("type", "expect_bytes", "\"send_expect\"") => "\"PONG\"",
                ("format", "path", _) if other.header == row.header => "\"-\"",
                ("type", "exec_probes", "\"exec\"") => "true",
                ("type", "command", "\"exec\"") => "[\"/bin/true\"]",
                _ => return None,
            };
            Some(suiting.to_owned())
        })
    }

    fn line(&mut self, line: &str) {
        writeln!(self.text, "{line}").unwrap();
        self.lines += 1;
    }

    /// Fails unless the file has one error for each of its values, which `what` describes.
    #[track_caller]
    fn assert_refused(&self, what: impl Fn(&Row) -> String) {
        let expected: Vec<String> = self
            .values
            .iter()
            .map(|(line, row)| format!("{line}:{}: {}", row.key.len() + 4, what(row)))
            .collect();
        assert!(!expected.is_empty());
        assert_eq!(check(&self.text).errors, expected, "{}", self.text);
    }

    #[track_caller]
    fn assert_accepted(&self) {
        assert!(!self.values.is_empty());
        let errors = check(&self.text).errors;
        assert!(errors.is_empty(), "{errors:#?} in\n{}", self.text);
    }
}

/// A value for a key that must be there.
fn required(row: &Row) -> Option<String> {
    (row.default == "required").then(|| {
        match row.key.as_str() {
            "bind" => "\"127.0.0.1:1\"",
            "address" => "\"10.0.0.1:1\"",
            "name" => "\"a\"",
            _ => "\"p\"",
        }
        .to_owned()
    })
}

/// The ends of a range, and the nearest values beyond them, as the file writes them.
struct Range {
    ends: [String; 2],
    beyond: [String; 2],
}

fn range(row: &Row) -> Option<Range> {
    let (_, range) = row.takes.rsplit_once("from ")?;
    let (least, most) = range.split_once(" to ")?;
    Some(if row.takes.starts_with("a duration") {
        let below = if least == "0s" { "-1ms" } else { "0s" };
        Range {
            ends: [format!("{least:?}"), format!("{most:?}")],
            beyond: [format!("{below:?}"), format!("\"{most} 1ms\"")],
        }
    } else {
        let number = |text: &str| text.parse::<i128>().unwrap();
        Range {
            ends: [least.to_owned(), most.to_owned()],
            beyond: [
                (number(least) - 1).to_string(),
                (number(most) + 1).to_string(),
            ],
        }
    })
}

/// The words a key takes, and one that is none.
fn words(row: &Row) -> Vec<String> {
    if !row.takes.starts_with('"') {
        return Vec::new();
    }
    let words = row.takes.split('"').skip(1).step_by(2);
    words
        .map(|word| format!("{:?}", word.replace("DURATION", "10s")))
        .collect()
}

#[test]
fn cfg_02_ranges_end_where_the_reference_says() {
    for end in [0, 1] {
        let at = File::with(|row| range(row).map(|range| range.ends[end].clone()));
        assert!(at.values.len() > 15, "{}", at.text);
        at.assert_accepted();
        let beyond = |row: &Row| range(row).map(|range| range.beyond[end].clone());
        File::with(beyond).assert_refused(|row| {
            let value = beyond(row).unwrap();
            format!("`{}` is {value}; write {}", row.key, row.takes)
        });
    }
}

#[test]
fn cfg_02_a_value_of_the_wrong_kind_is_refused_for_every_key() {
    for is_of_pools in HALVES {
        let date = |row: &Row| (is_of_pool(row) == is_of_pools).then(|| "1979-05-27".to_owned());
        let file = File::with(date);
        file.assert_refused(|row| format!("`{}` is a date; write {}", row.key, row.takes));
    }
}

#[test]
fn cfg_02_every_word_of_the_reference_is_accepted() {
    let mut count = 0;
    for row in rows() {
        for word in words(&row) {
            File::with_one(&row, &word).assert_accepted();
            count += 1;
        }
        if !words(&row).is_empty() {
            let errors = check(File::with_one(&row, "\"nonsense\"").text).errors;
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].ends_with(&format!("write {}", row.takes)),
                "{errors:?}"
            );
        }
    }
    assert!(count > 15, "only {count} words");
    let find = |key: &str| rows().into_iter().find(|row| row.key == key).unwrap();
    let hash_key = find("hash_key");
    let (_, parts) = hash_key.takes.split_once("out of ").unwrap();
    for part in parts.split(", ") {
        let part = part.replace("/NAME", "/x").replace("/N", "/24");
        let mut file = File::with_one(&hash_key, &format!("[{:?}]", part.replace("TYPE", "0xE0")));
        let introduced = "[[listener]]\naccept_proxy = \"v2\"\n";
        file.text = file.text.replace("[[listener]]\n", introduced);
        file.assert_accepted();
    }
    let load_factor = find("load_factor");
    for good in ["0", "0.0", "1.01", "2", "10.0"] {
        File::with_one(&load_factor, good).assert_accepted();
    }
    for bad in ["0.5", "1.0", "1", "10.01", "-2", "nan", "inf"] {
        let errors = check(File::with_one(&load_factor, bad).text).errors;
        assert_eq!(errors.len(), 1, "{bad}: {errors:?}");
        assert!(errors[0].ends_with(&load_factor.takes), "{errors:?}");
    }
    for share in rows()
        .iter()
        .filter(|row| row.takes.ends_with("0.0 and 1.0"))
    {
        for good in ["0", "0.0", "-0.0", "0.25", "1", "1.0"] {
            File::with_one(share, good).assert_accepted();
        }
        for bad in ["-0.1", "1.01", "2", "nan", "inf", "\"50%\""] {
            let errors = check(File::with_one(share, bad).text).errors;
            assert_eq!(errors.len(), 1, "{bad}: {errors:?}");
            assert!(errors[0].ends_with(&share.takes), "{errors:?}");
        }
    }
}

/// A whole file of errors would be more than are told.
const HALVES: [bool; 2] = [false, true];

fn is_of_pool(row: &Row) -> bool {
    row.header.contains("pool.")
}

/// Each key of one half, with its first letter twice.
fn assert_misspelled_keys_are_told(is_of_pools: bool) {
    // The value is never looked at; the right key is there as well where it is required.
    let mut file = File::default();
    let mut expected = Vec::new();
    let mut header = String::new();
    for row in rows() {
        if row.header != header {
            header.clone_from(&row.header);
            file.line(&header);
        }
        if let Some(value) = required(&row) {
            file.line(&format!("{} = {value}", row.key));
        }
        if is_of_pool(&row) != is_of_pools {
            continue;
        }
        let (first, _) = row.key.split_at(1);
        file.line(&format!("{first}{} = 1", row.key));
        let header = row.header.replace("pool.p", "pool.NAME");
        expected.push(format!(
            "{}:1: `{first}{key}` is no key of {header}; did you mean `{key}`?",
            file.lines,
            key = row.key,
        ));
    }
    assert_eq!(check(&file.text).errors, expected, "{}", file.text);
}

#[test]
fn cfg_05_a_misspelled_key_is_told_its_name() {
    HALVES.into_iter().for_each(assert_misspelled_keys_are_told);
    let misplaced = check("[global]\nbind = 1\nretries = 1\nrise = 1\nweight = 1\n").errors;
    for (error, home) in misplaced
        .iter()
        .filter(|error| error.contains("is no key"))
        .zip([
            "[[listener]]",
            "[pool.NAME]",
            "[pool.NAME.health]",
            "[[pool.NAME.backend]]",
        ])
    {
        assert!(
            error.ends_with(&format!("of [global]; it belongs in {home}")),
            "{error}"
        );
    }
}

#[test]
fn cfg_10_the_readme_holds_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once("<!-- reference:begin -->\n").unwrap();
    let (there, after) = rest.split_once("<!-- reference:end -->").unwrap();
    let reference = config::reference::markdown();
    if std::env::var_os("EVENKEEL_WRITE_REFERENCE").is_some() {
        let block = format!(
            "<!-- reference:begin -->\n{}\n<!-- reference:end -->",
            reference.trim()
        );
        std::fs::write(&path, format!("{before}{block}{after}")).unwrap();
    }
    let first_difference = (there.trim().lines().zip(reference.trim().lines()))
        .find(|(there, expected)| there != expected);
    assert_eq!(
        first_difference, None,
        "run with EVENKEEL_WRITE_REFERENCE=1"
    );
    assert_eq!(
        there.trim().lines().count(),
        reference.trim().lines().count()
    );
}

#[test]
fn cfg_10_defaults_are_what_the_reference_says() {
    let bare = File::with(|_| None);
    let defaults = File::with(|row| {
        // A route with nothing but defaults is a route.
        let is_default = row.header != "[[listener.route]]";
        let value = row.default.strip_prefix('`').filter(|_| is_default)?;
        Some(value.trim_matches('`').to_owned())
    });
    assert!(defaults.values.len() > 25, "{}", defaults.text);
    let plan =
        |file: &File| config::load(&file.text, "f").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(plan(&defaults), plan(&bare), "{}", defaults.text);
    // The defaults that the reference tells in words.
    let told = [
        (
            "[global]",
            "admin_socket",
            "/run/evenkeel/admin.sock, where that can be",
        ),
        (
            "[pool.p.health]",
            "type",
            "tcp; none for a pool that serves UDP only",
        ),
        ("[pool.p.health]", "command", "none"),
        (
            "[pool.p.udp]",
            "idle_timeout",
            "10s for oneway and oneshot, 30s for dialog, 2m for quic",
        ),
        ("[pool.p.udp]", "responses", "1 for oneshot, else 0"),
        ("[[pool.p.backend]]", "name", "its address"),
        ("[[pool.p.backend]]", "max_connections", "the pool's"),
    ];
    let in_words = rows()
        .into_iter()
        .filter(|row| !row.default.starts_with('`') && row.default != "required");
    let in_words: Vec<Row> = in_words.collect();
    let in_words: Vec<(&str, &str, &str)> = in_words
        .iter()
        .map(|row| (row.header.as_str(), row.key.as_str(), row.default.as_str()))
        .collect();
    assert_eq!(in_words, told);
    assert_eq!(plan(&bare).pools[0].backends[0].name, "10.0.0.1:1");
}

/// Everything that is planned: each table's keys with a value that asks for something. What of it is
/// supported follows from the reference; the rest must be refused as known.
const PLANNED: &[(&str, &[(&str, &str)])] = &[
    (
        "[global]",
        &[
            ("workers", "2"),
            ("max_connections", "100"),
            ("admin_socket", "\"/run/evenkeel/admin.sock\""),
            ("http", "\"127.0.0.1:9910\""),
            ("drain_timeout", "\"1m\""),
            ("user", "\"evenkeel\""),
            ("group", "\"evenkeel\""),
        ],
    ),
    (
        "[global.access_log]",
        &[("path", "\"-\""), ("format", "\"text\"")],
    ),
    (
        "[[listener]]",
        &[
            ("name", "\"chat\""),
            ("bind", "[\"127.0.0.1:1\", \"[::1]:1\"]"),
            ("protocol", "\"tcp\""),
            ("pool", "\"p\""),
            ("max_connections", "1"),
            ("max_connections_per_source", "1"),
            ("connection_rate_per_source", "\"20/s\""),
            ("allow", "[\"10.0.0.0/8\"]"),
            ("deny", "[\"10.0.0.0/8\"]"),
            ("accept_proxy", "\"v2\""),
            ("trusted", "[\"10.0.0.0/8\"]"),
        ],
    ),
    (
        "[listener.preread]",
        &[("timeout", "\"1s\""), ("size", "\"4KiB\"")],
    ),
    (
        "[[listener.route]]",
        &[
            ("sni", "[\"*.a.example\"]"),
            ("alpn", "[\"h2\"]"),
            ("http_host", "[\"api.example\"]"),
            ("http_path", "[\"/v1/embeddings\"]"),
            ("http_header", "[\"x-model: llama\"]"),
            ("source", "[\"10.0.0.0/8\"]"),
            ("pool", "\"p\""),
        ],
    ),
    (
        "[pool.p]",
        &[
            ("balance", "\"hash\""),
            ("hash_key", "[\"source_ip\"]"),
            ("load_factor", "1.25"),
            ("connect_timeout", "\"1s\""),
            ("retries", "1"),
            ("idle_timeout", "\"1m\""),
            ("half_close_timeout", "\"1m\""),
            ("max_lifetime", "\"1h\""),
            ("max_lifetime_jitter", "\"5m\""),
            ("busy_linger", "\"2s\""),
            ("max_connections", "1"),
            ("soft_connections", "1"),
            ("limit_counts", "\"busy\""),
            ("slow_start", "\"30s\""),
            ("on_down", "\"reset\""),
            ("fail_open", "false"),
            ("panic_threshold", "0.5"),
            ("send_proxy", "\"v2\""),
            ("source", "\"client\""),
            ("refuse", "\"close\""),
            ("scale", "{ min = 0, max = 4 }"),
        ],
    ),
    (
        "[pool.p.discover]",
        &[
            ("dns", "\"vllm.internal:8000\""),
            ("resolver", "\"127.0.0.1:53\""),
            ("file", "\"/etc/evenkeel/backends.toml\""),
            ("keep_last", "false"),
        ],
    ),
    (
        "[pool.p.health]",
        &[
            ("type", "\"tcp\""),
            ("send", "\"PING\""),
            ("expect_bytes", "\"hex:00ff\""),
            ("steps", "[{ send = \"a\", expect_bytes = \"b\" }]"),
            ("interval", "\"10s\""),
            ("fast_interval", "\"1s\""),
            ("down_interval", "\"1m\""),
            ("timeout", "\"2s\""),
            ("rise", "3"),
            ("fall", "4"),
            ("port", "80"),
            ("path", "\"/health\""),
            ("expect", "[200]"),
            ("host", "\"a.example\""),
            ("body", "\"ok\""),
            ("grpc_service", "\"a.B\""),
            ("tls_server_name", "\"a.example\""),
            ("tls_verify", "false"),
            ("tls_ca", "\"/etc/ssl/own.pem\""),
            ("initial", "\"down\""),
            ("progress_is_alive", "true"),
        ],
    ),
    (
        "[pool.p.queue]",
        &[
            ("limit", "10"),
            ("timeout", "\"10s\""),
            ("per_source", "2"),
            ("fair", "true"),
        ],
    ),
    (
        "[pool.p.outlier]",
        &[
            ("consecutive_failures", "5"),
            ("eject_time", "\"30s\""),
            ("max_ejected", "0.5"),
        ],
    ),
    (
        "[pool.p.udp]",
        &[
            ("session", "\"oneshot\""),
            ("idle_timeout", "\"30s\""),
            ("responses", "1"),
            ("requests", "2"),
            ("max_flows", "1000"),
            ("new_flows_per_second", "100"),
        ],
    ),
    (
        "[[pool.p.backend]]",
        &[
            ("name", "\"gpu-1\""),
            ("address", "\"10.0.0.11:8000\""),
            ("weight", "1"),
            ("max_connections", "8"),
            ("backup", "true"),
        ],
    ),
];

/// Keys that were not planned.
const BEYOND: &[(&str, &str)] = &[
    ("[global]", "splice"),
    ("[global]", "exec_probes"),
    ("[pool.p]", "busy_min_bytes"),
    ("[global]", "sandbox"),
    ("[pool.p.sticky]", "key"),
    ("[pool.p.sticky]", "ttl"),
    ("[pool.p.sticky]", "max_entries"),
    ("[pool.p.queue]", "abort_on_close"),
    ("[pool.p.health]", "command"),
    ("[pool.p.health]", "address"),
    ("[pool.p.udp]", "amplification_limit"),
    ("[pool.p.udp]", "quic_server_id_length"),
    ("[[pool.p.backend]]", "server_id"),
];

/// The kind of probe that a key is for.
fn kind_for(key: &str) -> &'static str {
    match key {
        "path" | "host" | "expect" | "body" => "type = \"http\"\n",
        "send" | "expect_bytes" => "type = \"udp\"\n",
        "tls_server_name" | "tls_verify" | "tls_ca" => "type = \"https\"\n",
        "grpc_service" => "type = \"grpc\"\n",
        "steps" => "type = \"send_expect\"\n",
        _ => "",
    }
}

/// Writes one key of one table into a file that is valid without it: its text and the line.
fn with_key(header: &str, key: &str, value: &str) -> (String, usize) {
    let tables = [
        (
            "[[listener]]",
            "name = \"a\"\nbind = \"127.0.0.1:1\"\npool = \"p\"\n",
        ),
        ("[[pool.p.backend]]", "address = \"10.0.0.1:1\"\n"),
        ("[global]", ""),
        ("[pool.p]", ""),
        ("[pool.p.health]", kind_for(key)),
        ("[pool.p.sticky]", ""),
        ("[pool.p.queue]", ""),
        ("[pool.p.udp]", ""),
        ("[pool.p.discover]", "dns = \"a:1\"\n"),
        ("[listener.preread]", ""),
        ("[[listener.route]]", "pool = \"p\"\n"),
        ("[global.access_log]", "path = \"-\"\n"),
        ("[pool.p.outlier]", ""),
    ];
    let mut text = String::new();
    let mut at = 0;
    for (table, settings) in tables {
        writeln!(text, "{table}").unwrap();
        let is_it = table == header;
        if is_it {
            writeln!(text, "{key} = {value}").unwrap();
            at = text.lines().count();
        }
        let others = settings
            .lines()
            .filter(|line| !is_it || !line.starts_with(&format!("{key} =")));
        others.for_each(|line| writeln!(text, "{line}").unwrap());
    }
    assert_ne!(at, 0, "{header} is not among the tables");
    // A backend that the first may be a backup of.
    text += "[[pool.p.backend]]\naddress = \"10.0.0.2:1\"\n";
    (text, at)
}

#[test]
fn cfg_10_what_is_planned_is_supported_or_refused_as_known() {
    let supported: BTreeSet<(String, String)> = rows()
        .into_iter()
        .map(|row| (row.header, row.key))
        .collect();
    let mut known: BTreeSet<(String, String)> = BEYOND
        .iter()
        .map(|(header, key)| ((*header).to_owned(), (*key).to_owned()))
        .collect();
    for (header, keys) in PLANNED {
        for (key, value) in *keys {
            let (text, line) = with_key(header, key, value);
            let name = ((*header).to_owned(), (*key).to_owned());
            let is_supported = supported.contains(&name);
            known.insert(name);
            match (config::load(&text, "f"), is_supported) {
                (Ok(_), true) => {}
                (Err(errors), false) => {
                    let start = format!("f:{line}:1: `{key}` is not supported yet; remove it");
                    let error = errors.to_string();
                    assert!(
                        error.starts_with(&start) && !error.contains('\n'),
                        "{error}"
                    );
                }
                (Ok(_), false) => panic!("{header} {key} is ignored"),
                (Err(errors), true) => panic!("{errors}"),
            }
        }
    }
    let unplanned: Vec<_> = supported.difference(&known).collect();
    assert!(
        unplanned.is_empty(),
        "neither planned nor beyond: {unplanned:?}"
    );
}
