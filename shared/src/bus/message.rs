//! Messages and their addresses, as both brokers see them.

use bytes::Bytes;
use domain::command::Queue;
use uuid::Uuid;

use crate::bus::topology::Delay;

/// The largest payload of a command, in bytes. Larger data travels by reference (see
/// [`crate::files`]).
pub const MAX_PAYLOAD: usize = 256 * 1024;

/// Header names, the same on RabbitMQ and in the embedded broker.
pub mod header {
    /// The actor who asked: `role:uuid`.
    pub const ACTOR: &str = "muster-actor";
    /// When the API accepted the command: RFC 3339, milliseconds.
    pub const ACCEPTED_AT: &str = "muster-accepted-at";
    /// The SHA-256 of the request body's meaning (decision 27), in unpadded URL-safe base64.
    pub const BODY_HASH: &str = "muster-body-sha256";
    /// The [trace context](https://www.w3.org/TR/trace-context/) of the publisher.
    pub const TRACEPARENT: &str = "traceparent";
    /// How often the message has waited on the delay ladder.
    pub const ATTEMPT: &str = "muster-attempt";
    /// On a dead letter: the queue that it was meant for.
    pub const DEAD_FROM: &str = "muster-dead-from";
    /// On a dead letter: the stable code of the reason.
    pub const DEAD_CODE: &str = "muster-dead-code";
    /// On a dead letter: the reason in words.
    pub const DEAD_DETAIL: &str = "muster-dead-detail";
    /// On a dead letter: when it became one, RFC 3339.
    pub const DEAD_AT: &str = "muster-dead-at";
}

/// A message. A repetition of it has the same id.
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
    /// AMQP `reply-to`: the address that gets the outcome, besides the ledger.
    pub reply_to: Option<String>,
    /// The payload's exact bytes.
    pub payload: Bytes,
}

impl Message {
    /// The value of the header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets the header `name`, replacing an earlier value.
    pub fn set_header(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.to_owned(), value.into()));
    }

    /// The number of waits on the delay ladder so far. It is 0 if the header is absent or
    /// unreadable.
    #[must_use]
    pub fn attempt(&self) -> usize {
        self.header(header::ATTEMPT).and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// The [`Message::kind`] of a reply with a decision. Its payload is the ledger's row, as JSON.
pub const DECISION: &str = "decision";

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The commands of this physical queue, such as `drives.3` or `eligibility`.
    Commands(String),
    /// The subscribers of events whose binding matches this key.
    Events(String),
    /// The consumers of this queue kind. They tell each other which lanes they are busy on.
    Presence(Queue),
    /// The processes that follow logs and inboxes (see [`super::notice`]).
    Notices,
    /// The dead letters, for an operator.
    DeadLetters,
    /// The delay ladder. After the delay the message moves to the named queue.
    Later(Delay, String),
    /// One subscription's own queue (see [`super::Subscription::address`]). If the subscription has
    /// ended, the message is dropped.
    Reply(String),
}

impl Address {
    /// The lane, if this is the address of one.
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
    /// Where the message goes.
    pub to: Address,
    /// The message.
    pub message: Message,
}
