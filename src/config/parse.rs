//! Text → tree, with every syntax error. Bounds what a text can cost before it is parsed.

use toml::de::DeTable;
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

use super::error::{Problems, Wrong};
use super::keys::quoted;

/// The longest text that is read, in bytes: hundreds of thousands of backends, and a bound on
/// what the wrong file can cost.
pub const MAX_TEXT: usize = 16 << 20;

/// Parts of one dotted key. The file's own keys have five at most. The parser bounds how deep
/// tables nest and how long a key is, but not their product, which its recursive destructors
/// would follow off the end of a 2 MiB stack.
const MAX_KEY_PARTS: usize = 16;

/// The tree of `text`, of which parts are missing if there are syntax errors; those are reported.
/// `None` if the text is not worth parsing.
pub(super) fn parse<'a>(text: &'a str, problems: &Problems) -> Option<DeTable<'a>> {
    if text.len() > MAX_TEXT {
        let what = format!("the file is longer than {MAX_TEXT} bytes");
        problems.syntax(0, Wrong::new(what, "is it the right one?"));
        return None;
    }
    if let Some(at) = long_key(text) {
        let what = format!("a key has more than {MAX_KEY_PARTS} parts");
        problems.syntax(at, Wrong::new(what, "is this the right file?"));
        return None;
    }
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let there = text.get(span.clone()).unwrap_or_default();
        problems.syntax(span.start, explain(error.message(), there));
    }
    Some(root.into_inner())
}

/// Where a dotted key grows too long.
fn long_key(text: &str) -> Option<usize> {
    let mut dots = 0;
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Atom
            | TokenKind::Whitespace
            | TokenKind::BasicString
            | TokenKind::LiteralString => {}
            _ => dots = 0,
        }
        if dots >= MAX_KEY_PARTS {
            return Some(token.span().start());
        }
    }
    None
}

/// Splits the parser's message into what is wrong and what to write instead.
fn explain(message: &str, there: &str) -> Wrong {
    if message == "duplicate key" {
        return Wrong::new(
            format!("{} is there already", quoted(there)),
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
