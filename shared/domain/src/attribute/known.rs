//! What is known of a person, and who said it.
//!
//! An organisation and the person themselves say different things. So there are two maps, and a
//! rule names the one that it reads: `member.x` or `declared.x`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Attribute, Attributes};
use crate::clock::Timestamp;

crate::words! {
    /// Who vouches for a value.
    #[schemars(rename = "AttributeSource")]
    pub enum Source {
        /// An organiser imported it from a file.
        Import = "import",
        /// An organiser wrote it for this person.
        Organiser = "organiser",
    }
}

/// A value that someone other than the person vouches for. Without a value, the person is known not
/// to have the attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// The value, if there is one.
    #[serde(rename = "v")]
    pub value: Option<Attribute>,
    /// Who said it.
    #[serde(rename = "s")]
    pub source: Source,
    /// When it was said.
    pub at: Timestamp,
}

/// Where a verified value is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AttributeOrigin")]
pub struct Origin {
    /// Who said it.
    pub source: Source,
    /// When it was said.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
}

/// What is known of a person.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// What an organisation says, by name: `member.x` in rules.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verified: BTreeMap<String, Verified>,
    /// What the person says: `declared.x` in rules.
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub declared: Attributes,
}

impl Known {
    /// What is known, if all of it was imported at one instant.
    #[must_use]
    pub fn imported(attributes: Attributes, at: Timestamp) -> Self {
        let verified = |value| Verified { value: Some(value), source: Source::Import, at };
        let all = attributes.0.into_iter().map(|(name, value)| (name, verified(value)));
        Self { verified: all.collect(), declared: Attributes::default() }
    }

    /// What is known by the two columns of versions that had one map: all attributes, and the names
    /// of the imported ones.
    #[must_use]
    pub fn of_one_map(attributes: Attributes, imported: &[String], at: Timestamp) -> Self {
        let (verified, declared) =
            attributes.0.into_iter().partition::<BTreeMap<_, _>, _>(|(name, _)| imported.contains(name));
        Self { declared: Attributes(declared), ..Self::imported(Attributes(verified), at) }
    }

    /// The same as one map, as those versions read it.
    #[must_use]
    pub fn as_one_map(&self) -> Attributes {
        let verified = self.verified.iter().filter_map(|(name, said)| Some((name, said.value.as_ref()?)));
        let all = self.declared.iter().chain(verified);
        all.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The verified value `name`.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Attribute> {
        self.verified.get(name)?.value.as_ref()
    }

    /// Drops what the person says about attributes of which an organisation says something. Otherwise
    /// `declared.x` would bring back a value that an import took away.
    pub(crate) fn drop_what_is_verified(&mut self) {
        let Self { verified, declared } = self;
        declared.0.retain(|name, _| !verified.contains_key(name));
    }

    /// Whether an organisation says something about `name`, also that there is no value.
    #[must_use]
    pub fn is_verified(&self, name: &str) -> bool {
        self.verified.contains_key(name)
    }
}

impl Verified {
    /// Where it is from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { source: self.source, at: self.at }
    }

    /// The value as JSON; null if there is none.
    #[must_use]
    pub fn to_json(&self) -> Json {
        self.value.as_ref().map_or(Json::Null, Attribute::to_json)
    }
}
