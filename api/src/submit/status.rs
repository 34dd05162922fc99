//! Receipts and statuses of commands, as clients read them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::marker::PhantomData;

use domain::clock::Timestamp;
use domain::command::{Command, CommandSet};
use domain::drive::DriveCommand;
use domain::eligibility::EligibilityCommand;
use domain::id::{CommandId, DriveId};
use domain::member::MemberCommand;
use domain::stream::Stream;
use domain::upkeep::UpkeepCommand;
use poem::http::StatusCode;
use poem::{IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type as _;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared::ledger::{Row, Status};

use super::refused::RefusedProblem;
use crate::payload::{JSON, Json};
use crate::schema::{self, SCHEMAS, Way};
use crate::timestamp::At;

/// Declares a type with one word. Programs tell the shapes of a status apart by this word.
macro_rules! always {
    ($($name:ident = $word:literal;)*) => {$(
        #[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
        #[schemars(inline)]
        pub(super) enum $name {
            #[serde(rename = $word)]
            $name,
        }
    )*};
}

always! {
    Accepted = "accepted";
    Succeeded = "succeeded";
    Refused = "refused";
    Failed = "failed";
}

/// What a command is about.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct About {
    /// The drive that the command is about, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    drive_id: Option<DriveId>,
    /// What the command is about, if it is not a drive.
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<Stream>,
}

impl From<Option<Stream>> for About {
    fn from(stream: Option<Stream>) -> Self {
        let drive_id = stream.and_then(Stream::drive);
        Self { drive_id, stream: stream.filter(|_| drive_id.is_none()) }
    }
}

/// The proof that a command was accepted.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Receipt {
    /// The id of the command. Its status is at `/api/v1/commands/{command_id}`.
    pub command_id: CommandId,
    /// The kind of the command.
    #[schemars(with = "CommandKind")]
    pub kind: String,
    /// Always `accepted`.
    pub(super) status: Accepted,
    /// When the API accepted the command. Muster decides by this instant whether registration is
    /// open.
    pub accepted_at: At,
    #[serde(flatten)]
    pub(super) about: About,
    /// A compact JWS (EdDSA) over these fields and the SHA-256 of the exact request body. Its key
    /// is in `/.well-known/jwks.json`.
    pub receipt: String,
}

/// A command that is not decided yet.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CommandAccepted {
    command_id: CommandId,
    status: Accepted,
    /// The kind of the command. It may be absent until the command is decided.
    #[schemars(with = "CommandKind")]
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// When the API accepted the command. It may be absent until the command is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted_at: Option<At>,
    #[serde(flatten)]
    about: About,
}

/// The fields of every decided command.
#[derive(Debug, Serialize, JsonSchema)]
struct Decided {
    command_id: CommandId,
    /// The kind of the command.
    #[schemars(with = "CommandKind")]
    kind: String,
    /// When the API accepted the command.
    accepted_at: At,
    /// When the command was decided.
    decided_at: At,
    #[serde(flatten)]
    about: About,
    /// The number of the command's first event in the log of the drive or member.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
}

/// A command that succeeded.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CommandSucceeded {
    status: Succeeded,
    #[serde(flatten)]
    decided: Decided,
    /// The result of the command.
    outcome: Value,
}

/// A command that was refused.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CommandRefused {
    status: Refused,
    #[serde(flatten)]
    decided: Decided,
    /// Why the command was refused.
    problem: RefusedProblem,
}

/// A command that could not be decided. An operator can replay it; then it may still be decided.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CommandFailed {
    status: Failed,
    #[serde(flatten)]
    decided: Decided,
    /// Why the command could not be decided.
    problem: Option<FailedProblem>,
}

/// Why a command could not be decided.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct FailedProblem {
    /// The kind of failure.
    code: String,
    /// What is known about it.
    detail: String,
}

/// The state of a command. `status` says whether it is decided; `kind` says what shape the outcome has.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CommandStatus {
    /// It is not decided yet.
    Accepted(CommandAccepted),
    /// It succeeded.
    Succeeded(CommandSucceeded),
    /// It was refused.
    Refused(CommandRefused),
    /// It could not be decided; an operator is needed.
    Failed(CommandFailed),
}

impl CommandStatus {
    /// A command without a known decision.
    pub(super) fn accepted(
        command_id: CommandId,
        kind: Option<String>,
        accepted_at: Option<Timestamp>,
        stream: Option<Stream>,
    ) -> Self {
        let accepted_at = accepted_at.map(At);
        Self::Accepted(CommandAccepted {
            command_id,
            status: Accepted::Accepted,
            kind,
            accepted_at,
            about: stream.into(),
        })
    }
}

impl From<Row> for CommandStatus {
    fn from(row: Row) -> Self {
        let decided = Decided {
            command_id: row.id,
            kind: row.kind,
            accepted_at: At(row.accepted_at),
            decided_at: At(row.decided_at),
            about: row.stream.into(),
            sequence: row.sequence,
        };
        let result = row.result.unwrap_or_default();
        match row.status {
            Status::Succeeded => {
                Self::Succeeded(CommandSucceeded { status: Succeeded::Succeeded, decided, outcome: result })
            }
            Status::Refused => {
                let problem = RefusedProblem::read(result);
                Self::Refused(CommandRefused { status: Refused::Refused, decided, problem })
            }
            Status::Failed => {
                let problem = serde_json::from_value(result).ok();
                Self::Failed(CommandFailed { status: Failed::Failed, decided, problem })
            }
        }
    }
}

