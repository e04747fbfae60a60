//! The quick-start flags of `run` as a configuration.

use std::fmt::Write as _;

use clap::Args;

use crate::config;
use crate::config::plan::Plan;

/// The quick-start flags: one pool without a file.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[group(id = "flags", multiple = true)]
#[command(next_help_heading = "Quick start without a file")]
pub struct Flags {
    /// Address to listen on, such as tcp://0.0.0.0:8000, udp://0.0.0.0:53 or
    /// unix:/run/app.sock; repeatable
    #[arg(long, value_name = "URL")]
    listen: Vec<String>,
    /// Backend, such as 10.0.0.1:8000 or 10.0.0.1:8000,weight=2,max_connections=8,name=gpu-1;
    /// repeatable
    #[arg(long, value_name = "ADDRESS[,KEY=VALUE]…")]
    backend: Vec<String>,
    /// How a backend is chosen: hash, rendezvous, round_robin, least_connections, least_busy,
    /// least_latency, power_of_two, random or first
    #[arg(long, value_name = "NAME")]
    balance: Option<String>,
    /// What hash and rendezvous hash over, such as source_ip,source_port
    #[arg(long, value_name = "PARTS")]
    hash_key: Option<String>,
    /// How backends are probed: tcp, http:/PATH, udp or none
    #[arg(long, value_name = "TYPE")]
    health: Option<String>,
    /// Time between probes of one backend, such as 2s
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// Worker threads [default: one per core]
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// How long a stop waits for sessions to end, such as 30s
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<String>,
    /// Where the admin socket is [default: /run/evenkeel/admin.sock, where that can be]
    #[arg(long, value_name = "PATH")]
    admin: Option<String>,
    /// Known, and not supported yet
    #[arg(long, value_name = "ADDR", hide = true)]
    http: Option<String>,
}

impl Flags {
    /// The plan that the flags ask for, or all errors, one a line, each naming its flag.
    pub fn load(&self) -> Result<Plan, String> {
        if *self == Self::default() {
            return Err("nothing to run: give -c FILE, or --listen and --backend".to_owned());
        }
        let mut missing = String::new();
        if self.listen.is_empty() {
            missing += "--listen: missing; add one such as --listen tcp://0.0.0.0:8000\n";
        }
        if self.backend.is_empty() {
            missing += "--backend: missing; add one such as --backend 10.0.0.1:8000\n";
        }
        if !missing.is_empty() {
            return Err(missing.trim_end().to_owned());
        }
        let rendered = self.render();
        config::load(&rendered.text, "command line").map_err(|errors| rendered.explain(&errors))
    }

    /// The flags as the text of a configuration. Values are quoted, not judged: that is for the
    /// one parser to do.
    fn render(&self) -> Rendered {
        let mut to = Rendered::default();
        to.line("[global]", "");
        to.setting("workers", "--workers", self.workers.as_deref());
        to.setting(
            "drain_timeout",
            "--drain-timeout",
            self.drain_timeout.as_deref(),
        );
        to.setting("admin_socket", "--admin", self.admin.as_deref());
        to.setting("http", "--http", self.http.as_deref());
        for (index, listen) in self.listen.iter().enumerate() {
            let flag = format!("--listen {listen}");
            to.line("[[listener]]", &flag);
            to.line(&format!("name = \"listen-{}\"", index + 1), &flag);
            to.line("pool = \"default\"", &flag);
            let (protocol, bind) = match listen.split_once("://") {
                Some((protocol, bind)) => (protocol, bind),
                None => ("tcp", listen.as_str()),
            };
            to.line(&format!("protocol = {}", quote(protocol)), &flag);
            to.line(&format!("bind = {}", quote(bind)), &flag);
        }
        to.line("[pool.default]", "");
        to.setting("balance", "--balance", self.balance.as_deref());
        if let Some(parts) = &self.hash_key {
            let quoted: Vec<_> = parts.split(',').map(|part| quote(part.trim())).collect();
            let flag = format!("--hash-key {parts}");
            to.line(&format!("hash_key = [{}]", quoted.join(", ")), &flag);
        }
        to.line("[pool.default.health]", "");
        if let Some(health) = &self.health {
            let flag = format!("--health {health}");
            match health.split_once(':') {
                Some(("http", path)) => {
                    to.line("type = \"http\"", &flag);
                    to.line(&format!("path = {}", quote(path)), &flag);
                }
                _ => to.line(&format!("type = {}", quote(health)), &flag),
            }
        }
        to.setting(
            "interval",
            "--health-interval",
            self.health_interval.as_deref(),
        );
        for backend in &self.backend {
            let flag = format!("--backend {backend}");
            let mut parts = backend.split(',');
            let address = parts.next().unwrap_or_default();
            to.line("[[pool.default.backend]]", &flag);
            to.line(&format!("address = {}", quote(address)), &flag);
            for part in parts {
                let (key, value) = part.split_once('=').unwrap_or((part, ""));
                to.line(&format!("{} = {}", quote(key), value_of(key, value)), &flag);
            }
        }
        to
    }
}

/// A configuration's text, and which flag each of its lines comes from.
#[derive(Debug, Default)]
struct Rendered {
    text: String,
    flags: Vec<String>,
}

impl Rendered {
    fn line(&mut self, line: &str, flag: &str) {
        writeln!(self.text, "{line}").expect("a String takes all that is written");
        self.flags.push(flag.to_owned());
    }

