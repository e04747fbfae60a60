//! Configuration and command line: conformance J. What every key and value means is checked in
//! `config`; here it is checked what a user sees of it.

mod command_line;
mod files;
mod mutations;
mod reference;

use std::path::Path;

use crate::harness::command::Outcome;
use crate::harness::evenkeel;
use crate::harness::proxy::Folder;

/// What `evenkeel check` says of a text.
struct Checked {
    outcome: Outcome,
    /// Its errors, each without the file's name: `LINE:COLUMN: what; cure`.
    errors: Vec<String>,
}

/// Checks a text as a file.
#[track_caller]
fn check(text: impl AsRef<[u8]>) -> Checked {
    let folder = Folder::new();
    std::fs::write(folder.config(), text).unwrap();
    check_file(&folder.config())
}

/// Checks a file. Fails unless the exit code fits what is printed, and every error has its place.
#[track_caller]
fn check_file(file: &Path) -> Checked {
    let outcome = evenkeel(["check".as_ref(), file.as_os_str()]);
    let start = format!("{}:", file.display());
    let errors: Vec<String> = outcome
        .err
        .lines()
        .map(|line| {
            let error = line.strip_prefix(&start);
            error
                .unwrap_or_else(|| panic!("no {start} in {line:?}"))
                .to_owned()
        })
        .collect();
    match outcome.code {
        Some(0) => assert!(
            errors.is_empty() && outcome.out.starts_with(&start),
            "{outcome:?}"
        ),
        Some(3) => assert!(!errors.is_empty() && outcome.out.is_empty(), "{outcome:?}"),
        _ => panic!("{outcome:?}"),
    }
    Checked { outcome, errors }
}

/// Fails unless `error` starts with a line and a column.
#[track_caller]
fn assert_has_place(error: &str) {
    let mut parts = error.splitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
    let (line, column) = (number(), number());
    assert!(line >= Some(1) && column >= Some(1), "no place: {error}");
}
