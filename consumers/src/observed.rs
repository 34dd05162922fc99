//! What can be seen of batches from outside: metrics, and traces that go on through the broker.

use domain::clock;
use shared::bus::message::header;
use shared::bus::{Batch, Message};
use shared::telemetry;
use tracing::{Span, debug_span};

/// Measures a batch as it comes.
pub(crate) fn observe(queue: &str, batch: &Batch) {
    let redelivered = batch.deliveries().iter().filter(|delivery| delivery.redelivered).count() as u64;
    metrics::histogram!("muster_batch_size", "queue" => queue.to_owned()).record(batch.len() as f64);
    metrics::counter!("muster_redeliveries_total", "queue" => queue.to_owned()).increment(redelivered);
    age(queue, batch);
}

/// Measures how long the oldest message has waited; again as long as it is held.
pub(crate) fn age(queue: &str, batch: &Batch) {
    let first = batch.messages().next().and_then(|first| first.header(header::ACCEPTED_AT));
    if let Some(accepted_at) = first.and_then(|text| text.parse::<clock::Timestamp>().ok()) {
        let age = (clock::now() - accepted_at).as_seconds_f64().max(0.0);
        metrics::gauge!("muster_oldest_message_seconds", "queue" => queue.to_owned()).set(age);
    }
}

/// A span for one message in the trace that it came with, if it came with one.
pub(crate) fn continued(message: &Message) -> Option<Span> {
    let trace = message.header(header::TRACEPARENT)?;
    let name = format!("decide {}", message.kind);
    let span = debug_span!("decision", otel.name = name, otel.kind = "consumer", id = %message.id);
    telemetry::continue_trace(&span, trace);
    Some(span)
}

/// Carries the trace on to an event's subscribers.
pub(crate) fn trace_on(decision: &Span, event: &mut Message) {
    let name = format!("publish {}", event.kind);
    let span =
        debug_span!(parent: decision, "publish", otel.name = name, otel.kind = "producer", id = %event.id);
    if let Some(trace) = telemetry::traceparent(&span) {
        event.set_header(header::TRACEPARENT, trace);
    }
}
