//! The broker: publish with a durable confirm, consume in batches, subscribe to events.

use std::error::Error;

use domain::command::Queue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{embedded, rabbit};
use crate::bus::delivery::Batch;
use crate::bus::embedded::Embedded;
use crate::bus::message::{Address, MAX_PAYLOAD, Message, Outgoing};
use crate::bus::rabbit::Rabbit;
use crate::bus::topology::Topology;
use crate::cause::Cause;
use crate::secret::Secret;

/// A connection to a broker. Cheap to clone. It is an enum, because the set of brokers is closed.
#[derive(Debug, Clone)]
pub enum Broker {
    /// RabbitMQ over AMQP 0-9-1.
    Rabbit(Rabbit),
    /// In this process, on one SQLite file.
    Embedded(Embedded),
}

/// Why a message was not confirmed. Except after [`PublishError::Unconfirmed`], the broker did not
/// accept it.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// There is no connection, or the embedded broker cannot write its file.
    #[error("the broker is unreachable")]
    Unavailable(#[source] Cause),
    /// The broker accepts no messages for now (memory or disk alarm).
    #[error("the broker is blocked: {0}")]
    Blocked(String),
    /// The queue is full, or the broker refused the message for another reason.
    #[error("the broker refused the message")]
    Refused,
    /// No queue is bound for it, and the queue of unrouted messages is not bound either.
    #[error("no queue is bound for this message")]
    Unroutable,
    /// The payload is larger than [`super::message::MAX_PAYLOAD`].
    #[error("the message has {0} bytes, more than the limit")]
    TooLarge(usize),
    /// No confirm arrived before the timeout, or before the connection was lost. The broker may
    /// have the message or not. Repeating it under the same id is safe.
    #[error("the broker did not confirm the message")]
    Unconfirmed,
}

/// The messages that a subscription receives, besides replies to its own address.
#[derive(Debug, Clone)]
pub enum Source {
    /// Events whose key matches one of these topic patterns (`*` one word, `#` any number).
    Events(Vec<String>),
    /// The announcements of the consumers of this queue kind.
    Presence(Queue),
    /// The notices of grown logs and inboxes.
    Notices,
}

/// What a subscription receives.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Message),
    /// The subscription may have missed messages. It lost its connection, or it was too slow.
    Gap,
}

/// A transient queue of this process. It exists as long as this value.
#[derive(Debug)]
pub struct Subscription {
    pub(super) address: tokio::sync::watch::Receiver<Option<String>>,
    pub(super) received: mpsc::Receiver<Received>,
    pub(super) _alive: tokio_util::sync::DropGuard,
}

/// The address for replies to a subscription, without the subscription itself.
#[derive(Debug, Clone)]
pub struct ReplyAddress(tokio::sync::watch::Receiver<Option<String>>);

impl ReplyAddress {
    /// The present address. `None` while the subscription has no connection.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

impl Subscription {
    /// The address for replies, for the `reply_to` of a command.
    #[must_use]
    pub fn address(&self) -> ReplyAddress {
        ReplyAddress(self.address.clone())
    }

    /// Waits until the subscription has an address for replies.
    pub async fn ready(&mut self) {
        // An error means that the broker is closed. Then `next` returns `None`.
        let _ = self.address.wait_for(Option::is_some).await;
    }

    /// Waits for the next message. `None` once the broker is closed.
    pub async fn next(&mut self) -> Option<Received> {
        self.received.recv().await
    }
}

/// How many messages wait in a queue, and how many consumers it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages that no consumer holds.
    pub ready: u64,
    /// Consumers, active and standing by.
    pub consumers: u64,
}

impl PublishError {
    /// The broker is unreachable. `why` is an error or a sentence.
    pub fn unavailable(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Cause::new(why))
    }
}

/// A failure of the broker. It names the failed action, or says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BrokerError {
    what: String,
    source: Option<Cause>,
}

impl BrokerError {
    /// An error without a source. `what` is a sentence that says what is wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// An error with a source. `what` names the action that failed.
    pub fn caused(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { what: what.into(), source: Some(Cause::new(source)) }
    }
}

/// Where the broker is.
#[derive(Debug, Clone)]
pub enum BrokerUrl {
    /// An AMQP URI.
    Rabbit(Secret),
    /// A file for the embedded broker's messages.
    Embedded(std::path::PathBuf),
}

impl Broker {
    /// Opens the broker and makes sure that its topology exists. Operators see `name`.
    pub async fn connect(url: &BrokerUrl, topology: Topology, name: &str) -> Result<Self, BrokerError> {
        match url {
            BrokerUrl::Rabbit(uri) => Rabbit::connect(uri, topology, name).await.map(Self::Rabbit),
            BrokerUrl::Embedded(file) => Embedded::open(file, topology).await.map(Self::Embedded),
        }
    }

