//! How a process stops: it reports `stopping`, serves on for the grace period, then finishes its
//! present work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Timeout for writing to standard error. Its reader may be stuck.
const WRITE: Duration = Duration::from_millis(500);

/// Whether the process was asked to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);
/// Whether the process serves clients yet.
static SERVING: AtomicBool = AtomicBool::new(false);

/// Notes that this process serves clients from now on. When it stops, it serves on until load
/// balancers have noticed.
pub fn serves() {
    SERVING.store(true, Ordering::Relaxed);
}

/// Whether this process was asked to stop. From then on it is not ready, but it still serves.
#[must_use]
pub fn is_stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// A token that is cancelled when the operating system asks the process to stop (Ctrl-C, SIGTERM),
/// after this grace period. A second signal ends the grace period.
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
                "asked to stop; serving on until load balancers have noticed"
            );
            let _ = tokio::time::timeout(grace, signal()).await;
        }
        tracing::info!("asked to stop; finishing the present work");
        asked.cancel();
    });
    Ok(token)
}

/// Prints text for the operator, with a timeout. The reader of a pipe may be stuck.
pub fn say(text: String) {
    in_time(move || println!("{text}"));
}

/// Prints why a process ends.
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

/// Logs panics like other messages. The standard library would write them to standard error, and
/// block while its reader is stuck.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("a panic");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(place, message, %backtrace, "panicked");
    }));
}
