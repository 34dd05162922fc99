//! The way of every write: accept a command, answer with a receipt or (if asked to wait) with its decision.
//!
//! 202 means that the broker has the command durably. With an `Idempotency-Key` the command's id is a function of actor,
//! method, path and key, so a repetition is the same command, through any process and for ever: the ledger knows what was decided.
//! Until it is decided, the cache remembers when the key was first accepted, so that the receipt is the same, too. A refusal
//! that time can change leaves its key free: the next repetition is another attempt
//! ([decision 27](../../docs/decisions/0027-idempotency-compares-the-meaning-of-requests.md)).

mod attempts;

use std::time::Duration;

use domain::actor::{Actor, Role};
use domain::clock::{self, Instant};
use domain::command::{Command, Queue};
use domain::hash::Digest256;
use domain::id::{CommandId, DriveId};
use domain::refusal::Refusal;
use domain::upkeep;
use poem::Response;
use poem::http::StatusCode;
use poem_openapi::payload::{Json, Payload as _};
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{Any, ToJSON as _, Type as _};
use poem_openapi::{ApiResponse, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::bus::Envelope;
use shared::ledger::{self, Row, Status};
use shared::receipt::{self, Claims, RECEIPT_TYPE};
use shared::telemetry;
use tracing::{Instrument as _, debug_span};
use uuid::Uuid;

use crate::asked::Asked;
use crate::at::At;
use crate::body::BodyHash;
use crate::context::Context;
use crate::problem::Problem;

/// How long the cache remembers when a key was first accepted. The ledger takes over once the command is decided.
const CLAIM_LASTS: Duration = Duration::from_secs(24 * 3600);

/// The proof that a command was accepted.
#[derive(Debug, Clone, Object, Serialize)]
#[oai(skip_serializing_if_is_none)]
pub struct Receipt {
    /// The command; its status is at `/api/v1/commands/{command_id}`.
    pub command_id: Uuid,
    /// What was asked for.
    pub kind: String,
    /// Always `accepted`.
    pub status: String,
    /// When it was accepted: windows are judged by this instant.
    pub accepted_at: At,
    /// The drive it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drive_id: Option<Uuid>,
    /// A compact JWS (EdDSA) over all this and the SHA-256 of the exact request body; its key is in `/.well-known/jwks.json`.
    pub receipt: String,
}

/// What came of a command, so far.
#[derive(Debug, Clone, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct CommandStatus {
    /// The command.
    pub command_id: Uuid,
    /// What was asked for. May be absent for a moment, while it is `accepted` and another process took it.
    pub kind: Option<String>,
    /// `accepted`, then `succeeded`, `refused` or (an operator is needed) `failed`.
    pub status: String,
    /// When it was accepted. May be absent as `kind` may.
    pub accepted_at: Option<At>,
    /// When it was decided.
    pub decided_at: Option<At>,
    /// The drive it is about.
    pub drive_id: Option<Uuid>,
    /// The number of its first event in the drive's log.
    pub sequence: Option<u64>,
    /// What was done.
    pub outcome: Option<Any<Value>>,
    /// Why it was not done: `code`, `title`, `detail`, and for `not-eligible` the `verdict`.
    pub problem: Option<Any<Value>>,
}

impl From<&Row> for CommandStatus {
    fn from(row: &Row) -> Self {
        let (outcome, problem) = match row.status {
            Status::Succeeded => (row.result.clone().map(Any), None),
            Status::Refused => (None, row.result.clone().map(|problem| Any(with_title(problem)))),
            Status::Failed => (None, row.result.clone().map(Any)),
        };
        Self {
            command_id: row.id.0,
            kind: Some(row.kind.clone()),
            status: row.status.as_str().to_owned(),
            accepted_at: Some(At(row.accepted_at)),
            decided_at: Some(At(row.decided_at)),
            drive_id: row.drive_id.map(|id| id.0),
            sequence: row.sequence,
            outcome,
            problem,
        }
    }
}

fn with_title(mut problem: Value) -> Value {
    if let Ok(refusal) = serde_json::from_value::<Refusal>(problem.clone())
        && let Some(fields) = problem.as_object_mut()
    {
        fields.insert("title".to_owned(), refusal.code.title().into());
    }
    problem
}

/// The answer to a write that was accepted.
#[derive(Debug)]
pub enum Submitted {
    /// 202: it will be decided.
    Accepted(Receipt),
    /// 200: it was decided while the client waited so many seconds at most.
    Decided(CommandStatus, u64),
}

