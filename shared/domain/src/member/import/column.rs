//! The kind of a column's cells. The header may declare it (`roll:text`). Otherwise the form of
//! each cell decides.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::attribute::Attribute;
use crate::eligibility::is_date;

/// The most digits of a cell that is read as a number. All of them are exact.
const MOST_DIGITS: usize = 15;
/// How many lines of each rarer kind are listed.
const LINES: usize = 5;

/// How a cell was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellKind {
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A date or an instant.
    Date,
    /// Any other text.
    Text,
}

impl fmt::Display for CellKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Text => "text",
        })
    }
}

impl CellKind {
    /// The kind that the suffix of a header declares.
    pub(super) fn named(suffix: &str) -> Option<Self> {
        Some(match suffix {
            "number" => Self::Number,
            "bool" | "boolean" => Self::Boolean,
            "date" => Self::Date,
            "text" => Self::Text,
            _ => return None,
        })
    }

    fn of(value: &Attribute) -> Self {
        match value {
            Attribute::Bool(_) => Self::Boolean,
            Attribute::Number(_) => Self::Number,
            Attribute::Text(text) if is_date(text) => Self::Date,
            Attribute::Text(_) => Self::Text,
        }
    }
}

/// Reads a cell of a column with a declared kind.
///
/// # Errors
/// In words, if the cell is not of this kind.
pub(super) fn declared(kind: CellKind, cell: &str) -> Result<Attribute, String> {
    let wrong = |what: &str| Err(format!("{cell:?} is no {what}"));
    match kind {
        CellKind::Text => Ok(Attribute::Text(cell.to_owned())),
        CellKind::Date if is_date(cell) => Ok(Attribute::Text(cell.to_owned())),
        CellKind::Date => wrong("date; write it 2001-02-03"),
        CellKind::Boolean => match cell.to_lowercase().as_str() {
            "true" | "yes" | "1" => Ok(Attribute::Bool(true)),
            "false" | "no" | "0" => Ok(Attribute::Bool(false)),
            _ => wrong("boolean; write true or false"),
        },
        CellKind::Number => match number(&canonical(cell)) {
            Some(number) => Ok(Attribute::Number(number)),
            None => wrong("number of at most 15 digits, such as 67.5"),
        },
    }
}

/// Reads a cell of a column without a declared kind. Only a canonical decimal is a number. A roll
/// number (`0071`), a version (`1.10`) and a product's code (`12E5`) are texts. So are numbers that
/// would lose digits.
pub(super) fn guessed(cell: &str) -> Attribute {
    if cell.eq_ignore_ascii_case("true") || cell.eq_ignore_ascii_case("false") {
        return Attribute::Bool(cell.eq_ignore_ascii_case("true"));
    }
    number(cell).map_or_else(|| Attribute::Text(cell.to_owned()), Attribute::Number)
}

/// Reads a canonical decimal: no plus sign, no leading zeros, no zeros at the end of a fraction, no
/// exponent, and at most 15 digits.
fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) =
        digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let all_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = all_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(|fraction| all_digits(fraction) && !fraction.ends_with('0'))
        && text != "-0"
        && whole.len() + fraction.map_or(0, str::len) <= MOST_DIGITS;
    if !is_canonical {
        return None;
    }
    match fraction {
        None => text.parse::<i64>().ok().map(Number::from),
        Some(_) => text.parse::<f64>().ok().and_then(Number::from_f64),
    }
}

