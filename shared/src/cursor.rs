//! How far those who follow the logs of streams have read them.
//!
//! A follower reads the entries behind its cursor and moves the cursor on in the transaction that keeps what it made of them,
//! from where it was: so each entry is taken once, however often a follower dies and however many processes follow.

use domain::stream::Stream;

/// A log that a follower has not read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Whose log.
    pub stream: Stream,
    /// The number of the last entry that was read; none if the follower has never read this log.
    pub read: Option<u64>,
    /// The number of the last entry that there is.
    pub end: u64,
}

/// An entry that a follower has left out, because it could not take it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Whose log.
    pub stream: Stream,
    /// Its number there.
    pub sequence: u64,
    /// Why.
    pub reason: String,
}
