//! What was accepted while its queue was missing goes back, in order where that is provable.
//!
//! A message without a queue goes to `unrouted`, through the alternate exchange. So while a lane has no binding, `unrouted` holds
//! everything that was accepted for it, in order. The lane is declared without a binding, and what waits in `unrouted` is moved
//! to it until nothing is left; only then is it bound. Whatever is published to it later is newer than everything in it.
//!
//! A message that comes to `unrouted` after that, or that was there for a lane which had its binding all along, may be older than
//! one that was decided meanwhile. It goes to the dead letters, where an operator decides about it.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, options};

use super::{Channels, in_time};
use crate::bus::event::rfc3339;
use crate::bus::message::header;
use crate::bus::topology::{DEAD_LETTERS, Purpose, QueueSpec, Topology, UNROUTED, exchange};
use crate::clock;

/// Messages that are moved together.
const CHUNK: u16 = 500;
/// When nothing has come for so long, nothing more is there.
const QUIET: Duration = Duration::from_millis(250);
/// How long after its binding a lane's stragglers are looked for: routing that had begun before ends in between.
const STRAGGLERS: Duration = Duration::from_millis(750);

/// Moves what is in `unrouted` to the queues that are not bound yet, and binds them.
pub(super) async fn mend(
    channels: &mut Channels<'_>,
    topology: Topology,
    unbound: &[QueueSpec],
) -> lapin::Result<()> {
    let known = topology.queues();
    let place = |delivery: &Delivery, is_bound: bool| {
        if delivery.exchange.as_str() == exchange::DEAD_LETTERS {
            return Place::Queue(DEAD_LETTERS.to_owned());
        }
        let key = delivery.routing_key.as_str();
        let in_order = !is_bound && unbound.iter().any(|queue| queue.name == key);
        match known.iter().find(|queue| queue.name == key).map(|queue| queue.purpose) {
            Some(Purpose::Work) => Place::Queue(key.to_owned()),
            Some(_) if in_order => Place::Queue(key.to_owned()),
            Some(_) => Place::DeadLetters,
            None => Place::Stay,
        }
    };
    let (moved, mut aside) = drain(channels, |delivery| place(delivery, false)).await?;
    if moved > 0 {
        tracing::warn!(messages = moved, "put messages back whose queue was missing, in order");
    }
    for queue in unbound {
        channels.bind(queue).await?;
    }
    if !unbound.is_empty() {
        tokio::time::sleep(STRAGGLERS).await;
        aside += drain(channels, |delivery| place(delivery, true)).await?.1;
    }
    if aside > 0 {
        tracing::error!(
            messages = aside,
            "messages without a queue lie among the dead letters, for newer ones may be decided: see `muster dead-letters`"
        );
    }
    Ok(())
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// To this queue, which it was meant for.
    Queue(String),
    DeadLetters,
    /// It stays where it is: this deployment has no such queue.
    Stay,
}

/// How many messages wait in `unrouted`.
async fn waiting(channels: &mut Channels<'_>) -> lapin::Result<u32> {
    let passive = options::QueueDeclareOptions { passive: true, ..Default::default() };
    let channel = channels.get().await?;
    Ok(in_time(channel.queue_declare(UNROUTED.into(), passive, FieldTable::default())).await?.message_count())
}

/// Takes every message of `unrouted`, in order, and moves it where `place` says by its routing key. Returns how many went to
/// their queues, and how many to the dead letters.
async fn drain(
    channels: &mut Channels<'_>,
    place: impl Fn(&Delivery) -> Place,
) -> lapin::Result<(usize, usize)> {
    if waiting(channels).await? == 0 {
        return Ok((0, 0));
    }
    // A channel of its own: what stays goes back, in its order, when it is closed.
    let channel = in_time(channels.connection.create_channel()).await?;
    let counts = drain_on(&channel, place).await;
    super::super::close_channel(&channel).await;
    counts
}

async fn drain_on(channel: &Channel, place: impl Fn(&Delivery) -> Place) -> lapin::Result<(usize, usize)> {
    in_time(channel.confirm_select(options::ConfirmSelectOptions::default())).await?;
    in_time(channel.basic_qos(CHUNK, options::BasicQosOptions::default())).await?;
    let exclusive = options::BasicConsumeOptions { exclusive: true, ..Default::default() };
    let mut stream =
        in_time(channel.basic_consume(UNROUTED.into(), "".into(), exclusive, FieldTable::default())).await?;
    let (mut moved, mut aside) = (0, 0);
    loop {
        let mut chunk = Vec::new();
        while chunk.len() < usize::from(CHUNK)
            && let Ok(Some(next)) = tokio::time::timeout(QUIET, stream.next()).await
        {
            let delivery = next?;
            // What stays counts against the prefetch; beyond that many an operator has to look.
            match place(&delivery) {
                Place::Stay => {}
                place => chunk.push((place, delivery)),
            }
        }
        if chunk.is_empty() {
            return Ok((moved, aside));
        }
        let mut confirms = Vec::with_capacity(chunk.len());
        for (place, delivery) in &chunk {
            let (to, properties) = match place {
                Place::Queue(name) => (name.as_str(), delivery.properties.clone()),
                _ => (DEAD_LETTERS, parked(delivery)),
            };
            // The default exchange leads to the queue of that name.
            let options = options::BasicPublishOptions { mandatory: true, ..Default::default() };
            confirms.push(
                in_time(channel.basic_publish("".into(), to.into(), options, &delivery.data, properties))
                    .await?,
            );
        }
        for confirm in confirms {
            if !matches!(in_time(confirm).await?, Confirmation::Ack(None)) {
                // It stays in `unrouted`, and is tried again.
                return Err(std::io::Error::other("the broker did not take a message back").into());
            }
        }
        for (place, delivery) in chunk {
            in_time(channel.basic_ack(delivery.delivery_tag, options::BasicAckOptions::default())).await?;
            if place == Place::DeadLetters { aside += 1 } else { moved += 1 }
        }
    }
}

/// The properties of a message among the dead letters: where it was meant for, and why it is there.
fn parked(delivery: &Delivery) -> BasicProperties {
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
