//! What each metric says: the `HELP` lines of `/metrics`, and the one list of all metrics.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// The kinds of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// The present value.
    Gauge,
    /// How values are spread.
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Every metric of every process: its name, its kind, and what it says.
pub const METRICS: [(&str, Kind, &str); 29] = [
    ("muster_accepted_total", Counter, "Commands that the API accepted, by kind."),
    ("muster_batch_size", Histogram, "Messages that a consumer decided together, by queue."),
    ("muster_cache_failures_total", Counter, "Questions to the cache that it did not answer, by attempt."),
    ("muster_cache_reads_total", Counter, "Reads of the API, by the layer that answered."),
    ("muster_commands_total", Counter, "Commands that were decided, by kind and outcome."),
    ("muster_commit_seconds", Histogram, "How long a batch's transaction took to commit, by queue."),
    ("muster_consumer_up", Gauge, "Whether this process consumes the queue (1) or should and does not (0)."),
    ("muster_decide_seconds", Histogram, "How long deciding a batch took, by queue."),
    ("muster_feeds", Gauge, "Logs, inboxes and drives that somebody watches at this process."),
    ("muster_followed_entries_total", Counter, "Entries of logs that a follower took in, by follower."),
    ("muster_http_request_seconds", Histogram, "How long requests took, by operation, method and status."),
    ("muster_mails_total", Counter, "Mails that were settled, by state."),
    ("muster_not_accepted_total", Counter, "Commands that the broker did not take, by kind."),
    ("muster_oldest_message_seconds", Gauge, "Age of the oldest message in work, by queue."),
    ("muster_panics_total", Counter, "Panics that were caught. Each is a bug."),
    ("muster_part_restarts_total", Counter, "How often a part of the process was started again, by part."),
    ("muster_publish_seconds", Histogram, "How long publishing what a batch came to took, by queue."),
    ("muster_queue_depth", Gauge, "Messages that wait in a queue, by queue."),
    ("muster_redeliveries_total", Counter, "Messages that the broker delivered again, by queue."),
    ("muster_repeated_commands_total", Counter, "Commands that came again after they were decided."),
    ("muster_retries_total", Counter, "Attempts at a batch that failed for now, by queue or follower."),
    ("muster_skipped_entries_total", Counter, "Entries of logs that a follower left out, by follower."),
    ("muster_slow_streams_total", Counter, "Streams that ended because their client did not keep up."),
    ("muster_streams", Gauge, "Open streams of this process."),
    ("muster_timed_commands_total", Counter, "Commands that the scheduler published because they were due."),
    ("muster_unsettled_total", Counter, "Messages that were dropped without being settled; they come again."),
    ("muster_waiting_requests", Gauge, "Requests that wait for a decision at this process."),
    ("muster_webhook_attempts_total", Counter, "Attempts at webhooks, by whether they succeeded."),
    (
        "muster_webhooks_behind_seconds",
        Gauge,
        "How long the most overdue delivery to a webhook has been due.",
    ),
];

/// Tells the recorder what each metric says.
pub(crate) fn describe() {
    for (name, kind, help) in METRICS {
        match kind {
            Counter => describe_counter!(name, help),
            Gauge => describe_gauge!(name, help),
            Histogram => describe_histogram!(name, help),
        }
    }
}
