//! Registrations: places, waiting lists, and the commands that change them.

pub(crate) mod decide;
pub mod questions;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::questions::Answers;
use crate::clock::{self, Timestamp};
use crate::eligibility::Verdict;
use crate::id::{DriveId, MemberId, RegistrationId, SlotId};
use crate::refusal::FieldError;
use crate::text;

/// The longest reason of an organiser, in characters.
pub const MAX_REASON: usize = 500;
/// The longest name of a gate or of a device, in characters.
pub const MAX_GATE: usize = 100;

crate::words! {
    /// The state of a registration.
    pub enum RegistrationState {
        /// It has a place.
        Confirmed = "confirmed",
        /// It waits for a place.
        Waitlisted = "waitlisted",
        /// The member withdrew it.
        Withdrawn = "withdrawn",
        /// An organiser removed it.
        Removed = "removed",
    }
}

impl RegistrationState {
    /// Whether it holds or awaits a place.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Confirmed | Self::Waitlisted)
    }
}

/// One member's current registration for one drive. Its history is in the drive's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration {
    /// Its id, which is the id of the command that made it.
    pub id: RegistrationId,
    /// Whose.
    pub member_id: MemberId,
    /// For which slot.
    pub slot_id: SlotId,
    /// Its state.
    pub state: RegistrationState,
    /// The log's sequence when it got its state. It orders the waiting list. If an organiser moves
    /// a member, that member and those in between exchange their ranks.
    pub rank: u64,
    /// How many places of the slot were taken with this one, when it was confirmed.
    pub place: Option<u32>,
    /// When the click was accepted.
    pub registered_at: Timestamp,
    /// When the member was checked in, if the member was.
    pub checked_in_at: Option<Timestamp>,
}

/// Asks for a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Register {
    /// The drive.
    pub drive_id: DriveId,
    /// The member.
    pub member_id: MemberId,
    /// Which slot; may be absent when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// Answers to the drive's questions.
    #[serde(default, skip_serializing_if = "Answers::is_empty")]
    pub answers: Answers,
}

/// Gives up a place, or a position on the waiting list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Withdraw {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose.
    pub member_id: MemberId,
}

/// An organiser registers a member, for a reason. The window and the rules do not apply, but the
/// capacity does. A waiting member gets a place if one is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddRegistration {
    /// The drive.
    pub drive_id: DriveId,
    /// The member.
    pub member_id: MemberId,
    /// Which slot; may be absent when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// The reason. It is about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub reason: String,
}

/// An organiser removes a registration, for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoveRegistration {
    /// The drive.
    pub drive_id: DriveId,
    /// Which registration.
    pub registration_id: RegistrationId,
    /// The reason. It is about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub reason: String,
}

/// A member changes the answers to the drive's questions. The new answers replace all earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeAnswers {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub member_id: MemberId,
    /// The answers, by the names of the questions.
    pub answers: Answers,
}

/// An organiser moves a member within the waiting list, for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveInWaitingList {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub registration_id: RegistrationId,
    /// The new position on the waiting list of the slot, from 1. A position beyond the end means
    /// the end.
    #[schemars(range(min = 1))]
    pub position: u32,
    /// The reason. It is about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub reason: String,
}

/// An organiser checks in a member who holds a place. A repetition changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckIn {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub registration_id: RegistrationId,
    /// When the member came, if that was before the click was accepted. A desk may have kept its
    /// list offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The name of the gate or desk. It is logged.
    #[schemars(length(min = 1, max = MAX_GATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// The device that checked the member in. It may be about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_GATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

impl CheckIn {
    /// What is wrong with the command, as far as its body alone shows.
    #[must_use]
    pub fn faults(&self) -> Vec<FieldError> {
        let texts = [("gate", &self.gate), ("device", &self.device)];
        let fault = |(name, text): (&str, &Option<String>)| {
            let fault = text::line_fault(text.as_deref()?, MAX_GATE)?;
            Some(FieldError::new(name, fault))
        };
        let unstorable = self.at.filter(|at| !clock::is_storable(*at));
        let at = unstorable.map(|_| FieldError::new("at", "it lies outside of the years that can be kept"));
        texts.into_iter().filter_map(fault).chain(at).collect()
    }
}

/// An organiser undoes a check-in. A repetition changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UndoCheckIn {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub registration_id: RegistrationId,
}

/// The outcome of a command about a registration.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegistrationOutcome {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Its drive.
    pub drive_id: DriveId,
    /// Its slot. If the drive has no slots, this is the drive's own id.
    pub slot_id: SlotId,
    /// Its state now.
    pub state: RegistrationState,
    /// If it is confirmed: how many places of the slot were taken with this one.
    pub place: Option<u32>,
    /// The position on the waiting list, from 1, if the command put it there.
    pub waitlist_position: Option<u32>,
    /// The rules' verdict on a member whom an organiser added regardless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// The outcome of a check-in, or of undoing one.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckInOutcome {
    /// The registration.
    #[serde(flatten)]
    pub registration: RegistrationOutcome,
    /// When the member came. Null if the member is not checked in.
    #[schemars(with = "Option<Timestamp>")]
    pub checked_in_at: Option<String>,
    /// Whether it was so before. The same ticket may be shown twice.
    pub repeated: bool,
}

/// What is wrong with an organiser's reason. `None` if it is valid.
#[must_use]
pub fn reason_fault(reason: &str) -> Option<FieldError> {
    text::line_fault(reason, MAX_REASON).map(|fault| FieldError::new("reason", fault))
}
