//! A member's inbox: everything that was decided about them, numbered from 1 without gaps.
//!
//! An inbox stores no text. Each message refers to an entry of a drive's log. A follower fills the
//! inbox soon after the decision.

use bytes::Bytes;

use domain::clock::Timestamp;
use domain::id::{DriveId, MemberId};

/// A message that is about to be put into an inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct New {
    /// The owner of the inbox.
    pub member_id: MemberId,
    /// The drive whose log has the entry.
    pub drive_id: DriveId,
    /// The entry's number in that log.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
}

/// A message in an inbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its number in the inbox, from 1 without gaps.
    pub number: u64,
    /// The drive whose log has the entry.
    pub drive_id: DriveId,
    /// When it was decided.
    pub at: Timestamp,
    /// The log's entry: a CloudEvent's exact bytes.
    pub bytes: Bytes,
}
