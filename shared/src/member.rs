//! Members: people, and what is known about them.

pub mod import;
pub mod table;

use std::collections::BTreeMap;

use chrono::{NaiveDate, NaiveTime, SecondsFormat};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value as Json};
use uuid::Uuid;

use crate::clock::Instant;
use crate::id::MemberId;
use crate::refusal::{Code, FieldError, Refusal};

/// The longest name of a person, in bytes.
pub const MAX_NAME: usize = 200;
/// The most attributes of one member.
pub const MAX_ATTRIBUTES: usize = 64;
/// The longest name of an attribute, in bytes.
pub const MAX_ATTRIBUTE_NAME: usize = 64;
/// The longest text of an attribute, in bytes.
pub const MAX_TEXT: usize = 500;

/// One value that rules can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Attribute {
    /// True or false.
    Bool(bool),
    /// Any JSON number.
    Number(Number),
    /// A text; `2001-02-03` and RFC 3339 instants count as dates.
    Text(String),
}

impl Attribute {
    /// An instant as an attribute.
    #[must_use]
    pub fn instant(instant: Instant) -> Self {
        Self::Text(instant.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    /// The instant this is, if it is a date (its midnight in UTC) or an instant.
    #[must_use]
    pub fn as_instant(&self) -> Option<Instant> {
        let Self::Text(text) = self else { return None };
        if text.len() < 10 || !text.as_bytes()[0].is_ascii_digit() {
            return None;
        }
        match NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(date) => Some(date.and_time(NaiveTime::MIN).and_utc()),
            Err(_) => chrono::DateTime::parse_from_rfc3339(text).ok().map(|instant| instant.to_utc()),
        }
    }

    /// The JSON value.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Number(number) => Json::Number(number.clone()),
            Self::Text(text) => Json::String(text.clone()),
        }
    }

    /// Reads a cell of a table: numbers, `true` and `false` are recognised, anything else is text. Numbers with leading
    /// zeros or a plus sign (a phone, a roll number) stay text.
    #[must_use]
    pub fn from_cell(cell: &str) -> Self {
        match cell {
            "true" => Self::Bool(true),
            "false" => Self::Bool(false),
            text => match serde_json::from_str::<Number>(text) {
                Ok(number) if number.as_f64().is_some_and(f64::is_finite) => Self::Number(number),
                _ => Self::Text(text.to_owned()),
            },
        }
    }
}

/// A member's attributes: a flat object.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Attributes(BTreeMap<String, Attribute>);

impl Attributes {
    /// The attribute `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Attribute> {
        self.0.get(name)
    }

    /// Sets an attribute.
    pub fn insert(&mut self, name: String, value: Attribute) {
        self.0.insert(name, value);
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Attribute)> {
        self.0.iter()
    }

    /// Reads them from the JSON text of a table.
    ///
    /// # Errors
    /// If the text is not a flat object, which Muster never writes.
    pub fn from_text(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// Their JSON text.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("attributes are plain data")
    }

    /// Applies changes: a value replaces, `None` removes.
    pub fn change(&mut self, changes: &BTreeMap<String, Option<Attribute>>) {
        for (name, value) in changes {
            match value {
                Some(value) => self.insert(name.clone(), value.clone()),
                None => drop(self.0.remove(name)),
            }
        }
    }
}

impl FromIterator<(String, Attribute)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (String, Attribute)>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

/// Whether a text can name an attribute: rules must be able to write `member.name`.
#[must_use]
pub fn is_attribute_name(text: &str) -> bool {
    text.len() <= MAX_ATTRIBUTE_NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// What is wrong with an attribute, if anything is.
#[must_use]
pub fn attribute_fault(name: &str, value: Option<&Attribute>) -> Option<String> {
    if !is_attribute_name(name) {
        return Some(format!("an attribute's name is a–z, 0–9 and _, at most {MAX_ATTRIBUTE_NAME} long"));
    }
    match value {
        Some(Attribute::Text(text)) if text.len() > MAX_TEXT => {
            Some(format!("a text has at most {MAX_TEXT} bytes"))
        }
        _ => None,
    }
}

crate::commands! {
    /// Everything that is decided on a member's lane.
    pub enum MemberCommand on Members by |command| command.orders_by();
    "update-profile" => UpdateProfile,
    "import-members" => ImportMembers,
}

/// Changes what a member says about themselves. Also sent when someone signs up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpdateProfile {
    /// Whose profile.
    pub member_id: MemberId,
    /// The new name.
    pub name: Option<String>,
    /// Attributes to set, or (null) to remove.
    #[serde(default)]
    pub attributes: BTreeMap<String, Option<Attribute>>,
}

