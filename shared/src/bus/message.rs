//! What travels on the bus, as both brokers see it: bytes with a name and an address.

use bytes::Bytes;
use domain::command::Queue;
use uuid::Uuid;

use crate::bus::topology::Delay;

/// The largest payload of a command, in bytes. Larger things travel by reference (see [`crate::files`]).
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Header names, the same on RabbitMQ and in the embedded broker.
pub mod header {
    /// Who asked: `role:uuid`.
    pub const ACTOR: &str = "muster-actor";
    /// When the API accepted the command: RFC 3339, milliseconds.
    pub const ACCEPTED_AT: &str = "muster-accepted-at";
    /// The SHA-256 of the request body, in unpadded URL-safe base64.
    pub const BODY_HASH: &str = "muster-body-sha256";
    /// The [trace context](https://www.w3.org/TR/trace-context/) of whoever published.
    pub const TRACEPARENT: &str = "traceparent";
    /// How often the message has waited on the delay ladder.
    pub const ATTEMPT: &str = "muster-attempt";
    /// On a dead letter: the queue that could not handle it.
    pub const DEAD_FROM: &str = "muster-dead-from";
    /// On a dead letter: the stable code of the reason.
    pub const DEAD_CODE: &str = "muster-dead-code";
    /// On a dead letter: the reason in words.
    pub const DEAD_DETAIL: &str = "muster-dead-detail";
    /// On a dead letter: when it was given up, RFC 3339.
    pub const DEAD_AT: &str = "muster-dead-at";
}

/// A message: an id that makes a repeat recognisable, a kind, headers, and the payload's exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// AMQP `message-id`. A command's or event's own id.
    pub id: Uuid,
    /// AMQP `type`: a command's kind or an event's type.
    pub kind: String,
    /// AMQP `content-type`.
    pub content_type: String,
    /// AMQP headers, text only.
    pub headers: Vec<(String, String)>,
    /// AMQP `reply-to`: where the outcome is wanted besides the ledger.
    pub reply_to: Option<String>,
    /// The exact bytes.
    pub payload: Bytes,
}

impl Message {
    /// The value of the header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets the header `name`, replacing what it was.
    pub fn set_header(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// The number of waits on the delay ladder so far; 0 if the header is absent or unreadable.
    #[must_use]
    pub fn attempt(&self) -> usize {
        self.header(header::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// The [`Message::kind`] of a decision that somebody waits for: the ledger's row, as JSON.
pub const DECISION: &str = "decision";

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The commands of this queue; `String` is the physical queue, `drives.3` or `eligibility`.
    Commands(String),
    /// The subscribers of events whose binding matches this key.
    Events(String),
    /// Peers of the same queue kind: who is active on which lane.
    Presence(Queue),
    /// Whoever follows logs and inboxes (see [`super::notice`]).
    Notices,
    /// The dead letters, for an operator.
    DeadLetters,
    /// The delay ladder; after the delay the message is in the queue named.
    Later(Delay, String),
    /// One subscription's own queue (see [`super::Subscription::address`]). Nobody there: dropped.
    Reply(String),
}

impl Address {
    /// The lane, for commands that go to one.
    pub(super) fn lane(&self) -> Option<&str> {
        match self {
            Self::Commands(queue) if Queue::of(queue).is_some_and(Queue::has_lanes) => Some(queue),
            _ => None,
        }
    }
}

/// A message and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub to: Address,
    /// What.
    pub message: Message,
}