/// Converts a plain decimal to the form that [`number`] reads. A column of declared numbers may
/// have `+067.50`.
fn canonical(text: &str) -> String {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let shortened = whole.trim_start_matches('0');
    let whole = if shortened.is_empty() && !whole.is_empty() { "0" } else { shortened };
    let fraction = fraction.trim_end_matches('0');
    match (whole, fraction) {
        ("0", "") => "0".to_owned(),
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

/// How the cells of a column were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ImportColumn")]
pub struct ColumnReport {
    /// The attribute.
    pub name: String,
    /// Each kind, the most frequent first.
    pub kinds: Vec<KindReport>,
    /// The same in words: `number (213), text (2: lines 5, 9)`.
    pub taken_for: String,
}

/// The cells of a column that were read as one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ImportColumnKind")]
pub struct KindReport {
    /// The kind.
    pub kind: CellKind,
    /// How many cells.
    pub count: u64,
    /// The lines of the first of these cells, if other kinds are more frequent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<u64>,
}

/// Counts how the cells of a column are read.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally(BTreeMap<CellKind, (u64, Vec<u64>)>);

impl Tally {
    pub(super) fn add(&mut self, value: &Attribute, line: u64) {
        let (count, lines) = self.0.entry(CellKind::of(value)).or_default();
        *count += 1;
        if lines.len() < LINES {
            lines.push(line);
        }
    }

    pub(super) fn report(self, name: String) -> ColumnReport {
        let mut kinds: Vec<_> =
            self.0.into_iter().map(|(kind, (count, lines))| KindReport { kind, count, lines }).collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        if let Some(first) = kinds.first_mut() {
            first.lines.clear();
        }
        let words: Vec<_> = kinds.iter().map(in_words).collect();
        let taken_for = if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
        ColumnReport { name, kinds, taken_for }
    }
}

fn in_words(KindReport { kind, count, lines }: &KindReport) -> String {
    if lines.is_empty() {
        return format!("{kind} ({count})");
    }
    let numbers: Vec<_> = lines.iter().map(ToString::to_string).collect();
    let (word, more) = (if *count == 1 { "line" } else { "lines" }, numbers.len() as u64 != *count);
    format!("{kind} ({count}: {word} {}{})", numbers.join(", "), if more { ", …" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Attribute {
        Attribute::Text(text.to_owned())
    }

    #[test]
    fn a_cell_is_a_number_only_if_it_is_written_as_one() {
        for cell in ["67", "0", "-5", "67.5", "0.001", "-0.5", "999999999999999", "1234567.12345678"] {
            let Attribute::Number(number) = guessed(cell) else { panic!("{cell}") };
            assert_eq!(number.to_string(), cell);
        }
        for cell in [
            "0071",
            "+4912",
            "12E5",
            "1e3",
            "1.10",
            "1.",
            ".5",
            "-0",
            "1,5",
            "1 000",
            "0x10",
            "NaN",
            "inf",
            "1234567890123456",
            "12345678.12345678",
            "١٢",
            "",
        ] {
            assert_eq!(guessed(cell), text(cell));
        }
        for cell in ["TRUE", "True", "true"] {
            assert_eq!(guessed(cell), Attribute::Bool(true));
        }
        assert_eq!(guessed("FALSE"), Attribute::Bool(false));
        assert_eq!(guessed("2024-01-01"), text("2024-01-01"));
    }

    #[test]
    fn a_header_decides_what_its_cells_are() {
        use CellKind::{Boolean, Date, Number, Text};
        assert_eq!(declared(Text, "0071"), Ok(text("0071")));
        assert_eq!(declared(Text, "true"), Ok(text("true")));
        assert_eq!(declared(Number, "+067.50"), Ok(guessed("67.5")));
        assert_eq!(declared(Number, "000"), Ok(guessed("0")));
        assert_eq!(declared(Number, "-0.0"), Ok(guessed("0")));
        assert_eq!(declared(Boolean, "Yes"), Ok(Attribute::Bool(true)));
        assert_eq!(declared(Date, "2001-02-03"), Ok(text("2001-02-03")));
        for (kind, cell) in [
            (Number, "A1"),
            (Number, "."),
            (Number, "-"),
            (Number, "1e3"),
            (Number, "12345678901234567"),
            (Boolean, "perhaps"),
            (Date, "03/02/2001"),
            (Date, "2001-02-30"),
        ] {
            assert!(declared(kind, cell).is_err(), "{kind} {cell}");
        }
    }

    #[test]
    fn a_column_says_what_it_was_taken_for() {
        let mut tally = Tally::default();
        for line in 2..6 {
            tally.add(&guessed("67"), line);
        }
        tally.add(&text("A"), 7);
        assert_eq!(tally.report("marks".into()).taken_for, "number (4), text (1: line 7)");
    }
}
