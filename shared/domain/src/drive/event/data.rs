//! The data of each event.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[allow(unused_imports, reason = "the documentation links to it")]
use super::Event;
use crate::clock::Timestamp;
use crate::drive::change::Change;
use crate::drive::definition::Definition;
use crate::drive::message::Audience;
use crate::drive::reminder::Beginning;
use crate::drive::{ClosedBy, Status};
use crate::id::{MemberId, RegistrationId, SlotId};
use crate::refusal::Code;

/// The event has no data.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Empty {}

/// See [`Event::DriveCreated`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriveCreated {
    /// What it is.
    pub definition: Definition,
}

/// See [`Event::DriveUpdated`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DriveUpdated {
    /// What it is now.
    pub definition: Definition,
    /// Grows by one when the rules change.
    pub rules_version: u32,
    /// The changes of which members who hold or await a place are notified. Absent means that
    /// nobody is notified.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Change>,
    /// The slots that the changes concern. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotId>,
}

impl DriveUpdated {
    /// Whether members of this slot are notified.
    #[must_use]
    pub fn concerns(&self, slot_id: SlotId) -> bool {
        !self.changed.is_empty() && (self.slots.is_empty() || self.slots.contains(&slot_id))
    }
}

/// See [`Event::DriveClosed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveClosed {
    /// By whom.
    pub by: ClosedBy,
}

/// See [`Event::DriveReopened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveReopened {
    /// The end of registration from now on.
    pub closes_at: Timestamp,
    /// `open`, or `published` if registration has yet to open.
    pub status: Status,
}

/// See [`Event::DriveCancelled`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveCancelled {
    /// The reason, which everyone can read.
    pub reason: String,
}

/// See [`Event::DriveReminded`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveReminded {
    /// What is about to begin.
    pub kind: Beginning,
    /// When it begins.
    pub starts_at: Timestamp,
    /// How many seconds before that the reminder was due.
    pub before: u32,
    /// The slots that begin. Absent means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<SlotId>,
}

impl DriveReminded {
    /// Whether it is for members who hold a place in this slot.
    #[must_use]
    pub fn concerns(&self, slot_id: SlotId) -> bool {
        self.kind == Beginning::Start && (self.slots.is_empty() || self.slots.contains(&slot_id))
    }
}

/// See [`Event::DriveDigested`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveDigested {
    /// When it was due: the drive's `digest_at` on a day.
    pub at: Timestamp,
    /// How many hold a place.
    pub confirmed: u32,
    /// How many wait for one.
    pub waitlisted: u32,
    /// How many held a place at the previous digest.
    pub confirmed_before: u32,
    /// How many waited for one at the previous digest.
    pub waitlisted_before: u32,
    /// How many log entries lie between the two digests.
    pub entries: u64,
}

/// See [`Event::DriveMessaged`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveMessaged {
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub text: String,
    /// To whom.
    pub to: Audience,
}

/// See [`Event::RegistrationConfirmed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationConfirmed {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// How many places of the slot are taken with this one.
    pub place: u32,
    /// When the click was accepted. The registration window goes by this instant.
    pub accepted_at: Timestamp,
    /// The version of the rules.
    pub rules_version: u32,
    /// Salted hash of the facts behind the decision, if they are personal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationWaitlisted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationWaitlisted {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// How many wait with this one.
    pub position: u32,
    /// When the click was accepted.
    pub accepted_at: Timestamp,
    /// The version of the rules.
    pub rules_version: u32,
    /// Salted hash of the facts behind the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationPromoted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationPromoted {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// How many places of the slot are taken with this one.
    pub place: u32,
    /// Salted hash of the organiser's reason, if an organiser gave the place by hand. Without it,
    /// the place went to the head of the waiting list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationMoved`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationMoved {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// The position on the waiting list now, from 1.
    pub position: u32,
    /// Salted hash of the organiser's reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationAnswersChanged`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationAnswersChanged {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// When the answers were accepted. Answers can be changed until registration closes.
    pub accepted_at: Timestamp,
    /// Salted hash of the new answers, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationWithdrawn`] and [`Event::RegistrationRemoved`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationEnded {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// Salted hash of the organiser's reason, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationCheckedIn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationCheckedIn {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// When the member came.
    pub at: Timestamp,
    /// The name of the gate or desk, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// Salted hash of the device that checked the member in, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::RegistrationCheckInUndone`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationCheckInUndone {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
}

/// See [`Event::RegistrationRefused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RegistrationRefused {
    /// The kind of the command.
    pub kind: String,
    /// The member. Absent if the registration that the command names does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberId>,
    /// The reason.
    pub code: Code,
    /// When the click was accepted.
    pub accepted_at: Timestamp,
    /// The version of the rules.
    pub rules_version: u32,
    /// The names of the rules that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
    /// Salted hash of the facts behind the decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<String>,
}

/// See [`Event::DriveRefused`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DriveRefused {
    /// The kind of the command.
    pub kind: String,
    /// The reason.
    pub code: Code,
}
