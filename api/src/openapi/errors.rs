//! The errors of each operation. Most of them follow from its parameters and body.

use std::collections::BTreeMap;

use domain::code::Code;
use domain::command::CommandSet as _;
use domain::drive::DriveCommand;
use domain::eligibility::EligibilityCommand;
use domain::member::MemberCommand;
use serde_json::{Map, Value, json};

use super::is_command;
use crate::problem::{PROBLEM, Problem, status_of};
use crate::schema::SCHEMAS;

/// Errors that only these operations give.
const OWN: &[(&str, &[&str])] = &[
    ("sign-up", &["email-taken"]),
    ("login", &["login-failed"]),
    ("read-command", &["command-not-found", "forgotten"]),
    ("read-drive", &["drive-not-found"]),
    ("read-any-drive", &["drive-not-found"]),
    ("read-log", &["drive-not-found"]),
    ("read-member-log", &["member-not-found"]),
    ("watch-drive", &["drive-not-found"]),
    ("watch-log", &["drive-not-found"]),
    ("watch-member-log", &["member-not-found"]),
    ("list-registrations", &["drive-not-found"]),
    ("show-unsubscribe", &["mail-not-found", "mail-is-essential"]),
    ("unsubscribe", &["mail-not-found", "mail-is-essential"]),
    ("save-mail-template", &["invalid-template"]),
    ("preview-mail-template", &["invalid-template"]),
    ("delete-mail-template", &["template-not-found"]),
    ("report-bounce", &["mail-not-found"]),
    ("revoke-service-account", &["service-account-not-found"]),
    ("create-webhook", &["too-many-webhooks"]),
    ("read-webhook", &["webhook-not-found"]),
    ("update-webhook", &["webhook-not-found"]),
    ("delete-webhook", &["webhook-not-found"]),
    ("rotate-webhook-secret", &["webhook-not-found"]),
    ("ping-webhook", &["webhook-not-found", "webhook-disabled"]),
    ("list-webhook-deliveries", &["webhook-not-found"]),
    (
        "redeliver-webhook",
        &["webhook-not-found", "webhook-disabled", "delivery-not-found", "too-many-deliveries"],
    ),
];

/// The refusals of commands of this kind.
fn refusals(kind: &str) -> &'static [Code] {
    let all =
        DriveCommand::REFUSALS.iter().chain(MemberCommand::REFUSALS).chain(EligibilityCommand::REFUSALS);
    all.into_iter().find(|(known, _)| *known == kind).map_or(&[], |(_, codes)| codes)
}

/// The codes that an operation may answer with, besides those of every operation.
fn codes(id: &str, operation: &Value) -> Vec<&'static str> {
    let mut codes = vec!["database-unavailable"];
    if operation["security"].is_array() {
        codes.extend(["unauthorized", "forbidden"]);
    }
    let parameters = operation["parameters"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    if parameters.iter().any(|parameter| parameter["in"] != "header") {
        codes.push("invalid-parameter");
    }
    let is_cursor =
        |parameter: &&Value| parameter["name"] == "cursor" && parameter["schema"]["type"] == "string";
    if parameters.iter().any(|parameter| is_cursor(&parameter)) {
        codes.push("invalid-cursor");
    }
    let content = &operation["requestBody"]["content"];
    if content.is_object() {
        codes.extend(["body-too-large", "body-too-slow", "unsupported-media-type"]);
    }
    if content.get("application/json").is_some() {
        codes.extend(["malformed-json", "invalid-body"]);
    }
    if is_command(operation) {
        codes.extend(["broker-unavailable", "idempotency-key-invalid", "idempotency-key-reused"]);
        codes.extend(refusals(id).iter().map(|code| code.as_str()));
    }
    codes.extend(OWN.iter().filter(|(known, _)| *known == id).flat_map(|(_, codes)| codes.iter()));
    codes
}

fn status(code: &str) -> u16 {
    let own = Problem::OWN.iter().find(|(_, known, _)| *known == code).map(|(status, ..)| *status);
    let status = own.or_else(|| Code::from_word(code).map(status_of));
    status.unwrap_or_else(|| panic!("there is no code {code}")).as_u16()
}

/// Adds an answer for each status, with the codes that come with it.
pub(super) fn describe(id: &str, operation: &mut Value) {
    let mut by_status = BTreeMap::<u16, Vec<&str>>::new();
    for code in codes(id, operation) {
        let known = by_status.entry(status(code)).or_default();
        if !known.contains(&code) {
            known.push(code);
        }
    }
    for (status, codes) in by_status {
        let names: Vec<_> = codes.iter().map(|code| format!("`{code}`")).collect();
        let schema = json!({
            "allOf": [
                { "$ref": format!("{SCHEMAS}Problem") },
                { "type": "object", "required": ["code"], "properties": { "code": { "type": "string", "enum": codes } } },
            ],
        });
        operation["responses"][status.to_string()] =
            json!({ "description": names.join(", "), "content": { PROBLEM: { "schema": schema } } });
    }
    operation["responses"]["default"]["description"] =
        "Any other problem, such as `internal`, `overloaded` or `malformed-request`".into();
}

/// Moves each answer that several operations share to the components, and refers to it.
pub(super) fn share(document: &mut Value) {
    let mut count = BTreeMap::<String, usize>::new();
    for answer in answers(document) {
        *count.entry(answer.to_string()).or_default() += 1;
    }
    let mut shared = Map::new();
    for answer in answers(document) {
        if count[&answer.to_string()] > 1 {
            let name = name(&answer["description"]);
            let reference = json!({ "$ref": format!("#/components/responses/{name}") });
            shared.insert(name, std::mem::replace(answer, reference));
        }
    }
    document["components"]["responses"] = shared.into();
}

/// The answers with problems, of all operations.
fn answers(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    let operations = paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    let all = operations.filter_map(|operation| operation["responses"].as_object_mut());
    all.flat_map(Map::values_mut).filter(|answer| answer["content"].get(PROBLEM).is_some())
}

/// The name of an answer with these codes: `ForbiddenOrNotEligible`.
fn name(description: &Value) -> String {
    let codes = description.as_str().unwrap_or_default();
    if !codes.starts_with('`') {
        return "AnyOtherProblem".to_owned();
    }
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    let code = |code: &str| code.trim_matches('`').split('-').map(capital).collect::<String>();
    codes.split(", ").map(code).collect::<Vec<_>>().join("Or")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_known_and_every_refusal_has_an_operation() {
        for (_, codes) in OWN {
            for code in *codes {
                status(code);
            }
        }
        assert_eq!(refusals("check-in").len(), 4);
        assert!(refusals("no-such-kind").is_empty());
        assert_eq!(name(&"`forbidden`, `not-eligible`".into()), "ForbiddenOrNotEligible");
    }
}
