//! Imports: every uploaded file is decided, and the report's counts agree with the tables.

use domain::member::ImportMembers;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use shared::bus::topology::DEAD_LETTERS;
use shared::ledger::{Row, Status};
use shared::store::members;

use crate::deployment::Engine;
use crate::local::{Local, admin, assert_ok, outcome};

on_every_database! {
    people_are_told_apart_whatever_ends_a_line,
    what_is_known_already_is_counted_as_such,
    no_file_becomes_a_dead_letter,
}

async fn import(local: &Local, file: impl Into<bytes::Bytes>) -> Row {
    let file = local.files.put(file.into()).await.unwrap();
    local.decide(ImportMembers { imported_by: admin().id, file, charset: None, overrides: false }).await
}

/// The counts: rows, imported, updated, unchanged, rejected.
fn counts(row: &Row) -> [u64; 5] {
    ["rows", "imported", "updated", "unchanged", "rejected_count"]
        .map(|field| outcome(row, field).as_u64().unwrap())
}

async fn people(local: &Local) -> Vec<members::Listed> {
    members::list(&local.db.read, None, None, 10_000).await.unwrap()
}

async fn people_are_told_apart_whatever_ends_a_line(engine: Engine) {
    let local = Local::start(engine).await;
    for (number, end) in ["\n", "\r\n", "\r"].into_iter().enumerate() {
        let rows: Vec<_> = (0..5).map(|row| format!("p{number}{row}@x.org,Person {row}")).collect();
        let imported = import(&local, ["email,name", &rows.join(end)].join(end)).await;
        assert_ok(&imported);
        assert_eq!(counts(&imported), [5, 5, 0, 0, 0], "{end:?}");
    }
    assert_eq!(people(&local).await.len(), 15);
}

async fn what_is_known_already_is_counted_as_such(engine: Engine) {
    let local = Local::start(engine).await;
    let file = "email,name,marks\na@x.org,Ann,1\nb@x.org,Ben,2\n";
    assert_eq!(counts(&import(&local, file).await), [2, 2, 0, 0, 0]);
    assert_eq!(counts(&import(&local, file).await), [2, 0, 0, 2, 0]);
    let changed = "email,name,marks\na@x.org,Ann,1\nb@x.org,Ben,3\nc@x.org,Cem,\nc@x.org,Cem,\n";
    assert_eq!(counts(&import(&local, changed).await), [4, 1, 1, 1, 1]);
    // An empty cell takes the value away, once. A column that is not there changes nothing.
    assert_eq!(counts(&import(&local, "email,name,marks\na@x.org,,\n").await), [1, 0, 1, 0, 0]);
    assert_eq!(counts(&import(&local, "email,name,marks\na@x.org,,\n").await), [1, 0, 0, 1, 0]);
    assert_eq!(counts(&import(&local, "email,name\nb@x.org,\n").await), [1, 0, 0, 1, 0]);
}

/// Cells that have confused some database, parser or spreadsheet.
const CELLS: [&str; 48] = [
    "",
    " ",
    "a@x.org",
    "A@X.ORG",
    "b@x.org",
    "ä@x.org",
    "a@bücher.example",
    "a@x.org ",
    "e\u{301}@x.org",
    "Ann",
    "Ann\u{a0}Lee",
    "\"Ann\nLee\"",
    "\"Ann",
    "Ann\"",
    "\"\"",
    "\"\"\"",
    "\"a\"b",
    "'; drop table members; --",
    "\\",
    "\\'",
    "%",
    "_",
    "\u{200b}",
    "\u{202e}nnA",
    "\u{2028}",
    "\t",
    "\u{b}",
    "\u{1}",
    "\u{7f}",
    "👩\u{200d}⚕\u{fe0f}",
    "\u{10ffff}",
    "\u{fffe}",
    "é",
    "क्षितिज",
    "مُحَمَّد",
    "TRUE",
    "1.10",
    "12E5",
    "-0",
    "999999999999999",
    "1e999",
    "9007199254740993",
    "2024-02-30",
    "9999-12-31",
    "0001-01-01",
    "NaN",
    "null",
    "=1+1",
];

async fn no_file_becomes_a_dead_letter(engine: Engine) {
    let local = Local::start(engine).await;
    let mut random = StdRng::seed_from_u64(22);
    let long = ["é".repeat(100), "x".repeat(500), "é".repeat(251), "y".repeat(5_000)];
    let mut known = 0;
    for _ in 0..60 {
        let headers =
            ["email,name,a,b", "name;email;born:date", "email\tn:number\tt:text\tf:bool", "a,,email,"];
        let header = *headers.choose(&mut random).unwrap();
        let separator = header.chars().find(|c| matches!(c, ',' | ';' | '\t')).unwrap();
        let end = *["\n", "\r\n", "\r", "\n\r"].choose(&mut random).unwrap();
        let mut file = header.to_owned();
        for _ in 0..random.random_range(0..20) {
            file.push_str(end);
            let columns = header.matches(separator).count() + 1 + usize::from(random.random_bool(0.1));
            for column in 0..columns {
                let cell = if random.random_bool(0.05) {
                    long.choose(&mut random).unwrap().as_str()
                } else if header.split(separator).nth(column) == Some("email") && random.random_bool(0.7) {
                    ["a@x.org", "b@x.org", "c@x.org", "d@x.org", "e@x.org"].choose(&mut random).unwrap()
                } else {
                    CELLS.choose(&mut random).unwrap()
                };
                file.push_str(cell);
                if column + 1 < columns {
                    file.push(separator);
                }
            }
        }
        let mut bytes = file.clone().into_bytes();
        if random.random_bool(0.1) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        let row = import(&local, bytes).await;
        assert_ne!(row.status, Status::Failed, "{file:?}: {row:?}");
        if row.status == Status::Succeeded {
            let [rows, imported, updated, unchanged, rejected] = counts(&row);
            assert_eq!(rows, imported + updated + unchanged + rejected, "{file:?}");
            known += imported;
        } else {
            assert_eq!(crate::local::code(&row), "invalid-file", "{file:?}");
        }
    }
    assert!(known > 3, "{known}");
    assert_eq!(people(&local).await.len() as u64, known);
    let dead = local.broker.depth(DEAD_LETTERS).await.unwrap();
    assert!(dead.is_none_or(|depth| depth.ready == 0), "{dead:?}");
}
