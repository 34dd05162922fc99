//! Reading a CSV file of people: the good rows go in, the bad ones are reported by line.

use std::collections::HashMap;

use csv::{ReaderBuilder, StringRecord};
use serde::{Deserialize, Serialize};

use super::{Attribute, Attributes, MAX_ATTRIBUTES, MAX_NAME, attribute_fault, is_attribute_name};
use crate::account::normal_email;
use crate::refusal::{Code, FieldError, Refusal};
use crate::text::shortened;

/// The most people in one file.
pub const MAX_ROWS: usize = 50_000;
/// The most bad rows that are reported one by one.
pub const MAX_REPORTED: usize = 1000;
/// The largest file, in bytes.
pub const MAX_FILE: usize = 16 * 1024 * 1024;

/// The longest text about a bad row, in bytes: it quotes what stands there.
const MAX_DETAIL: usize = 200;

/// One person of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The line on which their row begins, from 1.
    pub line: u64,
    /// Normalised; unique in the file.
    pub email: String,
    /// May be empty.
    pub name: String,
    /// One per filled cell of the other columns.
    pub attributes: Attributes,
}

/// A row that cannot go in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// Stable: `email-invalid`, `email-repeated`, …
    pub code: String,
    /// What is wrong.
    pub detail: String,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImportOutcome {
    /// People who were new.
    pub imported: u64,
    /// People who were known.
    pub updated: u64,
    /// Rows that did not go in, the first [`MAX_REPORTED`] of them.
    pub rejected: Vec<BadRow>,
    /// How many rows did not go in.
    pub rejected_count: u64,
}

/// Reads a file. Every row is either among the people or among the bad rows.
///
/// Refused as a whole when it has no usable header, or too many rows.
pub fn read(file: &[u8]) -> Result<(Vec<Person>, Vec<BadRow>), Refusal> {
    // Spreadsheets like to begin with a byte-order mark.
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut reader = ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(file);
    let header = match reader.headers() {
        Ok(header) => Header::read(header)?,
        Err(error) => return Err(whole(format!("the header cannot be read: {error}"))),
    };
    let (mut people, mut bad) = (Vec::new(), Vec::new());
    let mut seen = HashMap::new();
    for record in reader.records() {
        let row = match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                header.person(line, &record).map_err(|(code, detail)| bad_row(line, code, detail))
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                Err(bad_row(line, "row-unreadable", error.to_string()))
            }
        };
        match row {
            Ok(person) => match seen.insert(person.email.clone(), person.line) {
                None => people.push(person),
                Some(first) => {
                    seen.insert(person.email.clone(), first);
                    bad.push(bad_row(
                        person.line,
                        "email-repeated",
                        format!("line {first} has the same e-mail"),
                    ));
                }
            },
            Err(row) => bad.push(row),
        }
        if people.len() + bad.len() > MAX_ROWS {
            return Err(whole(format!("a file has at most {MAX_ROWS} rows; split it")));
        }
    }
    Ok((people, bad))
}

fn whole(detail: String) -> Refusal {
    Refusal::new(Code::InvalidFile).with_errors(vec![FieldError::new("file", detail)])
}

fn bad_row(line: u64, code: &str, detail: String) -> BadRow {
    BadRow { line, code: code.to_owned(), detail: shortened(detail, MAX_DETAIL) }
}

struct Header {
    columns: Vec<String>,
    email: usize,
    name: Option<usize>,
}

impl Header {
    fn read(record: &StringRecord) -> Result<Self, Refusal> {
        let columns: Vec<String> = record.iter().map(str::to_lowercase).collect();
        let position = |wanted: &str| columns.iter().position(|column| column == wanted);
        let Some(email) = position("email") else {
            return Err(whole("the first line must name the columns, one of them email".to_owned()));
        };
        let name = position("name");
        for (index, column) in columns.iter().enumerate() {
            if columns[..index].contains(column) {
                return Err(whole(format!("two columns are called {column:?}")));
            }
            if !is_attribute_name(column) {
                return Err(whole(format!(
                    "the column {column:?} cannot name an attribute: use a–z, 0–9 and _"
                )));
            }
        }
        if columns.len() > MAX_ATTRIBUTES + 2 {
            return Err(whole(format!("a member has at most {MAX_ATTRIBUTES} attributes")));
        }
        Ok(Self { columns, email, name })
    }

