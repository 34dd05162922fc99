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

/// A connection to whatever carries the messages. Cheap to clone; the set is closed, so it is an enum.
#[derive(Debug, Clone)]
pub enum Broker {
    /// RabbitMQ over AMQP 0-9-1.
    Rabbit(Rabbit),
    /// In this process, on one SQLite file.
    Embedded(Embedded),
}

/// Why a message was not confirmed. Except after [`PublishError::Unconfirmed`], nothing was accepted.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// No connection.
    #[error("the broker is unreachable")]
    Unavailable(#[source] Cause),
    /// The broker has stopped taking messages (memory or disk alarm).
    #[error("the broker is blocked: {0}")]
    Blocked(String),
    /// The queue is at its limit, or the broker refused for a reason of its own.
    #[error("the broker refused the message")]
    Refused,
    /// No queue is bound for it, not even that of unrouted messages.
    #[error("no queue takes this message")]
    Unroutable,
    /// Larger than [`super::message::MAX_PAYLOAD`].
    #[error("the message has {0} bytes, more than the bus takes")]
    TooLarge(usize),
    /// It was sent, but no confirm came: the time was over, or the connection was lost. The broker
    /// may have it or not. Repeating it under the same id is safe.
    #[error("the broker did not confirm the message")]
    Unconfirmed,
}

/// What a subscription listens to, besides replies to its own address.
#[derive(Debug, Clone)]
pub enum Source {
    /// Events whose key matches one of these topic patterns (`*` one word, `#` any number).
    Events(Vec<String>),
    /// What consumers of this queue kind tell each other.
    Presence(Queue),
    /// Which logs and inboxes have grown.
    Notices,
}

/// What a subscription receives.
#[derive(Debug)]
pub enum Received {
    /// A message.
    Message(Message),
    /// Messages may have been missed: the connection was lost or the receiver too slow.
    Gap,
}

/// A transient queue of this process: it exists as long as this value does.
#[derive(Debug)]
pub struct Subscription {
    pub(super) address: tokio::sync::watch::Receiver<Option<String>>,
    pub(super) received: mpsc::Receiver<Received>,
    pub(super) _alive: tokio_util::sync::DropGuard,
}

/// How a subscription can be answered, detached from the subscription itself.
#[derive(Debug, Clone)]
pub struct ReplyAddress(tokio::sync::watch::Receiver<Option<String>>);

impl ReplyAddress {
    /// Where replies reach the subscription now; none while it has no connection.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

impl Subscription {
    /// Where replies reach it: the `reply_to` of a command.
    #[must_use]
    pub fn address(&self) -> ReplyAddress {
        ReplyAddress(self.address.clone())
    }

    /// Waits until replies reach it.
    pub async fn ready(&mut self) {
        // The sender lives as long as the subscription, so the wait can only end well.
        let _ = self.address.wait_for(Option::is_some).await;
    }

    /// The next message; `None` once the broker is closed.
    pub async fn next(&mut self) -> Option<Received> {
        self.received.recv().await
    }
}

/// How many messages a queue holds ready, and how many consumers it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages that no consumer holds.
    pub ready: u64,
    /// Consumers, active and standing by.
    pub consumers: u64,
}

impl PublishError {
    /// The broker is unreachable for this reason: an error or a sentence.
    pub fn unavailable(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable(Cause::new(why))
    }
}

/// A failure of the broker itself: what was attempted, or what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BrokerError {
    what: String,
    source: Option<Cause>,
}

impl BrokerError {
    /// What is wrong, in a sentence, if no other error lies behind.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// What was attempted, and the error that came of it.
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
    /// Opens the broker and makes sure that its topology is there. `name` is what operators see.
    pub async fn connect(url: &BrokerUrl, topology: Topology, name: &str) -> Result<Self, BrokerError> {
        match url {
            BrokerUrl::Rabbit(uri) => Rabbit::connect(uri, topology, name).await.map(Self::Rabbit),
            BrokerUrl::Embedded(file) => Embedded::open(file, topology).await.map(Self::Embedded),
        }
    }

    /// The topology it was opened with.
    #[must_use]
    pub fn topology(&self) -> Topology {
        match self {
            Self::Rabbit(rabbit) => rabbit.topology(),
            Self::Embedded(embedded) => embedded.topology(),
        }
    }

    /// Publishes one message; `Ok` means that the broker has it durably.
    pub async fn publish(&self, outgoing: Outgoing) -> Result<(), PublishError> {
        self.publish_all(vec![outgoing]).await
    }

    /// Publishes all of these in order; `Ok` means that the broker has every one of them durably.
    ///
    /// Events that nobody listens to are confirmed as well, and gone. After an error some of them may be published;
    /// repeating them under the same ids is safe.
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

    /// Starts consuming the queue `queue_name`, holding at most `prefetch` messages, or as many bundles of some.
    pub async fn consume(&self, queue_name: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        match self {
            Self::Rabbit(rabbit) => {
                rabbit.consume(queue_name, prefetch).await.map(Box::new).map(Consumer::Rabbit)
            }
            Self::Embedded(embedded) => embedded.consume(queue_name, prefetch).map(Consumer::Embedded),
        }
    }

    /// Opens a transient queue of this process. It survives the loss of the connection (with a [`Received::Gap`]).
    #[must_use]
    pub fn subscribe(&self, source: Source) -> Subscription {
        match self {
            Self::Rabbit(rabbit) => rabbit.subscribe(source),
            Self::Embedded(embedded) => embedded.subscribe(source),
        }
    }

    /// The depth of a queue; `None` if there is no such queue.
    pub async fn depth(&self, queue_name: &str) -> Result<Option<Depth>, BrokerError> {
        match self {
            Self::Rabbit(rabbit) => rabbit.depth(queue_name).await,
            Self::Embedded(embedded) => Ok(embedded.depth(queue_name)),
        }
    }

    /// Whether a message published now would probably be confirmed; why not otherwise.
    pub async fn ping(&self) -> Result<(), PublishError> {
        match self {
            Self::Rabbit(rabbit) => rabbit.ping(),
            Self::Embedded(embedded) => embedded.ping().await,
        }
    }

    /// Ends it: what was confirmed stays, everything else is dropped.
    pub async fn close(&self) {
        match self {
            Self::Rabbit(rabbit) => rabbit.close().await,
            Self::Embedded(embedded) => embedded.close().await,
        }
    }
}

/// The size of a command that is too large. What was decided is told whatever its size, and what nobody could read is
/// put aside as it is.
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
    /// Waits for a message, then takes what else is already there, at most `max` (and the rest of a bundle). `None`: the queue or the connection
    /// went away and consuming must start again.
    pub async fn next(&mut self, max: usize) -> Option<Batch> {
        match self {
            Self::Rabbit(consumer) => consumer.next(max).await,
            Self::Embedded(consumer) => consumer.next(max).await,
        }
    }

    /// Adds what else is there by now, up to about `max` altogether. Nothing is waited for; what ends consuming is for `next` to say.
    pub async fn fill(&mut self, batch: &mut Batch, max: usize) {
        match self {
            Self::Rabbit(consumer) => consumer.fill(batch, max),
            Self::Embedded(consumer) => consumer.fill(batch, max).await,
        }
    }

    /// Stops consuming. What is unsettled goes back to the queue, in order, for the next consumer.
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
