//! Checks that the OpenAPI documents describe each answer that a test gets.

use std::sync::LazyLock;

use reqwest::Method;
use serde_json::Value;

use crate::deployment::Answer;

/// Problems of the server itself. Every request can get them.
const OF_EVERY_REQUEST: [&str; 3] = ["internal", "malformed-request", "overloaded"];

/// An operation of a document.
struct Operation {
    method: String,
    /// The parts of its path. A parameter is in braces.
    path: Vec<String>,
    responses: Value,
}

static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
    let documents = [
        include_str!("../docs/reference/openapi-members.json"),
        include_str!("../docs/reference/openapi-admins.json"),
    ];
    documents.iter().flat_map(|text| operations(&serde_json::from_str(text).unwrap())).collect()
});

fn operations(document: &Value) -> Vec<Operation> {
    let base = document["servers"][0]["url"].as_str().unwrap();
    let mut all = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let mut responses = operation["responses"].clone();
            for response in responses.as_object_mut().unwrap().values_mut() {
                if let Some(shared) = response["$ref"].as_str() {
                    *response = document.pointer(&shared[1..]).unwrap().clone();
                }
            }
            let path = format!("{base}{path}").split('/').map(ToOwned::to_owned).collect();
            all.push(Operation { method: method.to_uppercase(), path, responses });
        }
    }
    all
}

impl Operation {
    fn is_at(&self, method: &Method, path: &[&str]) -> bool {
        let fits = |(own, other): (&String, &&str)| own.starts_with('{') && !other.is_empty() || own == other;
        self.method == method.as_str()
            && self.path.len() == path.len()
            && self.path.iter().zip(path).all(fits)
    }

    /// The number of parameters in the path. The path with the fewest fits best.
    fn parameters(&self) -> usize {
        self.path.iter().filter(|part| part.starts_with('{')).count()
    }
}

/// Fails if the documents do not describe this answer.
pub fn check(method: &Method, path: &str, answer: &Answer) {
    let parts: Vec<_> = path.split('/').collect();
    let here = OPERATIONS.iter().filter(|operation| operation.is_at(method, &parts));
    let Some(operation) = here.min_by_key(|operation| operation.parameters()) else { return };
    let response = &operation.responses[answer.status.as_str()];
    let is_problem = answer.header("content-type") == Some("application/problem+json");
    if !is_problem {
        assert!(response.is_object(), "{method} {path} shows no {}", answer.status);
        return;
    }
    let parts = &response["content"]["application/problem+json"]["schema"]["allOf"];
    let codes = &parts[1]["properties"]["code"]["enum"];
    let is_shown = codes.as_array().is_some_and(|codes| codes.contains(&answer.body["code"]));
    assert!(
        is_shown || OF_EVERY_REQUEST.contains(&answer.code()),
        "{method} {path} shows no {} with the code {}: {codes}",
        answer.status,
        answer.code()
    );
}
