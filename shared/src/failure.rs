//! Why a handler could not decide. A refusal is no failure: it is a decision.

use std::error::Error;
use std::fmt;

use domain::text::shortened;

use crate::cause::Cause;

/// What went wrong while a batch was decided, and so how it is settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Not now: the database is away, a deadlock, a lane taken over. The same batch is tried again, as it is.
    #[error("not now")]
    Retry(#[source] Cause),
    /// Not now, because someone else wrote the same rows first. Tried again at once; when it goes on, the batch is
    /// searched for the message to blame.
    #[error("contended")]
    Contended(#[source] Cause),
    /// Never: this message cannot be decided by anyone.
    #[error("never")]
    Reject(#[from] Reject),
}

impl Failure {
    /// Not now, for this reason: an error or a sentence.
    pub fn retry(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Retry(Cause::new(why))
    }

    /// Contended, for this reason: an error or a sentence.
    pub fn contended(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Contended(Cause::new(why))
    }
}

/// Why a message can never be decided: a stable code for machines, a sentence for operators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({detail})")]
pub struct Reject {
    /// Stable, kebab-case: `undecodable`, `panicked`, …
    pub code: &'static str,
    /// What was attempted and what came of it.
    pub detail: String,
}

/// The longest detail in bytes: it travels in a header, and headers share one frame.
const MAX_DETAIL: usize = 1000;

impl Reject {
    fn new(code: &'static str, detail: impl fmt::Display) -> Self {
        Self { code, detail: shortened(detail.to_string(), MAX_DETAIL) }
    }

    /// A message whose envelope or body cannot be read.
    pub fn undecodable(detail: impl fmt::Display) -> Self {
        Self::new("undecodable", detail)
    }

    /// A message whose handling panicked: a bug, kept apart so that it hurts no other message.
    pub fn panicked(detail: impl fmt::Display) -> Self {
        Self::new("panicked", detail)
    }

    /// A message whose handling met what cannot be: a bug, kept apart so that it hurts no other message.
    pub fn broken(detail: impl fmt::Display) -> Self {
        Self::new("broken-invariant", detail)
    }

    /// A message whose id was already decided with another body.
    #[must_use]
    pub fn key_reused() -> Self {
        Self::new("idempotency-key-reused", "this command id was already decided with another body")
    }

    /// A message the database will not take, however often it is tried.
    pub fn unstorable(detail: impl fmt::Display) -> Self {
        Self::new("unstorable", detail)
    }

    /// A message that was tried for hours, and the reason did not pass.
    pub fn out_of_retries(detail: impl fmt::Display) -> Self {
        Self::new("out-of-retries", detail)
    }
}
