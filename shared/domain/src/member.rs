//! Members: people and their profiles.

pub mod event;
pub mod import;
mod profile;

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::profile::{Imported, Profile};
use crate::attribute::{Attribute, MAX_ATTRIBUTE_NAME, is_attribute_name};
use crate::eligibility::is_comparable;
use crate::id::{CommandId, MemberId};
use crate::member::import::ImportOutcome;
use crate::refusal::FieldError;
use crate::text::{line_fault, lines_fault};

/// The longest name of a person, in characters.
pub const MAX_NAME: usize = 200;
/// The most attributes that an organisation says of one member, and that the member says.
pub const MAX_ATTRIBUTES: usize = 64;
/// The longest text of an attribute, in characters.
pub const MAX_TEXT: usize = 500;

/// What is wrong with an attribute. `None` if it is valid.
#[must_use]
pub fn attribute_fault(name: &str, value: Option<&Attribute>) -> Option<String> {
    if !is_attribute_name(name) {
        return Some(format!("an attribute's name is a–z, 0–9 and _, at most {MAX_ATTRIBUTE_NAME} long"));
    }
    match value {
        Some(Attribute::Text(text)) => {
            lines_fault(text, MAX_TEXT).map(|fault| format!("the text cannot be used: {fault}"))
        }
        Some(Attribute::Number(number)) if !is_comparable(number) => {
            Some("a number this large may lose digits; write it as a text".to_owned())
        }
        _ => None,
    }
}

crate::commands! {
    /// Everything that is decided on a member's lane.
    pub enum MemberCommand on Members about Member by |command| command.orders_by();
    "update-profile" => UpdateProfile -> ProfileOutcome or [AttributeLocked, InvalidProfile],
    "edit-member" => EditMember -> ProfileOutcome or [MemberNotFound, InvalidProfile],
    "import-members" => ImportMembers -> ImportOutcome or [InvalidFile],
}

/// Changes a member's own profile: their name, and what they say of themselves. Muster also sends it
/// when a person signs up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateProfile {
    /// Whose profile.
    pub member_id: MemberId,
    /// The new name.
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: Option<String>,
    /// Declared attributes to set. Null removes one.
    #[serde(default)]
    pub attributes: BTreeMap<String, Option<Attribute>>,
}

impl UpdateProfile {
    fn orders_by(&self) -> Uuid {
        self.member_id.0
    }

    /// The id of the command that gives a member their first profile. It is published again after a
    /// crash, so it is a function of the member.
    #[must_use]
    pub fn first_id(member_id: MemberId) -> CommandId {
        CommandId(member_id.0)
    }

    /// Whether the command `id` is the one that gives this member their first profile.
    #[must_use]
    pub fn is_first(&self, id: CommandId) -> bool {
        id == Self::first_id(self.member_id)
    }

    /// What is wrong with the command, as far as its body alone shows.
    #[must_use]
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults: Vec<_> = name_fault(self.name.as_deref()).into_iter().collect();
        if self.attributes.len() > MAX_ATTRIBUTES {
            faults.push(FieldError::new(
                "attributes",
                format!("a member has at most {MAX_ATTRIBUTES} attributes"),
            ));
        }
        // A body may name more attributes than a member may have. The answer needs no more faults.
        let attributes = self.attributes.iter().take(MAX_ATTRIBUTES);
        faults.extend(attributes.filter_map(|(name, value)| {
            let detail = attribute_fault(name, value.as_ref())?;
            Some(FieldError::new(format!("attributes.{name}"), detail))
        }));
        faults
    }
}

fn name_fault(name: Option<&str>) -> Option<FieldError> {
    let fault = line_fault(name?, MAX_NAME)?;
    Some(FieldError::new("name", format!("the name cannot be used: {fault}")))
}

/// Changes what the organisation says of a member, by an organiser's hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EditMember {
    /// Whose profile.
    pub member_id: MemberId,
    /// The new name. The member cannot change it afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: Option<String>,
    /// Verified attributes to set.
    #[serde(default)]
    pub set: BTreeMap<String, Attribute>,
    /// Attributes that the member is known not to have.
    #[serde(default)]
    pub absent: BTreeSet<String>,
    /// Attributes of which the organisation says nothing any more. `name` releases the name.
    #[serde(default)]
    pub release: BTreeSet<String>,
}

impl EditMember {
    fn orders_by(&self) -> Uuid {
        self.member_id.0
    }

    /// What is wrong with the command, as far as its body alone shows.
    #[must_use]
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults: Vec<_> = name_fault(self.name.as_deref()).into_iter().collect();
        if self.name.is_none() && self.set.is_empty() && self.absent.is_empty() && self.release.is_empty() {
            faults
                .push(FieldError::new("set", "the edit changes nothing; give name, set, absent or release"));
        }
        let fields =
            [("set", self.set.len()), ("absent", self.absent.len()), ("release", self.release.len())];
        for (field, _) in fields.into_iter().filter(|(_, length)| *length > MAX_ATTRIBUTES) {
            faults.push(FieldError::new(field, format!("at most {MAX_ATTRIBUTES} attributes fit here")));
        }
        let set = self.set.iter().map(|(name, value)| ("set", name, Some(value)));
        let absent = self.absent.iter().map(|name| ("absent", name, None));
        let release = self.release.iter().map(|name| ("release", name, None));
        let mut seen = BTreeSet::new();
        for (field, name, value) in set.chain(absent).chain(release).take(3 * MAX_ATTRIBUTES) {
            let twice = || (!seen.insert(name)).then(|| "it may be set, absent or released once".to_owned());
            if let Some(detail) = attribute_fault(name, value).or_else(twice) {
                faults.push(FieldError::new(format!("{field}.{name}"), detail));
            }
        }
        faults
    }
}

/// The outcome of a change of a profile.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProfileOutcome {
    /// Whose profile.
    pub member_id: MemberId,
}

/// Imports people and their attributes from a CSV file that was stored before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportMembers {
    /// The organiser who imports. One organiser's imports are processed in order.
    pub imported_by: Uuid,
    /// The key of the stored file (see `shared::files`).
    pub file: String,
    /// The charset that the sender of the file named, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charset: Option<String>,
    /// Whether it also replaces names and values that an organiser has set by hand.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overrides: bool,
}

impl ImportMembers {
    fn orders_by(&self) -> Uuid {
        self.imported_by
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    #[test]
    fn an_attribute_is_a_text_a_number_or_a_truth_value() {
        let read = |text: &str| serde_json::from_str::<Attribute>(text);
        for text in ["true", "67", "-1", "67.5", "18446744073709551615", "\"x\""] {
            assert_eq!(serde_json::to_string(&read(text).unwrap()).unwrap(), text);
        }
        for text in ["null", "[]", "{}", "[1]"] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("a text, a number, true or false"), "{error}");
        }
    }

    #[test]
    fn an_attribute_is_bounded_and_can_be_shown() {
        let fault = |value: Json| attribute_fault("a", Some(&serde_json::from_value(value).unwrap()));
        for value in [serde_json::json!("one\ntwo"), 1.into(), u64::MAX.into(), 0.1.into(), true.into()] {
            assert_eq!(fault(value.clone()), None, "{value}");
        }
        for value in [serde_json::json!("x".repeat(501)), "a\u{0}".into(), "\u{202e}x".into(), 1e300.into()] {
            assert!(fault(value.clone()).is_some(), "{value}");
        }
    }
}
