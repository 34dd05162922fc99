//! A peer: reads Muster's events from a queue of its own and prints one line per event.
//!
//! `cargo run --example peer -- amqp://alumni:PASSWORD@localhost:5672/%2f alumni 'drive.#' 'registration.#'`
//!
//! It needs nothing from Muster except the wire format: AMQP 0-9-1 and CloudEvents
//! (`docs/reference/asyncapi.json`). `docs/how-to/subscribe-with-amqp.md` says how to get a user on
//! the broker. The same program in Python: `peer.py`.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use serde::Deserialize;

/// The most events that the broker sends before they are acknowledged.
const PREFETCH: u16 = 100;
/// The beginning of the content type of a message with several events.
const BATCH: &str = "application/cloudevents-batch+json";
/// The number of remembered ids of events without a sequence.
const RECENT: usize = 10_000;

/// The fields that this program needs. It ignores other fields, because later versions may add
/// some.
#[derive(Deserialize)]
struct Event {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    source: String,
    sequence: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(name)) = (arguments.next(), arguments.next()) else {
        bail!("usage: peer URL NAME [KEY…]");
    };
    let mut keys: Vec<_> = arguments.collect();
    if keys.is_empty() {
        keys.push("#".to_owned());
    }
    let mut seen = Seen::default();
    loop {
        if let Err(error) = read(&url, &name, &keys, &mut seen).await {
            eprintln!("{error:#}; connecting again");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Reads until the connection is lost. The broker delivers unacknowledged messages again.
async fn read(url: &str, name: &str, keys: &[String], seen: &mut Seen) -> anyhow::Result<()> {
    let properties = ConnectionProperties::default().with_connection_name(format!("peer {name}").into());
    let connection = Connection::connect(url, properties).await.context("connect")?;
    let channel = connection.create_channel().await?;

    // The queue is durable and replicated, so no event is missed while this program is away. With a
    // single active consumer, several copies of the program keep the order.
    let queue = format!("peer.{name}.events");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    let durable = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), durable, arguments).await.context("declare the queue")?;
    for key in keys {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bound = channel.queue_bind(
            queue.as_str().into(),
            "muster.events".into(),
            key.as_str().into(),
            options,
            none,
        );
        bound.await.with_context(|| format!("bind {key}"))?;
    }

    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries =
        channel.basic_consume(queue.as_str().into(), name.into(), options, none).await.context("consume")?;
    eprintln!("reading {queue}");
    while let Some(delivery) = deliveries.next().await {
        let delivery = delivery?;
        let is_batch =
            delivery.properties.content_type().as_ref().is_some_and(|kind| kind.as_str().starts_with(BATCH));
        let events: Vec<Event> = if is_batch {
            serde_json::from_slice(&delivery.data).context("read a batch of events")?
        } else {
            vec![serde_json::from_slice(&delivery.data).context("read an event")?]
        };
        for event in &events {
            if seen.is_new(event) {
                let sequence = event.sequence.as_deref().unwrap_or("-");
                println!("{} {sequence} {} {}", event.source, event.kind, event.id);
            }
        }
        // Acknowledge only now. If the program dies before, the broker delivers the message again.
        delivery.ack(BasicAckOptions::default()).await?;
    }
    bail!("the connection was lost")
}

/// The events that were processed. A peer with a database keeps `last` in it, and updates `last` in
/// the transaction that applies the event. Then a repeat changes nothing, even after a crash.
#[derive(Default)]
struct Seen {
    /// The sequence of the last event of each source, a drive or a member.
    last: HashMap<String, u64>,
    /// The ids of the last events without a sequence, which older versions published for members.
    recent: VecDeque<String>,
}

impl Seen {
    /// Whether an event is new. Reports a gap if events before it are missing.
    fn is_new(&mut self, event: &Event) -> bool {
        let Some(sequence) = event.sequence.as_ref().and_then(|text| text.parse::<u64>().ok()) else {
            if self.recent.contains(&event.id) {
                return false;
            }
            self.recent.truncate(RECENT - 1);
            self.recent.push_front(event.id.clone());
            return true;
        };
        match self.last.get(&event.source) {
            Some(last) if sequence <= *last => return false,
            // There is a gap if the keys do not cover all events of a source, or if the queue was
            // full. The log has the missing events.
            Some(last) if sequence > last + 1 => {
                eprintln!("gap: {} has {sequence} after {last}", event.source);
            }
            _ => {}
        }
        self.last.insert(event.source.clone(), sequence);
        true
    }
}
