use encoding_rs::{UTF_16BE, UTF_16LE, WINDOWS_1252};
use proptest::prelude::*;

use super::*;
use crate::attribute::Attribute;

fn read(file: &str) -> Table {
    super::read(file.as_bytes(), None).unwrap_or_else(|refusal| panic!("{file:?}: {refusal:?}"))
}

fn emails(table: &Table) -> Vec<&str> {
    table.people.iter().map(|person| person.email.as_str()).collect()
}

fn codes(table: &Table) -> Vec<(u64, &str)> {
    table.report.rejected.iter().map(|row| (row.line, row.code.as_str())).collect()
}

/// Whether the numbers add up, as far as they are known before the import.
fn adds_up(table: &Table) -> bool {
    let ImportOutcome { rows, rejected_count, reasons, .. } = &table.report;
    let counted: u64 = reasons.iter().map(|reason| reason.count).sum();
    *rows == table.people.len() as u64 + rejected_count && counted == *rejected_count
}

fn refused(file: &[u8], charset: Option<&str>) -> String {
    let refusal = super::read(file, charset).expect_err("it cannot be used");
    assert_eq!(refusal.code, Code::InvalidFile);
    refusal.errors[0].detail.clone()
}

#[test]
fn good_rows_go_in_and_bad_ones_are_reported_by_line() {
    let table = read(
        "email,name,marks,workex\n\
         a@x.org,Ann,67.5,true\n\
         nobody,Bob,1,false\n\
         c@x.org,Cem,1,true,more\n\
         A@X.org,Ann again,70,false\n\
         \"d@x.org\",\"Dee, the second\",,\n\
         \"e@x.org\",\"Eve\nLee\",,\n\
         f@x.org,Fay,\u{3c},true\n",
    );
    assert_eq!(emails(&table), ["a@x.org", "d@x.org", "f@x.org"]);
    assert_eq!(table.people[0].attributes["workex"], Some(Attribute::Bool(true)));
    assert!(table.people[1].attributes.values().all(Option::is_none));
    assert_eq!(
        codes(&table),
        [(3, "email-invalid"), (4, "cell-count"), (5, "email-repeated"), (7, "name-invalid")]
    );
    assert!(adds_up(&table));
    assert_eq!(table.report.columns[0].taken_for, "number (1), text (1: line 9)");
}

#[test]
fn an_unclosed_quote_swallows_nobody() {
    for file in [
        "email,name\na@x.org,Ann\nb@x.org,\"Ben\nc@x.org,Cem\nd@x.org,Dee\n",
        "email,name\na@x.org,Ann\nb@x.org,\"Ben\nc@x.org,Cem\nd@x.org,\"Dee\"\n",
        "email,name\na@x.org,Ann\nb@x.org,\"Ben\nc@x.org,Cem\nd@x.org,Dee\"\n",
        "email,name\r\na@x.org,Ann\r\nb@x.org,\"Ben\r\nc@x.org,Cem\r\nd@x.org,Dee\"",
        "email,name\ra@x.org,Ann\rb@x.org,\"Ben\rc@x.org,Cem\rd@x.org,Dee",
    ] {
        let table = read(file);
        assert!(emails(&table).starts_with(&["a@x.org", "c@x.org"]), "{file:?}: {table:?}");
        assert_eq!(codes(&table)[0], (3, "row-unreadable"), "{file:?}");
        assert_eq!(table.report.rows, 4, "{file:?}");
        assert!(adds_up(&table));
    }
    let table = read("email,address\na@x.org,\"Flat 3\nNew Road\"\nb@x.org,x\n");
    assert_eq!(emails(&table), ["a@x.org", "b@x.org"], "a cell may have several lines");
}

#[test]
fn lines_are_those_of_an_editor_and_people_are_told_apart_by_any_line_end() {
    for end in ["\n", "\r\n", "\r"] {
        let table = read(&["email,name", "", "a@x.org,Ann", "nobody,Bob", "", "c@x.org,Cem", ""].join(end));
        let lines: Vec<_> = table.people.iter().map(|person| person.line).collect();
        assert_eq!((lines, codes(&table)), (vec![3, 6], vec![(4, "email-invalid")]), "{end:?}");
    }
}

