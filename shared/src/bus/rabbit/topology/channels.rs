//! Looks up exchanges and queues, and declares them.

use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Queue, options};
use serde_json::Value;

use super::{Doubts, ExchangeSpec, FORBIDDEN, arguments, binding, code_of, is_not_found};
use crate::bus::rabbit::in_time;
use crate::bus::topology::{QueueSpec, Topology};

/// A queue, as it was declared.
pub(super) struct Found {
    /// Whether it was missing.
    pub(super) made: bool,
    /// How many messages wait in it.
    pub(super) waiting: u32,
    /// Whether consumers of an earlier queue of this name may not know this one. It was missing, or
    /// the comparison recreated it after the broker had deleted it.
    pub(super) lost_consumers: bool,
}

/// A channel that is opened again after the broker closed it. The broker closes a channel at every
/// "not found".
pub(super) struct Channels<'a> {
    pub(super) connection: &'a Connection,
    pub(super) channel: Option<Channel>,
}

impl Channels<'_> {
    pub(super) async fn get(&mut self) -> lapin::Result<Channel> {
        match self.channel.as_ref().filter(|channel| channel.status().connected()) {
            Some(channel) => Ok(channel.clone()),
            None => Ok(self.channel.insert(in_time(self.connection.create_channel()).await?).clone()),
        }
    }

    /// Declares a missing exchange, and returns whether it was missing. With `compares` it also
    /// declares an existing one, which compares its settings.
    pub(super) async fn exchange(&mut self, spec: &ExchangeSpec, compares: bool) -> lapin::Result<bool> {
        match self.declare_exchange(spec, true).await {
            Err(error) if is_not_found(&error) => self.declare_exchange(spec, false).await.map(|()| true),
            Err(error) => Err(error),
            Ok(()) if compares => may_be_forbidden(self.declare_exchange(spec, false).await).map(|()| false),
            Ok(()) => Ok(false),
        }
    }

    pub(super) async fn declare_exchange(&mut self, spec: &ExchangeSpec, passive: bool) -> lapin::Result<()> {
        let channel = self.get().await?;
        let options =
            options::ExchangeDeclareOptions { passive, durable: spec.durable, ..Default::default() };
        let mut arguments = FieldTable::default();
        if let Some(alternate) = spec.alternate {
            arguments.insert("alternate-exchange".into(), AMQPValue::LongString(alternate.into()));
        }
        in_time(channel.exchange_declare(spec.name.into(), spec.kind.clone(), options, arguments)).await
    }

    /// Whether any queue is missing or had its consumer cancelled. It declares nothing.
    pub(super) async fn miss_one(&mut self, topology: Topology, doubts: &impl Doubts) -> bool {
        for queue in topology.queues() {
            let looked = self.declare_queue(&queue, true).await;
            if doubts.is_cancelled(&queue.name) || looked.is_err_and(|error| is_not_found(&error)) {
                return true;
            }
        }
        false
    }

    /// Declares a missing queue. With `compares` it also declares an existing one, which compares
    /// its arguments.
    pub(super) async fn queue(&mut self, queue: &QueueSpec, compares: bool) -> lapin::Result<Found> {
        let before = match self.declare_queue(queue, true).await {
            Err(error) if is_not_found(&error) => {
                let waiting = self.declare_queue(queue, false).await?.message_count();
                return Ok(Found { made: true, waiting, lost_consumers: true });
            }
            before => before?,
        };
        let found = |now: &Queue| Found {
            made: false,
            waiting: now.message_count(),
            lost_consumers: now.consumer_count() < before.consumer_count(),
        };
        if !compares {
            return Ok(found(&before));
        }
        match self.declare_queue(queue, false).await {
            // An operator may declare everything and forbid processes to declare.
            Err(error) if code_of(&error) == Some(FORBIDDEN) => Ok(found(&before)),
            now => Ok(found(&now?)),
        }
    }

    pub(super) async fn declare_queue(&mut self, queue: &QueueSpec, passive: bool) -> lapin::Result<Queue> {
        let channel = self.get().await?;
        let options = options::QueueDeclareOptions { passive, durable: true, ..Default::default() };
        let mut table = FieldTable::default();
        for (name, value) in arguments(queue) {
            table.insert(name.into(), field(&value));
        }
        in_time(channel.queue_declare(queue.name.as_str().into(), options, table)).await
    }

    /// Binds a queue. Binding it twice changes nothing.
    pub(super) async fn bind(&mut self, queue: &QueueSpec) -> lapin::Result<()> {
        let (from, key) = binding(queue);
        let options = options::QueueBindOptions::default();
        let channel = self.get().await?;
        let (name, from) = (queue.name.as_str().into(), from.into());
        in_time(channel.queue_bind(name, from, key.into(), options, FieldTable::default())).await
    }

    /// Removes a queue's binding.
    pub(super) async fn unbind(&mut self, queue: &QueueSpec) -> lapin::Result<()> {
        let (from, key) = binding(queue);
        let channel = self.get().await?;
        let (name, from) = (queue.name.as_str().into(), from.into());
        in_time(channel.queue_unbind(name, from, key.into(), FieldTable::default())).await
    }
}

/// Ignores a refusal. An operator may declare everything and forbid processes to declare. Then the
/// process cannot compare existing exchanges.
fn may_be_forbidden(declared: lapin::Result<()>) -> lapin::Result<()> {
    match declared {
        Err(error) if code_of(&error) == Some(FORBIDDEN) => Ok(()),
        declared => declared,
    }
}

fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => AMQPValue::LongLongInt(number.as_i64().unwrap_or(i64::MAX)),
        other => AMQPValue::LongString(other.as_str().unwrap_or_default().into()),
    }
}
