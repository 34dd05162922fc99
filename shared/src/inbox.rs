//! A member's inbox: everything that was decided about them, numbered from 1 without gaps.
//!
//! It holds no text of its own: each message is an entry of a drive's log. Those who follow the logs fill it, soon after the
//! decision.

use bytes::Bytes;

use domain::clock::Timestamp;
use domain::id::{DriveId, MemberId};

/// A message that is about to be put into an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct New {
    /// Whose inbox.
    pub member_id: MemberId,
    /// The log that it stands in.
    pub drive_id: DriveId,
    /// Its number there.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
}

/// A message in an inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its number in the inbox, from 1 without gaps.
    pub number: u64,
    /// The log that it stands in.
    pub drive_id: DriveId,
    /// When it was decided.
    pub at: Timestamp,
    /// The log's entry: a CloudEvent's exact bytes.
    pub bytes: Bytes,
}
