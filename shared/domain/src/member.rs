//! Members: people and their profiles.

pub mod event;
pub mod import;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::attribute::{Attribute, Attributes, MAX_ATTRIBUTE_NAME, is_attribute_name};
use crate::eligibility::is_comparable;
use crate::id::{CommandId, MemberId};
use crate::member::import::ImportOutcome;
use crate::refusal::{Code, FieldError, Refusal};
use crate::text::{line_fault, lines_fault};

/// The longest name of a person, in characters.
pub const MAX_NAME: usize = 200;
/// The most attributes of one member.
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
    "import-members" => ImportMembers -> ImportOutcome or [InvalidFile],
}

/// Changes a member's own profile. Muster also sends it when a person signs up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateProfile {
    /// Whose profile.
    pub member_id: MemberId,
    /// The new name.
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: Option<String>,
    /// Attributes to set. Null removes one.
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
        let mut faults = Vec::new();
        if let Some(fault) = self.name.as_ref().and_then(|name| line_fault(name, MAX_NAME)) {
            faults.push(FieldError::new("name", format!("the name cannot be used: {fault}")));
        }
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
}

impl ImportMembers {
    fn orders_by(&self) -> Uuid {
        self.imported_by
    }
}

/// What is stored about a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Profile {
    /// Their name.
    pub name: String,
    /// All attributes, including the verified ones.
    pub attributes: Attributes,
    /// The names of the attributes that an organiser imported. Only an organiser changes these.
    pub verified: Vec<String>,
}

impl Profile {
    /// Applies the profile that a member gave at sign-up. It may be published late, so it does not
    /// replace a name that came before it.
    pub fn begin(&mut self, command: &UpdateProfile) -> Result<(), Refusal> {
        let name = self.name.clone();
        self.update(command)?;
        if !name.is_empty() {
            self.name = name;
        }
        Ok(())
    }

    /// Applies a member's change of their own profile. A member cannot change an attribute that an
    /// organiser imported. Marks decide who may come, so nobody sets their own.
    pub fn update(&mut self, command: &UpdateProfile) -> Result<(), Refusal> {
        let locked: Vec<_> = command
            .attributes
            .iter()
            .filter(|(name, value)| {
                self.verified.contains(*name) && self.attributes.get(name) != value.as_ref()
            })
            .map(|(name, _)| {
                FieldError::new(
                    format!("attributes.{name}"),
                    "an organiser has set this; only an organiser changes it",
                )
            })
            .collect();
        if !locked.is_empty() {
            return Err(Refusal::new(Code::AttributeLocked).with_errors(locked));
        }
        let mut attributes = self.attributes.clone();
        attributes.change(&command.attributes);
        if attributes.len() > MAX_ATTRIBUTES {
            let detail = format!("a member has at most {MAX_ATTRIBUTES} attributes");
            return Err(
                Refusal::new(Code::InvalidProfile).with_errors(vec![FieldError::new("attributes", detail)])
            );
        }
        self.attributes = attributes;
        if let Some(name) = &command.name {
            name.trim().clone_into(&mut self.name);
        }
        Ok(())
    }

    /// Applies an organiser's import. Imported values replace existing ones of the same name and
    /// become verified. Returns whether the profile changed.
    pub fn import(&mut self, name: &str, attributes: &Attributes) -> bool {
        let mut has_changed = false;
        if !name.is_empty() && name != self.name {
            name.clone_into(&mut self.name);
            has_changed = true;
        }
        for (name, value) in attributes.iter() {
            if self.attributes.get(name) != Some(value) {
                self.attributes.insert(name.clone(), value.clone());
                has_changed = true;
            }
            if !self.verified.contains(name) {
                self.verified.push(name.clone());
                has_changed = true;
            }
        }
        has_changed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::*;

    fn changes(pairs: &[(&str, Option<Attribute>)]) -> BTreeMap<String, Option<Attribute>> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn update(pairs: &[(&str, Option<Attribute>)]) -> UpdateProfile {
        UpdateProfile { member_id: MemberId::new(), name: None, attributes: changes(pairs) }
    }

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

    #[test]
    fn a_member_cannot_change_what_an_organiser_imported() {
        let mut profile = Profile::default();
        profile.import("Ann", &[("marks".to_owned(), Attribute::Number(58.into()))].into_iter().collect());
        let refusal = profile.update(&update(&[("marks", Some(Attribute::Number(99.into())))])).unwrap_err();
        assert_eq!(refusal.code, Code::AttributeLocked);
        assert!(profile.update(&update(&[("marks", None)])).is_err());
        assert_eq!(profile.attributes.get("marks"), Some(&Attribute::Number(58.into())));
    }

    #[test]
    fn the_first_profile_names_only_a_member_without_a_name() {
        let first = UpdateProfile { name: Some("Ann".to_owned()), ..update(&[]) };
        let mut profile = Profile::default();
        profile.begin(&first).unwrap();
        assert_eq!(profile.name, "Ann");
        profile.name = "Ann Lee".to_owned();
        profile.begin(&first).unwrap();
        assert_eq!(profile.name, "Ann Lee");
    }

    #[test]
    fn a_member_changes_the_rest_and_null_removes() {
        let mut profile = Profile::default();
        profile.update(&update(&[("city", Some(Attribute::Text("Pune".into())))])).unwrap();
        profile.update(&update(&[("city", None), ("age", Some(Attribute::Number(20.into())))])).unwrap();
        assert_eq!(profile.attributes.get("city"), None);
        assert_eq!(profile.attributes.get("age"), Some(&Attribute::Number(20.into())));
    }
}
