//! Refusals: decisions that say no, and why.
//!
//! A refusal is a success of the machine. Its code is stable: clients and their translations rely on it.

use serde::{Deserialize, Serialize};

use crate::eligibility::Verdict;

macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal;)*) => {
        crate::words! {
            /// A stable code of a refusal, in kebab-case on the wire.
            pub enum Code {
                $(#[doc = $title] $name = $code,)*
            }
        }

        impl Code {
            /// The same for every refusal with this code.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    AlreadyRegistered = "already-registered", "The member is already registered for this drive";
    AnswersInvalid = "answers-invalid", "The answers do not fit the drive's questions";
    AttributeLocked = "attribute-locked", "An organiser has set this attribute";
    CapacityBelowConfirmed = "capacity-below-confirmed", "More places are confirmed than the new capacity has";
    DriveCancelled = "drive-cancelled", "The drive is cancelled";
    DriveClosed = "drive-closed", "Registration is closed";
    DriveFull = "drive-full", "All places and the waiting list are taken";
    DriveNotClosed = "drive-not-closed", "The drive is not closed";
    DriveNotFound = "drive-not-found", "There is no such drive";
    DriveNotOpen = "drive-not-open", "Registration has not opened yet";
    DriveNotPublished = "drive-not-published", "The drive is not published yet";
    DrivePublished = "drive-already-published", "The drive is published already";
    InvalidDrive = "invalid-drive", "The drive has errors";
    InvalidFile = "invalid-file", "The file cannot be imported";
    InvalidProfile = "invalid-profile", "The profile has errors";
    InvalidRule = "invalid-rule", "A rule cannot be used";
    MemberNotFound = "member-not-found", "There is no such member";
    NotConfirmed = "not-confirmed", "The registration holds no place";
    NotEligible = "not-eligible", "The member does not meet the drive's rules";
    NotRegistered = "not-registered", "The member is not registered for this drive";
    NotWaiting = "not-waiting", "The registration is not on the waiting list";
    RegistrationNotFound = "registration-not-found", "There is no such registration";
    SlotInUse = "slot-in-use", "The slot still has registrations";
    SlotNotFound = "slot-not-found", "The drive has no such slot";
    SlotRequired = "slot-required", "The drive has slots; one must be chosen";
    WindowOver = "window-over", "The drive's registration window is over";
}

impl Code {
    /// Whether this says "not yet": the same request may be decided otherwise later, and nothing but time has to pass.
    ///
    /// Such a refusal does not bind its idempotency key: a repetition is another attempt. Any other refusal does. It holds
    /// until somebody changes something, and a request that was only sent twice must not take effect then.
    #[must_use]
    pub fn time_can_change(self) -> bool {
        matches!(self, Self::DriveNotOpen | Self::DriveNotPublished)
    }
}

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Where: `rules[0].when`.
    pub field: String,
    /// What is wrong.
    pub detail: String,
    /// For an expression: the line, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// For an expression: the column, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
}

impl FieldError {
    /// An error about a whole field.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into(), line: None, column: None }
    }
}

/// A decision that says no: the `problem` of a command's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What kind of no.
    pub code: Code,
    /// What this one is about, in words; never about who someone is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// For [`Code::NotEligible`]: every rule, and what was compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<Box<Verdict>>,
    /// What is wrong with the input, place by place.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<FieldError>,
}

impl Refusal {
    /// A refusal with nothing more to say than its title.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self { code, detail: None, verdict: None, errors: Vec::new() }
    }

    /// The same, saying what it is about.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same, with what is wrong place by place.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}
