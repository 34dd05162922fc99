//! The consumer of one queue, on a channel of its own.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::types::FieldTable;
use lapin::{Channel, options};
use tokio::task::JoinSet;

use super::{ANSWER, close_channel, in_time, properties};
use crate::bus::broker::BrokerError;
use crate::bus::bundle;
use crate::bus::delivery::{Batch, Delivery, Settler as AnySettler, Unsettled};
use crate::bus::rabbit::keeper::{Anew, Keeper};

/// A consumer of one queue.
#[derive(Debug)]
pub struct Consumer {
    stream: lapin::Consumer,
    settler: Settler,
    /// Whether the stream has ended. lapin reports the end only once.
    has_ended: bool,
    /// Learns from this consumer that the broker cancelled it.
    keeper: Arc<Keeper>,
    /// If a queue is deleted and recreated at once, RabbitMQ 3 moves its consumers to the new queue
    /// without telling them. It then withholds as many messages of the new queue as the consumer
    /// got from the old one. So this consumer ends, and another one starts (decision 42).
    anew: Arc<Anew>,
    /// Closes the channel as soon as the queue is recreated, even if the consumer holds a batch.
    /// The batch came from the old queue. Its acknowledgement could remove messages of the new one.
    _closing: JoinSet<()>,
}

impl Consumer {
    pub(super) async fn start(
        channel: Channel,
        queue_name: &str,
        prefetch: u16,
        keeper: Arc<Keeper>,
    ) -> Result<Self, BrokerError> {
        let anew = Arc::new(keeper.anew(queue_name));
        let start = async {
            in_time(channel.basic_qos(prefetch, options::BasicQosOptions::default())).await?;
            in_time(channel.basic_consume(
                queue_name.into(),
                // Operators look for this in the management UI.
                format!("{queue_name}@{}", std::process::id()).into(),
                options::BasicConsumeOptions::default(),
                FieldTable::default(),
            ))
            .await
        };
        match start.await {
            Ok(stream) => {
                let (mut closing, watched, watching) = (JoinSet::new(), anew.clone(), channel.clone());
                closing.spawn(async move {
                    watched.happens().await;
                    close_channel(&watching).await;
                });
                let settler = Settler { channel, anew: anew.clone() };
                Ok(Self { stream, settler, has_ended: false, keeper, anew, _closing: closing })
            }
            Err(error) => {
                close_channel(&channel).await;
                Err(BrokerError::caused(format!("consume {queue_name}"), error))
            }
        }
    }

    fn ended(&mut self) {
        self.has_ended = true;
        // The broker ends a consumer when its queue is deleted. A lost connection says nothing
        // about the queue.
        if self.settler.channel.status().connected() {
            self.keeper.doubts_about(self.stream.queue().as_str());
        }
    }

    /// Waits for the next batch. A bundle is never split, so a batch may have a few more messages
    /// than `max`.
    pub(crate) async fn next(&mut self, max: usize) -> Option<Batch> {
        if self.has_ended {
            return None;
        }
        let first = tokio::select! {
            biased;
            () = self.anew.happens() => {
                self.has_ended = true;
                return None;
            }
            first = next(&mut self.stream, &self.settler.channel) => first,
        };
        let first = first.and_then(|first| Some(self.take(first)?.collect()));
        let Some(first) = first else {
            self.ended();
            return None;
        };
        let mut batch = Batch::new(first, AnySettler::Rabbit(self.settler.clone()));
        self.fill(&mut batch, max);
        Some(batch)
    }

    /// Adds messages that have arrived already. It never waits.
    pub(crate) fn fill(&mut self, batch: &mut Batch, max: usize) {
        self.has_ended |= self.anew.has_happened();
        while batch.len() < max
            && !self.has_ended
            && let Some(next) = self.stream.next().now_or_never()
        {
            // The consumer can still decide messages that came before the end.
            match next.and_then(|next| self.take(next)) {
                Some(some) => batch.extend(some),
                None => self.ended(),
            }
        }
    }

    fn take(
        &self,
        delivery: lapin::Result<lapin::message::Delivery>,
    ) -> Option<impl Iterator<Item = Delivery> + use<>> {
        match delivery {
            Ok(delivery) => {
                let (redelivered, tag) = (delivery.redelivered, delivery.delivery_tag);
                let messages = bundle::unpack(properties::read(delivery));
                let last = messages.len() - 1;
                let number = messages.into_iter().enumerate();
                Some(number.map(move |(number, message)| Delivery {
                    message,
                    redelivered,
                    tag,
                    is_last: number == last,
                }))
            }
            Err(error) => {
                tracing::warn!(queue = %self.stream.queue(), %error, "a consumer lost its channel; starting another one");
                None
            }
        }
    }

    /// Closes the channel. The broker delivers unsettled messages to the next consumer, in order.
    pub(crate) async fn close(self) {
        close_channel(&self.settler.channel).await;
    }
}

/// A consumer's next delivery, or `None` at the end. lapin does not always report the end, so this
/// also checks the channel.
pub(super) async fn next(
    stream: &mut lapin::Consumer,
    channel: &Channel,
) -> Option<lapin::Result<lapin::message::Delivery>> {
    loop {
        match tokio::time::timeout(ANSWER, stream.next()).await {
            Ok(next) => return next,
            Err(_) if channel.status().connected() => {}
            Err(_) => return None,
        }
    }
}

/// Acknowledges on the consumer's channel.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    channel: Channel,
    anew: Arc<Anew>,
}

impl Settler {
    /// Acknowledges everything up to the last of these deliveries. A bundle counts with its last
    /// message.
    pub(crate) async fn ack(&self, deliveries: &[Delivery]) -> Result<(), Unsettled> {
        match deliveries.iter().rfind(|delivery| delivery.is_last) {
            Some(last) => self.send(last.tag, options::BasicAckOptions { multiple: true }).await,
            None => Ok(()),
        }
    }

    /// Acknowledges only these deliveries.
    pub(crate) async fn ack_alone(&self, deliveries: &[Delivery]) -> Result<(), Unsettled> {
        for delivery in deliveries.iter().filter(|delivery| delivery.is_last) {
            self.send(delivery.tag, options::BasicAckOptions { multiple: false }).await?;
        }
        Ok(())
    }

    async fn send(&self, tag: u64, options: options::BasicAckOptions) -> Result<(), Unsettled> {
        if !self.channel.status().connected() {
            return Err(Unsettled::new("the channel is gone"));
        }
        if self.anew.has_happened() {
            return Err(Unsettled::new("the queue was recreated"));
        }
        in_time(self.channel.basic_ack(tag, options)).await.map_err(Unsettled::new)
    }
}
