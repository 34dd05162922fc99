//! The feeds that clients can watch: logs, inboxes, and the standings of drives.

use bytes::Bytes;
use domain::id::{DriveId, MemberId};
use domain::stream::Stream;

/// A list that grows. Its entries are numbered from 1 without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Feed {
    /// The log of a stream.
    Log(Stream),
    /// A member's inbox.
    Inbox(MemberId),
    /// A drive's log, of which only the end matters. `Places` reads the standing itself.
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

/// An entry of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub number: u64,
    /// The exact bytes of its JSON: a CloudEvent, or a standing.
    pub bytes: Bytes,
}

/// How many entries of a feed are kept for its watchers. A log has many watchers, an inbox has one.
pub(super) fn kept(feed: Feed) -> usize {
    match feed {
        Feed::Log(_) => 1000,
        Feed::Inbox(_) => 32,
        Feed::Standing(_) => 0,
    }
}
