//! Events: what was decided. They stand in the drive's log and leave as CloudEvents, byte for byte the same.
//!
//! No personal data stands in them: ids, states, rule versions, names of rules, and what organisers write for many to read
//! (definitions, why a drive was called off, messages). What a decision rested on (marks, answers, reasons) is kept with the
//! command, where it can be erased; the event has a salted hash of it.

pub mod batch;
mod data;

use bytes::Bytes;
use chrono::SecondsFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::data::{
    DriveCancelled, DriveClosed, DriveCreated, DriveDigested, DriveMessaged, DriveRefused, DriveReminded,
    DriveReopened, DriveUpdated, Empty, MemberUpdated, MembersImported, RegistrationAnswersChanged,
    RegistrationConfirmed, RegistrationEnded, RegistrationMoved, RegistrationPromoted, RegistrationRefused,
    RegistrationWaitlisted,
};
use super::message::{Address, Message, Outgoing};
use crate::clock::Instant;
use crate::id::{CommandId, DriveId, MemberId, event_id};

/// What was decided, as it is logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data")]
pub enum Event {
    /// A drive was made.
    #[serde(rename = "muster.drive.created")]
    DriveCreated(DriveCreated),
    /// A drive was changed.
    #[serde(rename = "muster.drive.updated")]
    DriveUpdated(DriveUpdated),
    /// A drive was announced.
    #[serde(rename = "muster.drive.published")]
    DrivePublished(Empty),
    /// Registration opened.
    #[serde(rename = "muster.drive.opened")]
    DriveOpened(Empty),
    /// Registration closed.
    #[serde(rename = "muster.drive.closed")]
    DriveClosed(DriveClosed),
    /// Registration opened again.
    #[serde(rename = "muster.drive.reopened")]
    DriveReopened(DriveReopened),
    /// A drive was called off.
    #[serde(rename = "muster.drive.cancelled")]
    DriveCancelled(DriveCancelled),
    /// Something is about to begin.
    #[serde(rename = "muster.drive.reminded")]
    DriveReminded(DriveReminded),
    /// How a drive stands, once a day.
    #[serde(rename = "muster.drive.digested")]
    DriveDigested(DriveDigested),
    /// An organiser wrote to people who signed up.
    #[serde(rename = "muster.drive.messaged")]
    DriveMessaged(DriveMessaged),
    /// Someone got a place.
    #[serde(rename = "muster.registration.confirmed")]
    RegistrationConfirmed(RegistrationConfirmed),
    /// Someone got on the waiting list.
    #[serde(rename = "muster.registration.waitlisted")]
    RegistrationWaitlisted(RegistrationWaitlisted),
    /// Somebody who waited got a place: the head of the waiting list, or whom an organiser chose.
    #[serde(rename = "muster.registration.promoted")]
    RegistrationPromoted(RegistrationPromoted),
    /// An organiser moved somebody within the waiting list.
    #[serde(rename = "muster.registration.moved")]
    RegistrationMoved(RegistrationMoved),
    /// A member answered the drive's questions anew.
    #[serde(rename = "muster.registration.answers_changed")]
    RegistrationAnswersChanged(RegistrationAnswersChanged),
    /// A member gave their registration up.
    #[serde(rename = "muster.registration.withdrawn")]
    RegistrationWithdrawn(RegistrationEnded),
    /// An organiser took a registration away.
    #[serde(rename = "muster.registration.removed")]
    RegistrationRemoved(RegistrationEnded),
    /// Someone did not get in, or a change to a registration was refused.
    #[serde(rename = "muster.registration.refused")]
    RegistrationRefused(RegistrationRefused),
    /// A change to the drive itself was refused.
    #[serde(rename = "muster.drive.refused")]
    DriveRefused(DriveRefused),
    /// A member's profile was changed. Not in a drive's log.
    #[serde(rename = "muster.member.updated")]
    MemberUpdated(MemberUpdated),
    /// An organiser imported members. Not in a drive's log.
    #[serde(rename = "muster.members.imported")]
    MembersImported(MembersImported),
}

