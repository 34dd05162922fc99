//! A transient, exclusive queue of this process. It is declared again after each loss of the
//! connection.

use std::time::Duration;

use domain::text::with_causes;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, options};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Rabbit, close_channel, consumer, in_time, is_about_missing, properties};
use crate::backoff::Backoff;
use crate::bus::broker::{BrokerError, Received, Subscription, lifetime};

/// The most messages that wait in the broker for this process. Beyond that the broker drops the
/// oldest. It is enough for the decisions of 20,000 waiting requests.
const QUEUED: u32 = 25_000;
/// The most messages that wait in this process. Beyond that they stay in the broker.
const WAITING: usize = 1024;
/// Prefetch. lapin's own queue has no bound.
const PREFETCH: u16 = 500;
// A subscription acknowledges after `ACKNOWLEDGED` messages, or when none arrived for `QUIET`.
// RabbitMQ closes a channel that owes an acknowledgement for 30 minutes.
const ACKNOWLEDGED: u64 = 100;
const QUIET: Duration = Duration::from_secs(1);
/// How often the queue is bound again.
const REBIND: Duration = Duration::from_secs(10);
/// A connection that lasted this long resets the back-off.
const STEADY: Duration = Duration::from_secs(30);

/// An exchange, and the routing key of the messages to receive from it.
pub(super) type Binding = (&'static str, String);

pub(super) fn start(rabbit: Rabbit, bindings: Vec<Binding>, closed: CancellationToken) -> Subscription {
    let (inbox, received) = mpsc::channel(WAITING);
    let (address_sender, address) = watch::channel(None);
    let (alive, guard) = lifetime();
    tokio::spawn(async move {
        tokio::select! {
            () = run(rabbit, bindings, inbox, address_sender) => {}
            () = alive.cancelled() => {}
            () = closed.cancelled() => {}
        }
    });
    Subscription { address, received, _alive: guard }
}

async fn run(
    rabbit: Rabbit,
    bindings: Vec<Binding>,
    inbox: mpsc::Sender<Received>,
    address: watch::Sender<Option<String>>,
) {
    let mut backoff = Backoff::default();
    let mut first = true;
    loop {
        let since = tokio::time::Instant::now();
        if let Err(error) = receive(&rabbit, &bindings, &inbox, &address, first).await {
            if backoff.failures() == 0 {
                tracing::warn!(error = %with_causes(&error), ?bindings, "a subscription was interrupted; subscribing again");
            }
            if is_about_missing(&error) {
                rabbit.doubts();
            }
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
    bindings: &[Binding],
    inbox: &mpsc::Sender<Received>,
    address: &watch::Sender<Option<String>>,
    first: bool,
) -> Result<(), BrokerError> {
    let channel = rabbit.channel().await?;
    let name = format!("muster.{}", Uuid::now_v7().simple());
    let mut stream =
        open(&channel, &name, bindings).await.map_err(|error| BrokerError::caused("subscribe", error))?;
    if !first {
        // Report the gap before any newer message.
        let _ = inbox.send(Received::Gap).await;
    }
    address.send_replace(Some(name.clone()));
    let lost = |error: lapin::Error| BrokerError::caused("receive", error);
    let (mut taken, mut acknowledged) = (0, 0);
    let mut rebind = tokio::time::interval(REBIND);
    loop {
        let next = tokio::select! {
            biased;
            next = consumer::next(&mut stream, &channel) => Some(next),
            () = tokio::time::sleep(QUIET), if taken > acknowledged => None,
            // If an operator deleted the exchange, the bindings went with it.
            _ = rebind.tick() => {
                bind(&channel, &name, bindings).await.map_err(lost)?;
                continue;
            }
        };
        match next {
            Some(Some(delivery)) => {
                let delivery = delivery.map_err(lost)?;
                taken = delivery.delivery_tag;
                if inbox.send(Received::Message(properties::read(delivery))).await.is_err() {
                    break;
                }
                // Acknowledge rarely. The queue's length is bounded, and the queue ends with the
                // connection.
                if taken - acknowledged < ACKNOWLEDGED {
                    continue;
                }
            }
            Some(None) => break,
            None => {}
        }
        in_time(channel.basic_ack(taken, options::BasicAckOptions { multiple: true })).await.map_err(lost)?;
        acknowledged = taken;
    }
    close_channel(&channel).await;
    Ok(())
}

async fn open(channel: &Channel, name: &str, bindings: &[Binding]) -> lapin::Result<lapin::Consumer> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongUInt(QUEUED));
    let exclusive = options::QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    in_time(channel.queue_declare(name.into(), exclusive, arguments)).await?;
    bind(channel, name, bindings).await?;
    in_time(channel.basic_qos(PREFETCH, options::BasicQosOptions::default())).await?;
    let exclusive = options::BasicConsumeOptions { exclusive: true, ..Default::default() };
    in_time(channel.basic_consume(name.into(), "".into(), exclusive, FieldTable::default())).await
}

/// Binds a queue to its sources. Binding it twice changes nothing.
async fn bind(channel: &Channel, name: &str, bindings: &[Binding]) -> lapin::Result<()> {
    for (from, key) in bindings {
        let options = options::QueueBindOptions::default();
        in_time(channel.queue_bind(
            name.into(),
            (*from).into(),
            key.as_str().into(),
            options,
            FieldTable::default(),
        ))
        .await?;
    }
    Ok(())
}
