//! What Evenkeel says about itself: help on commands, the reference of the configuration, the manual's
//! pages and completions for shells. All of it is made from the definition of the command line and
//! from the rows of the configuration's keys.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use clap::builder::Resettable;
use clap::error::ErrorKind as Misuse;
use clap::{Arg, Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use super::exit::Exit;
use crate::config::reference::{self, Table};

/// `evenkeel help`.
#[derive(Args, Clone, Debug)]
pub struct Help {
    /// A command, or `config` for all keys of the configuration file
    #[arg(value_name = "TOPIC", conflicts_with = "man")]
    topic: Vec<String>,
    /// Write the manual's pages into this directory; without one print evenkeel(1)
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    man: Option<Option<PathBuf>>,
}

/// `evenkeel completions`.
#[derive(Args, Clone, Debug)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Answers `evenkeel help`, where `command` is the definition of the command line.
pub fn help(asked: &Help, command: Command) -> Exit {
    match (&asked.man, asked.topic.as_slice()) {
        (Some(Some(folder)), _) => match write_manual(folder, command) {
            Ok(()) => Exit::Done,
            Err(error) => failed(&error),
        },
        (Some(None), _) => print(&first_page(command)),
        (None, [only]) if only == "config" => print(configuration_text().as_bytes()),
        (None, topic) => print_help(command, topic),
    }
}

/// What `evenkeel TOPIC… --help` prints.
fn print_help(command: Command, topic: &[String]) -> Exit {
    let start = [command.get_name().to_owned()];
    let words = start.iter().chain(topic).map(String::as_str);
    let asked: Vec<&str> = words.chain(["--help"]).collect();
    match command.try_get_matches_from(asked) {
        Err(answer) if answer.kind() == Misuse::DisplayHelp => {
            print(answer.render().to_string().as_bytes())
        }
        Err(error) => {
            eprint!("{error}");
            Exit::Usage
        }
        Ok(_) => Exit::Done,
    }
}

/// Answers `evenkeel completions`.
pub fn completions(asked: &Completions, command: &Command) -> Exit {
    let mut script = Vec::new();
    let mut command = advertised(command);
    let name = command.get_name().to_owned();
    clap_complete::generate(asked.shell, &mut command, name, &mut script);
    print(&script)
}

/// As much of the definition as completions are made from, without what is hidden. What arguments forbid
/// or ask of each other goes as well, since they might name what is hidden.
fn advertised(command: &Command) -> Command {
    let commands = command.get_subcommands().filter(|one| !one.is_hide_set());
    let arguments = command.get_arguments().filter(|one| !one.is_hide_set());
    let alone = |one: &Arg| {
        let one = one.clone().conflicts_with(Resettable::Reset);
        one.requires(Resettable::Reset)
    };
    let shown = Command::new(command.get_name().to_owned())
        .version(command.get_version().and(Some(VERSION)))
        .disable_help_subcommand(true)
        .args(arguments.map(alone))
        .subcommands(commands.map(advertised));
    match command.get_about() {
        Some(about) => shown.about(about.clone()),
        None => shown,
    }
}

/// Writes to standard output; a reader that has seen enough, such as `head`, is no failure.
fn print(text: &[u8]) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => failed(&error),
        _ => Exit::Done,
    }
}

fn failed(error: &io::Error) -> Exit {
    eprintln!("{error}");
    Exit::Failed
}

/// Writes a page for each command, and one for the configuration file.
fn write_manual(folder: &Path, command: Command) -> io::Result<()> {
    let name = |error: io::Error, path: &Path| {
        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
    };
    fs::create_dir_all(folder).map_err(|error| name(error, folder))?;
    clap_mangen::generate_to(command.clone(), folder).map_err(|error| name(error, folder))?;
    for (file, page) in [
        ("evenkeel.1", first_page(command)),
        ("evenkeel.toml.5", configuration_page()),
    ] {
        let path = folder.join(file);
        fs::write(&path, page).map_err(|error| name(error, &path))?;
    }
    Ok(())
}

/// evenkeel(1): what the definition says, and what a service is asked about.
fn first_page(command: Command) -> Vec<u8> {
    let mut page = Vec::new();
    let man = Man::new(command).manual("Evenkeel");
    man.render(&mut page).expect("a Vec takes all");
    let mut rest = Roff::new();
    for (heading, entries) in [
        ("SIGNALS", SIGNALS),
        ("EXIT STATUS", EXITS),
        ("FILES", FILES),
    ] {
        rest.control("SH", [heading]);
        for (name, meaning) in entries {
            entry(&mut rest, name, &[roman(*meaning)]);
        }
    }
    see_also(&mut rest, "evenkeel.toml(5), systemctl(1)");
    rest.to_writer(&mut page).expect("a Vec takes all");
    page
}

