//! Accepts commands. The answer is a receipt, or the decision if the client asked to wait for it.
//!
//! 202 means that the broker has the command durably. With an `Idempotency-Key`, the command's id is a
//! function of actor, method, path and key. So a repetition is the same command, in any process and
//! at any time: the ledger has its decision. Until the decision, the cache keeps the instant with
//! which the broker confirmed the command, so a repetition gets the same receipt. A refusal that time
//! can change leaves its key free: the next repetition is another attempt
//! ([decision 27](../../docs/decisions/0027-idempotency-compares-the-meaning-of-requests.md)).

mod attempts;
mod claim;
mod refused;
mod status;

use std::time::Duration;

use domain::actor::{Actor, Role};
use domain::clock::{self, Timestamp};
use domain::command::Command;
use domain::id::CommandId;
use domain::stream::Stream;
use domain::upkeep;
use shared::bus::{Envelope, Outgoing, PublishError};
use shared::ledger::{self, Row, Status};
use shared::receipt::{self, Claims, RECEIPT_TYPE};
use shared::telemetry;
use tracing::{Instrument as _, debug_span};

use self::claim::Claim;
use self::refused::RefusedProblem;
use self::status::Accepted;
pub use self::status::{CommandStatus, Receipt, Submitted};
use crate::body::BodyHash;
use crate::context::Context;
use crate::idempotency::WriteOptions;
use crate::problem::Problem;
use crate::timestamp::At;

/// A request for a command, without the command's body.
#[derive(Debug)]
pub struct Submission {
    /// The caller.
    pub actor: Actor,
    /// The options in its headers.
    pub asked: WriteOptions,
    /// The hashes of its body.
    pub body_hash: BodyHash,
}

impl Context {
    /// Accepts a command. `command` makes it from its id.
    pub async fn submit<C: Command>(
        &self,
        submission: Submission,
        command: impl FnOnce(CommandId) -> C,
    ) -> Result<Submitted<C>, Problem> {
        let Submission { actor, asked, body_hash } = submission;
        let mut accepted_at = clock::now();
        let id = match &asked.key {
            // Boxed: this future is far larger than the one of a request without a key, and futures
            // are moved.
            Some(key) => match Box::pin(self.attempt(actor, key, C::KIND, &body_hash)).await? {
                (_, Some(row)) => return self.answer(&asked, row, &body_hash),
                (id, None) => id,
            },
            None => self.of_kind(self.key.new_command_id(accepted_at), C::KIND),
        };
        let body = command(id);
        let stream = body.stream();
        let wait = asked.wait.and_then(|patience| Some((self.waiting.wait(id)?, patience)));
        let reply_to = wait.as_ref().map(|(wait, _)| wait.address.clone());
        let claim = asked
            .key
            .is_some()
            .then(|| Claim::new(id, actor, accepted_at, body_hash.meaning, C::KIND, stream));
        let topology = self.broker.topology();
        let seal = move |accepted_at, stored_hash| {
            let trace = telemetry::traceparent(&tracing::Span::current());
            Envelope { reply_to, trace, ..Envelope::with_hash(id, actor, accepted_at, stored_hash, body) }
                .seal(topology)
        };
        let span =
            debug_span!("publish", otel.name = format!("publish {}", C::KIND), otel.kind = "producer", %id);
        if let Some(claim) = claim {
            let publishing = self.publish_claimed(C::KIND, claim, body_hash, seal);
            accepted_at = Box::pin(publishing.instrument(span)).await?;
        } else {
            let publishing =
                async { self.publish_command(C::KIND, seal(accepted_at, body_hash.meaning)).await };
            publishing.instrument(span).await?;
        }
        if let Some((wait, patience)) = wait
            && let Some(row) = wait.decision(patience).await
        {
            return decided(row, patience);
        }
        let receipt = self.receipt(id, C::KIND, stream, actor, accepted_at, &body_hash);
        Ok(Submitted::accepted(receipt))
    }

