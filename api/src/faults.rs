//! What is wrong with input that does not have its documented form: place by place, and in our own words.
//!
//! The framework says of a body that something in it cannot be parsed, in words about its own types. So when it does, the
//! body is compared with the schema that stands in the OpenAPI document.

mod parameters;

use std::collections::BTreeMap;

use domain::refusal::FieldError;
use domain::text::shortened;
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, Type};
use serde_json::{Map, Value};

pub(crate) use self::parameters::{of_parameter, path_parameter};

/// The most faults that are told of one body.
const MOST: usize = 20;
/// The most names of one object that are looked at one by one.
const MOST_NAMES: usize = 1000;
/// The longest value and name that are repeated, in bytes.
const SHOWN: usize = 60;
/// Words of the libraries that read JSON and parameters. A sentence with one of them is theirs.
const FOREIGN: [&str; 8] = [
    "did not match",
    "expected",
    "invalid type",
    "invalid value",
    "unknown ",
    "missing field",
    "duplicate",
    "parse",
];

/// Where a body does not have the form that is documented for a `T`; empty if nothing is found.
///
/// The framework takes numbers and booleans for texts, so a body can be readable and have faults.
pub(crate) fn of_form<T: Type>(body: &Value) -> Vec<FieldError> {
    walked::<T>(body).faults
}

/// What is wrong with a body that could not be read as a `T`; not empty.
pub(crate) fn of_body<T: ParseFromJSON>(body: &Value) -> Vec<FieldError> {
    let Walked { mut faults, free } = walked::<T>(body);
    if faults.is_empty() {
        faults = in_free_places::<T>(body, &free);
    }
    if faults.is_empty() {
        faults.push(FieldError::new("", "it does not have the form that the documentation shows"));
    }
    faults.truncate(MOST);
    faults
}

/// What a comparison with a schema has found.
struct Walked {
    faults: Vec<FieldError>,
    free: Vec<Place>,
}

fn walked<T: Type>(body: &Value) -> Walked {
    let mut registry = Registry::new();
    T::register(&mut registry);
    let mut walk = Walk { schemas: &registry.schemas, faults: Vec::new(), free: Vec::new() };
    walk.value(&T::schema_ref(), body, &Place::default());
    Walked { faults: walk.faults, free: walk.free }
}

/// Where something stands in a body.
#[derive(Debug, Clone, Default)]
struct Place {
    /// As people write it: `slots[0].name`.
    shown: String,
    /// As RFC 6901 does: `/slots/0/name`.
    pointer: String,
}

impl Place {
    fn field(&self, name: &str) -> Self {
        let dot = if self.shown.is_empty() { "" } else { "." };
        let escaped = name.replace('~', "~0").replace('/', "~1");
        Self {
            shown: format!("{}{dot}{}", self.shown, shortened(name.to_owned(), SHOWN)),
            pointer: format!("{}/{escaped}", self.pointer),
        }
    }

    fn item(&self, index: usize) -> Self {
        Self { shown: format!("{}[{index}]", self.shown), pointer: format!("{}/{index}", self.pointer) }
    }
}

/// Compares a body with a schema.
struct Walk<'a> {
    schemas: &'a BTreeMap<String, MetaSchema>,
    faults: Vec<FieldError>,
    /// Places whose form the schema leaves open.
    free: Vec<Place>,
}

impl Walk<'_> {
    fn fault(&mut self, place: &Place, detail: impl Into<String>) {
        if self.faults.len() < MOST {
            self.faults.push(FieldError::new(place.shown.clone(), detail));
        }
    }

    fn value(&mut self, schema: &MetaSchemaRef, value: &Value, place: &Place) {
        let schemas = self.schemas;
        let schema: &MetaSchema = match schema {
            MetaSchemaRef::Inline(schema) => schema,
            MetaSchemaRef::Reference(name) => match schemas.get(name) {
                Some(schema) => schema,
                None => return,
            },
        };
        // A reference with a description of its own stands in a list of one.
        for part in schema.all_of.iter().chain(&schema.any_of).take(1) {
            self.value(part, value, place);
        }
        match (schema.ty, value) {
            ("object", Value::Object(fields)) => self.object(schema, fields, place),
            ("array", Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    if let Some(schema) = &schema.items {
                        self.value(schema, item, &place.item(index));
                    }
                }
            }
            ("", _) if schema.all_of.is_empty() && schema.any_of.is_empty() => self.free.push(place.clone()),
            ("", _) => {}
            _ if fits(schema, value) => {}
            _ => self.fault(place, format!("{} is needed here, not {}", needed(schema), found(value))),
        }
    }

    fn object(&mut self, schema: &MetaSchema, fields: &Map<String, Value>, place: &Place) {
        let known = |name: &str| schema.properties.iter().find(|(known, _)| *known == name);
        for (name, value) in fields {
            match known(name) {
                Some((name, _)) if value.is_null() && !schema.required.contains(name) => {}
                Some((_, part)) => self.value(part, value, &place.field(name)),
                // An object of any names.
                None if schema.additional_properties.is_some() => {}
                None if schema.properties.is_empty() => {
                    self.fault(&place.field(name), "there is no such field; nothing is needed here");
                }
                None => {
                    let names: Vec<_> = schema.properties.iter().map(|(name, _)| *name).collect();
                    let detail = format!("there is no such field; there are {}", names.join(", "));
                    self.fault(&place.field(name), detail);
                }
            }
        }
        for name in schema.required.iter().filter(|name| !fields.contains_key(**name)) {
            self.fault(&place.field(name), "this field is needed");
        }
    }
}

