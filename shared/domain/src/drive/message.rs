//! Messages from an organiser to a drive's members.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::drive::registration::RegistrationState;
use crate::id::DriveId;
use crate::refusal::FieldError;
use crate::text;

/// The longest subject, in characters.
pub const MAX_SUBJECT: usize = 200;
/// The longest text, in characters.
pub const MAX_TEXT: usize = 10_000;

/// The recipients of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// Members who hold a place.
    Confirmed,
    /// Members who wait for a place.
    Waitlisted,
    /// Both.
    #[default]
    All,
}

impl Audience {
    /// The states of the recipients' registrations.
    #[must_use]
    pub fn states(self) -> &'static [RegistrationState] {
        match self {
            Self::Confirmed => &[RegistrationState::Confirmed],
            Self::Waitlisted => &[RegistrationState::Waitlisted],
            Self::All => &[RegistrationState::Confirmed, RegistrationState::Waitlisted],
        }
    }
}

/// Sends a message to a drive's members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MessageDrive {
    /// The drive.
    pub drive_id: DriveId,
    /// What it is about, on one line.
    #[schemars(length(min = 1, max = MAX_SUBJECT))]
    pub subject: String,
    /// What it says.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    pub text: String,
    /// To whom.
    #[serde(default)]
    pub to: Audience,
}

/// Everything that is wrong with a message.
#[must_use]
pub fn faults(subject: &str, body: &str) -> Vec<FieldError> {
    let fields = [
        ("subject", subject, MAX_SUBJECT, text::optional_line_fault(subject, usize::MAX)),
        ("text", body, MAX_TEXT, text::lines_fault(body, usize::MAX)),
    ];
    let fault = |(field, value, most, fault): (&str, &str, usize, Option<String>)| {
        if text::is_blank(value) || value.chars().count() > most {
            return Some(FieldError::new(field, format!("a {field} is 1 to {most} characters long")));
        }
        fault.map(|fault| FieldError::new(field, fault))
    };
    fields.into_iter().filter_map(fault).collect()
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
        for subject in ["Two\nlines", "Two\u{2028}lines", "\u{202e}sdrawkcab", "\u{200b}", "a\tb"] {
            assert_eq!(fields(subject, "x"), ["subject"], "{subject:?}");
        }
        assert_eq!(fields("S", "\u{200b}\n"), ["text"]);
        assert_eq!(fields("S", "a\u{8}b"), ["text"]);
    }
}