    fn person(&self, line: u64, record: &StringRecord) -> Result<Person, (&'static str, String)> {
        if record.len() != self.columns.len() {
            let detail = format!("the row has {} cells, the header {}", record.len(), self.columns.len());
            return Err(("cell-count", detail));
        }
        if record.iter().any(|cell| cell.contains('\0')) {
            return Err(("row-unreadable", "a cell contains the character U+0000".to_owned()));
        }
        let text = record.get(self.email).unwrap_or_default();
        let email =
            normal_email(text).ok_or_else(|| ("email-invalid", format!("{text:?} is no e-mail address")))?;
        let name = self.name.and_then(|index| record.get(index)).unwrap_or_default().to_owned();
        if name.len() > MAX_NAME {
            return Err(("name-too-long", format!("a name has at most {MAX_NAME} bytes")));
        }
        let mut attributes = Attributes::default();
        for (index, cell) in record.iter().enumerate() {
            if index == self.email || Some(index) == self.name || cell.is_empty() {
                continue;
            }
            let value = Attribute::from_cell(cell);
            if let Some(detail) = attribute_fault(&self.columns[index], Some(&value)) {
                return Err(("attribute-invalid", format!("{}: {detail}", self.columns[index])));
            }
            attributes.insert(self.columns[index].clone(), value);
        }
        Ok(Person { line, email, name, attributes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_rows_go_in_and_bad_ones_are_reported_by_line() {
        let file = "email,name,marks,workex\n\
                    a@x.org,Ann,67.5,true\n\
                    nobody,Bob,1,false\n\
                    c@x.org,Cem\n\
                    A@X.org,Ann again,70,false\n\
                    \"d@x.org\",\"Dee, the\nsecond\",,\n\
                    e@x.org,Eve,\u{3c},true\n";
        let (people, bad) = read(file.as_bytes()).unwrap();
        let emails: Vec<_> = people.iter().map(|person| person.email.as_str()).collect();
        assert_eq!(emails, ["a@x.org", "d@x.org", "e@x.org"]);
        assert_eq!(people[0].attributes.get("workex"), Some(&Attribute::Bool(true)));
        assert!(people[1].attributes.is_empty());
        let codes: Vec<_> = bad.iter().map(|row| (row.line, row.code.as_str())).collect();
        assert_eq!(codes, [(3, "email-invalid"), (4, "cell-count"), (5, "email-repeated")]);
    }

    #[test]
    fn a_row_with_what_databases_cannot_keep_is_bad() {
        let (people, bad) = read(b"email,name\na@x.org,A\0nn\nb@x.org,Ben\n").unwrap();
        assert_eq!((people.len(), bad[0].line, bad[0].code.as_str()), (1, 2, "row-unreadable"));
    }

    #[test]
    fn a_bad_row_is_quoted_in_part_however_long_it_is() {
        let file = format!("email\n\"{}", "é".repeat(500_000));
        let (people, bad) = read(file.as_bytes()).unwrap();
        assert_eq!((people.len(), bad.len()), (0, 1));
        assert!(bad[0].detail.len() <= 200 && bad[0].detail.ends_with('…'), "{}", bad[0].detail);
    }

    #[test]
    fn a_file_without_a_usable_header_is_refused_as_a_whole() {
        for file in ["", "name\nAnn\n", "email,E-Mail 2\n", "email,a,a\n", "\u{0}\u{1}"] {
            assert_eq!(read(file.as_bytes()).unwrap_err().code, Code::InvalidFile, "{file:?}");
        }
    }

    #[test]
    fn a_spreadsheet_with_a_byte_order_mark_is_read() {
        let (people, _) = read("\u{feff}Email,Name\na@x.org,Ann\n".as_bytes()).unwrap();
        assert_eq!(people.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(file in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&file);
        }

        #[test]
        fn every_row_is_a_person_or_a_bad_row(rows in proptest::collection::vec("[a-c]{1,2}(@x\\.org)?,[a-z]{0,3}", 0..30)) {
            let file = format!("email,name\n{}\n", rows.join("\n"));
            let (people, bad) = read(file.as_bytes()).unwrap();
            prop_assert_eq!(people.len() + bad.len(), rows.len());
        }
    }
}
