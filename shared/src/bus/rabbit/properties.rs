//! Messages as AMQP properties, and back.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery as AmqpDelivery;
use lapin::types::{AMQPValue, FieldTable};
use uuid::Uuid;

use crate::bus::message::{Address, Message};
use crate::bus::topology::exchange;

/// AMQP's `delivery-mode` for messages that survive a restart.
const PERSISTENT: u8 = 2;

/// The properties of `message`.
pub(super) fn write(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(name.as_str().into(), AMQPValue::LongString(value.as_str().into()));
    }
    let properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(message.id.to_string().into())
        .with_type(message.kind.as_str().into())
        .with_content_type(message.content_type.as_str().into())
        .with_headers(headers);
    match &message.reply_to {
        Some(address) => properties
            .with_reply_to(address.as_str().into())
            .with_correlation_id(message.id.to_string().into()),
        None => properties,
    }
}

/// The message of a delivery. A message of another publisher may lack an id, and gets the nil id.
/// No consumer can decide it, so it becomes a dead letter and an operator sees it.
pub(super) fn read(delivery: AmqpDelivery) -> Message {
    let text =
        |value: &Option<lapin::types::ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    let properties = &delivery.properties;
    let headers = properties.headers().as_ref().map(|table| {
        table
            .inner()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), text_of(value)?)))
            .collect()
    });
    Message {
        id: text(properties.message_id()).and_then(|id| id.parse().ok()).unwrap_or(Uuid::nil()),
        kind: text(properties.kind()).unwrap_or_default(),
        content_type: text(properties.content_type()).unwrap_or_default(),
        headers: headers.unwrap_or_default(),
        reply_to: text(properties.reply_to()),
        payload: Bytes::from(delivery.data),
    }
}

/// The text of a header. RabbitMQ adds headers that are tables (`x-death`), which Muster ignores.
fn text_of(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// The exchange and routing key of an address.
pub(super) fn route(to: &Address) -> (&'static str, &str) {
    match to {
        Address::Commands(queue) => (exchange::COMMANDS, queue),
        Address::Events(key) => (exchange::EVENTS, key),
        Address::Presence(queue) => (exchange::PRESENCE, queue.as_str()),
        Address::Notices => (exchange::NOTICES, ""),
        Address::DeadLetters => (exchange::DEAD_LETTERS, ""),
        Address::Later(delay, queue) => (delay.exchange(), queue),
        // The default exchange leads to the queue of that name.
        Address::Reply(queue) => ("", queue),
    }
}

/// Whether the message must reach a queue. Other messages may have no receiver.
pub(super) fn mandatory(to: &Address) -> bool {
    match to {
        Address::Commands(_) | Address::DeadLetters | Address::Later(..) => true,
        Address::Events(_) | Address::Presence(_) | Address::Notices | Address::Reply(_) => false,
    }
}
