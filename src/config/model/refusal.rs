//! What a refused client gets, as it is written.

use toml::de::{DeTable, DeValue};

use crate::config::error::Wrong;
use crate::config::keys::quoted;
use crate::config::plan::Refuse;
use crate::config::reader::match_word;

pub(super) fn refuse(text: &str) -> Result<Refuse, Wrong> {
    if let Some(bytes) = text.strip_prefix("bytes:") {
        return refusal(bytes).map(Refuse::Bytes);
    }
    match match_word(text, &["reset", "close"]) {
        Ok("close") => Ok(Refuse::Close),
        Ok(_) => Ok(Refuse::Reset),
        Err(wrong) => Err(wrong.unwrap_or_else(|| {
            let what = format!("`refuse` is {}", quoted(text));
            Wrong::new(what, "write \"reset\", \"close\" or \"bytes:TEXT\"")
        })),
    }
}

/// What a refused client is told: as it stands, or in quotes with the escapes of a string in TOML.
fn refusal(text: &str) -> Result<Vec<u8>, Wrong> {
    let is_quoted = text.starts_with('"');
    let told = if is_quoted {
        unquoted(text)
    } else {
        Some(text.to_owned())
    };
    match told {
        Some(told) if (1..=MAX_REFUSAL).contains(&told.len()) => Ok(told.into()),
        Some(told) => {
            let what = format!("{} bytes for a refused client", told.len());
            Err(Wrong::new(what, format!("write 1 to {MAX_REFUSAL} bytes")))
        }
        None => {
            let what = format!("{} is no text in quotes", quoted(text));
            Err(Wrong::new(
                what,
                "write it as a string of TOML, or without quotes",
            ))
        }
    }
}

/// The string that a text is in TOML, if it is one and nothing else.
fn unquoted(text: &str) -> Option<String> {
    let line = format!("told = {text}");
    let table = DeTable::parse(&line).ok()?;
    match table.get_ref().iter().next()?.1.get_ref() {
        DeValue::String(told) if table.get_ref().len() == 1 => Some(told.to_string()),
        _ => None,
    }
}

/// The longest answer to a refused client, in bytes: it fits the buffer of every socket, so that nobody
/// has to wait until it is taken.
const MAX_REFUSAL: usize = 2048;
