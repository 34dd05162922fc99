//! The topology as a broker imports it at boot.

use lapin::ExchangeKind;
use serde_json::{Value, json};

use super::{arguments, binding, exchanges};
use crate::bus::topology::{Topology, exchange};

/// The most messages of a durable queue. If it is full, the broker refuses new ones (503 at the
/// API).
const MAX_LENGTH: u64 = 1_000_000;
/// The most bytes of a peer's queue. Without it a stream would have no bound.
const MAX_PEER_BYTES: u64 = 1024 * 1024 * 1024;
/// After this many deliveries a lane gives up a message. A crash counts as a delivery of every
/// message in the batch, and lanes must not lose good messages because of it.
const LANE_DELIVERIES: u64 = 1000;
/// A queue without order gives up a message after this many crashes of its consumer.
const WORK_DELIVERIES: u64 = 20;

/// The definitions that RabbitMQ imports at boot, for the default virtual host. They contain the
/// durable exchanges and queues that the processes declare, and the policies, which AMQP cannot
/// set. They contain no users, because compose creates its own.
#[must_use]
pub fn definitions(topology: Topology) -> Value {
    const VHOST: &str = "/";
    let exchanges_json = exchanges().into_iter().filter(|spec| spec.durable).map(|spec| {
        let arguments =
            spec.alternate.map_or(json!({}), |alternate| json!({ "alternate-exchange": alternate }));
        json!({ "name": spec.name, "vhost": VHOST, "type": kind_name(&spec.kind), "durable": true,
                "auto_delete": false, "internal": false, "arguments": arguments })
    });
    let queues = topology.queues();
    let queues_json = queues.iter().map(|queue| {
        let arguments: serde_json::Map<_, _> =
            arguments(queue).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        json!({ "name": queue.name, "vhost": VHOST, "durable": true, "auto_delete": false, "arguments": arguments })
    });
    let bindings = queues.iter().map(|queue| {
        let (source, key) = binding(queue);
        json!({ "source": source, "vhost": VHOST, "destination": queue.name, "destination_type": "queue",
                "routing_key": key, "arguments": {} })
    });
    let policy = |name: &str, pattern: &str, definition: Value| {
        json!({ "vhost": VHOST, "name": name, "pattern": pattern, "apply-to": "queues", "priority": 0,
                "definition": definition })
    };
    let work = |deliveries: u64| {
        json!({ "delivery-limit": deliveries, "max-length": MAX_LENGTH, "overflow": "reject-publish",
                "dead-letter-exchange": exchange::DEAD_LETTERS, "dead-letter-strategy": "at-least-once" })
    };
    json!({
        "vhosts": [{ "name": VHOST }],
        "exchanges": exchanges_json.collect::<Vec<_>>(),
        "queues": queues_json.collect::<Vec<_>>(),
        "bindings": bindings.collect::<Vec<_>>(),
        "policies": [
            policy("lanes", "^(drives|members)\\.[0-9]+$", work(LANE_DELIVERIES)),
            policy("work", "^(eligibility|upkeep)$", work(WORK_DELIVERIES)),
            policy("delays", "^delay\\.", json!({ "max-length": MAX_LENGTH, "overflow": "reject-publish" })),
            // Reading a parked message counts as a delivery. The message must not vanish because
            // operators read it.
            policy("parking", "^(dead-letters|unrouted)$",
                   json!({ "delivery-limit": MAX_LENGTH, "max-length": MAX_LENGTH, "overflow": "reject-publish" })),
            // A peer that stays away loses its oldest events. If its queue refused new ones
            // instead, the lanes would wait.
            policy("peers", "^peer\\.",
                   json!({ "delivery-limit": LANE_DELIVERIES, "max-length": MAX_LENGTH,
                           "max-length-bytes": MAX_PEER_BYTES, "overflow": "drop-head" })),
        ],
    })
}

fn kind_name(kind: &ExchangeKind) -> &str {
    match kind {
        ExchangeKind::Custom(name) => name,
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Headers => "headers",
        ExchangeKind::Topic => "topic",
    }
}
