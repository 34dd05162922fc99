//! Events for subscribers, as CloudEvents. The log of their stream keeps the same bytes.

pub mod batch;

use bytes::Bytes;
use domain::clock::Timestamp;
use domain::drive::event::Event;
use domain::event::EventSet;
use domain::id::{CommandId, MemberId, event_id};
use domain::stream::Stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::message::{Address, Message, Outgoing};

/// An event on its way: [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) in JSON
/// structured mode, with the [sequence
/// extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md). The log keeps exactly
/// these bytes, so any subscriber can recompute the log's hashes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent<E = Event> {
    /// `1.0`
    #[schemars(extend("const" = "1.0"))]
    pub specversion: String,
    /// A function of the command and the event's place in its decision: a repeat has the same.
    pub id: Uuid,
    /// The stream in whose log it stands: `/drives/{id}` or `/members/{id}`.
    pub source: String,
    /// The member it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<MemberId>,
    /// When it was decided.
    pub time: Timestamp,
    /// Its number in the log of its stream, from 1, without gaps. Events of members that versions
    /// without logs for members published have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The command that caused it.
    pub cause: CommandId,
    /// `application/json`
    #[schemars(extend("const" = "application/json"))]
    pub datacontenttype: String,
    /// Its `type` and `data`.
    #[serde(flatten)]
    pub event: E,
}

impl<E: EventSet> CloudEvent<E> {
    /// The `index`-th event of the decision about `cause`. `place` is its stream and its number in
    /// the stream's log.
    #[must_use]
    pub fn new(cause: CommandId, index: usize, place: (Stream, u64), time: Timestamp, event: E) -> Self {
        let (stream, sequence) = place;
        Self {
            source: stream.to_string(),
            sequence: Some(sequence.to_string()),
            ..Self::without_log(cause, index, time, event)
        }
    }

    /// The same event in the form of versions in which this kind of stream had no logs.
    #[must_use]
    pub fn without_log(cause: CommandId, index: usize, time: Timestamp, event: E) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: event_id(cause, index),
            source: E::STREAM.path().to_owned(),
            subject: event.member_id(),
            time,
            sequence: None,
            cause,
            datacontenttype: "application/json".to_owned(),
            event,
        }
    }

    /// The stream whose log contains it. `None` for an event without a number.
    #[must_use]
    pub fn stream(&self) -> Option<Stream> {
        self.source.parse().ok()
    }

    /// The routing key: `registration.confirmed.{drive}.{member}`, `drive.closed.{drive}`,
    /// `member.updated.{member}`, `members.imported`.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = self.event.kind().trim_start_matches("muster.").to_owned();
        let drive = self.stream().and_then(Stream::drive).map(|drive_id| drive_id.0);
        for part in drive.into_iter().chain(self.subject.map(|member_id| member_id.0)) {
            key.push('.');
            key.push_str(&part.to_string());
        }
        key
    }

    /// Its exact bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("an event is plain data"))
    }

    /// The message for this event. `bytes` are the event's exact bytes.
    #[must_use]
    pub fn message(&self, bytes: Bytes) -> Outgoing {
        Outgoing {
            to: Address::Events(self.key()),
            message: Message {
                id: self.id,
                kind: self.event.kind().to_owned(),
                content_type: "application/cloudevents+json; charset=utf-8".to_owned(),
                headers: Vec::new(),
                reply_to: None,
                payload: bytes,
            },
        }
    }
}
