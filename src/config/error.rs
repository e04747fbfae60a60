//! What is wrong with a configuration, where, and how to mend it.

use std::cell::RefCell;
use std::fmt;

/// How many errors one load reports: enough for any hand-made mistake, and a bound on the output
/// for a file that is not a configuration at all.
pub const MAX_ERRORS: usize = 100;

/// One error. Displayed as `LINE:COLUMN: what; cure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub cure: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            what,
            cure,
        } = self;
        write!(f, "{line}:{column}: {what}; {cure}")
    }
}

/// All errors of one file, by position. Displayed as one `FILE:LINE:COLUMN: what; cure` a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// The first [`MAX_ERRORS`]; never empty.
    pub list: Vec<Error>,
    /// How many more there are.
    pub omitted: usize,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.list.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{error}", self.file)?;
        }
        if self.omitted > 0 {
            write!(f, "\n{}: and {} more errors", self.file, self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// What is wrong with one value and how to mend it; its reader knows the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) cure: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cure: cure.into(),
        }
    }
}

/// Collects errors by byte offset. Shared by readers of nested tables, hence the cell.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
}

#[derive(Debug)]
struct Problem {
    at: usize,
    kind: Kind,
    wrong: Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The text is no TOML here.
    Syntax,
    /// Something written is wrong.
    Value,
    /// Something is not written.
    Missing,
}

impl Problems {
    pub(super) fn syntax(&self, at: usize, wrong: Wrong) {
        self.push(at, Kind::Syntax, wrong);
    }

    pub(super) fn value(&self, at: usize, wrong: Wrong) {
        self.push(at, Kind::Value, wrong);
    }

    pub(super) fn missing(&self, at: usize, wrong: Wrong) {
        self.push(at, Kind::Missing, wrong);
    }

    pub(super) fn any(&self) -> bool {
        !self.found.borrow().is_empty()
    }

    fn push(&self, at: usize, kind: Kind, wrong: Wrong) {
        self.found.borrow_mut().push(Problem { at, kind, wrong });
    }

    /// The errors with their lines and columns in `text`.
    ///
    /// What a syntax error merely leads to is left out: anything else on its line, anything that
    /// seems to be missing, and, where it breaks a header, anything below, for there is no
    /// telling which table that is in.
    pub(super) fn into_errors(self, text: &str, file: &str) -> Errors {
        let lines = Lines::new(text);
        let mut found = self.found.into_inner();
        let mut broken: Vec<usize> = (found.iter())
            .filter(|problem| problem.kind == Kind::Syntax)
            .map(|problem| lines.index(problem.at))
            .collect();
        broken.sort_unstable();
        let is_header = |line: &&usize| {
            lines.text[lines.starts[**line]..]
                .trim_start()
                .starts_with('[')
        };
        let broken_header = broken.iter().find(is_header).copied().unwrap_or(usize::MAX);
        found.retain(|problem| match problem.kind {
            Kind::Syntax => true,
            Kind::Value => {
                let line = lines.index(problem.at);
                line < broken_header && broken.binary_search(&line).is_err()
            }
            Kind::Missing => broken.is_empty(),
        });
        found.sort_by_key(|problem| problem.at);
        found.dedup_by(|next, kept| next.at == kept.at && next.wrong == kept.wrong);
        let omitted = found.len().saturating_sub(MAX_ERRORS);
        found.truncate(MAX_ERRORS);
        let list = found.into_iter().map(|problem| {
            let (line, column) = lines.position(problem.at);
            let Wrong { what, cure } = problem.wrong;
            Error {
                line,
                column,
                what,
                cure,
            }
        });
        Errors {
            file: file.to_owned(),
            list: list.collect(),
            omitted,
        }
    }
}

/// Where each line of a text starts.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(offset, _)| offset + 1);
        let starts = std::iter::once(0)
            .chain(after_newlines.filter(|&start| start < text.len()))
            .collect();
        Self { text, starts }
    }

    /// The line that holds the byte at `offset`, counted from 0; the last one for any offset
    /// beyond the text.
    fn index(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset) - 1
    }

    /// Line and column of the byte at `offset`, both from 1, the column in characters and at most
    /// one past the line's last.
    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let index = self.index(offset);
        let start = self.starts[index];
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let before = line
            .char_indices()
            .take_while(|(byte, _)| start + byte < offset);
        (index + 1, before.count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_and_stay_in_the_text() {
        let lines = Lines::new("aé x\r\nbc\n");
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(3), (1, 3), "é is two bytes, one column");
        assert_eq!(lines.position(6), (1, 5), "the line feed of a CRLF");
        assert_eq!(lines.position(7), (2, 1));
        assert_eq!(lines.position(10), (2, 3), "the end of the text");
        assert_eq!(lines.position(999), (2, 3));
        assert_eq!(Lines::new("").position(0), (1, 1));
        assert_eq!(Lines::new("\n\n").position(2), (2, 1));
    }

    #[test]
    fn a_syntax_error_hides_what_it_leads_to() {
        let problems = Problems::default();
        problems.value(9, Wrong::new("value on the next line", "mend"));
        problems.value(2, Wrong::new("value on the broken line", "mend"));
        problems.missing(0, Wrong::new("missing", "mend"));
        problems.syntax(4, Wrong::new("syntax", "mend"));
        let errors = problems.into_errors("abcdefg\nhij", "f");
        assert_eq!(
            errors.to_string(),
            "f:1:5: syntax; mend\nf:2:2: value on the next line; mend"
        );
    }

    #[test]
    fn a_broken_header_hides_what_is_below() {
        let problems = Problems::default();
        problems.value(0, Wrong::new("above", "mend"));
        problems.syntax(4, Wrong::new("header", "mend"));
        problems.value(7, Wrong::new("below", "mend"));
        let errors = problems.into_errors("a\n[b[\nc=1", "f");
        assert_eq!(
            errors.to_string(),
            "f:1:1: above; mend\nf:2:3: header; mend"
        );
    }

    #[test]
    fn errors_are_bounded() {
        let problems = Problems::default();
        for at in 0..MAX_ERRORS + 7 {
            problems.value(at, Wrong::new("x", "y"));
        }
        let errors = problems.into_errors(&"z".repeat(500), "f");
        assert_eq!((errors.list.len(), errors.omitted), (MAX_ERRORS, 7));
        assert!(errors.to_string().ends_with("\nf: and 7 more errors"));
    }
}
