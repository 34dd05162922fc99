//! Imports of people: good rows are imported, bad ones reported by line, and the numbers add up.

mod column;
mod encoding;
mod report;
mod rows;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

pub use self::column::{CellKind, ColumnReport, KindReport};
use self::column::{Tally, declared, guessed};
pub use self::report::{BadRow, ImportOutcome, MAX_REPORTED, Reason};
use self::report::{MAX_DETAIL, MAX_REASONS, REASON_LINES};
use self::rows::{Row, Rows, lines};
use super::{MAX_ATTRIBUTES, MAX_NAME, attribute_fault};
use crate::address::{EmailAddress, normal_email};
use crate::attribute::{Attribute, is_attribute_name};
use crate::refusal::{Code, FieldError, Refusal};
use crate::text::{optional_line_fault, shortened};

/// The most people in one file.
pub const MAX_ROWS: usize = 50_000;
/// The largest file, in bytes.
pub const MAX_FILE: usize = 16 * 1024 * 1024;

/// The separators that the reader recognises by itself.
const SEPARATORS: [char; 4] = [',', ';', '\t', '|'];

/// One person of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The line on which their row begins, from 1.
    pub line: u64,
    /// Normalised; unique in the file.
    pub email: String,
    /// May be empty.
    pub name: String,
    /// The other columns. An empty cell is `None`.
    pub attributes: BTreeMap<String, Option<Attribute>>,
}

/// A file that was read. Every row is a person or a bad row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The good rows.
    pub people: Vec<Person>,
    /// The report before the import: the rows, the bad ones, the columns.
    pub report: ImportOutcome,
}

/// Reads a file. `charset` is the encoding that the sender named.
///
/// Refuses the file if it cannot be decoded, has no usable header, or has too many rows.
pub fn read(file: &[u8], charset: Option<&str>) -> Result<Table, Refusal> {
    let text = encoding::decoded(file, charset).map_err(whole)?;
    // Some programs write a second byte-order mark.
    let text = text.trim_start_matches('\u{feff}');
    let (mut rows, separator) = beginning(text)?;
    let header = rows.by_ref().find(|row| !row.is_empty()).ok_or_else(|| no_header(text))?;
    let header = Header::read(&header)?;
    let mut reading = Reading::new(&header);
    while let Some(row) = rows.next() {
        if row.is_empty() {
            continue;
        }
        if header.swallows(&row, separator) {
            rows.only_first_line();
            let detail = "a quote is opened on this line, and rows that follow would stand in its cell";
            reading.reject(row.line, Fault::new("row-unreadable", detail));
        } else {
            reading.take(&row);
        }
        if reading.report.rows > MAX_ROWS as u64 {
            return Err(whole(format!("a file has at most {MAX_ROWS} rows; split it")));
        }
    }
    Ok(reading.finish())
}

fn whole(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidFile).with_errors(vec![FieldError::new("file", detail)])
}

fn no_header(text: &str) -> Refusal {
    let first = lines(text).find(|line| !line.trim().is_empty()).unwrap_or_default();
    let detail = match first.trim() {
        "" => "the file is empty; its first line must name the columns, one of them email".to_owned(),
        first => format!(
            "the first line must name the columns, one of them email, with commas, semicolons or tabs between them; it is {:?}",
            shortened(first.to_owned(), MAX_DETAIL)
        ),
    };
    whole(detail)
}

/// The rows of a text, header first, and the separator. The first line may name the separator
/// (`sep=;`, as Excel writes it). Otherwise it is the one that gives the header a column `email`.
fn beginning(text: &str) -> Result<(Rows<'_>, char), Refusal> {
    let first = lines(text).next().unwrap_or_default().trim().trim_matches('"');
    let named = first.split_at_checked(4).filter(|(word, _)| word.eq_ignore_ascii_case("sep="));
    if let Some((_, separator)) = named {
        let separator = if separator.is_empty() { "\t" } else { separator };
        let mut characters = separator.chars();
        let (Some(separator), None) = (characters.next(), characters.next()) else {
            return Err(whole(format!(
                "line 1 names {separator:?} as the separator; it must be one character"
            )));
        };
        if matches!(separator, '"' | '\r' | '\n') || separator.is_alphanumeric() {
            return Err(whole(format!(
                "line 1 names {separator:?} as the separator; use a comma or a semicolon"
            )));
        }
        let mut rows = Rows::new(text, 1, separator);
        rows.only_first_line();
        return Ok((rows, separator));
    }
    let names_email = |separator: &char| {
        let header = Rows::new(text, 1, *separator).find(|row| !row.is_empty())?;
        let cells = header.cells.ok()?;
        let is_email = |cell: &Cow<'_, str>| column_name(cell).0 == "email";
        cells.iter().any(is_email).then_some(cells.len())
    };
    // A header of one column does not decide. An address at the start of the next row does.
    let names_somebody = |separator: char| {
        let row = Rows::new(text, 1, separator).filter(|row| !row.is_empty()).nth(1);
        let cells = row.and_then(|row| row.cells.ok()).unwrap_or_default();
        cells.first().is_some_and(|cell| normal_email(cell).is_some())
    };
    // The most usual separator comes last, because `max_by_key` takes the last of equals.
    let found = SEPARATORS.iter().rev().filter_map(|separator| Some((names_email(separator)?, *separator)));
    let rank = |(columns, separator): &(usize, char)| (*columns, *columns == 1 && names_somebody(*separator));
    let (_, separator) = found.max_by_key(rank).ok_or_else(|| no_header(text))?;
    Ok((Rows::new(text, 1, separator), separator))
}