#[test]
fn what_spreadsheets_leave_behind_is_no_fault() {
    let table = read(
        "Email,Name,,marks,,\n\
         a@x.org,Ann,,67,,\n\
         ,,,,,\n\
         b@x.org,Ben\n\
         c@x.org,Cem,,68,,,,,\n\
         d@x.org,Dee,x,68\n",
    );
    assert_eq!(emails(&table), ["a@x.org", "b@x.org", "c@x.org"]);
    assert_eq!(codes(&table), [(6, "cell-unnamed")]);
    assert_eq!(table.report.rows, 4);
    for file in [
        "email;name\na@x.org;Ann, the first\n",
        "email\tname\na@x.org\tAnn, the first\n",
        "email|name\na@x.org|Ann, the first\n",
        "sep=;\nemail;name\na@x.org;Ann, the first\n",
        "SEP=;\nemail;name\na@x.org;Ann, the first\n",
        "\"sep=;\"\nemail;name\na@x.org;Ann, the first\n",
        "sep=:\r\nemail:name\r\na@x.org:Ann, the first\r\n",
        "\u{feff}Email,Name\na@x.org,\"Ann, the first\"\n",
    ] {
        let table = read(file);
        assert_eq!(table.people[0].name, "Ann, the first", "{file:?}");
        assert_eq!(table.people[0].line, 2 + u64::from(file.to_lowercase().contains("sep=")), "{file:?}");
    }
}

#[test]
fn a_column_of_addresses_may_have_separators_behind_it() {
    for separator in [",", ";", "\t", "|"] {
        let table = read(&format!("email\nann@x.org{separator}\nbob@x.org{separator}{separator}\n"));
        assert_eq!(emails(&table), ["ann@x.org", "bob@x.org"], "{separator:?}");
    }
    assert_eq!(emails(&read("\u{feff}\u{feff}email\nann@x.org\n")), ["ann@x.org"]);
}

#[test]
fn what_nobody_can_see_is_not_there() {
    let table = read("email,name,a\na@x.org,\u{200b},\u{2800}\n\u{200b},\u{feff},\nb@x.org,Ben,\"\n\"\n");
    assert_eq!((table.people[0].name.as_str(), table.report.rows), ("", 2));
    let mut values = table.people.iter().flat_map(|person| person.attributes.values());
    assert!(values.all(Option::is_none), "{table:?}");
}

#[test]
fn an_address_in_a_note_is_nobody() {
    let table = read("email,name,note\na@x.org,Ann,\"Write to\nbob@x.org\nor call\"\nc@x.org,Cem,\n");
    assert_eq!((emails(&table), codes(&table)), (vec!["a@x.org", "c@x.org"], vec![]));
}

#[test]
fn a_file_is_read_in_the_encoding_that_it_has() {
    let text = "email,name\nzoe@x.org,Zoë Müller\n";
    let (latin, _, _) = WINDOWS_1252.encode(text);
    assert_eq!(super::read(&latin, Some("windows-1252")).unwrap().people[0].name, "Zoë Müller");
    assert_eq!(super::read(&latin, Some("ISO-8859-1")).unwrap().people[0].name, "Zoë Müller");
    for (encoding, bytes) in [
        (UTF_16LE, text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()),
        (UTF_16BE, text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>()),
    ] {
        assert_eq!(super::read(&bytes, None).unwrap().people[0].name, "Zoë Müller", "{encoding:?}");
        let mark: &[u8] = if encoding == UTF_16LE { b"\xff\xfe" } else { b"\xfe\xff" };
        let marked = [mark, &bytes].concat();
        assert_eq!(super::read(&marked, Some("utf-8")).unwrap().people[0].name, "Zoë Müller");
    }
    assert!(refused(&latin, None).contains("line 2 is not UTF-8"));
    assert!(refused(text.as_bytes(), Some("klingon")).contains("klingon"));
    assert!(refused(b"email,name\na@x.org,A\0nn\n", None).contains("line 2 contains the character U+0000"));
}

