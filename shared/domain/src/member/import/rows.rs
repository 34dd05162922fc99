//! The rows of a table as text ([RFC 4180](https://www.rfc-editor.org/rfc/rfc4180)), with line
//! numbers as an editor shows them.
//!
//! No library says where an unclosed quote was opened, counts lines by every line end, or continues
//! after a broken row. So this parser is our own. An unclosed quote costs the row in which it
//! stands, and no other.

use std::borrow::Cow;

use crate::text::{is_blank, is_line_break};

/// The most cells of a row.
const MOST_CELLS: usize = 1000;
/// The most lines of one row.
const MOST_LINES: usize = 100;
/// The longest quoted cell, in bytes. A longer one is an unclosed quote, because no imported value
/// is so long.
const MOST_QUOTED: usize = 4096;

/// A row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row<'a> {
    /// The line on which it begins, from 1.
    pub(super) line: u64,
    /// The trimmed cells, or what is wrong with the row.
    pub(super) cells: Result<Vec<Cow<'a, str>>, &'static str>,
    /// The lines of the row after its first.
    pub(super) more_lines: &'a str,
}

impl Row<'_> {
    /// Whether all its cells are empty.
    pub(super) fn is_empty(&self) -> bool {
        self.cells.as_ref().is_ok_and(|cells| cells.iter().all(|cell| cell.is_empty()))
    }
}

/// The rows of a text.
#[derive(Debug, Clone)]
pub(super) struct Rows<'a> {
    rest: &'a str,
    line: u64,
    separator: char,
    /// The text from the last row on, and the line on which that row begins.
    last: (&'a str, u64),
}

impl<'a> Rows<'a> {
    /// The rows of a text that begins on `line`.
    pub(super) fn new(text: &'a str, line: u64, separator: char) -> Self {
        Self { rest: text, line, separator, last: (text, line) }
    }

    /// Goes back to the second line of the last row.
    pub(super) fn only_first_line(&mut self) {
        let (row, line) = self.last;
        self.rest = behind_line(row);
        self.line = line + 1;
    }
}

/// The text after its first line.
fn behind_line(text: &str) -> &str {
    match text.find(['\n', '\r']) {
        Some(end) => &text[end + line_end(&text[end..])..],
        None => "",
    }
}

/// How many bytes the line end at the beginning of a text has; 0 for none.
fn line_end(text: &str) -> usize {
    match text.as_bytes() {
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => 1,
        _ => 0,
    }
}

/// The lines of a text, by any line end.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.find(['\n', '\r']).unwrap_or(text.len());
        rest = Some(behind_line(text)).filter(|rest| !rest.is_empty());
        Some(&text[..end])
    })
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (text, line) = (self.rest, self.line);
        self.last = (text, line);
        let (mut cells, mut line_ends) = (Vec::new(), 0);
        let mut rest = text;
        let fault = loop {
            match cell(rest, self.separator) {
                Ok((found, behind)) => {
                    let read = &rest[..rest.len() - behind.len()];
                    line_ends += lines(read).count().saturating_sub(1);
                    cells.push(found);
                    rest = behind;
                }
                Err(fault) => break Some(fault),
            }
            if cells.len() > MOST_CELLS {
                break Some("the row has more than 1,000 cells");
            }
            if line_ends > MOST_LINES {
                break Some("a quote is opened on this line and not closed");
            }
            match rest.chars().next() {
                Some(c) if c == self.separator => rest = &rest[c.len_utf8()..],
                _ => break None,
            }
        };
        if let Some(fault) = fault {
            self.only_first_line();
            return Some(Row { line, cells: Err(fault), more_lines: "" });
        }
        let row = &text[..text.len() - rest.len()];
        self.rest = &rest[line_end(rest)..];
        self.line = line + lines(row).count().max(1) as u64;
        Some(Row { line, cells: Ok(cells), more_lines: behind_line(row) })
    }
}

/// A cell without visible characters is empty.
fn visible(cell: &str) -> &str {
    if is_blank(cell) { "" } else { cell }
}

/// A quoted cell without the space around it. Line breaks stay, because a cell that begins with one
/// may contain text of another row.
fn trimmed(cell: &str) -> &str {
    cell.trim_matches(|c: char| c.is_whitespace() && !is_line_break(c))
}

