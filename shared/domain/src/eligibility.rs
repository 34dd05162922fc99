//! Eligibility: a drive's rules and their verdict on a member, with the values that they compared.
//!
//! A rule is one expression in the grammar of [CEL](https://cel.dev) over `member.*` (what an
//! organisation says of the person), `declared.*` (what the person says), `drive.*` and `now`. All
//! rules must hold. A rule that needs a missing attribute fails and names
//! it. All numbers are exact decimals, so `60`, `60.0` and an attribute of `60` are the same. A
//! text that is a date (`2001-02-03`) or an RFC 3339 instant compares with dates. Dates, and the
//! parts of instants, go by the drive's time zone. Besides CEL's own functions there are
//! `days(from, to)` and `years(from, to)`, which count whole days and years.

mod evaluate;
mod expression;
mod fold;
mod moment;
mod parse;
mod typing;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use self::evaluate::World;
use self::expression::{Expression, Read};
use crate::attribute::{Attribute, Known, Origin};
use crate::clock::Timestamp;
use crate::id::{DriveId, MemberId};
use crate::text::line_fault;

/// The version of the rules' semantics. It grows if the same rule may give another verdict than
/// before. The facts of a decision have the version. So only decisions by the current version are
/// judged again and compared.
///
/// Before version 2, days began at midnight in UTC, numbers were binary, and values of different
/// types were unequal. Before version 3, `member.*` had what the person said, too.
pub const READING: u32 = 3;
/// The version before, with one map of attributes. Its decisions are judged again, with that map.
pub const READING_OF_ONE_MAP: u32 = 2;
/// The most rules of one drive.
pub const MAX_RULES: usize = 32;
/// The longest expression, in characters.
pub const MAX_EXPRESSION: usize = 1000;
/// The longest name of a rule, in characters.
pub const MAX_NAME: usize = 64;
/// The longest message of a rule, in characters.
pub const MAX_MESSAGE: usize = 500;

/// One condition on members who register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rule {
    /// Unique in its drive: `minimum_marks`.
    #[schemars(length(min = 1, max = MAX_NAME))]
    pub name: String,
    /// A CEL expression over `member.*` (what an organisation says of the member), `declared.*`
    /// (what the member says), `drive.*` and `now`. It must be true: `member.degree_p >= 60`.
    #[schemars(length(min = 1, max = MAX_EXPRESSION))]
    pub when: String,
    /// What a member reads if the condition is not true.
    #[schemars(length(min = 1, max = MAX_MESSAGE))]
    pub message: String,
}

/// Why a drive's rules were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleError {
    /// The rule's name.
    pub rule: String,
    /// The line in the expression, from 1. Absent if the error is not about one place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// The column in the line, from 1, in characters.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
    /// What is wrong.
    pub detail: String,
}

/// The verdict of a drive's rules on one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The version of the drive's rules.
    pub rules_version: u32,
    /// Whether all of them hold.
    pub eligible: bool,
    /// Each rule, in the drive's order.
    pub rules: Vec<RuleVerdict>,
}

/// The verdict of one rule on one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RuleVerdict {
    /// The rule.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// The rule's message.
    pub message: String,
    /// The values that the rule read, by name: `{"age": 17}`, `{"declared.city": "Pune"}`,
    /// `{"drive.kind": "donation"}`.
    pub compared: BTreeMap<String, Json>,
    /// Who said the verified values that the rule read, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub sources: BTreeMap<String, Origin>,
    /// Attributes that the rule needs and the member does not have.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub missing: Vec<String>,
    /// What the member says about the missing attributes. The rule needs what an organisation says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub declared: BTreeMap<String, Json>,
    /// Why the rule has no result, if so. For example, it compares a text with a number.
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
    pub opens_at: Timestamp,
    /// `drive.closes_at`
    pub closes_at: Timestamp,
    /// `drive.starts_at`, if it is known.
    pub starts_at: Option<Timestamp>,
    /// `drive.ends_at`, if it is known.
    pub ends_at: Option<Timestamp>,
    /// The time zone of dates and local times.
    pub time_zone: Tz,
}

/// A field of `drive` that rules may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum DriveField {
    Title,
    Kind,
    Venue,
    OpensAt,
    ClosesAt,
    StartsAt,
    EndsAt,
}

/// The value of a field of `drive`.
enum DriveValue<'a> {
    Text(&'a str),
    Instant(Timestamp),
}

impl DriveField {
    const ALL: [Self; 7] =
        [Self::Title, Self::Kind, Self::Venue, Self::OpensAt, Self::ClosesAt, Self::StartsAt, Self::EndsAt];

    fn as_str(self) -> &'static str {
        match self {
            Self::Title => "title",
            Self::Kind => "kind",
            Self::Venue => "venue",
            Self::OpensAt => "opens_at",
            Self::ClosesAt => "closes_at",
            Self::StartsAt => "starts_at",
            Self::EndsAt => "ends_at",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|field| field.as_str() == word)
    }

    fn is_date(self) -> bool {
        !matches!(self, Self::Title | Self::Kind | Self::Venue)
    }
}

impl DriveFacts {
    /// Placeholder facts, for expressions that read none.
    fn nowhere() -> Self {
        Self {
            title: String::new(),
            kind: String::new(),
            venue: String::new(),
            opens_at: Timestamp::default(),
            closes_at: Timestamp::default(),
            starts_at: None,
            ends_at: None,
            time_zone: Tz::UTC,
        }
    }

