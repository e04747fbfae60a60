//! The reference of all keys: one walk over the rows that the reader reads, from which the README, the
//! manual and `evenkeel help config` are made.

use super::keys::{Row, SECTIONS, Section, Takes};

/// One table of the file.
#[derive(Clone, Debug)]
pub struct Table {
    /// Its header, as the file writes it; `NAME` stands for a name that the writer chooses.
    pub header: &'static str,
    /// What may stand in it.
    pub keys: Vec<Key>,
}

/// One key.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub takes: String,
    /// What it is where it is not written; a value stands in backticks.
    pub default: String,
    /// What it means.
    pub meaning: &'static str,
}

/// Every table with all keys that are supported, in the order of the reference.
pub fn tables() -> impl Iterator<Item = Table> {
    let written = SECTIONS.into_iter().skip(1); // the root holds nothing but the others
    written.map(|section: &Section| Table {
        header: section.header,
        keys: section.rows.iter().filter_map(Key::of).collect(),
    })
}

impl Key {
    fn of(row: &Row) -> Option<Self> {
        let is_key = !matches!(row.takes, Takes::NotYet(_) | Takes::Table);
        is_key.then(|| Self {
            name: row.key,
            takes: row.takes.to_string(),
            default: row.default.to_string(),
            meaning: row.help,
        })
    }
}

/// The reference as Markdown.
pub fn markdown() -> String {
    let mut text = String::new();
    for Table { header, keys } in tables() {
        text += &format!("### `{header}`\n\n");
        text += "| key | takes | default | meaning |\n|---|---|---|---|\n";
        for key in keys {
            let (name, takes, default, meaning) = (key.name, key.takes, key.default, key.meaning);
            text += &format!("| `{name}` | {takes} | {default} | {meaning} |\n");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_row_is_in_it() {
        let text = markdown();
        let mut supported = 0;
        for row in SECTIONS.iter().flat_map(|section| section.rows) {
            if !matches!(row.takes, Takes::NotYet(_) | Takes::Table) {
                supported += 1;
                let expected = format!("| `{}` | {} |", row.key, row.takes);
                assert!(text.contains(&expected), "{expected}");
            }
        }
        assert!(supported > 30);
    }
}
