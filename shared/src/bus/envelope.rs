//! The envelope around a command: its actor, when it was accepted, and where the outcome goes.

use bytes::Bytes;
use chrono::SecondsFormat;
use domain::actor::Actor;
use domain::clock::Timestamp;
use domain::command::{Command, CommandSet};
use domain::hash::{Digest256, base64url, digest_from_base64url, sha256};
use domain::id::CommandId;

use crate::bus::message::{Address, Message, Outgoing, header};
use crate::bus::topology::Topology;
use crate::failure::Reject;

/// A command with its AMQP properties and headers.
#[derive(Debug, Clone)]
pub struct Envelope<T> {
    /// The id of the command, of its receipt and of its decision.
    pub id: CommandId,
    /// The actor who asked.
    pub actor: Actor,
    /// When the API accepted the command, or another sender made it. This instant decides whether a
    /// drive's window was open. It does not decide the order.
    pub accepted_at: Timestamp,
    /// The SHA-256 of the request body's meaning (decision 27). Consumers reject an id that comes
    /// again with another hash.
    pub body_hash: Digest256,
    /// The address that gets the outcome, besides the ledger.
    pub reply_to: Option<String>,
    /// The trace context, as a `traceparent`.
    pub trace: Option<String>,
    /// The command itself.
    pub body: T,
}

impl<C: Command> Envelope<C> {
    /// A command that was accepted at `accepted_at`. Its `body_hash` is the hash of the command as
    /// JSON.
    #[must_use]
    pub fn new(id: CommandId, actor: Actor, accepted_at: Timestamp, body: C) -> Self {
        let body_hash = sha256(&serde_json::to_vec(&body).expect("a command is plain data"));
        Self::with_hash(id, actor, accepted_at, body_hash, body)
    }

    /// A command with this `body_hash`, such as the hash of a request's body. A sender sets
    /// `reply_to` and `trace` itself.
    #[must_use]
    pub fn with_hash(
        id: CommandId,
        actor: Actor,
        accepted_at: Timestamp,
        body_hash: Digest256,
        body: C,
    ) -> Self {
        Self { id, actor, accepted_at, body_hash, reply_to: None, trace: None, body }
    }

    /// The message for this command, addressed to its queue or lane.
    #[must_use]
    pub fn seal(&self, topology: Topology) -> Outgoing {
        let mut headers = vec![
            (header::ACTOR.to_owned(), self.actor.to_string()),
            (header::ACCEPTED_AT.to_owned(), self.accepted_at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            (header::BODY_HASH.to_owned(), base64url(&self.body_hash)),
        ];
        if let Some(trace) = &self.trace {
            headers.push((header::TRACEPARENT.to_owned(), trace.clone()));
        }
        let payload = serde_json::to_vec(&self.body).expect("a command is plain data");
        Outgoing {
            to: Address::Commands(topology.queue_name(C::QUEUE, self.body.lane_key())),
            message: Message {
                id: self.id.0,
                kind: C::KIND.to_owned(),
                content_type: "application/json".to_owned(),
                headers,
                reply_to: self.reply_to.clone(),
                payload: Bytes::from(payload),
            },
        }
    }
}

impl<S: CommandSet> Envelope<S> {
    /// Reads a command from a message. The error says what is wrong with the message.
    pub fn open(message: &Message) -> Result<Self, Reject> {
        if message.id.is_nil() {
            return Err(Reject::undecodable("it has no message-id"));
        }
        let need = |name: &'static str| {
            message.header(name).ok_or_else(|| Reject::undecodable(format_args!("header {name} is missing")))
        };
        let accepted_at = need(header::ACCEPTED_AT)?
            .parse()
            .map_err(|error| Reject::undecodable(format_args!("header {}: {error}", header::ACCEPTED_AT)))?;
        let body_hash = digest_from_base64url(need(header::BODY_HASH)?)
            .ok_or_else(|| Reject::undecodable(format_args!("header {} is no digest", header::BODY_HASH)))?;
        Ok(Self {
            id: CommandId(message.id),
            actor: need(header::ACTOR)?.parse().map_err(Reject::undecodable)?,
            accepted_at,
            body_hash,
            reply_to: message.reply_to.clone(),
            trace: message.header(header::TRACEPARENT).map(ToOwned::to_owned),
            body: S::decode(&message.kind, &message.payload).map_err(Reject::undecodable)?,
        })
    }
}
