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
mod keys;
mod model;
pub mod plan;
mod reader;
mod settings;
mod units;

pub use error::{Error, Errors, MAX_ERRORS};
pub use keys::reference;

use error::{Problems, Wrong};
use model::Model;
use plan::Plan;
use toml::de::DeTable;

/// The longest text that is read, in bytes: hundreds of thousands of backends, and a bound on
/// what the wrong file can cost.
pub const MAX_TEXT: usize = 16 << 20;

/// Reads a configuration. `file` is only its name, for the errors.
pub fn load(text: &str, file: &str) -> Result<Plan, Errors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let problems = Problems::default();
    if text.len() > MAX_TEXT {
        let what = format!("the file is longer than {MAX_TEXT} bytes");
        problems.syntax(0, Wrong::new(what, "is it the right one?"));
        return Err(problems.into_errors("", file));
    }
    let (root, syntax) = DeTable::parse_recoverable(text);
    let whole = syntax.is_empty();
    for error in syntax {
        let span = error.span().unwrap_or(0..0);
        let there = text.get(span.clone()).unwrap_or_default();
        problems.syntax(span.start, explain(error.message(), there));
    }
    let model = Model::read(root.get_ref(), &problems);
    // A text of which the parser skipped a part cannot be judged as a whole.
    let plan = if whole {
        check::check(model, &problems)
    } else {
        None
    };
    plan.ok_or_else(|| problems.into_errors(text, file))
}

/// Splits the parser's message into what is wrong and what to write instead.
fn explain(message: &str, there: &str) -> Wrong {
    if message == "duplicate key" {
        return Wrong::new(
            format!("{} is there already", keys::quoted(there)),
            "keep one of them",
        );
    }
    // What the parser says when there is no value at all, or none it knows.
    if message.starts_with("string values must be quoted") {
        let cure = "write a text in quotes, a number, true, false, a list or a table";
        return Wrong::new("there is no value here", cure);
    }
    match message.split_once(", expected ") {
        Some((what, expected)) => Wrong::new(what, format!("expected {expected}")),
        None => Wrong::new(message, "see https://toml.io for what a line may hold"),
    }
}