    fn get(&self, field: DriveField) -> Option<DriveValue<'_>> {
        Some(match field {
            DriveField::Title => DriveValue::Text(&self.title),
            DriveField::Kind => DriveValue::Text(&self.kind),
            DriveField::Venue => DriveValue::Text(&self.venue),
            DriveField::OpensAt => DriveValue::Instant(self.opens_at),
            DriveField::ClosesAt => DriveValue::Instant(self.closes_at),
            DriveField::StartsAt => DriveValue::Instant(self.starts_at?),
            DriveField::EndsAt => DriveValue::Instant(self.ends_at?),
        })
    }
}

impl DriveValue<'_> {
    fn to_json(&self) -> Json {
        match self {
            Self::Text(text) => Json::String((*text).to_owned()),
            Self::Instant(instant) => Json::String(crate::clock::rfc3339(*instant)),
        }
    }
}

impl Rules {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// With everything that is wrong with the rules.
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
            if let Some(fault) = line_fault(&rule.message, MAX_MESSAGE) {
                errors.push(whole(format!("the rule's message cannot be used: {fault}")));
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

    /// Compiles stored rules. They were checked before they were stored, perhaps by an earlier
    /// version. If a rule cannot be parsed any more, every member fails it, with a message that
    /// says so.
    #[must_use]
    pub fn compile_stored(rules: &[Rule], version: u32) -> Self {
        let parse = |rule: &Rule| match parse::parse(&rule.when) {
            Ok(parsed) => (rule.clone(), parsed),
            Err(faults) => {
                tracing::error!(rule = rule.name, ?faults, "a stored rule cannot be read any more");
                let message =
                    "This rule cannot be read any more; an organiser has to write it again".to_owned();
                (Rule { message, ..rule.clone() }, Expression::never())
            }
        };
        Self { version, rules: rules.iter().map(parse).collect() }
    }

    /// Their version. It grows by one with each change of a drive's rules.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether there are no rules, so that anyone may come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The names of the verified attributes that the rules need. A rule that tests with `has` whether
    /// there is one does not need it.
    #[must_use]
    pub fn needs_of_member(&self) -> BTreeSet<&str> {
        let reads = self
            .rules
            .iter()
            .flat_map(|(_, expression)| expression.reads.iter().filter(|read| !expression.root.tests(read)));
        reads
            .filter_map(|read| if let Read::Member(name) = read { Some(name.as_str()) } else { None })
            .collect()
    }

    /// The part of what is known of the person that the rules read. Only this is a fact of the
    /// decision.
    #[must_use]
    pub fn facts(&self, person: &Known) -> Known {
        let mut facts = Known::default();
        for read in self.rules.iter().flat_map(|(_, expression)| &expression.reads) {
            match read {
                Read::Member(name) => {
                    if let Some(said) = person.verified.get(name) {
                        facts.verified.insert(name.clone(), said.clone());
                    }
                }
                Read::Declared(name) => {
                    if let Some(value) = person.declared.get(name) {
                        facts.declared.insert(name.clone(), value.clone());
                    }
                }
                Read::Drive(_) | Read::Now => {}
            }
        }
        facts
    }

    /// Judges a person at the instant `now`. Pure: the same input gives the same verdict.
    #[must_use]
    pub fn judge(&self, person: &Known, drive: &DriveFacts, now: Timestamp) -> Verdict {
        let world = World { person, drive, now };
        let rules: Vec<_> =
            self.rules.iter().map(|(rule, expression)| judge(rule, expression, world)).collect();
        Verdict { rules_version: self.version, eligible: rules.iter().all(|rule| rule.passed), rules }
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-'))
}

fn judge(rule: &Rule, expression: &Expression, world: World<'_>) -> RuleVerdict {
    let person = world.person;
    let value = |read: &Read| match read {
        Read::Member(name) => person.member(name).map_or(Json::Null, Attribute::to_json),
        Read::Declared(name) => person.declared.get(name).map_or(Json::Null, Attribute::to_json),
        Read::Drive(field) => world.drive.get(*field).map_or(Json::Null, |value| value.to_json()),
        Read::Now => DriveValue::Instant(world.now).to_json(),
    };
    let compared = expression.reads.iter().map(|read| (read.name().into_owned(), value(read)));
    let sources = expression.reads.iter().filter_map(|read| match read {
        Read::Member(name) => Some((name.clone(), person.verified.get(name)?.origin())),
        _ => None,
    });
    let (passed, stop) = match world.truth(&expression.root) {
        Ok(passed) => (passed, evaluate::Stop::default()),
        Err(stop) => (false, stop),
    };
    let declared =
        stop.missing.iter().filter_map(|name| Some((name.clone(), person.declared.get(name)?.to_json())));
    RuleVerdict {
        name: rule.name.clone(),
        passed,
        message: rule.message.clone(),
        compared: compared.collect(),
        sources: sources.collect(),
        declared: declared.collect(),
        missing: stop.missing.into_iter().collect(),
        detail: stop.wrong,
    }
}

/// Whether rules read a text as a date or an instant.
#[must_use]
pub(crate) fn is_date(text: &str) -> bool {
    moment::Moment::read(text).is_some()
}

/// Whether rules can compare a number exactly.
#[must_use]
pub(crate) fn is_comparable(number: &serde_json::Number) -> bool {
    parse::exact(number).is_some()
}

crate::commands! {
    /// Commands that change nothing. They have no order.
    pub enum EligibilityCommand on Eligibility about Drive by |command| command.drive_id.0;
    "check-eligibility" => CheckEligibility -> EligibilityOutcome or [DriveNotFound, MemberNotFound],
}

/// Asks for the verdict of a drive's rules on a member, without registering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckEligibility {
    /// The drive.
    pub drive_id: DriveId,
    /// The member.
    pub member_id: MemberId,
}

/// The outcome of an eligibility check.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EligibilityOutcome {
    /// The drive.
    pub drive_id: DriveId,
    /// The member.
    pub member_id: MemberId,
    /// The verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
}

#[cfg(test)]
mod tests;
