//! The parts of a drive that organisers write and everyone reads.

use domain::drive::definition::Admission;
use domain::drive::draft::{QuestionChanges, RuleChanges};
use domain::drive::registration::questions::{AnswerKind, Question};
use domain::drive::{self, message};
use domain::eligibility::Rule;
use poem_openapi::{Enum, Object};

/// What a drive is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "DriveKind", rename_all = "snake_case", remote = "drive::Kind")]
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
#[oai(rename = "DriveStatus", rename_all = "snake_case", remote = "drive::Status")]
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
    /// What is asked, on one line.
    text: String,
    /// What kind of answer it wants.
    kind: Answer,
    /// Whether it must be answered.
    #[oai(default)]
    required: bool,
    /// For `choice`: what can be chosen. Readers must be able to tell any two apart: case, accents
    /// and white space do not count.
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

/// What changes of a rule, or a new rule. Fields that are left out stay as they are.
#[derive(Debug, Clone, Object)]
#[oai(rename = "RuleChanges", deny_unknown_fields)]
pub(super) struct RuleChangesObject {
    /// The rule that is meant; a new one if the drive has no rule of this name.
    name: String,
    /// The condition. A new rule needs one.
    when: Option<String>,
    /// What a member reads when it does not hold. A new rule needs one.
    message: Option<String>,
}

impl From<RuleChangesObject> for RuleChanges {
    fn from(rule: RuleChangesObject) -> Self {
        Self { name: rule.name, when: rule.when, message: rule.message }
    }
}

/// What changes of a question, or a new question. Fields that are left out stay as they are.
#[derive(Debug, Clone, Object)]
#[oai(rename = "QuestionChanges", deny_unknown_fields)]
pub(super) struct QuestionChangesObject {
    /// The question that is meant; a new one if the drive has no question of this name.
    name: String,
    /// What is asked, on one line. A new question needs it.
    text: Option<String>,
    /// What kind of answer it wants. A new question needs it.
    kind: Option<Answer>,
    /// Whether it must be answered.
    required: Option<bool>,
    /// What can be chosen. Left out with a `kind` other than `choice`: nothing.
    choices: Option<Vec<String>>,
}

impl From<QuestionChangesObject> for QuestionChanges {
    fn from(question: QuestionChangesObject) -> Self {
        let QuestionChangesObject { name, text, kind, required, choices } = question;
        Self { name, text, kind: kind.map(Into::into), required, choices }
    }
}