/// A column's name in the form of attributes, and the kind after its colon.
fn column_name(cell: &str) -> (String, Option<&str>) {
    let (name, kind) = cell.split_once(':').map_or((cell, None), |(name, kind)| (name, Some(kind.trim())));
    (name.trim().to_lowercase(), kind)
}

struct Column {
    name: String,
    kind: Option<CellKind>,
}

struct Header {
    /// None for a column without a name.
    columns: Vec<Option<Column>>,
    email: usize,
    name: Option<usize>,
}

impl Header {
    fn read(row: &Row<'_>) -> Result<Self, Refusal> {
        let cells = row.cells.as_ref().map_err(|fault| whole(format!("line {}: {fault}", row.line)))?;
        let mut columns: Vec<Option<Column>> = Vec::with_capacity(cells.len());
        for cell in cells {
            if cell.is_empty() {
                columns.push(None);
                continue;
            }
            let (name, kind) = column_name(cell);
            if columns.iter().flatten().any(|column| column.name == name) {
                return Err(whole(format!("two columns are called {name:?}")));
            }
            if !is_attribute_name(&name) {
                let shown = shortened(name, MAX_DETAIL);
                return Err(whole(format!(
                    "the column {shown:?} cannot name an attribute: use a–z, 0–9 and _, such as roll_number"
                )));
            }
            let kind = match kind.map(|word| (word, CellKind::named(&word.to_lowercase()))) {
                None => None,
                Some((_, Some(kind))) => Some(kind),
                Some((word, None)) => {
                    let word = shortened(word.to_owned(), MAX_DETAIL);
                    return Err(whole(format!(
                        "the column {name:?} is said to be {word:?}; it may be text, number, bool or date"
                    )));
                }
            };
            columns.push(Some(Column { name, kind }));
        }
        let position = |wanted: &str| {
            columns.iter().position(|column| column.as_ref().is_some_and(|column| column.name == wanted))
        };
        let Some(email) = position("email") else {
            let names: Vec<_> = columns.iter().flatten().map(|column| column.name.as_str()).collect();
            let names = shortened(names.join(", "), MAX_DETAIL);
            return Err(whole(format!(
                "the first line must name the columns, one of them email; it names {names}"
            )));
        };
        let name = position("name");
        let attributes = columns.iter().flatten().count() - 1 - usize::from(name.is_some());
        if attributes > MAX_ATTRIBUTES {
            return Err(whole(format!("a member has at most {MAX_ATTRIBUTES} attributes")));
        }
        Ok(Self { columns, email, name })
    }

    /// Whether a row of several lines contains other rows, because a quote in it was not closed.
    fn swallows(&self, row: &Row<'_>, separator: char) -> bool {
        let is_person = |line: &str| {
            let cells = Rows::new(line, 1, separator).next().and_then(|row| row.cells.ok());
            // A cell may contain an address on a line. A row has a second cell, if the table has.
            let cells = cells.filter(|cells| cells.len() >= self.columns.len().min(2));
            let email = cells.as_ref().and_then(|cells| cells.get(self.email));
            email.is_some_and(|email| normal_email(email).is_some())
        };
        // Also try without quotes, because the quote that ends the cell may be on this line.
        lines(row.more_lines).any(|line| is_person(line) || is_person(&line.replace('"', "")))
    }

