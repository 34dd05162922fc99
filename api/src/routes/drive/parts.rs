//! The parts of a drive that organisers write and everyone reads.

use poem_openapi::{Enum, Object};
use shared::drive::definition::Admission;
use shared::drive::{self as drives, message};
use shared::eligibility::Rule;
use shared::registration::questions::{AnswerKind, Question};

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "DriveKind", rename_all = "snake_case", remote = "drives::Kind")]
pub(super) enum Kind {
    Placement,
    Donation,
    Vaccination,
    Competition,
    Volunteering,
    Other,
}

/// Where a drive is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "DriveStatus", rename_all = "snake_case", remote = "drives::Status")]
pub(super) enum Status {
    Draft,
    Published,
    Open,
    Closed,
    Cancelled,
}

/// Whom a message is for: those who hold a place, those who wait for one, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "message::Audience")]
pub(super) enum Audience {
    Confirmed,
    Waitlisted,
    All,
}

/// How people get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "Admission", rename_all = "snake_case", remote = "Admission")]
pub(super) enum AdmissionKind {
    /// Whoever comes first.
    FirstCome,
}

/// What kind of answer a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "AnswerKind", rename_all = "snake_case", remote = "AnswerKind")]
pub(super) enum Answer {
    Text,
    Number,
    Boolean,
    Choice,
}

/// A condition on those who register.
#[derive(Debug, Clone, Object)]
#[oai(rename = "Rule", deny_unknown_fields)]
pub(super) struct RuleObject {
    /// Unique in the drive: `minimum_marks`.
    name: String,
    /// CEL over `member.*`, `drive.*` and `now`; must be true: `member.degree_p >= 60`.
    when: String,
    /// What a member reads when it is not.
    message: String,
}

impl From<RuleObject> for Rule {
    fn from(rule: RuleObject) -> Self {
        Self { name: rule.name, when: rule.when, message: rule.message }
    }
}

impl From<Rule> for RuleObject {
    fn from(rule: Rule) -> Self {
        Self { name: rule.name, when: rule.when, message: rule.message }
    }
}

/// A question to those who register.
#[derive(Debug, Clone, Object)]
#[oai(rename = "Question", deny_unknown_fields)]
pub(super) struct QuestionObject {
    /// Unique in the drive: `shirt_size`.
    name: String,
    /// What is asked.
    text: String,
    /// What kind of answer it wants.
    kind: Answer,
    /// Whether it must be answered.
    #[oai(default)]
    required: bool,
    /// For `choice`: what can be chosen.
    #[oai(default)]
    choices: Vec<String>,
}

impl From<QuestionObject> for Question {
    fn from(question: QuestionObject) -> Self {
        let QuestionObject { name, text, kind, required, choices } = question;
        Self { name, text, kind: kind.into(), required, choices }
    }
}

impl From<Question> for QuestionObject {
    fn from(question: Question) -> Self {
        let Question { name, text, kind, required, choices } = question;
        Self { name, text, kind: kind.into(), required, choices }
    }
}
