//! The envelope around a command: who asked, when it was accepted, and where the outcome is wanted.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use bytes::Bytes;
use chrono::SecondsFormat;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::command::{Command, CommandSet};
use super::failure::Reject;
use super::message::{Address, Message, Outgoing, header};
use super::topology::Topology;
use crate::account::Role;
use crate::clock::Instant;
use crate::id::CommandId;

/// A SHA-256 digest.
pub type Digest256 = [u8; 32];

/// The SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest256 {
    Sha256::digest(bytes).into()
}

/// `bytes` in unpadded URL-safe base64 (RFC 4648 §5), as JOSE writes them.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads what [`base64url`] wrote, if it is exactly 32 bytes.
#[must_use]
pub fn digest_from_base64url(text: &str) -> Option<Digest256> {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Who asked for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// In which role.
    pub role: Role,
    /// The account, service account, or (for [`Role::System`]) nil.
    pub id: Uuid,
}

impl Actor {
    /// Muster itself: the scheduler.
    pub const SYSTEM: Self = Self { role: Role::System, id: Uuid::nil() };
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.role, self.id)
    }
}

impl FromStr for Actor {
    type Err = Reject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unreadable = || Reject::undecodable(format_args!("actor {text:?} is not role:uuid"));
        let (role, id) = text.split_once(':').ok_or_else(unreadable)?;
        Ok(Self { role: role.parse().map_err(|_| unreadable())?, id: id.parse().map_err(|_| unreadable())? })
    }
}

/// A command on its way: the AMQP properties and headers, and the body.
#[derive(Debug, Clone)]
pub struct Envelope<T> {
    /// The command's id, its receipt's and its decision's.
    pub id: CommandId,
    /// Who asked.
    pub actor: Actor,
    /// When the API took it. Windows are judged by this instant; order is not.
    pub accepted_at: Instant,
    /// The SHA-256 of what the accepted request body means, however it was written: an id comes with one body only.
    pub body_hash: Digest256,
    /// Where the outcome is awaited, besides the ledger.
    pub reply_to: Option<String>,
    /// The trace this belongs to, as a `traceparent`.
    pub trace: Option<String>,
    /// The command itself.
    pub body: T,
}

impl<C: Command> Envelope<C> {
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
    /// Reads a command from a message; says what is wrong with it otherwise.
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
            actor: need(header::ACTOR)?.parse()?,
            accepted_at,
            body_hash,
            reply_to: message.reply_to.clone(),
            trace: message.header(header::TRACEPARENT).map(ToOwned::to_owned),
            body: S::decode(&message.kind, &message.payload)?,
        })
    }
}