    fn person(&self, line: u64, cells: &[Cow<'_, str>]) -> Result<(Person, Vec<usize>), Fault> {
        for (index, cell) in cells.iter().enumerate().filter(|(_, cell)| !cell.is_empty()) {
            match self.columns.get(index) {
                Some(Some(_)) => {}
                Some(None) => {
                    let detail = format!("{cell:?} stands in column {}, which has no name", index + 1);
                    return Err(Fault::new("cell-unnamed", detail));
                }
                None => {
                    let (found, columns) = (cells.len(), self.columns.len());
                    return Err(Fault::new(
                        "cell-count",
                        format!("the row has {found} cells, the header {columns}"),
                    ));
                }
            }
        }
        let cell = |index: usize| cells.get(index).map_or("", |cell| cell.as_ref());
        let text = cell(self.email);
        let email = EmailAddress::parse(text).map_err(|fault| match text {
            "" => Fault::new("email-missing", "the row has no e-mail address"),
            _ => Fault::new("email-invalid", format!("{text:?} cannot be used: {fault}")),
        })?;
        let email = email.to_string();
        let name = self.name.map_or("", cell);
        if name.chars().count() > MAX_NAME {
            return Err(Fault::new("name-too-long", format!("a name has at most {MAX_NAME} characters")));
        }
        if let Some(fault) = optional_line_fault(name, MAX_NAME) {
            return Err(Fault::new("name-invalid", format!("the name cannot be used: {fault}")));
        }
        let (mut attributes, mut filled) = (BTreeMap::new(), Vec::new());
        for (index, column) in self.columns.iter().enumerate() {
            let Some(Column { name, kind }) = column else { continue };
            if index == self.email || Some(index) == self.name {
                continue;
            }
            if cell(index).is_empty() {
                attributes.insert(name.clone(), None);
                continue;
            }
            let invalid = |detail: String| {
                let fault = Fault::new("attribute-invalid", format!("{name}: {detail}"));
                Fault { column: Some(name.clone()), ..fault }
            };
            let value = match kind {
                Some(kind) => declared(*kind, cell(index)).map_err(invalid)?,
                None => guessed(cell(index)),
            };
            if let Some(detail) = attribute_fault(name, Some(&value)) {
                return Err(invalid(detail));
            }
            filled.push(index);
            attributes.insert(name.clone(), Some(value));
        }
        Ok((Person { line, email, name: name.to_owned(), attributes }, filled))
    }
}

/// Why a row cannot go in.
struct Fault {
    code: &'static str,
    column: Option<String>,
    detail: String,
}

impl Fault {
    fn new(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code, column: None, detail: shortened(detail.into(), MAX_DETAIL) }
    }
}

/// A file that is being read.
struct Reading<'a> {
    header: &'a Header,
    people: Vec<Person>,
    report: ImportOutcome,
    /// The first line of each address.
    seen: HashMap<String, u64>,
    reasons: BTreeMap<(&'static str, Option<String>), Reason>,
    tallies: Vec<Tally>,
}

impl<'a> Reading<'a> {
    fn new(header: &'a Header) -> Self {
        Self {
            header,
            people: Vec::new(),
            report: ImportOutcome::default(),
            seen: HashMap::new(),
            reasons: BTreeMap::new(),
            tallies: vec![Tally::default(); header.columns.len()],
        }
    }

    fn take(&mut self, row: &Row<'_>) {
        let line = row.line;
        let person = match &row.cells {
            Ok(cells) => self.header.person(line, cells),
            Err(fault) => Err(Fault::new("row-unreadable", *fault)),
        };
        let (person, filled) = match person {
            Ok(person) => person,
            Err(fault) => return self.reject(line, fault),
        };
        if let Some(first) = self.seen.get(&person.email) {
            let detail = format!("line {first} has the same e-mail");
            return self.reject(line, Fault::new("email-repeated", detail));
        }
        self.report.rows += 1;
        self.seen.insert(person.email.clone(), line);
        for index in filled {
            let name = self.header.columns[index].as_ref().map_or("", |column| &column.name);
            if let Some(Some(value)) = person.attributes.get(name) {
                self.tallies[index].add(value, line);
            }
        }
        self.people.push(person);
    }

    fn reject(&mut self, line: u64, Fault { code, column, detail }: Fault) {
        self.report.rows += 1;
        self.report.rejected_count += 1;
        if self.report.rejected.len() < MAX_REPORTED {
            let detail = detail.clone();
            self.report.rejected.push(BadRow { line, code: code.to_owned(), detail });
        }
        let key = (code, column.clone());
        if self.reasons.len() >= MAX_REASONS && !self.reasons.contains_key(&key) {
            return;
        }
        let new = || Reason { code: code.to_owned(), column, detail, count: 0, lines: Vec::new() };
        let reason = self.reasons.entry(key).or_insert_with(new);
        reason.count += 1;
        if reason.lines.len() < REASON_LINES {
            reason.lines.push(line);
        }
    }

    fn finish(mut self) -> Table {
        let mut reasons: Vec<_> = self.reasons.into_values().collect();
        reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
        let (email, name) = (self.header.email, self.header.name);
        let columns = self.header.columns.iter().zip(self.tallies).enumerate();
        let columns = columns.filter(|(index, _)| *index != email && Some(*index) != name);
        self.report.columns = columns
            .filter_map(|(_, (column, tally))| Some(tally.report(column.as_ref()?.name.clone())))
            .collect();
        self.report.reasons = reasons;
        Table { people: self.people, report: self.report }
    }
}

#[cfg(test)]
mod tests;