/// The kinds of commands and their outcomes, queue by queue.
fn outcomes(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
    let mut all = DriveCommand::outcomes(generator);
    all.extend(MemberCommand::outcomes(generator));
    all.extend(EligibilityCommand::outcomes(generator));
    all.extend(UpkeepCommand::outcomes(generator));
    all
}

/// Every kind of command.
struct CommandKind;

impl JsonSchema for CommandKind {
    fn schema_name() -> Cow<'static, str> {
        "CommandKind".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds: Vec<_> = outcomes(generator).into_iter().map(|(kind, _)| kind).collect();
        json_schema!({ "type": "string", "enum": kinds, "description": "A kind of command" })
    }
}

/// The name of the schema for succeeded commands with this outcome: `RegistrationSucceeded`.
fn succeeded(outcome: &str) -> String {
    format!("{}Succeeded", outcome.strip_suffix("Outcome").unwrap_or(outcome))
}

impl JsonSchema for CommandStatus {
    fn schema_name() -> Cow<'static, str> {
        "CommandStatus".into()
    }

    /// Each outcome has one schema, which names the kinds of commands with this outcome.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut kinds = BTreeMap::<String, Vec<&str>>::new();
        for (kind, outcome) in outcomes(generator) {
            let name =
                outcome.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix(SCHEMAS));
            kinds.entry(name.unwrap_or_default().to_owned()).or_default().push(kind);
        }
        let mut all = vec![generator.subschema_for::<CommandAccepted>()];
        for (outcome, kinds) in kinds {
            let mut schema = CommandSucceeded::json_schema(generator).to_value();
            schema["properties"]["kind"] = json!({ "type": "string", "enum": kinds });
            schema["properties"]["outcome"] = json!({ "$ref": format!("{SCHEMAS}{outcome}") });
            let name = succeeded(&outcome);
            all.push(json_schema!({ "$ref": format!("{SCHEMAS}{name}") }));
            generator.definitions_mut().insert(name, schema);
        }
        all.push(generator.subschema_for::<CommandRefused>());
        all.push(generator.subschema_for::<CommandFailed>());
        json_schema!({
            "description":
                "The state of a command. `status` says whether it is decided; `kind` says what shape the outcome has.",
            "oneOf": all,
        })
    }
}

/// The answer to a write that was accepted as a command `C`.
#[derive(Debug)]
pub struct Submitted<C> {
    answer: Answer,
    of: PhantomData<fn() -> C>,
}

#[derive(Debug)]
enum Answer {
    /// 202: the command will be decided.
    Accepted(Receipt),
    /// 200: the command was decided while the client waited. The number is the longest wait, in
    /// seconds.
    Decided(Box<CommandStatus>, u64),
}

impl<C> Submitted<C> {
    pub(super) fn accepted(receipt: Receipt) -> Self {
        Self { answer: Answer::Accepted(receipt), of: PhantomData }
    }

    pub(super) fn decided(status: CommandStatus, seconds: u64) -> Self {
        Self { answer: Answer::Decided(Box::new(status), seconds), of: PhantomData }
    }
}

impl<C> IntoResponse for Submitted<C> {
    fn into_response(self) -> Response {
        match self.answer {
            Answer::Accepted(receipt) => {
                let location = format!("/api/v1/commands/{}", receipt.command_id);
                Json(receipt)
                    .with_status(StatusCode::ACCEPTED)
                    .with_header("Location", location)
                    .into_response()
            }
            Answer::Decided(status, seconds) => {
                Json(status).with_header("Preference-Applied", format!("wait={seconds}")).into_response()
            }
        }
    }
}

impl<C: Command> ApiResponse for Submitted<C> {
    fn meta() -> MetaResponses {
        let json = |schema| vec![MetaMediaType { content_type: JSON, schema }];
        let header = |name: &str, description: &str| MetaHeader {
            name: name.to_owned(),
            description: Some(description.to_owned()),
            required: true,
            deprecated: false,
            schema: String::schema_ref(),
        };
        let response = |status, description, content, headers| MetaResponse {
            description,
            status: Some(status),
            status_range: None,
            content,
            headers,
        };
        let done = schema::named(Way::Out, &succeeded(&C::Outcome::schema_name()));
        MetaResponses {
            responses: vec![
                response(
                    200,
                    "Decided while the client waited",
                    json(done),
                    vec![header("Preference-Applied", "How long the decision was waited for at most")],
                ),
                response(
                    202,
                    "Accepted: it will be decided, exactly once",
                    json(schema::reference::<Receipt>(Way::Out)),
                    vec![header("Location", "Where its status is")],
                ),
            ],
        }
    }

    fn register(registry: &mut Registry) {
        schema::register::<Receipt>(Way::Out, registry);
        schema::register::<CommandStatus>(Way::Out, registry);
        schema::register_named(Way::Out, &succeeded(&C::Outcome::schema_name()), registry);
    }
}
