//! Attributes: the facts about a member that rules read.

mod known;

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value as Json};

pub use self::known::{Known, Origin, Source, Verified};

/// The longest name of an attribute, in bytes.
pub const MAX_ATTRIBUTE_NAME: usize = 64;

/// One value that rules can read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Attribute {
    /// True or false.
    Bool(bool),
    /// A number that rules compare exactly: an integer of at most 64 bits, or a number with a point
    /// below 2^53.
    Number(Number),
    /// A text. `2001-02-03` and RFC 3339 instants also count as dates.
    Text(String),
}

impl<'de> Deserialize<'de> for Attribute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;

        impl Visitor<'_> for Value {
            type Value = Attribute;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number, true or false")
            }

            fn visit_bool<E: de::Error>(self, flag: bool) -> Result<Attribute, E> {
                Ok(Attribute::Bool(flag))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Attribute, E> {
                Ok(Attribute::Number(number.into()))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Attribute, E> {
                Ok(Attribute::Number(number.into()))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Attribute, E> {
                Number::from_f64(number).map(Attribute::Number).ok_or_else(|| E::custom("it is no number"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Attribute, E> {
                Ok(Attribute::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Attribute, E> {
                Ok(Attribute::Text(text))
            }
        }

        deserializer.deserialize_any(Value)
    }
}

impl Attribute {
    /// The JSON value.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match self {
            Self::Bool(flag) => Json::Bool(*flag),
            Self::Number(number) => Json::Number(number.clone()),
            Self::Text(text) => Json::String(text.clone()),
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

    /// Parses the JSON text of a table.
    ///
    /// # Errors
    /// If the text is not a flat object. Muster never writes such a text.
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

/// Whether a text can be an attribute's name. Rules must be able to write `member.name`.
#[must_use]
pub fn is_attribute_name(text: &str) -> bool {
    text.len() <= MAX_ATTRIBUTE_NAME
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
