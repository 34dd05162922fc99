//! Reads the keys again, so that a rotation needs no restart.

use std::time::Duration;

use domain::text::with_causes;
use process::parts::Parts;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How often the keys are read.
const EVERY: Duration = Duration::from_secs(5);

/// Reads the keys every few seconds, until shutdown.
pub(crate) fn keep_reading(cx: &Context, parts: &Parts, shutdown: &CancellationToken) {
    let (cx, stop) = (cx.clone(), shutdown.clone());
    parts.spawn("keys", shutdown, move || reading(cx.clone(), stop.clone()));
}

async fn reading(cx: Context, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let cx = cx.clone();
        // The folder may be on a file system that does not answer.
        let Ok(read) = tokio::task::spawn_blocking(move || cx.key.reload()).await else { return };
        match read {
            Ok(true) => tracing::info!("read new keys"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(error = %with_causes(&error), "could not read the keys; using the last ones");
            }
        }
    }
}
