//! Metrics of batches, and traces that continue through the broker.

use domain::clock;
use shared::bus::message::header;
use shared::bus::{Batch, Message};
use shared::telemetry;
use tracing::{Span, debug_span};

/// Records the metrics of a batch that has arrived.
pub(crate) fn observe(queue: &str, batch: &Batch) {
    let redelivered = batch.deliveries().iter().filter(|delivery| delivery.redelivered).count() as u64;
    metrics::histogram!("muster_batch_size", "queue" => queue.to_owned()).record(batch.len() as f64);
    metrics::counter!("muster_redeliveries_total", "queue" => queue.to_owned()).increment(redelivered);
    age(queue, batch);
}

/// Records how long the oldest message has waited. A held batch is measured again at each retry.
pub(crate) fn age(queue: &str, batch: &Batch) {
    let first = batch.messages().next().and_then(|first| first.header(header::ACCEPTED_AT));
    if let Some(accepted_at) = first.and_then(|text| text.parse::<clock::Timestamp>().ok()) {
        let age = (clock::now() - accepted_at).as_seconds_f64().max(0.0);
        metrics::gauge!("muster_oldest_message_seconds", "queue" => queue.to_owned()).set(age);
    }
}

/// A span for the decision on a message, in the trace that the message carries. `None` if it
/// carries no trace.
pub(crate) fn continued(message: &Message) -> Option<Span> {
    let trace = message.header(header::TRACEPARENT)?;
    let name = format!("decide {}", message.kind);
    let span = debug_span!("decision", otel.name = name, otel.kind = "consumer", id = %message.id);
    telemetry::continue_trace(&span, trace);
    Some(span)
}

/// Passes the trace on to the subscribers of an event.
pub(crate) fn trace_on(decision: &Span, event: &mut Message) {
    let name = format!("publish {}", event.kind);
    let span =
        debug_span!(parent: decision, "publish", otel.name = name, otel.kind = "producer", id = %event.id);
    if let Some(trace) = telemetry::traceparent(&span) {
        event.set_header(header::TRACEPARENT, trace);
    }
}