impl poem::IntoResponse for Submitted {
    fn into_response(self) -> Response {
        match self {
            Self::Accepted(receipt) => {
                let location = format!("/api/v1/commands/{}", receipt.command_id);
                poem::web::Json(receipt)
                    .with_status(StatusCode::ACCEPTED)
                    .with_header("Location", location)
                    .into_response()
            }
            Self::Decided(status, seconds) => Json(status.to_json())
                .with_header("Preference-Applied", format!("wait={seconds}"))
                .into_response(),
        }
    }
}

impl ApiResponse for Submitted {
    fn meta() -> MetaResponses {
        let json = |schema| vec![MetaMediaType { content_type: Json::<Value>::CONTENT_TYPE, schema }];
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
        MetaResponses {
            responses: vec![
                response(
                    200,
                    "Decided while the client waited",
                    json(CommandStatus::schema_ref()),
                    vec![header("Preference-Applied", "How long the decision was waited for at most")],
                ),
                response(
                    202,
                    "Accepted: it will be decided, exactly once",
                    json(Receipt::schema_ref()),
                    vec![header("Location", "Where its status is")],
                ),
            ],
        }
    }

    fn register(registry: &mut Registry) {
        Receipt::register(registry);
        CommandStatus::register(registry);
    }
}

/// A command with what is known about its request.
#[derive(Debug)]
pub struct Submission {
    /// Who asks.
    pub actor: Actor,
    /// What they ask for besides.
    pub asked: Asked,
    /// What identifies the request body.
    pub body_hash: BodyHash,
}

/// What the cache remembers of a key: when, and with which body, it was first accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    accepted_at: Instant,
    body_hash: Digest256,
    actor: Actor,
    kind: String,
    drive_id: Option<DriveId>,
    /// Who claimed it; another one's claim must not be taken back.
    by: Uuid,
}

impl Context {
    /// Accepts a command. `command` makes it from its id.
    pub async fn submit<C: Command>(
        &self,
        submission: Submission,
        command: impl FnOnce(CommandId) -> C,
    ) -> Result<Submitted, Problem> {
        let Submission { actor, asked, body_hash } = submission;
        let mut accepted_at = clock::now();
        let id = match &asked.key {
            // In a piece of memory of its own: it is far larger than what a request without a key needs, and futures are moved about.
            Some(key) => match Box::pin(self.attempt(actor, key, C::KIND, &body_hash)).await? {
                (_, Some(row)) => return self.answer(&asked, row, &body_hash),
                (id, None) => id,
            },
            None => self.of_kind(self.key.new_command_id(accepted_at), C::KIND),
        };
        let body = command(id);
        let drive_id = about(&body);
        let (mut own_claim, mut stored_hash) = (false, body_hash.meaning);
        if asked.key.is_some() {
            let (by, kind) = (Uuid::now_v7(), C::KIND.to_owned());
            let mine = Claim { accepted_at, body_hash: stored_hash, actor, kind, drive_id, by };
            let first = Box::pin(self.claim(id, &mine)).await;
            if !body_hash.is(&first.body_hash) {
                return Err(Problem::idempotency_key_reused());
            }
            // What is published again is the same to the last byte.
            (accepted_at, stored_hash) = (first.accepted_at, first.body_hash);
            own_claim = first.by == by;
        }
        let wait = asked.wait.and_then(|patience| Some((self.waiting.wait(id)?, patience)));
        let span =
            debug_span!("publish", otel.name = format!("publish {}", C::KIND), otel.kind = "producer", %id);
        let envelope = Envelope {
            reply_to: wait.as_ref().map(|(wait, _)| wait.address.clone()),
            trace: telemetry::traceparent(&span),
            ..Envelope::with_hash(id, actor, accepted_at, stored_hash, body)
        };
        shared::failpoint::hit("api-before-publish");
        let published = self.broker.publish(envelope.seal(self.broker.topology())).instrument(span).await;
        if let Err(error) = published {
            if own_claim && error != shared::bus::PublishError::TimedOut {
                // Nothing was accepted: a later attempt is accepted when it is made. (In memory of its own, like `keyed`.)
                Box::pin(self.cache.unclaim(&claim_key(id))).await;
            }
            metrics::counter!("muster_not_accepted_total", "kind" => C::KIND).increment(1);
            return Err(error.into());
        }
        shared::failpoint::hit("api-confirmed");
        metrics::counter!("muster_accepted_total", "kind" => C::KIND).increment(1);
        if let Some((wait, patience)) = wait
            && let Some(row) = wait.decision(patience).await
        {
            return decided(row, patience);
        }
        Ok(Submitted::Accepted(self.receipt(id, C::KIND, drive_id, actor, accepted_at, &body_hash)))
    }

    /// The id as one for a command of this kind.
    fn of_kind(&self, id: CommandId, kind: &str) -> CommandId {
        if upkeep::is_passing(kind) { self.key.passing(id) } else { id }
    }

