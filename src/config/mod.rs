//! Floor 0: text ⇄ settings. Takes `&str`; opens no file.
//!
//! [`load`] parses all of a text, reads every table of it into a model (what was written), and
//! checks that into a [`plan::Plan`] (what runs). Each stage goes on after an error, so that one
//! run names them all.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod address;
mod check;
pub mod diff;
mod error;
mod key_part;
mod keys;
mod model;
mod parse;
pub mod plan;
mod reader;
pub mod reference;
mod settings;
mod units;

pub use error::{Error, Errors, MAX_ERRORS};
pub use parse::MAX_TEXT;

use error::{Problems, Wrong};
use model::Model;
use plan::Plan;

/// Reads a configuration as it lies in a file, of which no more than [`MAX_TEXT`] bytes and one need
/// to be given.
pub fn load_bytes(bytes: &[u8], file: &str) -> Result<Plan, Errors> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return load(text, file),
        Err(error) => error,
    };
    let text = String::from_utf8_lossy(bytes);
    if bytes.len() > MAX_TEXT {
        return load(&text, file); // it may have been cut within a character
    }
    let problems = Problems::default();
    let wrong = Wrong::new("this is not UTF-8 text", "save the file as UTF-8");
    problems.syntax(error.valid_up_to(), wrong);
    Err(problems.into_errors(&text, file))
}

/// Reads a configuration. `file` is only its name, for the errors.
pub fn load(text: &str, file: &str) -> Result<Plan, Errors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let problems = Problems::default();
    let plan = parse::parse(text, &problems).and_then(|root| {
        let whole = !problems.any();
        let model = Model::read(&root, &problems);
        // A text of which the parser skipped a part cannot be judged as a whole.
        if whole {
            check::check(model, &problems)
        } else {
            None
        }
    });
    plan.ok_or_else(|| problems.into_errors(text, file))
}

/// Reads a file that names backends and nothing else, for a pool with this limit for each. `file` is only
/// its name, for the errors.
pub fn load_backends(
    text: &str,
    file: &str,
    max_connections: u32,
) -> Result<Vec<plan::Backend>, Errors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let problems = Problems::default();
    let backends = parse::parse(text, &problems).and_then(|root| {
        let backends = model::found(&root, &problems);
        check::backends::found(backends, max_connections, &problems)
    });
    backends.ok_or_else(|| problems.into_errors(text, file))
}

#[cfg(test)]
mod tests;
