//! The example configurations load, and the broken ones say exactly what is wrong with them.
//!
//! `tests/config/invalid/NAME.err` holds the errors of `NAME.toml`, one a line, without the
//! file's name. After a change of wording, run with `EVENKEEL_WRITE_ERRORS=1` and read the diff.

use std::fs;
use std::path::{Path, PathBuf};

use evenkeel::config;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).expect("the folder is part of the repository");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no files in {}", folder.display());
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn examples_and_valid_files_load() {
    for path in files("conf").into_iter().chain(files("tests/config/valid")) {
        let name = path.display().to_string();
        if let Err(errors) = config::load(&read(&path), &name) {
            panic!("{errors}");
        }
    }
}

#[test]
fn invalid_files_name_all_their_errors() {
    let write = std::env::var_os("EVENKEEL_WRITE_ERRORS").is_some();
    for path in files("tests/config/invalid") {
        let errors = config::load(&read(&path), "f").expect_err(&path.display().to_string());
        let found: String = errors
            .list
            .iter()
            .map(|error| format!("{error}\n"))
            .collect();
        let expected = path.with_extension("err");
        if write {
            fs::write(&expected, &found).expect("the folder is writable");
        }
        assert_eq!(found, read(&expected), "{}", path.display());
    }
}
