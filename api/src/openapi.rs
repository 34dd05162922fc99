//! The OpenAPI document of a surface: the descriptions of its routes, and what all routes have in
//! common.

mod errors;

use std::sync::LazyLock;

use poem_openapi::{OpenApi, OpenApiService, Webhook};
use serde_json::{Map, Value, json};

use crate::idempotency::{MAX_KEY, MAX_WAIT};
use crate::page::{MAX_CURSOR, MAX_LIMIT, MAX_SEARCH};
use crate::payload::JSON;
use crate::schema;

/// The version of OpenAPI. Since 3.1, its schemas are JSON Schema, as schemars makes them.
const VERSION: &str = "3.1.0";

/// Examples of answers, by operation and status. Examples of bodies are at their types.
static ANSWERS: LazyLock<Map<String, Value>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("openapi/answers.json")).expect("the examples are JSON")
});

/// The document of a surface: its routes, schemas, errors and examples, and the two headers that
/// every command understands.
#[must_use]
pub fn document<A: OpenApi, W: Webhook>(service: &OpenApiService<A, W>) -> String {
    let mut document: Value = serde_json::from_str(&service.spec()).expect("the document is JSON");
    document["openapi"] = VERSION.into();
    schema::components(&mut document);
    let schemas = document["components"]["schemas"].clone();
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for operation in paths.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()) {
        let id = operation["operationId"].as_str().unwrap_or_default().to_owned();
        // The token of these operations may also be in the address, so their handlers check it. The
        // document gets the security scheme here.
        match id.as_str() {
            "watch-inbox" => operation["security"] = json!([{ "access_token": [] }]),
            "watch-log" | "watch-member-log" => operation["security"] = json!([{ "admin_access_token": [] }]),
            _ => {}
        }
        parameters(operation);
        needed(operation, &schemas);
        errors::describe(&id, operation);
        examples(&id, operation);
    }
    errors::share(&mut document);
    serde_json::to_string_pretty(&document).expect("JSON can be written")
}

/// Whether an operation is a command, which is answered with a receipt.
fn is_command(operation: &Value) -> bool {
    let receipt = &operation["responses"]["202"]["content"][JSON]["schema"]["$ref"];
    receipt.as_str().is_some_and(|name| name.ends_with("/Receipt"))
}

/// Adds what parameters of the same name have in common, and the headers of commands.
fn parameters(operation: &mut Value) {
    let mut all = operation["parameters"].as_array().cloned().unwrap_or_default();
    for parameter in &mut all {
        let name = parameter["name"].as_str().unwrap_or_default().to_owned();
        let schema = &mut parameter["schema"];
        match (name.as_str(), schema["type"].as_str()) {
            ("limit", _) => {
                schema["minimum"] = 1.into();
                schema["maximum"] = MAX_LIMIT.into();
            }
            ("q", _) => schema["maxLength"] = MAX_SEARCH.into(),
            ("cursor", Some("string")) => {
                schema["maxLength"] = MAX_CURSOR.into();
                parameter["description"] = "The `next_cursor` of the page before".into();
            }
            _ => {}
        }
    }
    if is_command(operation) {
        all.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "required": false,
            "description": "Makes a repetition the same command: any text of your choice",
            "schema": { "type": "string", "minLength": 1, "maxLength": MAX_KEY },
        }));
        all.push(json!({
            "name": "Prefer",
            "in": "header",
            "required": false,
            "description":
                format!("`wait=N` waits for the decision, at most N seconds; N is at most {}", MAX_WAIT.as_secs()),
            "schema": { "type": "string" },
            "example": "wait=10",
        }));
    }
    operation["parameters"] = all.into();
}

/// Sets whether a body is required. It is if one of its fields is, because an empty body is read as
/// `{}`.
fn needed(operation: &mut Value, schemas: &Value) {
    let Some(body) = operation.get_mut("requestBody") else { return };
    let name = body["content"]["application/json"]["schema"]["$ref"].as_str();
    if let Some(name) = name.and_then(|name| name.strip_prefix(schema::SCHEMAS)) {
        let fields = schemas[name]["required"].as_array();
        body["required"] = fields.is_some_and(|fields| !fields.is_empty()).into();
    }
}

fn examples(id: &str, operation: &mut Value) {
    for (status, example) in ANSWERS.get(id).and_then(Value::as_object).into_iter().flatten() {
        if let Some(content) = operation["responses"][status]["content"].get_mut(JSON) {
            content["example"] = example.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{faults, routes};

    /// Each operation of both surfaces with its document.
    fn operations() -> Vec<(Value, String, Value)> {
        let mut all = Vec::new();
        for text in [document(&routes::members()), document(&routes::admins())] {
            let document: Value = serde_json::from_str(&text).unwrap();
            for path in document["paths"].as_object().unwrap().values() {
                for operation in path.as_object().unwrap().values() {
                    let id = operation["operationId"].as_str().unwrap().to_owned();
                    all.push((document.clone(), id, operation.clone()));
                }
            }
        }
        all
    }

    #[test]
    fn every_operation_has_a_tag_and_says_which_errors_it_gives() {
        for (_, id, operation) in operations() {
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{id}");
            let statuses: Vec<_> = operation["responses"].as_object().unwrap().keys().collect();
            assert!(statuses.iter().any(|status| status.starts_with('5')), "{id}: {statuses:?}");
        }
    }

    #[test]
    fn examples_are_what_their_schemas_say() {
        let operations = operations();
        let mut seen = 0;
        for (document, id, operation) in &operations {
            let schemas = document["components"]["schemas"].as_object().unwrap();
            let request = &operation["requestBody"]["content"]["application/json"];
            let body = request["schema"]["$ref"].as_str();
            let body = body.map(|name| &schemas[name.trim_start_matches(schema::SCHEMAS)]);
            let has_example = |body: &&Value| body["examples"].is_array() || body["properties"].is_null();
            assert!(body.is_none_or(|body| has_example(&body)), "{id} has a body and no example of it");
            let answers = operation["responses"].as_object().unwrap().values();
            let answers = answers.map(|answer| &answer["content"][JSON]);
            let answers = answers.filter_map(|content| Some((&content["schema"], content.get("example")?)));
            let bodies = body.into_iter().filter_map(|body| Some((body, body.get("examples")?.get(0)?)));
            for (schema, example) in answers.chain(bodies) {
                seen += 1;
                let found = faults::against(schema, schemas, example);
                assert!(found.is_empty(), "{id}: {found:#?}");
            }
        }
        assert!(seen > 40, "{seen}");
        for id in ANSWERS.keys() {
            assert!(operations.iter().any(|(_, known, _)| known == id), "there is no operation {id}");
        }
    }
}
