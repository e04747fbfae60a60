//! What the program says of itself: help, the manual, completions.

use std::fs;
use std::process::Command;

use evenkeel::config::reference;

use crate::harness::command::{Outcome, end_of};
use crate::harness::namespace::has;
use crate::harness::proxy::Folder;
use crate::harness::{evenkeel, scale};

/// The commands that are there, by the program's own list of them.
fn commands() -> Vec<String> {
    let help = evenkeel(["--help"]).out;
    let (_, list) = help.split_once("Commands:\n").unwrap();
    let (list, _) = list.split_once("\n\n").unwrap();
    let names = list.lines().map(|line| line.split_whitespace().next());
    let names: Vec<String> = names.map(|name| name.unwrap().to_owned()).collect();
    assert!(names.len() >= 5, "{names:?}");
    names
}

/// Commands that are known and not supported yet.
fn hidden() -> Vec<&'static str> {
    const ALL: [&str; 10] = [
        "plan", "reload", "status", "top", "sessions", "explain", "backend", "scale", "simulate",
        "upgrade",
    ];
    let there = commands();
    let is_hidden = |name: &&str| !there.iter().any(|one| one == name);
    ALL.into_iter().filter(is_hidden).collect()
}

#[track_caller]
fn done(outcome: Outcome) -> String {
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
    outcome.out
}

#[test]
fn cfg_10_help_on_a_command_is_its_own_help() {
    for name in commands() {
        assert_eq!(
            done(evenkeel(["help", &name])),
            done(evenkeel([&name, "--help"])),
            "{name}"
        );
    }
    assert_eq!(done(evenkeel(["help"])), done(evenkeel(["--help"])));
    for (wrong, expected) in [
        (&["help", "fly"][..], "unrecognized subcommand 'fly'"),
        (&["help", "run", "x"], "unexpected argument 'x'"),
        (&["help", "config", "x"], "unrecognized subcommand 'config'"),
        (&["help", "run", "--man"], "cannot be used with"),
    ] {
        let outcome = evenkeel(wrong);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.err.contains(expected), "{outcome:?}");
    }
}

#[test]
fn cfg_10_help_config_names_every_key_and_what_it_takes() {
    let text = done(evenkeel(["help", "config"]));
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
    }
    let flowing = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut keys = 0;
    for table in reference::tables() {
        assert!(text.contains(&format!("\n{}\n", table.header)));
        for key in table.keys {
            let meaning = key.meaning.split_whitespace().collect::<Vec<_>>().join(" ");
            let said = format!("{} {}; ", key.name, key.takes);
            assert!(flowing.contains(&said), "{said}");
            assert!(flowing.contains(&meaning), "{meaning}");
            keys += 1;
        }
    }
    assert!(keys > 50, "{keys}");
    // Who has seen enough closes the pipe.
    let mut head = Command::new("sh");
    head.args([
        "-c",
        "\"$0\" help config | head -1",
        crate::harness::EVENKEEL,
    ]);
    let outcome = end_of(head);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""));
}

#[test]
fn the_manual_has_a_page_for_each_command_and_one_for_the_file() {
    let folder = Folder::new();
    let pages = folder.path().join("man/man1");
    assert_eq!(
        done(evenkeel([
            "help".as_ref(),
            "--man".as_ref(),
            pages.as_os_str()
        ])),
        ""
    );
    let mut expected: Vec<String> = commands()
        .iter()
        .map(|name| format!("evenkeel-{name}.1"))
        .chain(["evenkeel.1".to_owned(), "evenkeel.toml.5".to_owned()])
        .collect();
    expected.sort();
    let names = |folder| {
        let entries = fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap())
    };
    let mut found: Vec<String> = names(&pages).collect();
    // A command with commands of its own has a page for each of those.
    found.retain(|name| name.matches('-').count() < 2);
    found.sort();
    assert_eq!(found, expected);
    let first = fs::read_to_string(pages.join("evenkeel.1")).unwrap();
    assert_eq!(done(evenkeel(["help", "--man"])), first);
    for name in hidden() {
        assert!(
            !first.contains(&format!("evenkeel\\-{name}")),
            "{name} in {first}"
        );
    }
    for heading in ["NAME", "SIGNALS", "EXIT STATUS", "SEE ALSO"] {
        assert!(first.contains(heading), "{heading} in {first}");
    }
    let file = fs::read_to_string(pages.join("evenkeel.toml.5")).unwrap();
    for table in reference::tables() {
        for key in table.keys {
            assert!(
                file.contains(&format!("\\fB{}\\fR", key.name)),
                "{}",
                key.name
            );
        }
    }
    let outcome = evenkeel(["help", "--man", "/proc/nowhere"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.err.starts_with("/proc/nowhere: "), "{outcome:?}");
    if !has("groff") {
        return scale::skip("the_manual_has_a_page", "groff is not installed");
    }
    for name in names(&pages) {
        let mut groff = Command::new("groff");
        groff
            .args(["-man", "-Tutf8", "-ww", "-z", "-k"])
            .arg(pages.join(name));
        assert_eq!(done(end_of(groff)), "");
    }
}

#[test]
fn completions_offer_what_there_is_and_nothing_else() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = done(evenkeel(["completions", shell]));
        let there = commands();
        for name in there.iter().map(String::as_str).chain(["drain-timeout"]) {
            assert!(script.contains(name), "{name} for {shell}");
        }
    }
    assert_eq!(evenkeel(["completions", "cmd"]).code, Some(2));
    if !has("bash") {
        return scale::skip("completions_offer", "bash is not installed");
    }
    let plain = |word: &String| !word.starts_with('-');
    let mut offered = offered_by_bash("");
    offered.retain(plain);
    assert_eq!(offered, commands());
    let options = offered_by_bash("run --");
    let help = evenkeel(["run", "--help"]).out;
    assert!(
        options.contains(&"--drain-timeout".to_owned()),
        "{options:?}"
    );
    for option in options {
        assert!(help.contains(&format!(" {option}")), "{option} of {help}");
    }
}

/// What bash offers after `evenkeel` and these words, the last of which is begun.
fn offered_by_bash(words: &str) -> Vec<String> {
    let ask = "source <(\"$0\" completions bash); COMP_WORDS=(evenkeel \"${@}\"); \
               COMP_CWORD=$#; _evenkeel evenkeel \"${!#}\" \"${COMP_WORDS[-2]}\"; \
               printf '%s\\n' \"${COMPREPLY[@]}\"";
    let mut bash = Command::new("bash");
    bash.args(["-c", ask, crate::harness::EVENKEEL]);
    bash.args(words.split(' '));
    done(end_of(bash)).lines().map(str::to_owned).collect()
}
