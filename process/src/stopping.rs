//! How a process stops: it says so, goes on for a while if it is told to, then finishes what is in hand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long writing may take: nobody may be reading it.
const WRITE: Duration = Duration::from_millis(500);

/// Whether the process was asked to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether anybody is served yet.
static SERVING: AtomicBool = AtomicBool::new(false);

/// Says that this process serves from now on: it has to be missed by balancers when it stops.
pub fn serves() {
    SERVING.store(true, Ordering::Relaxed);
}

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
        if SERVING.load(Ordering::Relaxed) && !grace.is_zero() {
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

/// Prints something for the operator. Not for ever: what it is written to may be full.
pub fn say(text: String) {
    in_time(move || println!("{text}"));
}

/// Says why a process ends.
pub(crate) fn last_words(text: String) {
    in_time(move || eprintln!("{text}"));
}

fn in_time(write: impl FnOnce() + Send + 'static) {
    let (done, written) = mpsc::channel();
    std::thread::spawn(move || {
        write();
        let _ = done.send(());
    });
    let _ = written.recv_timeout(WRITE);
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