    fn setting(&mut self, key: &str, flag: &str, value: Option<&str>) {
        if let Some(value) = value {
            let line = format!("{key} = {}", value_of(key, value));
            self.line(&line, &format!("{flag} {value}"));
        }
    }

    fn explain(&self, errors: &config::Errors) -> String {
        let lines = errors.list.iter().map(|error| {
            let flag = self.flags.get(error.line - 1).map_or("", String::as_str);
            let colon = if flag.is_empty() { "" } else { ": " };
            format!("{flag}{colon}{}; {}", error.what, error.cure)
        });
        let mut lines: Vec<_> = lines.collect();
        if errors.omitted > 0 {
            lines.push(format!("and {} more errors", errors.omitted));
        }
        lines.join("\n")
    }
}

/// `value` as TOML: bare where the key takes numbers or flags and it looks like one.
fn value_of(key: &str, value: &str) -> String {
    let number = !value.is_empty()
        && value.bytes().all(|byte| byte.is_ascii_digit())
        && (value == "0" || !value.starts_with('0'));
    let bare = match key {
        "workers" | "weight" | "max_connections" => number,
        "backup" => value == "true" || value == "false",
        _ => false,
    };
    if bare { value.to_owned() } else { quote(value) }
}

/// `text` as a TOML basic string (TOML 1.0, "String").
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(c)).expect("a String takes all");
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Cli, Command};
    use super::*;

    fn flags(line: &str) -> Flags {
        match Cli::parse_from(format!("evenkeel run {line}").split_whitespace()).command {
            Command::Run(run) => run.flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_and_the_file_they_stand_for_give_equal_plans() {
        let flags = flags(
            "--listen tcp://0.0.0.0:8000 --listen unix:/run/app.sock --workers 2 \
             --backend 10.0.0.1:8000,weight=2,max_connections=8,name=gpu-1 \
             --backend [::1]:8000,backup=true --balance rendezvous \
             --hash-key source_ip,source_port --health http:/up --health-interval 500ms \
             --drain-timeout 30s",
        );
        let file = r#"
            [global]
            workers = 2
            drain_timeout = "30s"
            [[listener]]
            name = "listen-1"
            bind = "0.0.0.0:8000"
            pool = "default"
            [[listener]]
            name = "listen-2"
            bind = "unix:/run/app.sock"
            pool = "default"
            [pool.default]
            balance = "rendezvous"
            hash_key = ["source_ip", "source_port"]
            health = { type = "http", path = "/up", interval = "500ms" }
            [[pool.default.backend]]
            name = "gpu-1"
            address = "10.0.0.1:8000"
            weight = 2
            max_connections = 8
            [[pool.default.backend]]
            address = "[::1]:8000"
            backup = true
        "#;
        assert_eq!(flags.load(), Ok(config::load(file, "f").unwrap()));
    }

    #[test]
    fn the_least_flags_are_a_listener_and_a_backend() {
        let plan = flags("--listen tcp://127.0.0.1:1 --backend a:2 --workers auto")
            .load()
            .unwrap();
        assert_eq!((plan.listeners.len(), plan.pools[0].backends.len()), (1, 1));
    }

    #[test]
    fn errors_name_their_flags() {
        for (line, expected) in [
            (
                "",
                "nothing to run: give -c FILE, or --listen and --backend",
            ),
            (
                "--workers 1",
                "--listen: missing; add one such as --listen tcp://0.0.0.0:8000\n\
                 --backend: missing; add one such as --backend 10.0.0.1:8000",
            ),
            (
                "--listen udp://127.0.0.1:1 --backend 10.0.0.1:0 --balance hsah",
                "--balance hsah: \"hsah\" is not known; did you mean \"hash\"? (known: hash, \
                 rendezvous, round_robin, least_connections, least_busy, least_latency, \
                 power_of_two, random, first)\n\
                 --backend 10.0.0.1:0: \"10.0.0.1:0\" has no usable port; \
                 end it with a port from 1 to 65535",
            ),
            (
                "--listen tcp://127.0.0.1:1 --backend a:1 --health http:health --admin x --http y",
                "--admin x: \"x\" is not an absolute path; write /PATH\n\
                 --http y: \"y\" has no host and port; write IP:PORT or [IPV6]:PORT\n\
                 --health http:health: \"health\" is no path; begin it with /, and write what no \
                 path can hold as % and two hexadecimal digits",
            ),
            (
                "--listen tcp://127.0.0.1:1 --backend a:1,wieght=2,weight=02",
                "--backend a:1,wieght=2,weight=02: `wieght` is no key of [[pool.NAME.backend]]; \
                 did you mean `weight`?\n\
                 --backend a:1,wieght=2,weight=02: `weight` is \"02\"; \
                 write a whole number from 0 to 65535",
            ),
        ] {
            assert_eq!(flags(line).load(), Err(expected.to_owned()), "{line}");
        }
    }

    #[test]
    fn no_value_escapes_its_quotes() {
        let text = "a\"]\n[global]\nworkers = 1 # \\ \u{1} é";
        assert_eq!(quote("\"\\\n"), r#""\"\\\u000A""#);
        let mut flags = flags("--listen tcp://127.0.0.1:1 --backend a:1");
        flags.balance = Some(text.to_owned());
        flags.backend.push(format!("b:1,{text}={text}"));
        let errors = flags.load().unwrap_err();
        assert!(errors.contains("`balance` is"), "{errors}");
        assert!(
            errors.contains("is no key of [[pool.NAME.backend]]"),
            "{errors}"
        );
    }
}
