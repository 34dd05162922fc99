//! Describes faults of parameters. The framework names only the type that it could not read.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::form::{Form, Shape, bounds};
use super::needed;
use crate::{openapi, routes};

/// The name of a path's parameter. The framework numbers them: `param0`.
pub(crate) fn path_parameter<'a>(operation: Option<&str>, numbered: &'a str) -> &'a str {
    let number = numbered.strip_prefix("param").and_then(|number| number.parse::<usize>().ok());
    let names = operation.and_then(|operation| DOCUMENTS.paths.get(operation));
    names.zip(number).and_then(|(names, number)| names.get(number)).map_or(numbered, String::as_str)
}

/// The kind of value that a parameter needs. `said` is the framework's error, which names the type.
pub(crate) fn of_parameter(said: &str) -> String {
    let name = said.split('"').nth(1).unwrap_or_default();
    let name = name.strip_prefix("optional_").unwrap_or(name);
    let text = |format: Option<&str>, words| Shape::Text {
        format: format.map(ToOwned::to_owned),
        words,
        least: 0,
        most: u64::MAX,
    };
    // It writes `integer_int64` and `integer(uint64)`.
    let shape = match name.trim_end_matches(')').split_once(['_', '(']) {
        Some(("integer", format)) => {
            let holds = bounds(Some(format));
            Shape::Whole { holds, allowed: holds }
        }
        Some(("string", format)) => text(Some(format), Vec::new()),
        _ if name == "boolean" => Shape::Truth,
        _ => match DOCUMENTS.words.get(name) {
            Some(words) => text(None, words.clone()),
            None => return "its value cannot be read".to_owned(),
        },
    };
    format!("it needs to be {}", needed(&Form { may_be_null: false, shape }))
}

/// The parameters of the OpenAPI documents.
#[derive(Default)]
struct Documents {
    /// The words of each enumeration, by its name.
    words: HashMap<String, Vec<String>>,
    /// The parameters of each path, by the operation's id.
    paths: HashMap<String, Vec<String>>,
}

static DOCUMENTS: LazyLock<Documents> = LazyLock::new(|| {
    let mut documents = Documents::default();
    for text in [openapi::document(&routes::members()), openapi::document(&routes::admins())] {
        let document: Value = serde_json::from_str(&text).unwrap_or_default();
        let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
        for (name, schema) in fields(&document["components"]["schemas"]) {
            let words = schema["enum"].as_array().map(|words| words.iter().filter_map(Value::as_str));
            documents.words.extend(words.map(|words| (name, words.map(ToOwned::to_owned).collect())));
        }
        for (path, operations) in fields(&document["paths"]) {
            let name = |part: &str| part.strip_prefix('{')?.strip_suffix('}').map(ToOwned::to_owned);
            let names: Vec<_> = path.split('/').filter_map(name).collect();
            let ids = fields(&operations).into_iter();
            let ids =
                ids.filter_map(|(_, operation)| operation["operationId"].as_str().map(ToOwned::to_owned));
            documents.paths.extend(ids.map(|id| (id, names.clone())));
        }
    }
    documents
});

#[cfg(test)]
mod tests {
    use poem_openapi::types::ParseFromParameter as _;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_parameter_says_what_it_needs_to_be() {
        let said = u64::parse_from_parameter("ten").unwrap_err().into_message();
        assert_eq!(of_parameter(&said), "it needs to be a whole number from 0 to 18446744073709551615");
        let said = Uuid::parse_from_parameter("x").unwrap_err().into_message();
        assert!(of_parameter(&said).starts_with("it needs to be an id such as"), "{said}");
        let said = bool::parse_from_parameter("x").unwrap_err().into_message();
        assert_eq!(of_parameter(&said), "it needs to be true or false", "{said}");
        assert_eq!(
            of_parameter("failed to parse \"DriveStatus\": x"),
            "it needs to be one of draft, published, open, closed, cancelled"
        );
        assert_eq!(of_parameter("nonsense"), "its value cannot be read");
        assert_eq!(path_parameter(Some("remove-registration"), "param1"), "registration_id");
        assert_eq!(path_parameter(Some("remove-registration"), "param2"), "param2");
        assert_eq!(path_parameter(None, "limit"), "limit");
    }
}