#[test]
fn a_header_decides_what_its_cells_are() {
    let table = read(
        "email,roll:text,born:date,marks:number\n\
         a@x.org,0071,2001-02-03,67.50\n\
         b@x.org,12E5,yesterday,1\n\
         c@x.org,1.10,,x\n\
         d@x.org,true,,\n",
    );
    let text = |index: usize| serde_json::to_string(&table.people[index].attributes).unwrap();
    assert_eq!(text(0), r#"{"born":"2001-02-03","marks":67.5,"roll":"0071"}"#);
    assert_eq!(text(1), r#"{"born":null,"marks":null,"roll":"true"}"#);
    assert_eq!(codes(&table), [(3, "attribute-invalid"), (4, "attribute-invalid")]);
    let columns: Vec<_> = table.report.reasons.iter().map(|reason| reason.column.as_deref()).collect();
    assert_eq!(columns, [Some("born"), Some("marks")]);
}

#[test]
fn a_thousand_errors_of_one_kind_do_not_hide_another() {
    let many = "nobody\n".repeat(1_200);
    let table = read(&format!("email,name\n{many}a@x.org,{}\n", "x".repeat(201)));
    let reasons: Vec<_> =
        table.report.reasons.iter().map(|reason| (reason.code.as_str(), reason.count)).collect();
    assert_eq!(reasons, [("email-invalid", 1_200), ("name-too-long", 1)]);
    assert_eq!((table.report.rejected.len(), table.report.rejected_count), (MAX_REPORTED, 1_201));
}

#[test]
fn a_bad_row_is_quoted_in_part_however_long_it_is() {
    let table = read(&format!("email\n{}", "é".repeat(500_000)));
    let detail = &table.report.rejected[0].detail;
    assert!(table.people.is_empty() && detail.len() <= 200 && detail.ends_with('…'), "{detail}");
}

#[test]
fn a_file_without_a_usable_header_is_refused_as_a_whole() {
    for (file, says) in [
        ("", "empty"),
        ("\r\n \n", "empty"),
        ("name\nAnn\n", "\"name\""),
        ("email,E-Mail 2\n", "e-mail 2"),
        ("email,a,a\n", "two columns"),
        ("email,a:text,A:number\n", "two columns"),
        ("email,a:colour\n", "colour"),
        ("\u{1}\u{2}", "\\u{1}"),
        ("email,\"name\na@x.org,Ann\n", "email"),
        ("sep=ab\nemail\n", "separator"),
        ("PK\u{3}\u{4}…", "PK"),
    ] {
        let detail = refused(file.as_bytes(), None);
        assert!(detail.contains(says), "{file:?}: {detail}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(file in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(table) = super::read(&file, None) {
            prop_assert!(adds_up(&table));
        }
    }

    /// Broken rows do no harm to others. A person alone on a line is imported or reported, and
    /// nobody gets another person's data.
    #[test]
    fn nobody_is_lost_or_becomes_somebody_else(
        rows in proptest::collection::vec(prop_oneof![
            4 => "[a-e]@x\\.org,[a-z]{0,3}",
            1 => "[a-e]@x\\.org,\"[a-z]{0,3}",
            1 => "[a-e]@x\\.org,\"[a-z]{0,3}\"[a-z]?",
            1 => "\"?[a-e]@x\\.org\"?,,,",
            1 => "[,\" a]{0,6}",
        ], 0..20),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
    ) {
        let table = read(&format!("email,name{end}{}{end}", rows.join(end)));
        prop_assert!(adds_up(&table));
        for person in &table.people {
            prop_assert!(person.name.chars().all(|c| c.is_ascii_lowercase() || c == '"'), "{:?}", person);
        }
        let reported: Vec<_> = table.report.rejected.iter().map(|row| row.line).collect();
        for (index, row) in rows.iter().enumerate() {
            let line = index as u64 + 2;
            let is_clean = !row.contains('"') && row.contains('@');
            let is_known = table.people.iter().any(|person| person.line == line) || reported.contains(&line);
            prop_assert!(!is_clean || is_known, "line {} of {:?}: {:?}", line, rows, table);
        }
    }
}