    /// The topology with which it was opened.
    #[must_use]
    pub fn topology(&self) -> Topology {
        match self {
            Self::Rabbit(rabbit) => rabbit.topology(),
            Self::Embedded(embedded) => embedded.topology(),
        }
    }

    /// Publishes one message. `Ok` means that the broker has it durably.
    pub async fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        self.publish_all(vec![outgoing]).await
    }

    /// Publishes these messages in order. `Ok` means that the broker has all of them durably.
    ///
    /// The broker also confirms an event without subscribers, and drops it. After an error, some of
    /// the messages may be published. Repeating them under the same ids is safe.
    pub async fn publish_all(&self, outgoing: Vec<Outgoing>) -> Result<(), PublishError> {
        if let Some(size) = outgoing.iter().find_map(too_large) {
            return Err(PublishError::TooLarge(size));
        }
        if outgoing.is_empty() {
            return Ok(());
        }
        match self {
            Self::Rabbit(rabbit) => rabbit.publish_all(outgoing).await,
            Self::Embedded(embedded) => embedded.publish_all(outgoing).await,
        }
    }

    /// Starts consuming the queue `queue_name`. The consumer holds at most `prefetch` messages. On
    /// RabbitMQ a bundle counts as one message.
    pub async fn consume(&self, queue_name: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        match self {
            Self::Rabbit(rabbit) => {
                rabbit.consume(queue_name, prefetch).await.map(Box::new).map(Consumer::Rabbit)
            }
            Self::Embedded(embedded) => embedded.consume(queue_name, prefetch).map(Consumer::Embedded),
        }
    }

    /// Opens a transient queue of this process. After the loss of its connection the subscription
    /// continues with a [`Received::Gap`].
    #[must_use]
    pub fn subscribe(&self, source: Source) -> Subscription {
        match self {
            Self::Rabbit(rabbit) => rabbit.subscribe(source),
            Self::Embedded(embedded) => embedded.subscribe(source),
        }
    }

    /// The depth of a queue. `None` if the queue does not exist.
    pub async fn depth(&self, queue_name: &str) -> Result<Option<Depth>, BrokerError> {
        match self {
            Self::Rabbit(rabbit) => rabbit.depth(queue_name).await,
            Self::Embedded(embedded) => Ok(embedded.depth(queue_name)),
        }
    }

    /// Checks whether the broker would probably confirm a message now. The error says why not.
    pub async fn ping(&self) -> Result<(), PublishError> {
        match self {
            Self::Rabbit(rabbit) => rabbit.ping(),
            Self::Embedded(embedded) => embedded.ping().await,
        }
    }

    /// Closes the broker. Confirmed messages stay in it. Publishing, consuming and subscriptions
    /// end.
    pub async fn close(&self) {
        match self {
            Self::Rabbit(rabbit) => rabbit.close().await,
            Self::Embedded(embedded) => embedded.close().await,
        }
    }
}

/// The size of a command that is too large. Other messages have no limit. A decision must be
/// published whatever its size, and an unreadable message becomes a dead letter as it is.
fn too_large(outgoing: &Outgoing) -> Option<usize> {
    let size = outgoing.message.payload.len();
    (matches!(outgoing.to, Address::Commands(_)) && size > MAX_PAYLOAD).then_some(size)
}

/// The consumer of one queue.
#[derive(Debug)]
pub enum Consumer {
    /// On RabbitMQ.
    Rabbit(Box<rabbit::Consumer>),
    /// On the embedded broker.
    Embedded(embedded::Consumer),
}

impl Consumer {
    /// Waits for a message, then adds messages that have arrived already. It takes at most `max`,
    /// and the rest of a bundle. `None` means that the queue or the connection is lost, and the
    /// caller must start another consumer.
    pub async fn next(&mut self, max: usize) -> Option<Batch> {
        match self {
            Self::Rabbit(consumer) => consumer.next(max).await,
            Self::Embedded(consumer) => consumer.next(max).await,
        }
    }

    /// Adds messages that have arrived already, up to about `max` in the whole batch. It never
    /// waits. If the consumer ends here, `next` reports it.
    pub async fn fill(&mut self, batch: &mut Batch, max: usize) {
        match self {
            Self::Rabbit(consumer) => consumer.fill(batch, max),
            Self::Embedded(consumer) => consumer.fill(batch, max).await,
        }
    }

    /// Stops consuming. Unsettled messages go back to the queue, in order, for the next consumer.
    pub async fn close(self) {
        match self {
            Self::Rabbit(consumer) => consumer.close().await,
            Self::Embedded(consumer) => drop(consumer),
        }
    }
}

/// A token that ends the task of a subscription when the subscription is dropped.
pub(super) fn lifetime() -> (CancellationToken, tokio_util::sync::DropGuard) {
    let token = CancellationToken::new();
    (token.clone(), token.drop_guard())
}