impl Event {
    /// The type as subscribers see it: `muster.registration.confirmed`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DriveCreated(_) => "muster.drive.created",
            Self::DriveUpdated(_) => "muster.drive.updated",
            Self::DrivePublished(_) => "muster.drive.published",
            Self::DriveOpened(_) => "muster.drive.opened",
            Self::DriveClosed(_) => "muster.drive.closed",
            Self::DriveReopened(_) => "muster.drive.reopened",
            Self::DriveCancelled(_) => "muster.drive.cancelled",
            Self::DriveReminded(_) => "muster.drive.reminded",
            Self::DriveDigested(_) => "muster.drive.digested",
            Self::DriveMessaged(_) => "muster.drive.messaged",
            Self::RegistrationConfirmed(_) => "muster.registration.confirmed",
            Self::RegistrationWaitlisted(_) => "muster.registration.waitlisted",
            Self::RegistrationPromoted(_) => "muster.registration.promoted",
            Self::RegistrationMoved(_) => "muster.registration.moved",
            Self::RegistrationAnswersChanged(_) => "muster.registration.answers_changed",
            Self::RegistrationWithdrawn(_) => "muster.registration.withdrawn",
            Self::RegistrationRemoved(_) => "muster.registration.removed",
            Self::RegistrationRefused(_) => "muster.registration.refused",
            Self::DriveRefused(_) => "muster.drive.refused",
            Self::MemberUpdated(_) => "muster.member.updated",
            Self::MembersImported(_) => "muster.members.imported",
        }
    }

    /// The member it is about, if it is about one.
    #[must_use]
    pub fn member_id(&self) -> Option<MemberId> {
        match self {
            Self::RegistrationConfirmed(event) => Some(event.member_id),
            Self::RegistrationWaitlisted(event) => Some(event.member_id),
            Self::RegistrationPromoted(event) => Some(event.member_id),
            Self::RegistrationMoved(event) => Some(event.member_id),
            Self::RegistrationAnswersChanged(event) => Some(event.member_id),
            Self::RegistrationWithdrawn(event) | Self::RegistrationRemoved(event) => Some(event.member_id),
            Self::RegistrationRefused(event) => event.member_id,
            Self::MemberUpdated(event) => Some(event.member_id),
            _ => None,
        }
    }
}

/// An event on its way: [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md) in JSON
/// structured mode, with the [sequence
/// extension](https://github.com/cloudevents/spec/blob/main/cloudevents/extensions/sequence.md). The log keeps exactly
/// these bytes, so any subscriber can recompute the log's hashes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEvent {
    /// `1.0`
    #[schemars(extend("const" = "1.0"))]
    pub specversion: String,
    /// A function of the command and the event's place in its decision: a repeat has the same.
    pub id: Uuid,
    /// `/drives/{id}`, or `/members` for what is not in a drive's log.
    pub source: String,
    /// The member it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<MemberId>,
    /// When it was decided.
    pub time: Instant,
    /// Its number in the drive's log, from 1, without gaps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<String>,
    /// The command that caused it.
    pub cause: CommandId,
    /// `application/json`
    #[schemars(extend("const" = "application/json"))]
    pub datacontenttype: String,
    /// Its `type` and `data`.
    #[serde(flatten)]
    pub event: Event,
}

impl CloudEvent {
    /// The `index`-th event of the decision about `cause`. `place` is its drive and its number in the drive's log.
    #[must_use]
    pub fn new(
        cause: CommandId,
        index: usize,
        place: Option<(DriveId, u64)>,
        time: Instant,
        event: Event,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: event_id(cause, index),
            source: place
                .map_or_else(|| "/members".to_owned(), |(drive_id, _)| format!("/drives/{drive_id}")),
            subject: event.member_id(),
            time,
            sequence: place.map(|(_, sequence)| sequence.to_string()),
            cause,
            datacontenttype: "application/json".to_owned(),
            event,
        }
    }

    /// The routing key: `registration.confirmed.{drive}.{member}`, `drive.closed.{drive}`, `member.updated.{member}`.
    #[must_use]
    pub fn key(&self) -> String {
        let mut key = self.event.kind().trim_start_matches("muster.").to_owned();
        let drive = self.source.strip_prefix("/drives/");
        for part in
            drive.map(ToOwned::to_owned).into_iter().chain(self.subject.map(|member| member.to_string()))
        {
            key.push('.');
            key.push_str(&part);
        }
        key
    }

    /// Its exact bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(self).expect("an event is plain data"))
    }

    /// The message that carries `bytes`, which are this event's.
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

/// An instant as it stands in events and tables for people: RFC 3339, milliseconds, `Z`.
#[must_use]
pub fn rfc3339(instant: Instant) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Millis, true)
}