/// evenkeel.toml(5): the reference of the configuration, with the least example.
fn configuration_page() -> Vec<u8> {
    let mut page = Roff::new();
    let version = format!("evenkeel {VERSION}");
    page.control("TH", ["evenkeel.toml", "5", "", &version, "Evenkeel"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "evenkeel.toml - configuration of the load balancer Evenkeel",
    )]);
    page.control("SH", ["DESCRIPTION"]);
    page.text(marked(ABOUT_THE_FILE));
    page.control("SH", ["EXAMPLE"]);
    page.control("nf", []);
    page.text([roman(LEAST)]);
    page.control("fi", []);
    for Table { header, keys } in reference::tables() {
        page.control("SH", [header]);
        for key in keys {
            let forms = marked(&key.takes).into_iter();
            let default = [roman("; default: ")]
                .into_iter()
                .chain(marked(&key.default));
            let takes: Vec<Inline> = match key.default.as_str() {
                "required" => forms.chain([roman("; required")]).collect(),
                _ => forms.chain(default).collect(),
            };
            entry(&mut page, key.name, &takes);
            page.control("IP", []);
            page.text(marked(key.meaning));
        }
    }
    see_also(&mut page, "evenkeel(1)");
    page.render().into_bytes()
}

fn entry(page: &mut Roff, name: &str, text: &[Inline]) {
    page.control("TP", []);
    page.text([bold(name)]);
    page.text(text);
}

fn see_also(page: &mut Roff, pages: &str) {
    page.control("SH", ["SEE ALSO"]);
    page.text([roman(pages)]);
}

/// A text with what stands in backticks marked.
fn marked(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    let parts = parts.filter(|(_, part)| !part.is_empty());
    let mark = |(place, part)| match place % 2 {
        0 => roman(part),
        _ => italic(part),
    };
    parts.map(mark).collect()
}

/// The reference for a terminal.
fn configuration_text() -> String {
    let mut text = wrap(ABOUT_THE_FILE, "");
    for Table { header, keys } in reference::tables() {
        text += &format!("\n{header}\n");
        for key in keys {
            let default = match key.default.as_str() {
                "required" => "required".to_owned(),
                default => format!("default: {}", default.trim_matches('`')),
            };
            text += &format!("  {}\n", key.name);
            text += &wrap(&format!("{}; {default}", key.takes), "      ");
            text += &wrap(key.meaning, "      ");
        }
    }
    text
}

/// `text` in lines that fit a terminal, each after `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let mut wrapped = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        let is_first = line.len() == indent.len();
        if !is_first && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            wrapped += &line;
            wrapped.push('\n');
            line.truncate(indent.len());
        } else if !is_first {
            line.push(' ');
        }
        line += word;
    }
    wrapped + &line + "\n"
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// As wide as any terminal is.
const COLUMNS: usize = 80;

/// The least that balances.
const LEAST: &str = include_str!("../../conf/minimal.toml");

const ABOUT_THE_FILE: &str = "The file is TOML: listeners take clients, pools hold the backends that \
    these are carried to. Durations are strings such as \"2s\" or \"10m\", and so are sizes, such as \
    \"64KiB\". NAME stands for the name of a pool. Whatever is unknown, doubled or contradictory is an \
    error; `evenkeel check FILE` names all errors of a file at once, and a reload with one changes nothing.";

const SIGNALS: &[(&str, &str)] = &[
    (
        "HUP",
        "Reload the file: all of it, or on any error nothing of it.",
    ),
    (
        "TERM",
        "Take no new clients, wait up to drain_timeout for those that are here, and end. A second \
         TERM ends it at once.",
    ),
    ("INT", "End at once."),
    (
        "USR1",
        "Open the file of the access log anew, after it was renamed.",
    ),
];

const EXITS: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "Failed while running."),
    ("2", "Wrong use of the command line."),
    ("3", "Invalid configuration."),
];

const FILES: &[(&str, &str)] = &[
    (
        "/etc/evenkeel/evenkeel.toml",
        "What the service is configured by.",
    ),
    ("/run/evenkeel", "Where the service may have Unix sockets."),
    (
        "/var/log/evenkeel",
        "Where the service may write its access log.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_filled_and_no_longer_than_they_may_be() {
        assert_eq!(wrap("", "  "), "  \n");
        let text = "word ".repeat(40);
        let wrapped = wrap(&text, "    ");
        let lines: Vec<&str> = wrapped.lines().collect();
        assert_eq!(lines.len(), 3);
        for line in &lines[..2] {
            assert_eq!(line.len(), 4 + 15 * 5 - 1);
            assert!(line.starts_with("    word"));
        }
        let long = "w".repeat(100);
        assert_eq!(wrap(&format!("a {long}"), ""), format!("a\n{long}\n"));
    }

    #[test]
    fn backticks_mark_and_go() {
        let [before, within, after] = &marked("a `b` c")[..] else {
            panic!("three parts");
        };
        assert_eq!(
            (before, within, after),
            (&roman("a "), &italic("b"), &roman(" c"))
        );
        assert_eq!(marked("`b`"), [italic("b")]);
    }
}
