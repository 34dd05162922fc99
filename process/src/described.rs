//! The list of all metrics, with the `HELP` lines of `/metrics`.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// The kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that only grows.
    Counter,
    /// The present value.
    Gauge,
    /// A distribution.
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Every metric of every process: its name, its kind, and its description.
pub const METRICS: [(&str, Kind, &str); 29] = [
    ("muster_accepted_total", Counter, "Commands that the API accepted, by kind."),
    ("muster_batch_size", Histogram, "Messages that a consumer decided together, by queue."),
    ("muster_cache_failures_total", Counter, "Cache calls that failed or timed out, by attempt."),
    ("muster_cache_reads_total", Counter, "Reads of the API, by the layer that answered."),
    ("muster_commands_total", Counter, "Commands that were decided, by kind and outcome."),
    ("muster_commit_seconds", Histogram, "How long a batch's transaction took to commit, by queue."),
    ("muster_consumer_up", Gauge, "1 while this process consumes the queue, 0 while it should but does not."),
    ("muster_decide_seconds", Histogram, "How long deciding a batch took, by queue."),
    ("muster_feeds", Gauge, "Logs, inboxes and drives that clients watch at this process."),
    ("muster_followed_entries_total", Counter, "Log entries that a follower processed, by follower."),
    ("muster_http_request_seconds", Histogram, "How long requests took, by operation, method and status."),
    ("muster_mails_total", Counter, "Mails that were sent or given up, by state."),
    ("muster_not_accepted_total", Counter, "Commands that the broker did not take, by kind."),
    ("muster_oldest_message_seconds", Gauge, "Age of the oldest message in the present batch, by queue."),
    ("muster_panics_total", Counter, "Panics that were caught. Each is a bug."),
    ("muster_part_restarts_total", Counter, "How often a part of the process was started again, by part."),
    ("muster_publish_seconds", Histogram, "How long publishing the events of a batch took, by queue."),
    ("muster_queue_depth", Gauge, "Messages that wait in a queue, by queue."),
    ("muster_redeliveries_total", Counter, "Messages that the broker delivered again, by queue."),
    ("muster_repeated_commands_total", Counter, "Commands that were delivered again after their decision."),
    ("muster_retries_total", Counter, "Failed attempts at a batch that are retried, by queue or follower."),
    ("muster_skipped_entries_total", Counter, "Log entries that a follower skipped, by follower."),
    ("muster_slow_streams_total", Counter, "Streams that ended because their client did not keep up."),
    ("muster_streams", Gauge, "Open streams of this process."),
    ("muster_timed_commands_total", Counter, "Commands that the scheduler published because they were due."),
    ("muster_unsettled_total", Counter, "Messages dropped unsettled. The broker delivers them again."),
    ("muster_waiting_requests", Gauge, "Requests that wait for a decision at this process."),
    ("muster_webhook_attempts_total", Counter, "Attempts at webhooks, by whether they succeeded."),
    (
        "muster_webhooks_behind_seconds",
        Gauge,
        "How long the most overdue delivery to a webhook has been due.",
    ),
];

/// Gives the recorder each metric's description.
pub(crate) fn describe() {
    for (name, kind, help) in METRICS {
        match kind {
            Counter => describe_counter!(name, help),
            Gauge => describe_gauge!(name, help),
            Histogram => describe_histogram!(name, help),
        }
    }
}
