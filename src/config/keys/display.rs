//! The words for what keys take, their defaults and their values, in errors and in the reference.

use std::fmt;

use super::{Default, MAX_LOAD_FACTOR, Takes, Value, quoted};
use crate::config::units::{self, MAX_DURATION};

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(words) => write_words(f, words),
            Self::Form(words) => f.write_str(words),
            Self::Whole(least, most) => write!(f, "a whole number from {least} to {most}"),
            Self::AutoOr(least, most) => {
                write!(f, "\"auto\" or a whole number from {least} to {most}")
            }
            Self::LoadFactor => write!(f, "0, or a number above 1.0 up to {MAX_LOAD_FACTOR:.1}"),
            Self::Share => f.write_str("a number between 0.0 and 1.0"),
            Self::Duration(least) => {
                let (least, most) = (units::show(*least), MAX_DURATION.as_secs() / 86_400);
                write!(
                    f,
                    "a duration such as \"2s\" or \"1h 30m\", from {least} to {most}d"
                )
            }
            Self::Flag => f.write_str("true or false"),
            Self::Text => f.write_str("a string"),
            Self::Addresses => {
                f.write_str("IP:PORT, [IPV6]:PORT or unix:/PATH, as a string or a list of them")
            }
            Self::List(words) => write!(f, "a list out of {words}"),
            Self::Statuses => f.write_str("a list such as [200, \"300-399\"]"),
            Self::Networks => {
                f.write_str("a list of networks such as \"10.0.0.0/8\" or \"2001:db8::/32\"")
            }
            Self::Texts(words) => write!(f, "a list of {words}"),
            Self::Table => f.write_str("a table"),
            Self::NotYet(_) => f.write_str("nothing yet"),
        }
    }
}

fn write_words(f: &mut fmt::Formatter<'_>, words: &[&str]) -> fmt::Result {
    for (index, word) in words.iter().enumerate() {
        let before = match index {
            0 => "",
            _ if index + 1 == words.len() => " or ",
            _ => ", ",
        };
        write!(f, "{before}{word:?}")?;
    }
    Ok(())
}

impl fmt::Display for Default {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Required => f.write_str("required"),
            Self::Is(value) => write!(f, "`{value}`"),
            Self::Told(text) => f.write_str(text),
        }
    }
}

/// As the file would write it; long texts are cut.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(&quoted(text)),
            Self::Whole(number) => number.fmt(f),
            Self::Huge => f.write_str("too large a number"),
            Self::Fraction(number) => write!(f, "{number:?}"),
            Self::Flag(flag) => flag.fmt(f),
            Self::Texts(texts) => write!(f, "{texts:?}"),
            Self::Wholes(numbers) => write!(f, "{numbers:?}"),
            Self::Array(array) if array.is_empty() => f.write_str("an empty list"),
            Self::Array(_) => f.write_str("a list"),
            Self::Table => f.write_str("a table"),
            Self::Date => f.write_str("a date"),
        }
    }
}
