//! Why a command was refused, as clients read it.

use domain::eligibility::Verdict;
use domain::refusal::{Code, FieldError, Refusal};
use schemars::JsonSchema;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::problem::Problem;

/// Why a command was refused.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RefusedProblem {
    /// A stable code, on which programs and translations can rely.
    #[schemars(with = "Code")]
    code: String,
    /// The same for every problem with this code.
    title: &'static str,
    /// What happened this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The faults of the input, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// For `not-eligible`: every rule, whether it holds, and what was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<Box<Verdict>>,
}

impl From<Refusal> for RefusedProblem {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, detail, verdict, errors } = refusal;
        Self { code: code.as_str().to_owned(), title: code.title(), detail, errors, verdict }
    }
}

impl From<RefusedProblem> for Problem {
    fn from(refused: RefusedProblem) -> Self {
        let RefusedProblem { code, title, detail, errors, verdict } = refused;
        let mut problem = Self::refused(&code, title);
        (problem.body.detail, problem.body.errors, problem.body.verdict) = (detail, errors, verdict);
        problem
    }
}

impl RefusedProblem {
    /// Reads a refusal from the ledger. A consumer of a later version may have written a code that
    /// this version does not know.
    pub(super) fn read(result: Value) -> Self {
        match Refusal::deserialize(&result) {
            Ok(refusal) => refusal.into(),
            Err(error) => {
                tracing::warn!(%error, "could not read a refusal; showing its code alone");
                let text = |name: &str| result[name].as_str().map(ToOwned::to_owned);
                let (code, detail) = (text("code").unwrap_or_default(), text("detail"));
                let title = Code::from_word(&code).map_or("The command was refused", Code::title);
                Self { code, title, detail, errors: Vec::new(), verdict: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use poem::http::StatusCode;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_of_a_later_version_keeps_its_code() {
        let known = RefusedProblem::read(json!({ "code": "drive-full", "detail": "all taken" }));
        assert_eq!((known.code.as_str(), known.title), ("drive-full", Code::DriveFull.title()));
        let later = RefusedProblem::read(json!({ "code": "out-of-season", "detail": "in May" }));
        assert_eq!((later.code.as_str(), later.detail.as_deref()), ("out-of-season", Some("in May")));
        let later = Problem::from(later);
        assert_eq!((later.status(), later.body.code.as_str()), (StatusCode::CONFLICT, "out-of-season"));
        assert_eq!(later.body.detail.as_deref(), Some("in May"));
    }
}
