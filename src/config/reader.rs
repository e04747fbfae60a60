//! Takes values out of one table of the file by the rows of its section. A value that does not
//! fit is reported and its default taken, so that reading goes on and finds the next error.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::error::{Problems, Wrong};
use super::keys::{self, Default, Row, SECTIONS, Section, Takes, Value, nearest, quoted};
use super::units;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Written<T> {
    pub(super) value: T,
    /// Byte offset of the value, or of its table where the value is a default.
    pub(super) at: usize,
    /// Whether the file says it.
    pub(super) given: bool,
}

/// One table of the file, or a table that is not written.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    section: &'static Section,
    table: Option<&'a DeTable<'a>>,
    at: usize,
    problems: &'a Problems,
}

impl<'a> Reader<'a> {
    /// Reads `table`, which starts at byte `at`, and reports its keys that are not known or not
    /// supported yet.
    pub(super) fn new(
        section: &'static Section,
        table: &'a DeTable<'a>,
        at: usize,
        problems: &'a Problems,
    ) -> Self {
        for (key, value) in table {
            check_key(section, key, value.get_ref(), problems);
        }
        Self {
            section,
            table: Some(table),
            at,
            problems,
        }
    }

    /// Byte offset of the table.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The table under `key`; without one, a table in which nothing is written.
    pub(super) fn table(&self, key: &str, section: &'static Section) -> Self {
        let Self { at, problems, .. } = *self;
        match self.find(key).map(|(at, value)| (at, value.get_ref())) {
            Some((at, DeValue::Table(table))) => Self::new(section, table, at, problems),
            Some((at, other)) => {
                let cure = format!("write {} on a line of its own", section.header);
                self.report(at, key, other, cure);
                Self {
                    section,
                    table: None,
                    at,
                    problems,
                }
            }
            None => Self {
                section,
                table: None,
                at,
                problems,
            },
        }
    }

    /// The tables of the list under `key`, in the order of the file.
    pub(super) fn tables(&self, key: &str, section: &'static Section) -> Vec<Self> {
        let cure = || match self.section.row(key).map(|row| row.takes) {
            Some(form @ Takes::Form(_)) => format!("write {form}"),
            _ => format!("write {} on a line of its own before each", section.header),
        };
        let elements: &[_] = match self.find(key).map(|(at, value)| (at, value.get_ref())) {
            Some((_, DeValue::Array(elements))) => elements,
            Some((at, other)) => {
                self.report(at, key, other, cure());
                &[]
            }
            None => &[],
        };
        let read = elements
            .iter()
            .filter_map(|element| match element.get_ref() {
                DeValue::Table(table) => Some(Self::new(
                    section,
                    table,
                    element.span().start,
                    self.problems,
                )),
                other => {
                    self.report(element.span().start, key, other, cure());
                    None
                }
            });
        read.collect()
    }

    /// The tables of the table under `key`, by name, each with the place of its name.
    pub(super) fn named(
        &self,
        key: &str,
        section: &'static Section,
    ) -> Vec<(Written<String>, Self)> {
        let cure = || format!("write {} on a line of its own", section.header);
        let Some((at, value)) = self.find(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value.get_ref() else {
            self.report(at, key, value.get_ref(), cure());
            return Vec::new();
        };
        let read = table.iter().filter_map(|(name, value)| {
            let at = name.span().start;
            let DeValue::Table(table) = value.get_ref() else {
                self.report(at, name.get_ref(), value.get_ref(), cure());
                return None;
            };
            let reader = Self::new(section, table, at, self.problems);
            let name = Written {
                value: name.get_ref().to_string(),
                at,
                given: true,
            };
            Some((name, reader))
        });
        read.collect()
    }

    /// A number within the range of its row, which must lie within `T`.
    pub(super) fn whole<T: TryFrom<u64>>(&self, key: &str) -> T {
        self.defaulted(key, |value, row| fit_whole(value, row).ok_or(()))
            .value
    }

    /// A number that stands for something else when it is not written.
    pub(super) fn whole_if_given<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        self.setting(key, |value, row| fit_whole(value, row).ok_or(()))
            .map(|found| found.value)
    }

