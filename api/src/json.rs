//! JSON that clients send. It is read strictly and compared by its meaning.

use std::cell::RefCell;
use std::fmt;

use domain::hash::{Digest256, sha256};
use domain::refusal::FieldError;
use domain::text::shortened;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::problem::Problem;

/// The byte order mark, which some editors write before a text.
const MARK: &[u8] = "\u{feff}".as_bytes();
/// The longest name that an error repeats, in bytes.
const SHOWN: usize = 60;

/// Parses a text. An empty text, or white space alone, is `{}`.
///
/// A name may occur once in an object, because parsers differ in which of two values they take (RFC
/// 8259 §4).
pub(crate) fn read(bytes: &[u8]) -> Result<Value, Problem> {
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
    if bytes.iter().all(|byte| b" \t\r\n".contains(byte)) {
        return Ok(Value::Object(Map::new()));
    }
    let twice = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strict(&twice).deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    read.map_err(|error| fault(bytes, &error, twice.into_inner()))
}

/// The SHA-256 of a value's meaning, regardless of its spelling: names sorted, no white space,
/// numbers in one form.
///
/// This is RFC 8785, except that integers stay exact. Two ids beyond 2^53 never become one.
pub(crate) fn meaning(value: &Value) -> Digest256 {
    let mut text = Vec::new();
    write(value, &mut text);
    sha256(&text)
}

fn write(value: &Value, text: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            text.push(b'[');
            for (at, item) in items.iter().enumerate() {
                text.extend((at > 0).then_some(b','));
                write(item, text);
            }
            text.push(b']');
        }
        Value::Object(fields) => {
            // With some features of `serde_json`, a map keeps the order of insertion.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            text.push(b'{');
            for (at, (name, field)) in fields.into_iter().enumerate() {
                text.extend((at > 0).then_some(b','));
                text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
                text.push(b':');
                write(field, text);
            }
            text.push(b'}');
        }
        Value::Number(number) => text.extend_from_slice(one_form(number).to_string().as_bytes()),
        Value::Null | Value::Bool(_) | Value::String(_) => {
            text.extend_from_slice(value.to_string().as_bytes());
        }
    }
}

/// `1`, `1.0` and `10e-1` are one number.
#[allow(clippy::cast_possible_truncation, reason = "only whole numbers that fit are cast")]
fn one_form(number: &Number) -> Number {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let whole = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= EXACT);
    match whole {
        Some(value) if number.is_f64() => Number::from(value as i64),
        _ => number.clone(),
    }
}

/// The problem, in Muster's own words, with its place.
fn fault(bytes: &[u8], error: &serde_json::Error, twice: Option<String>) -> Problem {
    if let Some(name) = twice {
        let shown = shortened(name, SHOWN);
        let detail = format!("the name {shown:?} stands twice in one object");
        return malformed(error.line(), error.column(), &detail, shown);
    }
    if let Err(broken) = std::str::from_utf8(bytes) {
        let before = &bytes[..broken.valid_up_to()];
        let mut lines = before.split(|byte| *byte == b'\n');
        let (line, column) = (lines.clone().count(), lines.next_back().map_or(0, <[u8]>::len) + 1);
        return malformed(line, column, "this byte is no UTF-8, which JSON is written in", String::new());
    }
    let said = error.to_string();
    let known = [
        ("recursion limit", "arrays and objects stand in each other deeper than the limit of 127"),
        ("EOF", "the text ends before the JSON does"),
        ("trailing characters", "the JSON has ended before this"),
        ("trailing comma", "a value or a name is missing after the comma"),
        ("number out of range", "this number is too large"),
        ("invalid number", "a number is not written like this"),
        ("hex escape", "this escape is not a whole character"),
        ("escape", "no character is escaped like this"),
        ("control character", "a control character in a text is written as an escape, such as \\n"),
        ("key must be a string", "a name is a text in double quotes"),
    ];
    let detail = known.iter().find(|(sign, _)| said.contains(sign));
    let detail = detail.map_or("no JSON can go on like this", |(_, ours)| ours);
    malformed(error.line(), error.column(), detail, String::new())
}