/// Whether a value that is neither list nor object has the form that a schema shows.
fn fits(schema: &MetaSchema, value: &Value) -> bool {
    match (schema.ty, value) {
        ("string", Value::String(text)) => match schema.format {
            Some("uuid") => text.parse::<uuid::Uuid>().is_ok(),
            Some("date-time") => text.parse::<domain::clock::Instant>().is_ok(),
            _ => schema.enum_items.is_empty() || schema.enum_items.contains(value),
        },
        ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => {
            let (least, most) = bounds(schema.format);
            let number = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            number.is_some_and(|number| (least..=most).contains(&number))
        }
        _ => false,
    }
}

/// The integers of a format.
fn bounds(format: Option<&str>) -> (i128, i128) {
    match format {
        Some("uint8") => (0, u8::MAX.into()),
        Some("uint16") => (0, u16::MAX.into()),
        Some("uint32") => (0, u32::MAX.into()),
        Some("uint64") => (0, u64::MAX.into()),
        Some("int8") => (i8::MIN.into(), i8::MAX.into()),
        Some("int16") => (i16::MIN.into(), i16::MAX.into()),
        Some("int32") => (i32::MIN.into(), i32::MAX.into()),
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}

/// What a schema wants, with an article.
fn needed(schema: &MetaSchema) -> String {
    match (schema.ty, schema.format) {
        ("string", Some("uuid")) => "an id such as 019ab000-0000-7000-8000-00000000d001".to_owned(),
        ("string", Some("date-time")) => "an instant such as 2026-12-01T09:00:00Z".to_owned(),
        ("string", _) if schema.enum_items.is_empty() => "a text".to_owned(),
        ("string", _) => {
            let words: Vec<_> = schema.enum_items.iter().filter_map(Value::as_str).collect();
            format!("one of {}", words.join(", "))
        }
        ("integer", format) => {
            let (least, most) = bounds(format);
            format!("a whole number from {least} to {most}")
        }
        ("number", _) => "a number".to_owned(),
        ("boolean", _) => "true or false".to_owned(),
        ("array", _) => "a list".to_owned(),
        _ => "an object".to_owned(),
    }
}

/// What a value is.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => shortened(number.to_string(), SHOWN),
        Value::String(text) => format!("the text {:?}", shortened(text.clone(), SHOWN)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// What is wrong in places whose form the schema leaves open. They are objects of values, such as attributes and answers:
/// each value is tried by itself.
fn in_free_places<T: ParseFromJSON>(body: &Value, free: &[Place]) -> Vec<FieldError> {
    let mut rest = body.clone();
    for place in free {
        if let Some(value) = rest.pointer_mut(&place.pointer) {
            *value = Value::Object(Map::new());
        }
    }
    let tried = |place: &Place, value: Value| {
        let mut body = rest.clone();
        *body.pointer_mut(&place.pointer)? = value;
        T::parse_from_json(Some(body)).err().map(ParseError::into_message)
    };
    // What is left is read as it should be, or the fault is elsewhere.
    if T::parse_from_json(Some(rest.clone())).is_err() {
        return Vec::new();
    }
    let mut faults = Vec::new();
    for place in free {
        match body.pointer(&place.pointer) {
            Some(Value::Object(fields)) => {
                for (name, value) in fields.iter().take(MOST_NAMES) {
                    let alone = Map::from_iter([(name.clone(), value.clone())]);
                    if let Some(said) = tried(place, Value::Object(alone)) {
                        faults.push(FieldError::new(place.field(name).shown, sentence(&said, value)));
                    }
                }
            }
            Some(value) if tried(place, value.clone()).is_some() => {
                let detail = format!("an object is needed here, not {}", found(value));
                faults.push(FieldError::new(place.shown.clone(), detail));
            }
            _ => {}
        }
    }
    faults
}

/// What is said about a value, without the framework's words around it.
fn sentence(said: &str, value: &Value) -> String {
    let said = said.strip_prefix("failed to parse \"any\": ").unwrap_or(said);
    let said = said.split(" (occurred while").next().unwrap_or_default();
    if FOREIGN.iter().any(|word| said.contains(word)) {
        format!("a text, a number, true, false or a date is needed here, not {}", found(value))
    } else {
        said.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use poem_openapi::types::{Any, MaybeUndefined};
    use poem_openapi::{Enum, Object};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::at::At;

    #[derive(Debug, Enum)]
    #[oai(rename = "ColourForTest", rename_all = "snake_case")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Debug, Object)]
    #[oai(rename = "PartForTest", deny_unknown_fields)]
    struct Part {
        name: String,
        colour: Option<Colour>,
    }

    #[derive(Debug, Object)]
    #[oai(rename = "WholeForTest", deny_unknown_fields)]
    struct Whole {
        title: String,
        /// A reference with a description.
        first: Option<Part>,
        #[oai(default)]
        parts: Vec<Part>,
        count: MaybeUndefined<u32>,
        id: Option<Uuid>,
        since: Option<At>,
        on: Option<bool>,
        attributes: Option<Any<BTreeMap<String, Option<bool>>>>,
    }

    fn told(body: &Value) -> Vec<(String, String)> {
        assert!(Whole::parse_from_json(Some(body.clone())).is_err(), "{body}");
        of_body::<Whole>(body).into_iter().map(|fault| (fault.field, fault.detail)).collect()
    }

    #[test]
    fn each_fault_of_a_body_has_its_place_and_says_what_is_needed() {
        let body = json!({
            "first": { "name": 7, "colour": "blue", "size": 1 },
            "parts": [{ "name": "a" }, [], { "name": "b", "colour": null }, {}],
            "count": -1, "id": "x", "since": "tomorrow", "on": "yes", "Title": "t",
        });
        let told = told(&body);
        let told: Vec<_> = told.iter().map(|(field, detail)| (field.as_str(), detail.as_str())).collect();
        for (field, detail) in [
            ("Title", "there is no such field; there are title, first"),
            ("title", "this field is needed"),
            ("first.name", "a text is needed here, not 7"),
            ("first.colour", "one of red, green is needed here, not the text \"blue\""),
            ("first.size", "there is no such field; there are name, colour"),
            ("parts[1]", "an object is needed here, not a list"),
            ("parts[3].name", "this field is needed"),
            ("count", "a whole number from 0 to 4294967295 is needed here, not -1"),
            ("id", "an id such as"),
            ("since", "an instant such as"),
            ("on", "true or false is needed here, not the text \"yes\""),
        ] {
            assert!(
                told.iter().any(|(at, said)| *at == field && said.starts_with(detail)),
                "{field}: {told:#?}"
            );
        }
        assert_eq!(told.len(), 11, "{told:#?}");
    }

    #[test]
    fn values_of_open_form_are_told_one_by_one() {
        let found =
            told(&json!({ "title": "t", "attributes": { "a": true, "b/c": [1], "d": null, "e~": "x" } }));
        let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["attributes.b/c", "attributes.e~"], "{found:?}");
        assert!(found[0].1.ends_with("is needed here, not a list"), "{found:?}");
        assert_eq!(of_form::<Whole>(&json!({ "title": 7 })).len(), 1, "a number is no text");
        assert_eq!(of_form::<Whole>(&json!({ "title": "t", "count": null, "on": true })), []);
        let found = told(&json!({ "title": "t", "attributes": [1] }));
        assert_eq!(found, [("attributes".to_owned(), "an object is needed here, not a list".to_owned())]);
        assert_eq!(told(&json!([])), [(String::new(), "an object is needed here, not a list".to_owned())]);
    }

    #[test]
    fn a_sentence_of_ours_is_kept_and_one_of_a_library_is_not() {
        let ours =
            "failed to parse \"any\": a text has at most 500 bytes (occurred while parsing \"optional_any\")";
        assert_eq!(sentence(ours, &json!(1)), "a text has at most 500 bytes");
        let theirs = "failed to parse \"any\": data did not match any variant of untagged enum Attribute";
        assert_eq!(
            sentence(theirs, &json!([1])),
            "a text, a number, true, false or a date is needed here, not a list"
        );
    }
}
