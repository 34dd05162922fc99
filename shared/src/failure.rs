//! Why a handler could not decide. A refusal is not a failure, because it is a decision.

use std::error::Error;
use std::fmt;

use domain::text::shortened;

use crate::cause::Cause;

/// Why a batch could not be decided. The variant says how the batch is settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A later attempt may succeed: the database was away, there was a deadlock, or another process
    /// took the lane over. The same batch is retried unchanged.
    #[error("not now")]
    Retry(#[source] Cause),
    /// Another process wrote the same rows first. The batch is retried with back-off. If the
    /// conflict persists, the batch is bisected to find the message at fault.
    #[error("contended")]
    Contended(#[source] Cause),
    /// No attempt can ever decide this message.
    #[error("never")]
    Reject(#[from] Reject),
}

impl Failure {
    /// A failure to retry. The reason is an error or a sentence.
    pub fn retry(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Retry(Cause::new(why))
    }

    /// A conflict with another writer. The reason is an error or a sentence.
    pub fn contended(why: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Contended(Cause::new(why))
    }
}

/// Why a message can never be decided. It has a stable code for machines and a sentence for
/// operators.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} ({detail})")]
pub struct Reject {
    /// A stable word in kebab-case: `undecodable`, `panicked`, …
    pub code: &'static str,
    /// What was attempted, and the result.
    pub detail: String,
}

/// The longest detail in bytes. It travels in a header, and all headers share one frame.
const MAX_DETAIL: usize = 1000;

impl Reject {
    fn new(code: &'static str, detail: impl fmt::Display) -> Self {
        Self { code, detail: shortened(detail.to_string(), MAX_DETAIL) }
    }

    /// A message whose envelope or body cannot be read.
    pub fn undecodable(detail: impl fmt::Display) -> Self {
        Self::new("undecodable", detail)
    }

    /// A message whose handling panicked. This is a bug. The message is set aside, so that it does
    /// not stop other messages.
    pub fn panicked(detail: impl fmt::Display) -> Self {
        Self::new("panicked", detail)
    }

    /// A message whose handling broke an invariant. This is a bug. The message is set aside, so
    /// that it does not stop other messages.
    pub fn broken(detail: impl fmt::Display) -> Self {
        Self::new("broken-invariant", detail)
    }

    /// A message whose id was already decided with another body.
    #[must_use]
    pub fn key_reused() -> Self {
        Self::new("idempotency-key-reused", "this command id was already decided with another body")
    }

    /// A message that the database refuses, however often it is retried.
    pub fn unstorable(detail: impl fmt::Display) -> Self {
        Self::new("unstorable", detail)
    }

    /// A message whose retries failed for hours.
    pub fn out_of_retries(detail: impl fmt::Display) -> Self {
        Self::new("out-of-retries", detail)
    }
}
