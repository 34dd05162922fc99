//! The messages that a consumer holds until it settles them.

use std::error::Error;

use super::{embedded, rabbit};
use crate::bus::message::Message;
use crate::cause::Cause;

/// One message that a consumer received.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// Whether the broker may have delivered it before.
    pub redelivered: bool,
    /// Its number on the consumer's channel (RabbitMQ) or in the store (embedded). On RabbitMQ it
    /// grows in delivery order, and all messages of a bundle have the same number.
    pub(super) tag: u64,
    /// Whether it is the last message of its bundle. Only then may the tag be acknowledged.
    pub(super) is_last: bool,
}

/// Acknowledges the deliveries of one consumer.
#[derive(Debug, Clone)]
pub(super) enum Settler {
    Rabbit(rabbit::Settler),
    Embedded(embedded::Settler),
}

/// Consecutive deliveries of one consumer, in order. The consumer settles a batch as a whole, by
/// value. Dropping an unsettled batch is a bug.
///
/// A consumer must settle its batches in the order in which they came. On RabbitMQ an
/// acknowledgement covers all earlier messages. A bundle is acknowledged together with its last
/// message.
#[must_use = "a batch must be acknowledged, split or released"]
#[derive(Debug)]
pub struct Batch {
    deliveries: Vec<Delivery>,
    settler: Settler,
}

/// The acknowledgement was not sent, for example because the channel was lost. The broker delivers
/// the messages again, unless their queue was deleted.
#[derive(Debug, thiserror::Error)]
#[error("could not acknowledge")]
pub struct Unsettled(#[source] Cause);

impl Unsettled {
    /// `why` is an error or a sentence.
    pub(super) fn new(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Cause::new(why))
    }
}

impl Batch {
    pub(super) fn new(deliveries: Vec<Delivery>, settler: Settler) -> Self {
        Self { deliveries, settler }
    }

    /// Adds the deliveries that came after it, in order.
    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = Delivery>) {
        self.deliveries.extend(more);
    }

    /// How many messages it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Whether it holds no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// The deliveries, in order.
    #[must_use]
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    /// The messages, in order.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.deliveries.iter().map(|delivery| &delivery.message)
    }

    /// The first half and the rest.
    pub fn split(mut self) -> (Self, Self) {
        let rest = self.deliveries.split_off(self.deliveries.len() / 2);
        let rest = Self::new(rest, self.settler.clone());
        (self, rest)
    }

    /// Acknowledges all its messages, so the broker does not deliver them again. A bundle counts
    /// once all its messages are acknowledged.
    pub async fn ack(mut self) -> Result<(), Unsettled> {
        let deliveries = std::mem::take(&mut self.deliveries);
        match &self.settler {
            Settler::Rabbit(settler) => settler.ack(&deliveries).await,
            Settler::Embedded(settler) => settler.ack(&deliveries).await,
        }
    }

    /// Acknowledges only these messages, and no earlier ones. An operator's command uses it to
    /// remove single messages (or whole bundles) from a queue.
    pub async fn ack_alone(mut self) -> Result<(), Unsettled> {
        let deliveries = std::mem::take(&mut self.deliveries);
        match &self.settler {
            Settler::Rabbit(settler) => settler.ack_alone(&deliveries).await,
            Settler::Embedded(settler) => settler.ack(&deliveries).await,
        }
    }

    /// Gives the batch up without a decision. The broker delivers its messages again, in order,
    /// once the consumer is closed.
    pub fn release(mut self) {
        self.deliveries.clear();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.deliveries.is_empty() {
            metrics::counter!("muster_unsettled_total").increment(self.deliveries.len() as u64);
            tracing::error!(messages = self.deliveries.len(), "a batch was dropped unsettled; this is a bug");
        }
    }
}