    /// A number, or `None` for "auto".
    pub(super) fn auto_or<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        let read = |value: Value<'_>, row: &Row| match value {
            Value::Text("auto") => Ok(None),
            _ => fit_whole(value, row).map(Some).ok_or(()),
        };
        self.defaulted(key, read).value
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.written_flag(key).value
    }

    /// The same with its place.
    pub(super) fn written_flag(&self, key: &str) -> Written<bool> {
        let read = |value: Value<'_>, _: &Row| match value {
            Value::Flag(flag) => Ok(flag),
            _ => Err(()),
        };
        self.defaulted(key, read)
    }

    /// A duration within the bounds of its row.
    pub(super) fn duration(&self, key: &str) -> Written<Duration> {
        self.defaulted(key, fit_duration)
    }

    /// A duration that depends on other settings when it is not written.
    pub(super) fn duration_if_given(&self, key: &str) -> Option<Duration> {
        self.setting(key, fit_duration).map(|found| found.value)
    }

    /// 0, or above 1.0 up to [`keys::MAX_LOAD_FACTOR`].
    pub(super) fn load_factor(&self, key: &str) -> Written<f64> {
        self.defaulted(key, |value, _| match value {
            Value::Whole(0) => Ok(0.0),
            Value::Whole(number @ 2..=10) => u8::try_from(number).map(f64::from).map_err(|_| ()),
            Value::Fraction(number)
                if number == 0.0 || (number > 1.0 && number <= keys::MAX_LOAD_FACTOR) =>
            {
                Ok(number.abs()) // -0.0 is 0
            }
            _ => Err(()),
        })
    }

    /// From 0.0 to 1.0.
    pub(super) fn share(&self, key: &str) -> f64 {
        let share = self.defaulted(key, |value, _| match value {
            Value::Whole(0) => Ok(0.0),
            Value::Whole(1) => Ok(1.0),
            Value::Fraction(number) if (0.0..=1.0).contains(&number) => Ok(number.abs()),
            _ => Err(()),
        });
        share.value
    }

    /// What `parse` makes of a text; its own error replaces the row's.
    pub(super) fn parsed<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Written<T>> {
        self.setting(key, |value, _| match value {
            Value::Text(text) => parse(text).map_err(Some),
            _ => Err(None),
        })
    }

    /// One word of those its row takes.
    pub(super) fn word(&self, key: &str) -> Written<&'static str> {
        self.defaulted(key, |value, row| fit_word(key, value, row))
    }

    /// A word that depends on other settings when it is not written.
    pub(super) fn word_if_given(&self, key: &str) -> Option<&'static str> {
        self.setting(key, |value, row| fit_word(key, value, row))
            .map(|found| found.value)
    }

    /// What `parse` makes of each text of a list, or of one text alone where the row takes that.
    pub(super) fn each<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Written<Vec<Written<T>>>> {
        let read = |value: Value<'_>, row: &Row| {
            let one = |text: &str, at, given| {
                parse(text)
                    .map(|value| Written { value, at, given })
                    .map_err(|wrong| {
                        self.problems.value(at, wrong);
                    })
            };
            match value {
                Value::Text(text) if matches!(row.takes, Takes::Addresses) => {
                    let at = self.place(key);
                    Ok(one(text, at, true).into_iter().collect())
                }
                Value::Texts(texts) => Ok(texts
                    .iter()
                    .filter_map(|text| one(text, self.at, false).ok())
                    .collect()),
                Value::Array(array) if !array.is_empty() || row.takes.may_be_empty() => {
                    let elements = array.iter().filter_map(|element| {
                        let at = element.span().start;
                        match element.get_ref() {
                            DeValue::String(text) => one(text, at, true).ok(),
                            other => {
                                let wrong = row.takes.refuse(key, Value::of(other));
                                self.problems.value(at, wrong);
                                None
                            }
                        }
                    });
                    Ok(elements.collect())
                }
                _ => Err(()),
            }
        };
        self.setting(key, read)
    }

    /// Ranges of statuses of HTTP.
    pub(super) fn statuses(&self, key: &str) -> Written<Vec<RangeInclusive<u16>>> {
        self.defaulted(key, |value, row| match value {
            Value::Wholes(numbers) => Ok(numbers.iter().map(|&one| one..=one).collect()),
            Value::Array(array) if !array.is_empty() => {
                let elements = array.iter().filter_map(|element| {
                    let value = Value::of(element.get_ref());
                    let range = fit_statuses(value);
                    if range.is_none() {
                        let wrong = row.takes.refuse(key, value);
                        self.problems.value(element.span().start, wrong);
                    }
                    range
                });
                Ok(elements.collect())
            }
            _ => Err(()),
        })
    }

    /// Byte offset of the value under `key`, or of the table without one.
    pub(super) fn place(&self, key: &str) -> usize {
        self.find(key).map_or(self.at, |(at, _)| at)
    }

    fn find(&self, key: &str) -> Option<(usize, &'a Spanned<DeValue<'a>>)> {
        let value = self.table?.get(key)?;
        Some((value.span().start, value))
    }

    fn report(&self, at: usize, key: &str, value: &DeValue<'_>, cure: String) {
        let what = format!("`{key}` is {}", Value::of(value));
        self.problems.value(at, Wrong::new(what, cure));
    }

    /// A setting whose row has a default.
    fn defaulted<T, E: Into<Refused>>(
        &self,
        key: &str,
        read: impl Fn(Value<'a>, &Row) -> Result<T, E>,
    ) -> Written<T> {
        self.setting(key, read).expect("the row has a default")
    }

    /// The value under `key`, or its row's default if it is not written or does not fit. `None`
    /// when there is no default; if one was required, that has been reported.
    fn setting<T, E: Into<Refused>>(
        &self,
        key: &str,
        read: impl Fn(Value<'a>, &Row) -> Result<T, E>,
    ) -> Option<Written<T>> {
        let row = self
            .section
            .row(key)
            .expect("readers name keys of their section");
        let found = self.find(key);
        if let Some((at, value)) = found {
            let value = Value::of(value.get_ref());
            match read(value, row).map_err(Into::into) {
                Ok(value) => {
                    return Some(Written {
                        value,
                        at,
                        given: true,
                    });
                }
                Err(Refused::Because(wrong)) => self.problems.value(at, wrong),
                Err(Refused::ByRow) => self.problems.value(at, row.takes.refuse(key, value)),
            }
        }
        match row.default {
            Default::Is(value) => {
                let value = read(value, row).ok().expect("defaults fit their rows");
                Some(Written {
                    value,
                    at: self.at,
                    given: false,
                })
            }
            Default::Required if found.is_none() => {
                let what = format!("`{key}` is missing in {}", self.section.header);
                let cure = format!("add {key} = …: {}", row.takes);
                self.problems.missing(self.at, Wrong::new(what, cure));
                None
            }
            Default::Required | Default::Told(_) => None,
        }
    }
}

/// Why a value was not taken.
enum Refused {
    /// It is not what the row takes.
    ByRow,
    Because(Wrong),
}

impl From<()> for Refused {
    fn from((): ()) -> Self {
        Self::ByRow
    }
}

impl From<Option<Wrong>> for Refused {
    fn from(wrong: Option<Wrong>) -> Self {
        wrong.map_or(Self::ByRow, Self::Because)
    }
}

fn fit_duration(value: Value<'_>, row: &Row) -> Result<Duration, ()> {
    match (value, row.takes) {
        (Value::Text(text), Takes::Duration(least)) => units::duration(text, least).ok_or(()),
        _ => Err(()),
    }
}

fn fit_statuses(value: Value<'_>) -> Option<RangeInclusive<u16>> {
    let one = |text: &str| {
        let is_status = text.len() == 3 && (b'1'..=b'5').contains(&text.as_bytes()[0]);
        text.parse::<u16>().ok().filter(|_| is_status)
    };
    match value {
        Value::Whole(number) => one(&number.to_string()).map(|one| one..=one),
        Value::Text(text) => {
            let (first, last) = text.split_once('-')?;
            Some(one(first)?..=one(last)?).filter(|range| !range.is_empty())
        }
        _ => None,
    }
}

fn fit_word(key: &str, value: Value<'_>, row: &Row) -> Result<&'static str, Option<Wrong>> {
    match (value, row.takes) {
        (Value::Text(text), Takes::Word(words)) => match_word(text, words)
            .map_err(|wrong| Some(wrong.unwrap_or_else(|| row.takes.refuse(key, value)))),
        _ => Err(None),
    }
}

fn fit_whole<T: TryFrom<u64>>(value: Value<'_>, row: &Row) -> Option<T> {
    let (Value::Whole(number), Takes::Whole(least, most) | Takes::AutoOr(least, most)) =
        (value, row.takes)
    else {
        return None;
    };
    let number = u64::try_from(number)
        .ok()
        .filter(|number| (least..=most).contains(number))?;
    Some(
        T::try_from(number)
            .ok()
            .expect("the row's range fits the setting's type"),
    )
}

/// `text` as one of `words`; otherwise what is wrong with it, if more can be said than what to write.
pub(super) fn match_word(
    text: &str,
    words: &[&'static str],
) -> Result<&'static str, Option<Wrong>> {
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Ok(word);
    }
    Err(nearest(text, words.iter().copied()).map(|near| {
        Wrong::new(
            format!("{} is not known", quoted(text)),
            format!("did you mean {near:?}? (known: {})", words.join(", ")),
        )
    }))
}

pub(super) fn not_yet(what: &str, cure: &str) -> Wrong {
    Wrong::new(format!("`{what}` is not supported yet"), cure)
}

fn check_key(
    section: &'static Section,
    key: &Spanned<DeString<'_>>,
    value: &DeValue<'_>,
    problems: &Problems,
) {
    let (name, at) = (key.get_ref().as_ref(), key.span().start);
    let Some(row) = section.row(name) else {
        problems.value(at, unknown_key(section, name));
        return;
    };
    let Takes::NotYet(harmless) = row.takes else {
        return;
    };
    if !harmless
        .iter()
        .any(|harmless| Value::of(value).same(*harmless))
    {
        let cure = match harmless {
            [Value::Texts(_), ..] => "remove it or set it to []".to_owned(),
            [value, ..] => format!("remove it or set it to {value}"),
            [] => "remove it".to_owned(),
        };
        problems.value(at, not_yet(name, &cure));
    }
}

fn unknown_key(section: &'static Section, name: &str) -> Wrong {
    let quoted = quoted(name);
    let shown = quoted.trim_matches('"');
    let what = format!("`{shown}` is no key of {}", section.header);
    if let Some(home) = SECTIONS.iter().find(|other| other.row(name).is_some()) {
        return Wrong::new(what, format!("it belongs in {}", home.header));
    }
    match nearest(name, section.rows.iter().map(|row| row.key)) {
        Some(near) => Wrong::new(what, format!("did you mean `{near}`?")),
        None => Wrong::new(what, "remove it"),
    }
}
