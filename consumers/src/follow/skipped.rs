//! Skips entries that a follower cannot process. The follower first isolates such an entry from its
//! neighbours, and tries it some times alone. After it has skipped the entry, it tries it once more
//! at each start.
//!
//! The table `skipped_entries` keeps these entries, and health names them.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domain::clock;
use domain::event::EventSet as _;
use domain::stream::Stream;
use domain::text::with_causes;
use shared::cursor::{Behind, Skipped};
use shared::failure::{Failure, Reject};
use shared::guard::caught;
use shared::log;
use shared::store::cursors::{self, skipped};
use tokio_util::sync::CancellationToken;

use super::{ANSWER, ENTRIES, Follower, Following, read};

/// How often an entry is tried alone before it is skipped. With the back-off in between this takes
/// some seconds, so that passing causes have passed.
const TRIES: u32 = 8;
/// The most entries that a process skips until its next start. If more fail, the follower itself is
/// to blame. Then the logs wait.
const MOST: u32 = 20;
/// How many skipped entries are tried again at a start.
const AGAIN: u64 = 1000;
/// How long these tries may take in all.
const AGAIN_LASTS: Duration = Duration::from_secs(30);

/// The name of an entry in reports.
pub(crate) fn name(stream: Stream, sequence: u64) -> String {
    format!("entry {sequence} of {} {}", stream.kind, stream.id)
}

impl<F: Follower> Following<'_, F> {
    /// Processes a log's next entries, as many as succeed together. An entry that fails alone is
    /// skipped after some tries, if its failure is permanent.
    pub(super) async fn step_alone(&self, log: Behind, patience: Duration) -> Result<Vec<Stream>, Failure> {
        let mut most = ENTRIES;
        loop {
            match self.step_in_time(vec![log], most, patience).await {
                Err(Failure::Reject(_)) if most > 1 => most /= 2,
                Err(Failure::Reject(reject)) => return self.blame(log, reject).await,
                step => {
                    if step.is_ok() {
                        self.is_over(log);
                    }
                    return step;
                }
            }
        }
    }

    /// Counts a failure of the log's next entry. Skips the entry after the last try.
    async fn blame(&self, log: Behind, reject: Reject) -> Result<Vec<Stream>, Failure> {
        let Behind { stream, .. } = log;
        let sequence = log.read.unwrap_or(0) + 1;
        let tries = {
            let mut all = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
            let tries = all.entry((stream, sequence)).or_default();
            *tries += 1;
            *tries
        };
        tracing::error!(follower = F::NAME, %stream, sequence, %reject, tries, "could not process a log entry");
        let about = name(stream, sequence);
        if tries < TRIES || self.left_out.load(Ordering::Relaxed) >= MOST {
            self.parts.is_stuck(F::NAME, about, reject.to_string());
            return Err(reject.into());
        }
        let skipped = Skipped { stream, sequence, reason: reject.to_string() };
        let tx = self.db.begin().await?;
        cursors::advance(&tx, F::NAME, &[(log, sequence)]).await?;
        skipped::insert(&tx, F::NAME, &skipped, clock::now()).await?;
        tx.commit().await?;
        self.left_out.fetch_add(1, Ordering::Relaxed);
        self.is_over(log);
        self.leaves_out(skipped);
        Ok(if sequence < log.end { vec![stream] } else { Vec::new() })
    }

    fn leaves_out(&self, skipped: Skipped) {
        let Skipped { stream, sequence, reason } = skipped;
        metrics::counter!("muster_skipped_entries_total", "follower" => F::NAME).increment(1);
        tracing::error!(
            follower = F::NAME, %stream, sequence, reason,
            "skipped a log entry; it is tried again when the process starts"
        );
        self.parts.has_skipped(F::NAME, name(stream, sequence), reason);
    }

    /// The log has passed the entry that failed.
    fn is_over(&self, log: Behind) {
        let sequence = log.read.unwrap_or(0) + 1;
        let tried = self.tries.lock().unwrap_or_else(PoisonError::into_inner).remove(&(log.stream, sequence));
        if tried.is_some() {
            self.parts.is_well(F::NAME, name(log.stream, sequence));
        }
    }

    /// Tries each skipped entry once more, by itself. Health names the entries that still fail.
    ///
    /// An entry that cannot be tried now, or not in time, stays skipped. New entries wait for this
    /// to end.
    pub(super) async fn try_skipped_again(&self, shutdown: &CancellationToken) {
        let since = Instant::now();
        let mut goes_on = true;
        let all = match skipped::of(&self.db.read, F::NAME, F::Event::STREAM, AGAIN).await {
            Ok(all) => all,
            Err(error) => {
                return tracing::warn!(follower = F::NAME, %error, "could not read the skipped entries; they stay skipped until the next start");
            }
        };
        for skipped in all {
            let (stream, sequence) = (skipped.stream, skipped.sequence);
            if !goes_on || shutdown.is_cancelled() || since.elapsed() > AGAIN_LASTS {
                self.parts.has_skipped(F::NAME, name(stream, sequence), skipped.reason);
                continue;
            }
            let again = caught(tokio::time::timeout(ANSWER, self.take_skipped(&skipped))).await;
            let why = match again {
                Ok(Ok(Ok(()))) => {
                    self.parts.is_well(F::NAME, name(stream, sequence));
                    tracing::info!(follower = F::NAME, %stream, sequence, "processed an entry that was skipped before");
                    continue;
                }
                Ok(Ok(Err(failure))) => {
                    goes_on = matches!(failure, Failure::Reject(_));
                    with_causes(&failure)
                }
                Ok(Err(_)) => {
                    goes_on = false;
                    "the database did not answer in time".to_owned()
                }
                Err(panic) => panic.to_string(),
            };
            tracing::warn!(follower = F::NAME, %stream, sequence, why, "could not process a skipped entry; it stays skipped");
            self.parts.has_skipped(F::NAME, name(stream, sequence), skipped.reason);
        }
    }

    async fn take_skipped(&self, skipped: &Skipped) -> Result<(), Failure> {
        let entries = log::ranges(&self.db.read, [(skipped.stream, skipped.sequence, 1)].into_iter()).await?;
        let tx = self.db.begin().await?;
        if !skipped::delete(&tx, F::NAME, skipped).await? {
            return Ok(());
        }
        let followed: Vec<_> = entries.into_iter().filter_map(read).collect();
        let notice = self.take(&tx, &followed).await?;
        tx.commit().await?;
        self.follower.taken();
        self.tell(notice).await;
        Ok(())
    }
}
