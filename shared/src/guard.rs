//! Catches panics. A panic in one piece of work ends only that piece, and its text becomes the
//! error.

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt as _;

use domain::text::shortened;

use crate::cause::Cause;

/// The longest kept text of a panic, in bytes.
const MOST_REASON: usize = 300;

/// A piece of work panicked: a bug in Muster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a bug in Muster: {0}")]
pub struct Panicked(pub String);

/// Runs `work` to its end. If it panics, the panic is counted, and its text is the error.
///
/// Changes from before the panic stay. Do not give the work data that a partial change breaks.
pub async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panicked(&*panic))
}

/// Like [`caught`], for work that may fail by itself. The error is either the panic or the failure
/// of the work.
pub async fn caught_or_failed<T, E: Error + Send + Sync + 'static>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Cause> {
    caught(work).await.map_err(Cause::new)?.map_err(Cause::new)
}

/// Like [`caught`], for synchronous work.
pub fn caught_at_once<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panicked(&*panic))
}

fn panicked(panic: &(dyn Any + Send)) -> Panicked {
    metrics::counter!("muster_panics_total").increment(1);
    let text = panic.downcast_ref::<&str>().copied();
    let text = text
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words");
    // Not every database accepts NUL in a text.
    Panicked(shortened(text.replace('\0', "\u{fffd}"), MOST_REASON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_words() {
        assert_eq!(caught(async { 7 }).await, Ok(7));
        let number = 3;
        for (panic, words) in [
            (caught(async { panic!("plain") }).await, "plain"),
            (caught(async move { panic!("number {number}") }).await, "number 3"),
            (caught_at_once(|| panic!("nul\0")), "nul\u{fffd}"),
            (caught_at_once(|| std::panic::panic_any(5)), "a panic without words"),
        ] {
            let panic: Result<(), _> = panic;
            assert_eq!(panic, Err(Panicked(words.to_owned())));
        }
    }
}
