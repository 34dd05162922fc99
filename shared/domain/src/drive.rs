//! Drives: what people sign up for.
//!
//! A drive is the unit of order. Its state is a fold over its log ([`state::DriveState::apply`]). A pure
//! function decides its commands ([`decide::decide`]).

pub mod change;
pub mod decide;
pub mod definition;
pub mod digest;
pub mod draft;
pub mod event;
pub mod message;
pub mod registration;
pub mod reminder;
pub mod state;
pub mod when;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::draft::{Changes, Draft};
use self::message::MessageDrive;
use crate::clock::Timestamp;
use crate::command::CommandSet as _;
use crate::drive::registration::{
    AddRegistration, ChangeAnswers, CheckIn, CheckInOutcome, MoveInWaitingList, Register,
    RegistrationOutcome, RemoveRegistration, UndoCheckIn, Withdraw,
};
use crate::id::DriveId;
use crate::refusal::Code;

crate::words! {
    /// What a drive is for.
    #[schemars(rename = "DriveKind")]
    pub enum Kind {
        /// Campus recruitment.
        Placement = "placement",
        /// A donation, such as blood.
        Donation = "donation",
        /// Vaccination.
        Vaccination = "vaccination",
        /// A competition.
        Competition = "competition",
        /// A volunteer day.
        Volunteering = "volunteering",
        /// Anything else.
        Other = "other",
    }
}

crate::words! {
    /// The status of a drive.
    #[schemars(rename = "DriveStatus")]
    pub enum Status {
        /// Seen by organisers only.
        Draft = "draft",
        /// Announced; registration has not opened.
        Published = "published",
        /// Registration is open.
        Open = "open",
        /// Registration is over, by the schedule or by an organiser.
        Closed = "closed",
        /// It will not take place.
        Cancelled = "cancelled",
    }
}

/// What closed a drive. After the schedule closed it, a click still counts if it was accepted
/// before `closes_at`. An organiser's closing takes effect in the order of the drive's lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClosedBy {
    /// Its own `closes_at`.
    Schedule,
    /// An organiser.
    Admin,
}

crate::commands! {
    /// Everything that is decided on a drive's lane.
    pub enum DriveCommand on Drives about Drive by |command| command.drive_id.0;
    "create-drive" => CreateDrive -> DriveOutcome or [InvalidDrive, InvalidRule],
    "update-drive" => UpdateDrive -> DriveOutcome or [
        CapacityBelowConfirmed, DriveCancelled, DriveClosed, DriveNotFound, InvalidDrive,
        InvalidRule, SlotInUse,
    ],
    "publish-drive" => PublishDrive -> DriveOutcome or [
        DriveCancelled, DriveNotFound, DrivePublished, WindowOver,
    ],
    "close-drive" => CloseDrive -> DriveOutcome or [
        DriveCancelled, DriveClosed, DriveNotFound, DriveNotPublished,
    ],
    "reopen-drive" => ReopenDrive -> DriveOutcome or [
        DriveCancelled, DriveNotClosed, DriveNotFound, InvalidDrive, WindowOver,
    ],
    "cancel-drive" => CancelDrive -> DriveOutcome or [DriveCancelled, DriveNotFound],
    "advance-drive" => AdvanceDrive -> DriveOutcome or [DriveNotFound],
    "remind-drive" => RemindDrive -> DriveOutcome or [DriveNotFound],
    "message-drive" => MessageDrive -> DriveOutcome or [DriveNotFound, DriveNotPublished],
    "register" => Register -> RegistrationOutcome or [
        AlreadyRegistered, AnswersInvalid, DriveCancelled, DriveClosed, DriveFull, DriveNotFound,
        DriveNotOpen, MemberNotFound, NotEligible, SlotNotFound, SlotRequired,
    ],
    "withdraw" => Withdraw -> RegistrationOutcome or [DriveCancelled, DriveNotFound, NotRegistered],
    "add-registration" => AddRegistration -> RegistrationOutcome or [
        AlreadyRegistered, DriveCancelled, DriveFull, DriveNotFound, DriveNotPublished,
        MemberNotFound, SlotNotFound, SlotRequired,
    ],
    "remove-registration" => RemoveRegistration -> RegistrationOutcome or [
        DriveCancelled, DriveNotFound, RegistrationNotFound,
    ],
    "change-answers" => ChangeAnswers -> RegistrationOutcome or [
        AnswersInvalid, DriveCancelled, DriveClosed, DriveNotFound, NotRegistered,
    ],
    "move-in-waiting-list" => MoveInWaitingList -> RegistrationOutcome or [
        DriveCancelled, DriveNotFound, NotWaiting, RegistrationNotFound,
    ],
    "check-in" => CheckIn -> CheckInOutcome or [
        DriveCancelled, DriveNotFound, NotConfirmed, RegistrationNotFound,
    ],
    "undo-check-in" => UndoCheckIn -> CheckInOutcome or [
        DriveCancelled, DriveNotFound, NotConfirmed, RegistrationNotFound,
    ],
}

impl DriveCommand {
    /// The drive that the command is about. Its id is the lane key.
    #[must_use]
    pub fn drive_id(&self) -> DriveId {
        DriveId(self.lane_key())
    }

    /// Whether commands of this kind declare this code of refusal.
    pub(crate) fn may_be_refused(kind: &str, code: Code) -> bool {
        Self::REFUSALS.iter().any(|(known, codes)| *known == kind && codes.contains(&code))
    }
}

/// Creates a drive. It is a draft until it is published.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CreateDrive {
    /// Its id, made by the API.
    pub drive_id: DriveId,
    /// The definition, as an organiser wrote it.
    pub draft: Draft,
}

/// Changes a drive. No registered member loses a place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// What changes.
    pub changes: Changes,
}

/// Announces a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishDrive {
    /// The drive.
    pub drive_id: DriveId,
}

/// Closes registration before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloseDrive {
    /// The drive.
    pub drive_id: DriveId,
}

/// Opens registration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReopenDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// The new end of registration. It is required if the old one is over.
    #[serde(default)]
    pub closes_at: Option<when::When>,
}

/// Cancels a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CancelDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// The reason, which everyone can read.
    #[schemars(length(min = 1, max = registration::MAX_REASON))]
    pub reason: String,
}

/// Opens or closes registration when the schedule says so. The scheduler sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AdvanceDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// The instant at which this was due.
    pub due: Timestamp,
}

/// Sends the reminders and the digest that are due. The scheduler sends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RemindDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// The instant at which this was due.
    pub due: Timestamp,
}

/// The outcome of a command about a drive.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DriveOutcome {
    /// The drive.
    pub drive_id: DriveId,
    /// Its status now.
    pub status: Status,
    /// The version of its rules now.
    pub rules_version: u32,
    /// How many waiting members the command promoted.
    #[serde(skip_serializing_if = "is_zero")]
    pub promoted: usize,
    /// The drive's times by the clock of the new time zone, if the time zone changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
