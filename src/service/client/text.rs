//! What people read: tables and colours on a terminal, plain columns elsewhere.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;

use super::Trouble;

/// How text looks that is written to the standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Columns are aligned for eyes, not separated for programs.
    is_aligned: bool,
    has_colour: bool,
}

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Plain,
    Faint,
    Good,
    Doubtful,
    Bad,
}

/// One field of a table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    colour: Colour,
}

impl Look {
    /// What suits the standard output; NO_COLOR takes the colours away (no-color.org).
    pub(super) fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            is_aligned: is_terminal,
            has_colour: is_terminal && !no_colour,
        }
    }

    /// Rows below a head: aligned on a terminal, with a tab between columns elsewhere.
    pub(super) fn table(self, head: &[&str], rows: &[Vec<Cell>]) -> String {
        let head = head.iter().map(|name| Cell::coloured(*name, Colour::Faint));
        let all: Vec<Vec<Cell>> = std::iter::once(head.collect())
            .chain(rows.to_vec())
            .collect();
        let width_of = |column: usize| {
            let cells = all.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.text.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..all[0].len()).map(width_of).collect();
        let mut text = String::new();
        for row in &all {
            for (column, cell) in row.iter().enumerate() {
                let is_last = column + 1 == row.len();
                let room = widths[column] - cell.text.chars().count();
                text += &self.paint(cell);
                match (is_last, self.is_aligned) {
                    (true, _) => {}
                    (false, true) => text += &" ".repeat(room + 2),
                    (false, false) => text.push('\t'),
                }
            }
            text.push('\n');
        }
        text
    }

    fn paint(self, cell: &Cell) -> String {
        let code = match cell.colour {
            Colour::Plain => None,
            Colour::Faint => Some("2"),
            Colour::Good => Some("32"),
            Colour::Doubtful => Some("33"),
            Colour::Bad => Some("31"),
        };
        match code.filter(|_| self.has_colour) {
            Some(code) => format!("\u{1b}[{code}m{}\u{1b}[0m", cell.text),
            None => cell.text.clone(),
        }
    }
}

impl Cell {
    pub(super) fn coloured(text: impl ToString, colour: Colour) -> Self {
        let text = text.to_string();
        Self { text, colour }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::coloured(text, Colour::Plain)
    }
}

/// A row of cells out of whatever can be shown.
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::service::client::text::Cell::from($cell)),*] };
}
pub(super) use row;

/// Writes to the standard output. Whoever reads it may have had enough: that is no failure.
pub(super) fn print(text: &str) -> Result<(), Trouble> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A path with a query.
pub(super) fn query<'a>(path: &str, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    format!("{path}?{}", query.finish())
}

/// As one line of JSON.
pub(super) fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).expect("names are texts, and numbers are finite")
}

/// A time for people: `0.3s`, `42s`, `3m 20s`, `5h 1m`, `12d 4h`.
pub(super) fn time(seconds: f64) -> String {
    let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    let whole = time.as_secs();
    let (days, hours, minutes, left) = (
        whole / 86_400,
        whole / 3_600 % 24,
        whole / 60 % 60,
        whole % 60,
    );
    match whole {
        0..10 => format!("{:.1}s", time.as_secs_f64()),
        10..60 => format!("{left}s"),
        60..3_600 => format!("{minutes}m {left}s"),
        3_600..86_400 => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A count of bytes for people, in powers of 1024.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10).min(6);
    let unit = UNITS[power as usize - 1];
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let count = count as f64 / 1024f64.powi(i32::try_from(power).unwrap_or(0));
    let mut text = String::new();
    write!(text, "{count:.1} {unit}").expect("a String takes all");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_for_eyes_and_has_tabs_for_programs() {
        let rows = [
            row!["a", 1],
            vec![Cell::coloured("long", Colour::Bad), Cell::from(22)],
        ];
        let look = |is_aligned, has_colour| Look {
            is_aligned,
            has_colour,
        };
        let table = |look: Look| look.table(&["X", "COUNT"], &rows);
        assert_eq!(table(look(false, false)), "X\tCOUNT\na\t1\nlong\t22\n");
        assert_eq!(table(look(true, false)), "X     COUNT\na     1\nlong  22\n");
        let painted = table(look(true, true));
        assert!(painted.contains("\u{1b}[31mlong\u{1b}[0m  22"), "{painted}");
    }

    #[test]
    fn times_and_bytes_are_short() {
        for (seconds, text) in [
            (0.34, "0.3s"),
            (42.9, "42s"),
            (200.0, "3m 20s"),
            (18_060.0, "5h 1m"),
            (1_051_200.0, "12d 4h"),
            (-1.0, "0.0s"),
        ] {
            assert_eq!(time(seconds), text);
        }
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
