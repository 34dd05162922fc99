//! How a process stops: it says so, goes on for a while if it is told to, then finishes what is in hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long the last words may take: nobody may be reading them any more.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Whether the process was asked to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether this process was asked to stop. It is not ready from then on, though it still serves.
#[must_use]
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// A token that is cancelled when the operating system asks the process to end (Ctrl-C, SIGTERM), after this grace. A second
/// signal ends the grace.
pub(crate) fn on_signal(grace: Duration) -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let asked = token.clone();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut signal = async || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        signal().await;
        STOPPING.store(true, Ordering::Relaxed);
        if !grace.is_zero() {
            tracing::info!(
                seconds = grace.as_secs(),
                "asked to stop; serving on until balancers have noticed"
            );
            let _ = tokio::time::timeout(grace, signal()).await;
        }
        tracing::info!("asked to stop; finishing what is in hand");
        asked.cancel();
    });
    Ok(token)
}

/// Says why a process ends. Not for ever: what it is written to may be full.
pub(crate) fn last_words(text: String) {
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        eprintln!("{text}");
        let _ = said.send(());
    });
    let _ = heard.recv_timeout(LAST_WORDS);
}

/// Lets panics be logged like everything else. The standard library writes them to standard error and waits until that takes
/// them.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("a panic");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(place, message, %backtrace, "panicked");
    }));
}
