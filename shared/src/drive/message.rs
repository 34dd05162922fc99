//! What an organiser writes to all of a drive.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::id::DriveId;
use crate::refusal::FieldError;
use crate::registration::RegistrationState;

/// The longest subject, in characters.
pub const MAX_SUBJECT: usize = 200;
/// The longest text, in characters.
pub const MAX_TEXT: usize = 10_000;

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Whoever holds a place.
    Confirmed,
    /// Whoever waits for one.
    Waitlisted,
    /// Both.
    #[default]
    All,
}

impl Audience {
    /// The registrations of those whom it is for.
    #[must_use]
    pub fn states(self) -> &'static [RegistrationState] {
        match self {
            Self::Confirmed => &[RegistrationState::Confirmed],
            Self::Waitlisted => &[RegistrationState::Waitlisted],
            Self::All => &[RegistrationState::Confirmed, RegistrationState::Waitlisted],
        }
    }
}

/// Writes to all of a drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// What it is about, on one line.
    pub subject: String,
    /// What it says.
    pub text: String,
    /// To whom.
    #[serde(default)]
    pub to: Audience,
}

/// Everything that is wrong with a message.
#[must_use]
pub fn faults(subject: &str, text: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    for (field, value, most) in [("subject", subject, MAX_SUBJECT), ("text", text, MAX_TEXT)] {
        if value.trim().is_empty() || value.chars().count() > most {
            faults.push(FieldError::new(field, format!("a {field} is 1 to {most} characters long")));
        }
    }
    if subject.contains(char::is_control) {
        faults.push(FieldError::new("subject", "a subject is one line"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_says_something_and_not_too_much() {
        let fields = |subject: &str, text: &str| {
            faults(subject, text).into_iter().map(|fault| fault.field).collect::<Vec<_>>()
        };
        assert!(fields("Bring water", "It will be hot.\nVery.").is_empty());
        assert!(fields(&"क".repeat(MAX_SUBJECT), &"क".repeat(MAX_TEXT)).is_empty());
        assert_eq!(fields(" ", "\n"), ["subject", "text"]);
        assert_eq!(fields(&"x".repeat(MAX_SUBJECT + 1), &"x".repeat(MAX_TEXT + 1)), ["subject", "text"]);
        assert_eq!(fields("Two\nlines", "x"), ["subject"]);
    }
}
