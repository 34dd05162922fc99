//! Refusals: decisions that say no, with their reasons.
//!
//! A refusal is a valid decision, not a failure. Its code is stable, because clients and their
//! translations rely on it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::code::Code;
use crate::eligibility::Verdict;

/// One thing that is wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// Where: `rules[0].when`.
    pub field: String,
    /// What is wrong.
    pub detail: String,
    /// For an expression: the line, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// For an expression: the column, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
}

impl FieldError {
    /// An error about a whole field.
    pub fn new(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into(), line: None, column: None }
    }
}

/// A decision that says no: the `problem` of a command's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// The kind of refusal.
    pub code: Code,
    /// What this refusal is about, in words. It has no personal data.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// For [`Code::NotEligible`]: every rule, with the values that it compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub verdict: Option<Box<Verdict>>,
    /// What is wrong with the input, place by place.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<FieldError>,
}

impl Refusal {
    /// A refusal that consists of its code.
    #[must_use]
    pub fn new(code: Code) -> Self {
        Self { code, detail: None, verdict: None, errors: Vec::new() }
    }

    /// The same with a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with an error for each place.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}
