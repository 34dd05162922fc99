//! Eligibility: a drive's rules, and the verdict they give on a member, with what was compared.
//!
//! A rule is one expression in [CEL](https://cel.dev) over `member.*` (attributes), `drive.*` and `now`. All rules must
//! hold. A missing attribute is a failed rule that says what is missing. All numbers in rules are decimals, so `60`,
//! `60.0` and an attribute of `60` are the same; an attribute that looks like a date (`2001-02-03`) or an instant is a
//! timestamp. Besides CEL's own functions there are `days(from, to)` and `years(from, to)`, which count whole ones.

mod expression;

use std::collections::BTreeMap;
use std::sync::Arc;

use cel::{Context, ExecutionError, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use self::expression::{Expression, Read};
use crate::clock::Instant;
use crate::id::{DriveId, MemberId};
use crate::member::{Attribute, Attributes};

/// The most rules of one drive.
pub const MAX_RULES: usize = 32;
/// The longest expression, in bytes.
pub const MAX_EXPRESSION: usize = 1000;
/// The longest name of a rule, in bytes.
pub const MAX_NAME: usize = 64;
/// The longest message of a rule, in bytes.
pub const MAX_MESSAGE: usize = 500;

/// One condition on those who register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// Unique in its drive: `minimum_marks`.
    pub name: String,
    /// The expression; it must be true.
    pub when: String,
    /// What a member reads when it is not.
    pub message: String,
}

/// Why a drive's rules were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleError {
    /// The rule's name.
    pub rule: String,
    /// Where in the expression, from 1; absent when it is not about one place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Where in the line, from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
    /// What is wrong.
    pub detail: String,
}

/// What the rules of one drive say about one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which version of the drive's rules.
    pub rules_version: u32,
    /// Whether all of them hold.
    pub eligible: bool,
    /// Each rule, in the drive's order.
    pub rules: Vec<RuleVerdict>,
}

/// What one rule says about one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleVerdict {
    /// The rule.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// The rule's message.
    pub message: String,
    /// What the rule looked at, by name: `{"age": 17}`, `{"drive.kind": "donation"}`.
    pub compared: BTreeMap<String, Json>,
    /// Attributes that the rule needs and the member does not have.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<String>,
    /// Why it could not be compared, if it could not: a text against a number, say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

impl Verdict {
    /// The names of the rules that do not hold.
    pub fn failed(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().filter(|rule| !rule.passed).map(|rule| rule.name.as_str())
    }
}

/// A drive's rules, compiled. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    version: u32,
    rules: Arc<[(Rule, Expression)]>,
}

/// What rules may read of the drive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriveFacts {
    /// `drive.title`
    pub title: String,
    /// `drive.kind`
    pub kind: String,
    /// `drive.venue`
    pub venue: String,
    /// `drive.opens_at`
    pub opens_at: Instant,
    /// `drive.closes_at`
    pub closes_at: Instant,
    /// `drive.starts_at`, if it is known.
    pub starts_at: Option<Instant>,
    /// `drive.ends_at`, if it is known.
    pub ends_at: Option<Instant>,
}

/// The fields of `drive` that rules may name.
const DRIVE_FIELDS: [&str; 7] = ["title", "kind", "venue", "opens_at", "closes_at", "starts_at", "ends_at"];

impl DriveFacts {
    fn get(&self, field: &str) -> Option<Attribute> {
        match field {
            "title" => Some(Attribute::Text(self.title.clone())),
            "kind" => Some(Attribute::Text(self.kind.clone())),
            "venue" => Some(Attribute::Text(self.venue.clone())),
            "opens_at" => Some(Attribute::instant(self.opens_at)),
            "closes_at" => Some(Attribute::instant(self.closes_at)),
            "starts_at" => self.starts_at.map(Attribute::instant),
            "ends_at" => self.ends_at.map(Attribute::instant),
            _ => None,
        }
    }
}

impl Rules {
    /// Compiles `rules`; says everything that is wrong with them otherwise.
    pub fn compile(rules: &[Rule], version: u32) -> Result<Self, Vec<RuleError>> {
        let mut errors = Vec::new();
        let mut compiled: Vec<(Rule, Expression)> = Vec::with_capacity(rules.len());
        if rules.len() > MAX_RULES {
            let detail = format!("a drive has at most {MAX_RULES} rules");
            errors.push(RuleError { rule: String::new(), line: None, column: None, detail });
        }
        for rule in rules.iter().take(MAX_RULES) {
            let whole = |detail| RuleError { rule: rule.name.clone(), line: None, column: None, detail };
            if !is_name(&rule.name) {
                errors.push(whole(format!("a rule's name is 1 to {MAX_NAME} of a–z, 0–9, _ and -")));
            }
            if rule.message.trim().is_empty() || rule.message.len() > MAX_MESSAGE {
                errors.push(whole(format!("a rule's message is 1 to {MAX_MESSAGE} bytes long")));
            }
            if compiled.iter().any(|(other, _)| other.name == rule.name) {
                errors.push(whole("another rule of this drive has the same name".to_owned()));
            }
            match Expression::compile(&rule.when) {
                Ok(expression) => compiled.push((rule.clone(), expression)),
                Err(found) => errors.extend(found.into_iter().map(|fault| RuleError {
                    rule: rule.name.clone(),
                    line: Some(fault.line),
                    column: Some(fault.column),
                    detail: fault.detail,
                })),
            }
        }
        if errors.is_empty() { Ok(Self { version, rules: compiled.into() }) } else { Err(errors) }
    }