    /// Publishes a command, and counts it.
    async fn publish_command(&self, kind: &'static str, message: Outgoing) -> Result<(), PublishError> {
        shared::failpoint::hit("api-before-publish");
        let published = self.broker.publish(message).await;
        if published.is_ok() {
            shared::failpoint::hit("api-confirmed");
            metrics::counter!("muster_accepted_total", "kind" => kind).increment(1);
        } else {
            metrics::counter!("muster_not_accepted_total", "kind" => kind).increment(1);
        }
        published
    }

    /// The id as one for a command of this kind.
    fn of_kind(&self, id: CommandId, kind: &str) -> CommandId {
        if upkeep::is_passing(kind) { self.key.passing(id) } else { id }
    }

    /// The answer to a repetition of a decided command: its decision if the client waits, else its
    /// receipt.
    fn answer<C>(
        &self,
        asked: &WriteOptions,
        row: Row,
        body_hash: &BodyHash,
    ) -> Result<Submitted<C>, Problem> {
        if let Some(patience) = asked.wait {
            return decided(row, patience);
        }
        let receipt = self.receipt(row.id, &row.kind, row.stream, row.actor, row.accepted_at, body_hash);
        Ok(Submitted::accepted(receipt))
    }

    fn receipt(
        &self,
        id: CommandId,
        kind: &str,
        stream: Option<Stream>,
        actor: Actor,
        accepted_at: Timestamp,
        body_hash: &BodyHash,
    ) -> Receipt {
        let claims = Claims::new(id, kind, stream, actor, accepted_at, &body_hash.exact);
        Receipt {
            command_id: id,
            kind: kind.to_owned(),
            status: Accepted::Accepted,
            accepted_at: At(accepted_at),
            about: stream.into(),
            receipt: self.key.sign(RECEIPT_TYPE, &claims),
        }
    }

    /// The status of a command, for its actor or an admin.
    ///
    /// An id that was answered with 202 is never unknown: it carries a proof that this deployment made
    /// it. If its decision is kept for a limited time, the id says so. After that time the command is
    /// `forgotten`.
    pub async fn status(&self, id: CommandId, caller: Actor) -> Result<CommandStatus, Problem> {
        let row = ledger::find(&self.db.read, [id]).await?.remove(&id);
        let may_know = |actor: Actor| actor == caller || caller.role == Role::Admin;
        match row {
            Some(row) if may_know(row.actor) => Ok(CommandStatus::from(row)),
            None if self.key.made(id) => {
                let claim = Box::pin(self.claimed(id)).await;
                if claim.as_ref().is_some_and(|claim| !may_know(claim.actor)) {
                    return Err(Problem::command_not_found());
                }
                let accepted_at = receipt::accepted_at(id).or(claim.as_ref().map(|claim| claim.accepted_at));
                // Without an instant it was accepted longer ago than a claim lasts.
                let is_old = accepted_at.is_none_or(|at| at + upkeep::CHECKS_STAY < clock::now());
                if is_old && self.key.is_passing(id) {
                    return Err(Problem::forgotten());
                }
                // An instant counts once the broker confirmed the command with it.
                let certain = claim.as_ref().is_none_or(|claim| claim.confirmed);
                Ok(CommandStatus::accepted(
                    id,
                    claim.as_ref().map(|claim| claim.kind.clone()),
                    accepted_at.filter(|_| certain),
                    claim.and_then(|claim| claim.stream),
                ))
            }
            // The caller must not learn that a command of another actor exists.
            _ => Err(Problem::command_not_found()),
        }
    }
}

/// A decision as an answer: the outcome, or a problem with its own HTTP status.
fn decided<C>(row: Row, patience: Duration) -> Result<Submitted<C>, Problem> {
    match (row.status, &row.result) {
        (Status::Succeeded, _) => Ok(Submitted::decided(CommandStatus::from(row), patience.as_secs())),
        (Status::Refused, Some(result)) => {
            Err(Problem::from(RefusedProblem::read(result.clone())).about(row.id))
        }
        _ => Err(Problem::internal()
            .detail("the command could not be decided; an operator has to look")
            .about(row.id)),
    }
}
