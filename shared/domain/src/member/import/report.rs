//! The report of an import.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ColumnReport;

/// The most bad rows that are reported one by one.
pub const MAX_REPORTED: usize = 1000;

/// The longest detail about a bad row, in bytes. It may quote a cell.
pub(super) const MAX_DETAIL: usize = 200;
/// How many lines of a reason are listed.
pub(super) const REASON_LINES: usize = 10;
/// The most reasons that are counted apart. There is one for each code and column.
pub(super) const MAX_REASONS: usize = 1000;

/// A row that cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ImportBadRow")]
pub struct BadRow {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// Stable: `email-invalid`, `email-repeated`, …
    pub code: String,
    /// What is wrong.
    pub detail: String,
}

/// Why rows cannot be imported: all rows with one code, in one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ImportReason")]
pub struct Reason {
    /// As in [`BadRow`].
    pub code: String,
    /// The column, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What is wrong with the first of these rows.
    pub detail: String,
    /// How many rows.
    pub count: u64,
    /// The lines of the first of these rows.
    pub lines: Vec<u64>,
}

/// The outcome of an import: `rows` = `imported` + `updated` + `unchanged` + `rejected_count`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ImportOutcome {
    /// Rows that are not empty, without the header.
    #[serde(default)]
    pub rows: u64,
    /// People who were new.
    pub imported: u64,
    /// People who were known, and whose data changed.
    pub updated: u64,
    /// People who were known, and whose data stayed the same.
    #[serde(default)]
    pub unchanged: u64,
    /// Rows that were rejected: the first [`MAX_REPORTED`] of them.
    pub rejected: Vec<BadRow>,
    /// How many rows were rejected.
    pub rejected_count: u64,
    /// Values that were not replaced, because an organiser had set them by hand: the first
    /// [`MAX_REPORTED`]. Their rows count as usual.
    #[serde(default)]
    pub held: Vec<BadRow>,
    /// How many values were not replaced.
    #[serde(default)]
    pub held_count: u64,
    /// Why they were rejected, the most frequent reason first.
    #[serde(default)]
    pub reasons: Vec<Reason>,
    /// How the cells of each column were read.
    #[serde(default)]
    pub columns: Vec<ColumnReport>,
}

impl ImportOutcome {
    /// Reports a row that was read, and whose person cannot be changed so.
    pub fn reject(&mut self, line: u64, code: &str, detail: &str) {
        self.rejected_count += 1;
        if self.rejected.len() < MAX_REPORTED {
            self.rejected.push(BadRow { line, code: code.to_owned(), detail: detail.to_owned() });
        }
        let is_this = |reason: &&mut Reason| reason.code == code && reason.column.is_none();
        match self.reasons.iter_mut().find(is_this) {
            Some(reason) => {
                reason.count += 1;
                if reason.lines.len() < REASON_LINES {
                    reason.lines.push(line);
                }
            }
            None => self.reasons.push(Reason {
                code: code.to_owned(),
                column: None,
                detail: detail.to_owned(),
                count: 1,
                lines: vec![line],
            }),
        }
    }

    /// Puts the reasons in order, after rows were rejected.
    pub fn finish(&mut self) {
        self.reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        self.rejected.sort_by_key(|row| row.line);
    }

    /// Reports values that were not replaced, because an organiser had set them by hand.
    pub fn hold(&mut self, line: u64, columns: &[String]) {
        for column in columns {
            self.held_count += 1;
            if self.held.len() < MAX_REPORTED {
                let detail = format!("{column}: an organiser has set another value by hand");
                self.held.push(BadRow { line, code: "value-held".to_owned(), detail });
            }
        }
    }
}
