//! Notices say which logs and inboxes have grown. They wake followers and the APIs' feeds, which
//! then read the logs and inboxes themselves. So a lost, repeated or late notice costs only time.

use bytes::Bytes;
use domain::id::{DriveId, MemberId};
use domain::stream::Stream;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bus::message::{Address, Message, Outgoing};

/// The logs and inboxes that have grown, and their new ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Payload", into = "Payload")]
pub struct Notice {
    /// Logs, with the number of the last entry.
    pub logs: Vec<(Stream, u64)>,
    /// Members' inboxes, with the number of the last message in each.
    pub inboxes: Vec<(MemberId, u64)>,
}

/// A notice on the wire. Versions in which only drives had logs read `logs`. So other streams have
/// a field of their own.
#[derive(Default, Serialize, Deserialize)]
struct Payload {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    logs: Vec<(DriveId, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    streams: Vec<(Stream, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    inboxes: Vec<(MemberId, u64)>,
}

impl From<Notice> for Payload {
    fn from(Notice { logs, inboxes }: Notice) -> Self {
        let mut payload = Self { inboxes, ..Self::default() };
        for (stream, end) in logs {
            match stream.drive() {
                Some(drive_id) => payload.logs.push((drive_id, end)),
                None => payload.streams.push((stream, end)),
            }
        }
        payload
    }
}

impl From<Payload> for Notice {
    fn from(Payload { logs, streams, inboxes }: Payload) -> Self {
        let drives = logs.into_iter().map(|(drive_id, end)| (drive_id.into(), end));
        Self { logs: drives.chain(streams).collect(), inboxes }
    }
}

/// The most inboxes in one message.
const INBOXES: usize = 1000;

impl Notice {
    /// Splits the notice into one part per message. The first part has the logs. Each further part
    /// has at most 1,000 inboxes.
    pub fn in_parts(self) -> impl Iterator<Item = Self> {
        let logs = Self { logs: self.logs, inboxes: Vec::new() };
        let inboxes: Vec<_> = self.inboxes.chunks(INBOXES).map(<[_]>::to_vec).collect();
        let inboxes = inboxes.into_iter().map(|inboxes| Self { logs: Vec::new(), inboxes });
        std::iter::once(logs).chain(inboxes)
    }

    /// The message for this notice. `None` if nothing has grown.
    #[must_use]
    pub fn message(&self) -> Option<Outgoing> {
        if self.logs.is_empty() && self.inboxes.is_empty() {
            return None;
        }
        let message = Message {
            id: Uuid::now_v7(),
            kind: "notice".to_owned(),
            content_type: "application/json".to_owned(),
            headers: Vec::new(),
            reply_to: None,
            payload: Bytes::from(serde_json::to_vec(self).expect("a notice is plain data")),
        };
        Some(Outgoing { to: Address::Notices, message })
    }

    /// Reads a notice. An unreadable message, for example of a newer version, gives an empty
    /// notice.
    #[must_use]
    pub fn read(message: &Message) -> Self {
        serde_json::from_slice(&message.payload).unwrap_or_default()
    }
}
