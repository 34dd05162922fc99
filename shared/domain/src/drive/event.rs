//! Events: what was decided.
//!
//! No personal data stands in them: ids, states, rule versions, names of rules, and what organisers write for many to read
//! (definitions, why a drive was called off, messages). What a decision rested on (marks, answers, reasons) is kept with the
//! command, where it can be erased; the event has a salted hash of it.

mod data;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::data::{
    DriveCancelled, DriveClosed, DriveCreated, DriveDigested, DriveMessaged, DriveRefused, DriveReminded,
    DriveReopened, DriveUpdated, Empty, MemberUpdated, MembersImported, RegistrationAnswersChanged,
    RegistrationConfirmed, RegistrationEnded, RegistrationMoved, RegistrationPromoted, RegistrationRefused,
    RegistrationWaitlisted,
};
use crate::id::MemberId;

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