/// The first cell of a text, and the rest. The rest begins with a separator or a line end, or it is
/// empty.
fn cell(text: &str, separator: char) -> Result<(Cow<'_, str>, &str), &'static str> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([separator, '\n', '\r']).unwrap_or(text.len());
        return Ok((visible(text[..end].trim()).into(), &text[end..]));
    };
    let mut from = 0;
    loop {
        let end = quoted[from..].find('"').map(|end| from + end).filter(|end| *end <= MOST_QUOTED);
        let Some(end) = end else { return Err("a quote is opened on this line and not closed") };
        let behind = &quoted[end + 1..];
        if behind.starts_with('"') {
            from = end + 2;
            continue;
        }
        let inside = visible(trimmed(&quoted[..end]));
        let inside = if inside.contains('"') { inside.replace("\"\"", "\"").into() } else { inside.into() };
        // Spaces after the quote belong to no cell.
        let behind = behind.trim_start_matches(|c| c == ' ' && c != separator);
        let ends = behind.is_empty() || behind.starts_with(separator) || line_end(behind) > 0;
        return if ends {
            Ok((inside, behind))
        } else {
            Err("a quote on this line does not stand around a cell")
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<(u64, Result<Vec<String>, &'static str>)> {
        let strings = |cells: Vec<Cow<'_, str>>| cells.into_iter().map(Cow::into_owned).collect();
        Rows::new(text, 1, ',').map(|row| (row.line, row.cells.map(strings))).collect()
    }

    fn cells(line: u64, cells: &[&str]) -> (u64, Result<Vec<String>, &'static str>) {
        (line, Ok(cells.iter().map(|cell| (*cell).to_owned()).collect()))
    }

    #[test]
    fn lines_are_those_that_an_editor_shows_whatever_ends_them() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "", "\"c", "d\" ,e", "f"].join(end);
            let found = read(&text);
            let expected = [
                cells(1, &["a", "b"]),
                cells(2, &[""]),
                cells(3, &[&format!("c{end}d"), "e"]),
                cells(5, &["f"]),
            ];
            assert_eq!(found, expected, "{end:?}");
        }
    }

    #[test]
    fn an_unclosed_quote_costs_its_own_row_only() {
        let found = read("a,\"b\nc,d\n\"e\"f,g\nh,\"i \"\"j\"\"\"\nk,\"");
        let lines: Vec<_> = found.iter().map(|(line, cells)| (*line, cells.is_ok())).collect();
        assert_eq!(lines, [(1, false), (2, true), (3, false), (4, true), (5, false)]);
        assert_eq!(found[3], cells(4, &["h", "i \"j\""]));
    }

    #[test]
    fn a_row_is_bounded_and_so_is_what_broken_quotes_cost() {
        let wide = ",".repeat(1_000_000);
        assert!(matches!(&read(&wide)[..], [(1, Err(_))]));
        // Each line closes the quote of the line before it, and opens another.
        let knotted = "a\",b,\"\n".repeat(20_000);
        assert_eq!(read(&knotted).len(), 20_000);
    }

    #[test]
    fn a_quote_within_a_cell_is_a_quote() {
        assert_eq!(read("5\" pipe,a\"\"b"), [cells(1, &["5\" pipe", "a\"\"b"])]);
    }

    proptest! {
        /// A table that is written by the rules is read as it was written, with any separator and
        /// line end.
        #[test]
        fn every_table_is_read_as_it_was_written(
            table in proptest::collection::vec(proptest::collection::vec("[a-z\", ;\n\r]{0,6}", 1..4), 1..6),
            separator in prop_oneof![Just(','), Just(';'), Just('\t'), Just('|')],
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        ) {
            let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let row = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(&separator.to_string());
            let text = table.iter().map(row).collect::<Vec<_>>().join(end);
            let found: Vec<_> = Rows::new(&text, 1, separator).map(|row| row.cells.unwrap()).collect();
            let trimmed: Vec<Vec<_>> =
                table.iter().map(|row| row.iter().map(|cell| visible(trimmed(cell)).to_owned()).collect()).collect();
            prop_assert_eq!(found, trimmed);
        }

        /// Reading any text ends, and line numbers only grow.
        #[test]
        fn any_text_has_rows(text in "[a,\"\n\r ]{0,60}") {
            let lines: Vec<_> = Rows::new(&text, 1, ',').map(|row| row.line).collect();
            prop_assert!(lines.is_sorted_by(|one, other| one < other), "{:?}", lines);
        }
    }
}