    /// The answer to a repetition of what was decided before: the decision to whoever waits, the receipt to others.
    fn answer(&self, asked: &Asked, row: Row, body_hash: &BodyHash) -> Result<Submitted, Problem> {
        if let Some(patience) = asked.wait {
            return decided(row, patience);
        }
        let receipt = self.receipt(row.id, &row.kind, row.drive_id, row.actor, row.accepted_at, body_hash);
        Ok(Submitted::Accepted(receipt))
    }

    async fn claim(&self, id: CommandId, mine: &Claim) -> Claim {
        let value = serde_json::to_string(mine).expect("a claim is plain data");
        let first = self.cache.claim(&claim_key(id), value, CLAIM_LASTS).await;
        serde_json::from_str(&first).unwrap_or_else(|_| mine.clone())
    }

    fn receipt(
        &self,
        id: CommandId,
        kind: &str,
        drive_id: Option<DriveId>,
        actor: Actor,
        accepted_at: Instant,
        body_hash: &BodyHash,
    ) -> Receipt {
        let claims = Claims::new(id, kind, drive_id, actor, accepted_at, &body_hash.exact);
        Receipt {
            command_id: id.0,
            kind: kind.to_owned(),
            status: "accepted".to_owned(),
            accepted_at: At(accepted_at),
            drive_id: drive_id.map(|id| id.0),
            receipt: self.key.sign(RECEIPT_TYPE, &claims),
        }
    }

    /// What came of a command, for whoever may know: its actor, or an admin.
    ///
    /// An id that was answered with 202 is never unknown: it carries a proof that this deployment made it. One whose decision
    /// is kept for a while only says so, and is `forgotten` after that.
    pub async fn status(&self, id: CommandId, caller: Actor) -> Result<CommandStatus, Problem> {
        let row = ledger::find(&self.db.read, [id]).await?.remove(&id);
        let may_know = |actor: Actor| actor == caller || caller.role == Role::Admin;
        match row {
            Some(row) if may_know(row.actor) => Ok(CommandStatus::from(&row)),
            None if self.key.made(id) => {
                let claim = Box::pin(self.cache.claimed(&claim_key(id))).await;
                let claim = claim.and_then(|text| serde_json::from_str::<Claim>(&text).ok());
                if claim.as_ref().is_some_and(|claim| !may_know(claim.actor)) {
                    return Err(Problem::command_not_found());
                }
                let accepted_at = receipt::accepted_at(id).or(claim.as_ref().map(|claim| claim.accepted_at));
                // Without an instant it was accepted longer ago than a claim lasts.
                let is_old = accepted_at.is_none_or(|at| at + upkeep::CHECKS_STAY < clock::now());
                if is_old && self.key.is_passing(id) {
                    return Err(Problem::forgotten());
                }
                Ok(CommandStatus {
                    command_id: id.0,
                    kind: claim.as_ref().map(|claim| claim.kind.clone()),
                    status: "accepted".to_owned(),
                    accepted_at: accepted_at.map(At),
                    decided_at: None,
                    drive_id: claim.and_then(|claim| claim.drive_id).map(|id| id.0),
                    sequence: None,
                    outcome: None,
                    problem: None,
                })
            }
            // Other people's commands are none of the caller's business, not even that they are there.
            _ => Err(Problem::command_not_found()),
        }
    }
}

/// The drive that a command is about: what orders its lane.
fn about<C: Command>(command: &C) -> Option<DriveId> {
    matches!(C::QUEUE, Queue::Drives | Queue::Eligibility).then(|| DriveId(command.lane_key()))
}

fn claim_key(id: CommandId) -> String {
    format!("claim:{id}")
}

/// A decision as an answer: what was done, or the problem with its own status.
fn decided(row: Row, patience: Duration) -> Result<Submitted, Problem> {
    match (row.status, &row.result) {
        (Status::Succeeded, _) => Ok(Submitted::Decided(CommandStatus::from(&row), patience.as_secs())),
        (Status::Refused, Some(result)) => match serde_json::from_value::<Refusal>(result.clone()) {
            Ok(refusal) => Err(Problem::from(refusal).about(row.id)),
            Err(_) => Err(Problem::internal().about(row.id)),
        },
        _ => Err(Problem::internal()
            .detail("the command could not be decided; an operator has to look")
            .about(row.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is written by one library and described by another.
    #[test]
    fn a_receipt_is_written_as_it_is_described() {
        for drive_id in [None, Some(Uuid::nil())] {
            let receipt = Receipt {
                command_id: Uuid::max(),
                kind: "register-for-drive".to_owned(),
                status: "accepted".to_owned(),
                accepted_at: At(clock::now()),
                drive_id,
                receipt: "a.b.c".to_owned(),
            };
            assert_eq!(serde_json::to_value(&receipt).ok(), receipt.to_json());
        }
    }
}
