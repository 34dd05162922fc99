//! What a consumer holds until it is settled.

use std::error::Error;

use super::{embedded, rabbit};
use crate::bus::message::Message;
use crate::cause::Cause;

/// One message as it was handed to a consumer.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub message: Message,
    /// The broker may have handed it out before.
    pub redelivered: bool,
    /// Its number on the consumer's channel (RabbitMQ) or in the store (embedded). Grows in delivery order; what came in one
    /// bundle has the same.
    pub(super) tag: u64,
    /// Whether nothing more of its bundle comes after it: only then may the tag be acknowledged.
    pub(super) is_last: bool,
}

/// Where the deliveries of one consumer are settled.
#[derive(Debug, Clone)]
pub(super) enum Settler {
    Rabbit(rabbit::Settler),
    Embedded(embedded::Settler),
}

/// Consecutive deliveries of one consumer, in order. Settled by value, all at once; never forgotten.
///
/// Batches of one consumer must be settled in the order in which they came: acknowledging one acknowledges
/// everything before it. (Of a bundle nothing is acknowledged before its last message is.)
#[must_use = "a batch must be acknowledged, split or released"]
#[derive(Debug)]
pub struct Batch {
    deliveries: Vec<Delivery>,
    settler: Settler,
}

/// The channel went away before the acknowledgement was sent: the messages come again.
#[derive(Debug, thiserror::Error)]
#[error("could not acknowledge")]
pub struct Unsettled(#[source] Cause);

impl Unsettled {
    /// For this reason: an error or a sentence.
    pub(super) fn new(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Cause::new(why))
    }
}

impl Batch {
    pub(super) fn new(deliveries: Vec<Delivery>, settler: Settler) -> Self {
        Self { deliveries, settler }
    }

    /// Adds what came after it, in order.
    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = Delivery>) {
        self.deliveries.extend(more);
    }

    /// How many messages it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.deliveries.len()
    }

    /// Whether it holds none.
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

    /// Acknowledges all of it: these messages never come again (of a bundle, once all of it is acknowledged).
    pub async fn ack(mut self) -> Result<(), Unsettled> {
        let deliveries = std::mem::take(&mut self.deliveries);
        match &self.settler {
            Settler::Rabbit(settler) => settler.ack(&deliveries).await,
            Settler::Embedded(settler) => settler.ack(&deliveries).await,
        }
    }

    /// Acknowledges these messages and no others: for whoever picks single messages (or bundles, as they came) out of a queue.
    pub async fn ack_alone(mut self) -> Result<(), Unsettled> {
        let deliveries = std::mem::take(&mut self.deliveries);
        match &self.settler {
            Settler::Rabbit(settler) => settler.ack_alone(&deliveries).await,
            Settler::Embedded(settler) => settler.ack(&deliveries).await,
        }
    }

    /// Lets go of it undecided. Its messages come again, in order, once its consumer is closed.
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
