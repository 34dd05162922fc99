//! Puts messages back that were accepted while their queue was missing. It keeps their order where
//! it can prove it.
//!
//! The alternate exchange sends unroutable messages to `unrouted`. So while a lane has no binding,
//! `unrouted` holds all its accepted commands, in order. The process declares the lane without a
//! binding, and moves the lane's commands from `unrouted` to it. To finish, it unbinds `unrouted`
//! itself for a moment. Meanwhile the broker returns commands for the lane to their publishers,
//! which do not accept them. When `unrouted` is empty, the process binds the lane, and then
//! `unrouted` again. Commands that are published to the lane later are newer than all commands in
//! it.
//!
//! `unrouted` may also hold a message for a lane that has its binding. Newer messages of that lane
//! may be decided already. So this message goes to the dead letters, where an operator decides
//! about it.

use std::collections::BTreeSet;
use std::time::Duration;

use domain::clock::{self, rfc3339};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Consumer, options};
use uuid::Uuid;

use super::{Channels, in_time};
use crate::bus::message::header;
use crate::bus::topology::{DEAD_LETTERS, Purpose, QueueSpec, Topology, UNROUTED, exchange};

/// The most messages that are moved together.
const CHUNK: u16 = 500;
/// How long to wait for a full chunk after its first message.
const GATHER: Duration = Duration::from_millis(20);
/// Rounds of moving before `unrouted` is unbound. They leave few messages for the time without it.
const ROUNDS: usize = 3;
/// How long a message may be on its way from an exchange to a queue.
const ON_ITS_WAY: Duration = Duration::from_millis(300);
/// The type of the message that marks the end of a round.
const END: &str = "muster.end";

/// Moves the messages of `unrouted`, and binds the queues that are not bound yet. Adds to `bound`
/// the names of other queues whose messages were in `unrouted`. Their binding had been missing.
pub(super) async fn mend(
    channels: &mut Channels<'_>,
    topology: Topology,
    unbound: &[QueueSpec],
    bound: &mut Vec<String>,
) -> lapin::Result<()> {
    if unbound.is_empty() && waiting(channels).await?.0 == 0 {
        return Ok(());
    }
    let known = topology.queues();
    let place = |delivery: &Delivery| {
        if delivery.exchange.as_str() == exchange::DEAD_LETTERS {
            return Place { queue: DEAD_LETTERS.to_owned(), is_marked: false };
        }
        let key = delivery.routing_key.as_str();
        let has_no_order = known.iter().any(|queue| queue.name == key && queue.purpose == Purpose::Work);
        if has_no_order || unbound.iter().any(|queue| queue.name == key) {
            Place { queue: key.to_owned(), is_marked: false }
        } else {
            Place { queue: DEAD_LETTERS.to_owned(), is_marked: true }
        }
    };
    let mut drain = Drain::begin(channels).await?;
    let drained = drain.all(channels, unbound, &place).await;
    super::super::close_channel(&drain.channel).await;
    let others = drain.queues.into_iter().filter(|name| {
        known.iter().any(|queue| queue.name == *name) && unbound.iter().all(|queue| queue.name != *name)
    });
    bound.extend(others);
    drained?;
    if drain.moved > 0 {
        tracing::warn!(messages = drain.moved, "a queue was missing; moved its messages back in order");
    }
    if drain.marked > 0 {
        tracing::error!(
            messages = drain.marked,
            "moved messages without a queue to the dead letters, because newer ones may be decided; see `muster dead-letters`"
        );
    }
    Ok(())
}

/// The queue that a message goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    queue: String,
    /// Whether the message gets headers that say why it is there.
    is_marked: bool,
}

/// How many messages wait in `unrouted`, and how many consumers it has.
async fn waiting(channels: &mut Channels<'_>) -> lapin::Result<(u32, u32)> {
    let passive = options::QueueDeclareOptions { passive: true, ..Default::default() };
    let channel = channels.get().await?;
    let queue = in_time(channel.queue_declare(UNROUTED.into(), passive, FieldTable::default())).await?;
    Ok((queue.message_count(), queue.consumer_count()))
}

/// Takes the messages of `unrouted`, in order.
struct Drain {
    channel: Channel,
    stream: Consumer,
    moved: usize,
    marked: usize,
    /// The queues that the messages were for.
    queues: BTreeSet<String>,
}

