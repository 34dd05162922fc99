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
    /// Where a registration is.
    pub enum RegistrationState {
        /// It has a place.
        Confirmed = "confirmed",
        /// It waits for a place.
        Waitlisted = "waitlisted",
        /// The member gave it up.
        Withdrawn = "withdrawn",
        /// An organiser took it away.
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
    /// For whom.
    pub member_id: MemberId,
    /// Which slot; may be absent when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// Answers to the drive's questions.
    #[serde(default, skip_serializing_if = "Answers::is_empty")]
    pub answers: Answers,
}

/// Gives a place, or the waiting for one, up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Withdraw {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose.
    pub member_id: MemberId,
}

/// An organiser asks for a place for someone, for a reason. Window and rules do not hold them up;
/// capacity does. Someone who waits gets a place if one is free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddRegistration {
    /// The drive.
    pub drive_id: DriveId,
    /// For whom.
    pub member_id: MemberId,
    /// Which slot; may be absent when there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// Why; about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub reason: String,
}

/// An organiser takes a registration away, for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemoveRegistration {
    /// The drive.
    pub drive_id: DriveId,
    /// Which registration.
    pub registration_id: RegistrationId,
    /// Why; about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub reason: String,
}

/// A member answers the drive's questions anew. All answers are given; those that were given before
/// are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeAnswers {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub member_id: MemberId,
    /// The answers, by the questions' names.
    pub answers: Answers,
}

/// An organiser moves somebody within the waiting list, for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveInWaitingList {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub registration_id: RegistrationId,
    /// Where they shall stand in the waiting list of their slot, from 1. Beyond its end means at
    /// its end.
    #[schemars(range(min = 1))]
    pub position: u32,
    /// Why; about a person, so it is not logged.
    #[schemars(length(min = 1, max = MAX_REASON))]
    pub reason: String,
}

/// An organiser notes that somebody who holds a place has come. Doing it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckIn {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub registration_id: RegistrationId,
    /// When they came, if that was before the click was accepted: a list may have been kept offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Where they came in: the name of a gate or desk. The log says it.
    #[schemars(length(min = 1, max = MAX_GATE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,
    /// What they were checked in with. It may be about a person, so it is not logged.
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

/// An organiser takes a check-in back. Doing it again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UndoCheckIn {
    /// The drive.
    pub drive_id: DriveId,
    /// Whose registration.
    pub registration_id: RegistrationId,
}

/// What came of a command about a registration.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RegistrationOutcome {
    /// The registration.
    pub registration_id: RegistrationId,
    /// Its drive.
    pub drive_id: DriveId,
    /// Its slot; the drive's own id if the drive has no slots.
    pub slot_id: SlotId,
    /// Where it is now.
    pub state: RegistrationState,
    /// If it is confirmed: how many places of the slot were taken with this one.
    pub place: Option<u32>,
    /// Where it came to stand in the waiting list, from 1, if the command put it there.
    pub waitlist_position: Option<u32>,
    /// What the rules say about someone whom an organiser added regardless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// What came of a check-in, or of taking one back.
#[derive(Debug, Serialize, JsonSchema)]
pub struct CheckInOutcome {
    /// The registration as it is.
    #[serde(flatten)]
    pub registration: RegistrationOutcome,
    /// When they came; null: they have not.
    #[schemars(with = "Option<Timestamp>")]
    pub checked_in_at: Option<String>,
    /// Whether it was so already: the same ticket may be shown twice.
    pub repeated: bool,
}

/// What is wrong with an organiser's reason. `None` if it is valid.
#[must_use]
pub fn reason_fault(reason: &str) -> Option<FieldError> {
    text::line_fault(reason, MAX_REASON).map(|fault| FieldError::new("reason", fault))
}
