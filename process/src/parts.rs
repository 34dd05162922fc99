//! The parts of a process that work in the background. A part that panics or gives up is started
//! again, and health says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::text::with_causes;
use serde::Serialize;
use shared::backoff::Backoff;
use shared::guard::caught;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A part that has worked this long since its last start counts as healthy again.
const STEADY: Duration = Duration::from_secs(30);
/// The most troubles in a report. Further ones add nothing.
const MOST: usize = 100;

/// The state of a process's parts. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Parts(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    restarted: BTreeMap<&'static str, Restarted>,
    troubles: BTreeMap<(&'static str, String), Trouble>,
}

#[derive(Debug)]
struct Restarted {
    at: Instant,
    times: u64,
    reason: String,
}

/// Trouble of a part, as health reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// The part.
    pub part: &'static str,
    /// `restarted`: the part stopped by itself a moment ago. `stuck`: it cannot process what
    /// `about` names, and goes on with the rest. `skipped`: it has skipped what `about` names.
    pub status: &'static str,
    /// The drive, queue or other thing in question, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// How often the part was restarted since the process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u64>,
    /// The reason. It may quote personal data, so it is in the log only. Anyone may read the
    /// report.
    #[serde(skip)]
    pub reason: String,
}

impl Parts {
    /// Runs a part in a task of its own; see [`supervise`].
    pub fn spawn<W: Future<Output: End> + Send + 'static>(
        &self,
        part: &'static str,
        shutdown: &CancellationToken,
        start: impl FnMut() -> W + Send + 'static,
    ) -> JoinHandle<()> {
        let (parts, shutdown) = (self.clone(), shutdown.clone());
        tokio::spawn(async move { supervise(part, &parts, &shutdown, start).await })
    }

    /// The parts that are not well now.
    #[must_use]
    pub fn troubles(&self) -> Vec<Trouble> {
        let known = self.known();
        let restarted = known.restarted.iter().filter(|(_, restarted)| restarted.at.elapsed() < STEADY);
        let restarted = restarted.map(|(part, Restarted { times, reason, .. })| Trouble {
            part,
            status: "restarted",
            about: None,
            restarts: Some(*times),
            reason: reason.clone(),
        });
        restarted.chain(known.troubles.values().cloned()).take(MOST).collect()
    }

    /// A part cannot process `about` for now.
    pub fn is_stuck(&self, part: &'static str, about: String, reason: String) {
        self.add(part, "stuck", about, reason);
    }

    /// A part has skipped `about`.
    pub fn has_skipped(&self, part: &'static str, about: String, reason: String) {
        self.add(part, "skipped", about, reason);
    }

    /// There is no trouble with `about` any more.
    pub fn is_well(&self, part: &'static str, about: String) {
        self.known().troubles.remove(&(part, about));
    }

    fn add(&self, part: &'static str, status: &'static str, about: String, reason: String) {
        let mut known = self.known();
        let key = (part, about.clone());
        if known.troubles.len() < MOST || known.troubles.contains_key(&key) {
            let trouble = Trouble { part, status, about: Some(about), restarts: None, reason };
            known.troubles.insert(key, trouble);
        }
    }

    /// A part was restarted, or went on by itself after a panic.
    pub fn stumbled(&self, part: &'static str, reason: String) {
        metrics::counter!("muster_part_restarts_total", "part" => part).increment(1);
        let mut known = self.known();
        let times = known.restarted.get(part).map_or(0, |restarted| restarted.times) + 1;
        known.restarted.insert(part, Restarted { at: Instant::now(), times, reason });
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a part: nothing, or an error.
pub trait End: Send {
    /// Why it ended, in words.
    fn reason(self) -> String;
}

impl End for () {
    fn reason(self) -> String {
        "it ended by itself".to_owned()
    }
}

impl End for Option<()> {
    fn reason(self) -> String {
        ().reason()
    }
}

impl End for anyhow::Result<()> {
    fn reason(self) -> String {
        self.map_or_else(|error| with_causes(error.as_ref()), End::reason)
    }
}

/// Runs a part until shutdown. `start` creates its future. Whenever that panics, fails or ends
/// early, `supervise` calls `start` again after a back-off.
///
/// Check the configuration before this, so that the process can refuse to start.
pub async fn supervise<W: Future<Output: End>>(
    part: &'static str,
    parts: &Parts,
    shutdown: &CancellationToken,
    mut start: impl FnMut() -> W,
) {
    let mut backoff = Backoff::default();
    // The part sees the shutdown itself, and finishes its present work.
    while !shutdown.is_cancelled() {
        let since = Instant::now();
        let ended = caught(async { start().await }).await;
        if shutdown.is_cancelled() {
            if let Err(panic) = ended {
                tracing::error!(part, %panic, "a part panicked while the process ends");
            }
            return;
        }
        let reason = match ended {
            Ok(end) => end.reason(),
            Err(panic) => panic.to_string(),
        };
        if since.elapsed() > STEADY {
            backoff = Backoff::default();
        }
        tracing::error!(part, reason, "a part of the process stopped; restarting it after a back-off");
        parts.stumbled(part, reason);
        shutdown.run_until_cancelled(backoff.wait()).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_fails_or_ends_is_started_again_and_health_says_so() {
        let (parts, shutdown, starts) =
            (Parts::default(), CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let work = || {
            let (starts, shutdown) = (starts.clone(), shutdown.clone());
            async move {
                match starts.fetch_add(1, Ordering::Relaxed) {
                    0 => panic!("the first time"),
                    1 => Err(anyhow::anyhow!("the second time")),
                    2 => Ok(()),
                    _ => {
                        shutdown.cancel();
                        Ok(())
                    }
                }
            }
        };
        supervise("post", &parts, &shutdown, work).await;
        assert_eq!(starts.load(Ordering::Relaxed), 4);
        let troubles = parts.troubles();
        let [Trouble { part: "post", status: "restarted", restarts: Some(3), reason, .. }] = &troubles[..]
        else {
            panic!("{troubles:?}")
        };
        assert_eq!(reason, "it ended by itself");
    }

    #[tokio::test]
    async fn the_panic_of_a_part_is_its_reason_and_making_the_work_may_panic_too() {
        let (parts, shutdown) = (Parts::default(), CancellationToken::new());
        let mut starts = 0;
        let work = || {
            starts += 1;
            assert!(starts > 1, "while it is made");
            shutdown.cancel();
            std::future::ready(())
        };
        supervise("post", &parts, &shutdown, work).await;
        assert_eq!(parts.troubles()[0].reason, "a bug in Muster: while it is made");
    }

    #[test]
    fn troubles_are_named_until_they_are_over_and_bounded() {
        let parts = Parts::default();
        for number in 0..2 * MOST {
            parts.is_stuck("inbox", format!("entry {number}"), "why".to_owned());
        }
        assert_eq!(parts.troubles().len(), MOST);
        for number in 1..2 * MOST {
            parts.is_well("inbox", format!("entry {number}"));
        }
        parts.has_skipped("inbox", "entry 0".to_owned(), "why".to_owned());
        let said = serde_json::to_value(parts.troubles()).unwrap();
        let skipped = serde_json::json!({ "part": "inbox", "status": "skipped", "about": "entry 0" });
        assert_eq!(said, serde_json::json!([skipped]));
    }
}