fn malformed(line: usize, column: usize, detail: &str, field: String) -> Problem {
    let number = |at: usize| u32::try_from(at).ok();
    let place = FieldError { line: number(line), column: number(column), ..FieldError::new(field, detail) };
    Problem::malformed_json().detail(format!("line {line}, column {column}: {detail}")).errors(vec![place])
}

/// Reads a value. Fails if a name occurs twice in one object, and notes that name.
#[derive(Clone, Copy)]
struct Strict<'a>(&'a RefCell<Option<String>>);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            all.push(item);
        }
        Ok(all.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if all.contains_key(&name) {
                self.0.replace(Some(name));
                return Err(A::Error::custom("a name stands twice"));
            }
            all.insert(name, fields.next_value_seed(self)?);
        }
        Ok(all.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> Digest256 {
        meaning(&read(text.as_bytes()).unwrap())
    }

    #[test]
    fn what_means_the_same_is_the_same() {
        for spellings in [
            &["", "{}", " { } ", "\t\r\n", "\u{feff}{}"][..],
            &[r#"{"a":1,"b":"é"}"#, "{ \"b\": \"\\u00e9\",\n\"a\": 1.0 }", r#"{"a":10e-1,"b":"\u00E9"}"#],
            &["[0, 100]", "[-0.0,1e2]", "[0e9,1E+2]"],
            &[r#"{"a":{"x":[],"y":null}}"#, r#"{ "a" : { "y" : null , "x" : [ ] } }"#],
        ] {
            for spelling in spellings {
                assert_eq!(hash(spelling), hash(spellings[0]), "{spelling}");
            }
        }
        let different = [
            "{}",
            "[]",
            "null",
            "1",
            "\"1\"",
            "1.5",
            "[1]",
            "[1,2]",
            "[2,1]",
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            "9007199254740992",
            "9007199254740993",
            "18446744073709551615",
        ];
        for (at, one) in different.iter().enumerate() {
            for other in &different[..at] {
                assert_ne!(hash(one), hash(other), "{one} and {other}");
            }
        }
        assert_eq!(hash("{}"), sha256(b"{}"));
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place_and_in_our_words() {
        let deep = "[".repeat(200);
        let mut wrong = Vec::new();
        for (text, line, column, word) in [
            ("{", 1, 1, "ends before"),
            ("{\n  \"a\": }", 2, 8, "can go on"),
            ("nonsense", 1, 2, "can go on"),
            ("{} {}", 1, 4, "has ended"),
            ("{\"a\": 1,}", 1, 9, "after the comma"),
            ("{a: 1}", 1, 2, "double quotes"),
            ("{'a': 1}", 1, 2, "double quotes"),
            ("[1e999]", 1, 6, "too large"),
            ("[01]", 1, 3, "number"),
            ("[\"\\ud800\"]", 1, 9, "whole character"),
            ("[\"\\x\"]", 1, 4, "escaped"),
            ("[\"a\nb\"]", 2, 0, "control character"),
            ("[NaN]", 1, 2, "can go on"),
            ("\u{0}", 1, 1, "can go on"),
            (&deep, 1, 128, "127"),
            ("{\"a\": 1,\n \"a\": 2}", 2, 4, "\"a\" stands twice"),
            ("[{\"b\": {\"a\": 1, \"\\u0061\": 1}}]", 1, 24, "\"a\" stands twice"),
        ] {
            let problem = read(text.as_bytes()).unwrap_err();
            let body = &problem.body;
            assert_eq!((problem.status().as_u16(), &*body.code), (400, "malformed-json"), "{text}");
            let (place, detail) = (&body.errors[0], body.detail.as_ref().unwrap());
            if !detail.contains(word) || (place.line, place.column) != (Some(line), Some(column)) {
                wrong.push(format!("{text}: {detail}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        let broken = read(b"{\n\"a\": \"\xe4\"}").unwrap_err().body;
        assert_eq!((broken.errors[0].line, broken.errors[0].column), (Some(2), Some(7)));
        assert!(broken.errors[0].detail.contains("UTF-8"));
        assert!(read(format!("{}{}", "[".repeat(127), "]".repeat(127)).as_bytes()).is_ok());
    }
}