    /// Compiles rules that were compiled before they were stored. Should a later version of CEL read one differently,
    /// nobody passes unchecked: everybody is refused and told why.
    #[must_use]
    pub fn compile_stored(rules: &[Rule], version: u32) -> Self {
        Self::compile(rules, version).unwrap_or_else(|errors| {
            tracing::error!(?errors, "a stored rule does not compile any more");
            Self::broken(version)
        })
    }

    fn broken(version: u32) -> Self {
        let nobody = Rule {
            name: "rules".to_owned(),
            when: "false".to_owned(),
            message: "The drive's rules cannot be read; an organiser has to write them again".to_owned(),
        };
        Self::compile(&[nobody], version).unwrap_or_default()
    }

    /// Their version: it grows by one with each change of a drive's rules.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether anyone may come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Those of a member's attributes that the rules look at: what a decision rests on, and no more.
    #[must_use]
    pub fn facts(&self, attributes: &Attributes) -> Attributes {
        let mut facts = Attributes::default();
        for (_, expression) in self.rules.iter() {
            for read in expression.reads() {
                if let Read::Member(name) = read
                    && let Some(value) = attributes.get(name)
                {
                    facts.insert(name.clone(), value.clone());
                }
            }
        }
        facts
    }

    /// Judges a member by their attributes at the instant `now`. Pure: the same input gives the same verdict.
    #[must_use]
    pub fn judge(&self, attributes: &Attributes, drive: &DriveFacts, now: Instant) -> Verdict {
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|(rule, expression)| judge(rule, expression, attributes, drive, now))
            .collect();
        Verdict { rules_version: self.version, eligible: rules.iter().all(|rule| rule.passed), rules }
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}

fn judge(
    rule: &Rule,
    expression: &Expression,
    attributes: &Attributes,
    drive: &DriveFacts,
    now: Instant,
) -> RuleVerdict {
    let mut compared = BTreeMap::new();
    let mut member_values = std::collections::HashMap::new();
    let mut drive_values = std::collections::HashMap::new();
    let mut context = Context::with_env(expression::environment());
    for read in expression.reads() {
        match read {
            Read::Member(name) => {
                let value = attributes.get(name);
                compared.insert(name.clone(), value.map_or(Json::Null, Attribute::to_json));
                if let Some(value) = value {
                    member_values.insert(name.clone(), expression::value(value));
                }
            }
            Read::Drive(name) => {
                let value = drive.get(name);
                compared
                    .insert(format!("drive.{name}"), value.as_ref().map_or(Json::Null, Attribute::to_json));
                if let Some(value) = &value {
                    drive_values.insert(name.clone(), expression::value(value));
                }
            }
            Read::Now => {
                compared.insert("now".to_owned(), Attribute::instant(now).to_json());
            }
        }
    }
    context.add_variable_from_value("member", member_values);
    context.add_variable_from_value("drive", drive_values);
    context.add_variable_from_value("now", Value::Timestamp(now.fixed_offset()));
    let (passed, missing, detail) = match expression.evaluate(&context) {
        Ok(Value::Bool(passed)) => (passed, Vec::new(), None),
        Ok(other) => (
            false,
            Vec::new(),
            Some(format!("the rule gave {}, not true or false", expression::name(&other))),
        ),
        Err(ExecutionError::NoSuchKey(_)) => (false, missing(expression, attributes, drive), None),
        Err(error) => (false, missing(expression, attributes, drive), Some(expression::explain(&error))),
    };
    RuleVerdict { name: rule.name.clone(), passed, message: rule.message.clone(), compared, missing, detail }
}

/// What the rule reads and nobody has.
fn missing(expression: &Expression, attributes: &Attributes, drive: &DriveFacts) -> Vec<String> {
    expression
        .reads()
        .iter()
        .filter_map(|read| match read {
            Read::Member(name) if attributes.get(name).is_none() => Some(name.clone()),
            Read::Drive(name) if drive.get(name).is_none() => Some(format!("drive.{name}")),
            _ => None,
        })
        .collect()
}

crate::commands! {
    /// What is decided without order, and changes nothing.
    pub enum EligibilityCommand on Eligibility by |command| command.drive_id.0;
    "check-eligibility" => CheckEligibility,
}

/// Asks what a drive's rules say about a member, without registering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckEligibility {
    /// The drive.
    pub drive_id: DriveId,
    /// The member.
    pub member_id: MemberId,
}

#[cfg(test)]
mod tests;
