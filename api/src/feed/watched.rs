//! What can be watched: logs, inboxes, and how drives stand.

use bytes::Bytes;
use domain::id::{DriveId, MemberId};
use domain::stream::Stream;

/// Something that grows, numbered from 1 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// The log of a stream.
    Log(Stream),
    /// A member's inbox.
    Inbox(MemberId),
    /// A drive's log of which only the end matters: how the drive stands is read elsewhere.
    Standing(DriveId),
}

impl Feed {
    /// The stream whose log it is.
    pub(super) fn log(self) -> Option<Stream> {
        match self {
            Self::Log(stream) => Some(stream),
            Self::Standing(drive_id) => Some(drive_id.into()),
            Self::Inbox(_) => None,
        }
    }
}

/// One of its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub number: u64,
    /// A CloudEvent's exact bytes.
    pub bytes: Bytes,
}

/// How many entries are kept of a feed for those who watch it: many watch a log, one an inbox.
pub(super) fn kept(feed: Feed) -> usize {
    match feed {
        Feed::Log(_) => 1000,
        Feed::Inbox(_) => 32,
        Feed::Standing(_) => 0,
    }
}