impl UpdateProfile {
    fn orders_by(&self) -> Uuid {
        self.member_id.0
    }

    /// What is wrong with it by itself.
    #[must_use]
    pub fn faults(&self) -> Vec<FieldError> {
        let mut faults = Vec::new();
        if let Some(name) = &self.name
            && (name.trim().is_empty() || name.len() > MAX_NAME)
        {
            faults.push(FieldError::new("name", format!("a name is 1 to {MAX_NAME} bytes long")));
        }
        if self.attributes.len() > MAX_ATTRIBUTES {
            faults.push(FieldError::new(
                "attributes",
                format!("a member has at most {MAX_ATTRIBUTES} attributes"),
            ));
        }
        for (name, value) in &self.attributes {
            if let Some(detail) = attribute_fault(name, value.as_ref()) {
                faults.push(FieldError::new(format!("attributes.{name}"), detail));
            }
        }
        faults
    }
}

/// Takes people and their attributes in from a CSV file that was stored before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ImportMembers {
    /// Who imports; one organiser's imports are taken in order.
    pub imported_by: Uuid,
    /// The key of the stored file (see [`crate::files`]).
    pub file: String,
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
    /// Their attributes, their own and the verified ones.
    pub attributes: Attributes,
    /// The names of the attributes that an organiser imported: only an organiser changes those.
    pub verified: Vec<String>,
}

impl Profile {
    /// Applies what a member says about themselves. What an organiser has imported stays as it is: marks decide who
    /// may come, so nobody sets their own.
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

    /// Takes over what an organiser imported: it replaces what was there under the same names, and is verified.
    pub fn import(&mut self, name: &str, attributes: &Attributes) {
        if !name.is_empty() {
            name.clone_into(&mut self.name);
        }
        for (name, value) in attributes.iter() {
            self.attributes.insert(name.clone(), value.clone());
            if !self.verified.contains(name) {
                self.verified.push(name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(pairs: &[(&str, Option<Attribute>)]) -> BTreeMap<String, Option<Attribute>> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn update(pairs: &[(&str, Option<Attribute>)]) -> UpdateProfile {
        UpdateProfile { member_id: MemberId::new(), name: None, attributes: changes(pairs) }
    }

    #[test]
    fn a_cell_is_what_it_looks_like() {
        assert_eq!(Attribute::from_cell("67"), Attribute::Number(67.into()));
        assert_eq!(Attribute::from_cell("true"), Attribute::Bool(true));
        assert_eq!(Attribute::from_cell("0071"), Attribute::Text("0071".into()));
        assert_eq!(Attribute::from_cell("+4912"), Attribute::Text("+4912".into()));
        assert_eq!(Attribute::from_cell("1e999"), Attribute::Text("1e999".into()));
        assert_eq!(Attribute::from_cell("Sci&Tech"), Attribute::Text("Sci&Tech".into()));
        assert!(matches!(Attribute::from_cell("67.5"), Attribute::Number(_)));
    }

    #[test]
    fn a_date_and_an_instant_are_recognised() {
        let date = Attribute::Text("2001-02-03".into());
        assert_eq!(date.as_instant().map(|at| at.to_rfc3339()).as_deref(), Some("2001-02-03T00:00:00+00:00"));
        assert!(Attribute::Text("2001-02-03T04:05:06+05:30".into()).as_instant().is_some());
        for text in ["2001-02-30", "2001", "yesterday", "", "2001-2-3x", "20010203"] {
            assert_eq!(Attribute::Text(text.into()).as_instant(), None, "{text}");
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
    fn a_member_changes_the_rest_and_null_removes() {
        let mut profile = Profile::default();
        profile.update(&update(&[("city", Some(Attribute::Text("Pune".into())))])).unwrap();
        profile.update(&update(&[("city", None), ("age", Some(Attribute::Number(20.into())))])).unwrap();
        assert_eq!(profile.attributes.get("city"), None);
        assert_eq!(profile.attributes.get("age"), Some(&Attribute::Number(20.into())));
    }
}
