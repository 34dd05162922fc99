//! A transient, exclusive queue of this process, declared again whenever the connection was lost.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, options};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Rabbit, close_channel, properties};
use crate::backoff::Backoff;
use crate::bus::broker::{BrokerError, Received, Source, Subscription, lifetime};
use crate::bus::topology::exchange;

/// What may wait in the broker for this process; the oldest are dropped beyond that. So many
/// that 20,000 requests may be told their decisions at once.
const QUEUED: u32 = 25_000;
/// What may wait in this process; beyond that the broker waits.
const WAITING: usize = 1024;
/// What the broker sends ahead; lapin's own queue has no bound.
const PREFETCH: u16 = 500;
/// After how many messages they are acknowledged at the latest.
const ACKNOWLEDGED: u64 = 100;
/// A connection that lasted this long is not held against the next attempt.
const STEADY: Duration = Duration::from_secs(30);

pub(super) fn start(rabbit: Rabbit, source: Source, closed: CancellationToken) -> Subscription {
    let (inbox, received) = mpsc::channel(WAITING);
    let (address_sender, address) = watch::channel(None);
    let (alive, guard) = lifetime();
    tokio::spawn(async move {
        tokio::select! {
            () = run(rabbit, source, inbox, address_sender) => {}
            () = alive.cancelled() => {}
            () = closed.cancelled() => {}
        }
    });
    Subscription { address, received, _alive: guard }
}

async fn run(
    rabbit: Rabbit,
    source: Source,
    inbox: mpsc::Sender<Received>,
    address: watch::Sender<Option<String>>,
) {
    let mut backoff = Backoff::default();
    let mut first = true;
    loop {
        let since = tokio::time::Instant::now();
        if let Err(error) = receive(&rabbit, &source, &inbox, &address, first).await {
            tracing::warn!(%error, ?source, "a subscription was interrupted; subscribing again");
        }
        first = false;
        address.send_replace(None);
        if inbox.is_closed() {
            return;
        }
        if since.elapsed() > STEADY {
            backoff = Backoff::default();
        }
        backoff.wait().await;
    }
}

async fn receive(
    rabbit: &Rabbit,
    source: &Source,
    inbox: &mpsc::Sender<Received>,
    address: &watch::Sender<Option<String>>,
    first: bool,
) -> Result<(), BrokerError> {
    let channel = rabbit.channel().await?;
    let name = format!("muster.{}", Uuid::now_v7().simple());
    let mut stream = open(&channel, &name, source).await.map_err(|error| BrokerError(error.to_string()))?;
    if !first {
        // Whoever waits for the gap's notice gets it before anything newer.
        let _ = inbox.send(Received::Gap).await;
    }
    address.send_replace(Some(name));
    let lost = |error: lapin::Error| BrokerError(error.to_string());
    let mut acknowledged = 0;
    while let Some(delivery) = stream.next().await {
        let delivery = delivery.map_err(lost)?;
        let tag = delivery.delivery_tag;
        if inbox.send(Received::Message(properties::read(delivery))).await.is_err() {
            break;
        }
        // Rarely: all that waits in the broker beyond the prefetch is bounded by the queue, and goes with it.
        if tag - acknowledged >= ACKNOWLEDGED {
            let multiple = options::BasicAckOptions { multiple: true };
            channel.basic_ack(tag, multiple).await.map_err(lost)?;
            acknowledged = tag;
        }
    }
    close_channel(&channel).await;
    Ok(())
}

async fn open(channel: &Channel, name: &str, source: &Source) -> lapin::Result<lapin::Consumer> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongUInt(QUEUED));
    let exclusive = options::QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    channel.queue_declare(name.into(), exclusive, arguments).await?;
    let bindings: Vec<(&str, &str)> = match source {
        Source::Events(patterns) => {
            patterns.iter().map(|pattern| (exchange::EVENTS, pattern.as_str())).collect()
        }
        Source::Presence(queue) => vec![(exchange::PRESENCE, queue.name())],
        Source::Notices => vec![(exchange::NOTICES, "")],
    };
    for (from, key) in bindings {
        let options = options::QueueBindOptions::default();
        channel.queue_bind(name.into(), from.into(), key.into(), options, FieldTable::default()).await?;
    }
    channel.basic_qos(PREFETCH, options::BasicQosOptions::default()).await?;
    let exclusive = options::BasicConsumeOptions { exclusive: true, ..Default::default() };
    channel.basic_consume(name.into(), "".into(), exclusive, FieldTable::default()).await
}