impl Drain {
    async fn begin(channels: &mut Channels<'_>) -> lapin::Result<Self> {
        let channel = in_time(channels.connection.create_channel()).await?;
        in_time(channel.confirm_select(options::ConfirmSelectOptions::default())).await?;
        in_time(channel.basic_qos(CHUNK, options::BasicQosOptions::default())).await?;
        let options = options::BasicConsumeOptions::default();
        let stream =
            in_time(channel.basic_consume(UNROUTED.into(), "".into(), options, FieldTable::default()))
                .await?;
        // With two consumers, neither gets all messages in order.
        if waiting(channels).await?.1 != 1 {
            super::super::close_channel(&channel).await;
            return Err(std::io::Error::other("another consumer reads the queue unrouted").into());
        }
        Ok(Self { channel, stream, moved: 0, marked: 0, queues: BTreeSet::new() })
    }

    async fn all(
        &mut self,
        channels: &mut Channels<'_>,
        unbound: &[QueueSpec],
        place: &impl Fn(&Delivery) -> Place,
    ) -> lapin::Result<()> {
        for _ in 0..ROUNDS {
            self.what_is_there(place).await?;
        }
        if unbound.is_empty() {
            return Ok(());
        }
        let unrouted = super::unrouted();
        channels.unbind(&unrouted).await?;
        let bound = async {
            tokio::time::sleep(ON_ITS_WAY).await;
            self.what_is_there(place).await?;
            for queue in unbound {
                channels.bind(queue).await?;
            }
            Ok(())
        };
        let bound = bound.await;
        channels.bind(&unrouted).await?;
        bound
    }

    /// Moves all messages that wait now.
    async fn what_is_there(&mut self, place: &impl Fn(&Delivery) -> Place) -> lapin::Result<()> {
        let end = Uuid::now_v7().to_string();
        let properties =
            BasicProperties::default().with_type(END.into()).with_message_id(end.as_str().into());
        self.publish(UNROUTED, &[], properties).await?.await.and_then(taken)?;
        let mut has_ended = false;
        while !has_ended {
            let first = in_time(async { self.stream.next().await.transpose() }).await?;
            let first = first.ok_or_else(|| std::io::Error::other("the queue unrouted is gone"))?;
            let mut chunk = vec![first];
            while chunk.len() < usize::from(CHUNK)
                && let Ok(Some(next)) = tokio::time::timeout(GATHER, self.stream.next()).await
            {
                chunk.push(next?);
            }
            let is_end = |delivery: &Delivery| {
                delivery.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == END)
            };
            has_ended = chunk.iter().any(|delivery| {
                is_end(delivery)
                    && delivery.properties.message_id().as_ref().is_some_and(|id| id.as_str() == end)
            });
            let mut confirms = Vec::with_capacity(chunk.len());
            for delivery in chunk.iter().filter(|delivery| !is_end(delivery)) {
                let Place { queue, is_marked } = place(delivery);
                let properties = if is_marked { with_mark(delivery) } else { delivery.properties.clone() };
                confirms.push(self.publish(&queue, &delivery.data, properties).await?);
                self.queues.insert(delivery.routing_key.as_str().to_owned());
                if is_marked { self.marked += 1 } else { self.moved += 1 }
            }
            for confirm in confirms {
                in_time(confirm).await.and_then(taken)?;
            }
            if let Some(last) = chunk.last() {
                let options = options::BasicAckOptions { multiple: true };
                in_time(self.channel.basic_ack(last.delivery_tag, options)).await?;
            }
        }
        Ok(())
    }

    /// Publishes to a queue. The default exchange routes by queue name.
    async fn publish(
        &self,
        queue: &str,
        data: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<impl Future<Output = lapin::Result<Confirmation>> + use<>> {
        let options = options::BasicPublishOptions { mandatory: true, ..Default::default() };
        in_time(self.channel.basic_publish("".into(), queue.into(), options, data, properties)).await
    }
}

/// Only an acknowledgement counts. Without one the message stays in `unrouted`.
fn taken(confirmation: Confirmation) -> lapin::Result<()> {
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        _ => Err(std::io::Error::other("the broker did not accept a message that was put back").into()),
    }
}

/// The properties of a dead letter: the queue it was meant for, and why it is there.
fn with_mark(delivery: &Delivery) -> BasicProperties {
    let mut headers = delivery.properties.headers().clone().unwrap_or_default();
    let mut say = |name: &str, text: &str| {
        headers.insert(name.into(), AMQPValue::LongString(text.into()));
    };
    say(header::DEAD_FROM, delivery.routing_key.as_str());
    say(header::DEAD_CODE, "unrouted");
    say(header::DEAD_DETAIL, "its queue was missing, and newer messages may have been decided since");
    say(header::DEAD_AT, &rfc3339(clock::now()));
    delivery.properties.clone().with_headers(headers)
}
