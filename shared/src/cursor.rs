//! Cursors: how far followers have read the logs of streams.
//!
//! A follower reads the entries after its cursor. It advances the cursor in the transaction that
//! stores its results. This is a compare-and-set on the old position. So each entry is processed
//! once, however often a follower dies and however many processes follow.

use domain::stream::Stream;

/// A log that a follower has not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// The stream that owns the log.
    pub stream: Stream,
    /// The number of the last entry that was read. `None` if the follower has never read this log.
    pub read: Option<u64>,
    /// The number of the last entry in the log.
    pub end: u64,
}

/// An entry that a follower has skipped, because it could not process the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The stream that owns the log.
    pub stream: Stream,
    /// The entry's number in that log.
    pub sequence: u64,
    /// Why the follower skipped it.
    pub reason: String,
}
