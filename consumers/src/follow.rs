//! Followers process each entry of the streams' logs once and in order, even if a process dies.
//!
//! A notice wakes a follower and names logs that have grown. Cursors show which entries are new.
//! Every few seconds the follower looks at all logs, so a lost notice only costs time. A cursor
//! moves in the transaction that stores the results, by compare-and-set. So several processes may
//! follow: one of them wins, and the others look again.
//!
//! An entry that cannot be processed, because of a bug, delays only its own log. After some tries
//! the follower skips it (`follow/skipped.rs`).

pub(crate) mod skipped;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::clock;
use domain::drive::event::Event;
use domain::event::EventSet;
use domain::id::DriveId;
use domain::stream::{Stream, StreamKind};
use domain::text::with_causes;
use futures_util::FutureExt as _;
use process::Connections;
use process::parts::{Parts, supervise};
use process::watch::Liveness;
use sea_orm::{DatabaseConnection, DatabaseTransaction};
use shared::backoff::Backoff;
use shared::bus::broker::Source;
use shared::bus::{Broker, CloudEvent, Notice, Received, Subscription};
use shared::cursor::Behind;
use shared::database::Database;
use shared::failure::{Failure, Reject};
use shared::guard::caught;
use shared::store::cursors;
use shared::{failpoint, log};
use tokio_util::sync::CancellationToken;

/// The most logs of a step.
const LOGS: u64 = 200;
/// About how many entries a step processes.
const ENTRIES: u64 = 1000;
/// The most logs that a look is limited to. If more have grown, it looks at all logs.
const NAMED: usize = 500;
/// The fewest entries that a step reads of each log, however many logs it has.
const SHARE: u64 = 10;
/// How long to collect notices after the first one. A batch has a cost besides that of its entries.
const GATHER: Duration = Duration::from_millis(100);
/// How often a follower looks at all logs, whatever notices say.
const LOOK: Duration = Duration::from_secs(10);
/// Timeout of a step on the database.
const ANSWER: Duration = Duration::from_secs(60);

/// One entry of a log.
#[derive(Debug, Clone)]
pub struct LoggedEvent<E = Event> {
    /// The stream whose log has the entry.
    pub stream: Stream,
    /// The number of the entry in the log.
    pub sequence: u64,
    /// The event.
    pub event: CloudEvent<E>,
    /// The exact bytes of the event, as the log has them.
    pub bytes: Bytes,
}

impl LoggedEvent {
    /// The drive whose log has the entry.
    #[must_use]
    pub fn drive_id(&self) -> DriveId {
        DriveId(self.stream.id)
    }
}

/// Processes the entries of all logs of one kind of stream.
pub trait Follower: Send + Sync + 'static {
    /// Its name in the table of cursors.
    const NAME: &'static str;
    /// The events of the logs that it follows. They determine the kind of stream.
    type Event: EventSet + Send + Sync;

    /// Whether it wants any entry logged by now. If not, the cursors move without reading.
    fn wants_any(&self, _db: &DatabaseConnection) -> impl Future<Output = Result<bool, Failure>> + Send {
        std::future::ready(Ok(true))
    }

    /// Processes the next entries of some streams, in the transaction that moves the cursors.
    /// Returns a notice of what has grown.
    fn take(
        &self,
        tx: &DatabaseTransaction,
        now: clock::Timestamp,
        entries: &[LoggedEvent<Self::Event>],
    ) -> impl Future<Output = Result<Notice, Failure>> + Send;

    /// Whether an entry is much work. It ends its batch, so a transaction has at most one.
    #[must_use]
    fn is_large(_event: &CloudEvent<Self::Event>) -> bool {
        false
    }

    /// The results are committed. Wakes the part that works on them.
    fn taken(&self) {}
}

/// Runs a follower until shutdown.
pub async fn follow<F: Follower>(
    follower: &F,
    connections: &Connections,
    liveness: Liveness,
    shutdown: CancellationToken,
) {
    let Connections { db, broker, parts, .. } = connections.clone();
    let (tries, left_out) = (Mutex::default(), AtomicU32::new(0));
    let following = Following { follower, db, broker, parts: parts.clone(), tries, left_out };
    supervise(F::NAME, &parts, &shutdown, || follow_on(&following, &liveness, &shutdown)).await;
}

async fn follow_on<F: Follower>(
    following: &Following<'_, F>,
    liveness: &Liveness,
    shutdown: &CancellationToken,
) {
    let mut notices = following.broker.subscribe(Source::Notices);
    // A newer version may be able to process entries that an older one skipped.
    following.try_skipped_again(shutdown).await;
    let mut backoff = Backoff::default();
    let up = liveness.up(F::NAME);
    let (mut grown, mut looked) = (Grown::Perhaps, Instant::now());
    while !shutdown.is_cancelled() {
        // However busy some logs are, the others get their turn.
        if looked.elapsed() >= LOOK {
            grown = Grown::Perhaps;
        }
        if grown == Grown::Perhaps {
            looked = Instant::now();
        }
        failpoint::hit_about("follower-looking", &F::NAME);
        match following.look(&grown, backoff.failures(), shutdown).await {
            Ok(unfinished) => {
                backoff = Backoff::default();
                grown = Grown::of(unfinished);
                let next = grown.more(F::Event::STREAM, &mut notices, LOOK.saturating_sub(looked.elapsed()));
                shutdown.run_until_cancelled(next).await;
            }
            Err(failure) => {
                grown = Grown::Perhaps;
                metrics::counter!("muster_retries_total", "queue" => F::NAME).increment(1);
                if !matches!(failure, Failure::Contended(_)) && backoff.failures() == 0 {
                    let failure = with_causes(&failure);
                    tracing::warn!(follower = F::NAME, failure, "could not process entries; trying again");
                }
                shutdown.run_until_cancelled(backoff.wait()).await;
            }
        }
    }
    drop(up);
}

/// The logs that may have grown.
#[derive(Debug, PartialEq, Eq)]
enum Grown {
    /// These logs, and no others as far as the follower knows.
    These(BTreeSet<Stream>),
    /// Any log.
    Perhaps,
}

impl Grown {
    fn of(logs: BTreeSet<Stream>) -> Self {
        if logs.len() > NAMED { Self::Perhaps } else { Self::These(logs) }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::These(logs) if logs.is_empty())
    }

    /// Adds the logs that notices name. If it has none, waits for a notice, at most `patience`.
    async fn more(&mut self, kind: StreamKind, notices: &mut Subscription, patience: Duration) {
        if self.is_nothing() {
            let heard = async {
                while self.is_nothing() {
                    match notices.next().await {
                        Some(received) => self.heard(kind, received),
                        // The broker is closed, because the process ends.
                        None => std::future::pending().await,
                    }
                }
                tokio::time::sleep(GATHER).await;
            };
            if tokio::time::timeout(patience, heard).await.is_err() {
                *self = Self::Perhaps;
            }
        }
        // In a rush there is a notice for every batch. One look serves them all.
        while let Some(Some(received)) = notices.next().now_or_never() {
            self.heard(kind, received);
        }
    }

    fn heard(&mut self, kind: StreamKind, received: Received) {
        match (&mut *self, received) {
            (Self::These(logs), Received::Message(message)) => {
                let grown = Notice::read(&message).logs.into_iter().map(|(stream, _)| stream);
                logs.extend(grown.filter(|stream| stream.kind == kind));
                if logs.len() > NAMED {
                    *self = Self::Perhaps;
                }
            }
            (_, Received::Gap) => *self = Self::Perhaps,
            (Self::Perhaps, Received::Message(_)) => {}
        }
    }
}

struct Following<'a, F> {
    follower: &'a F,
    db: Database,
    broker: Broker,
    parts: Parts,
    /// How often each entry that was alone in its batch has failed, by log and number.
    tries: Mutex<BTreeMap<(Stream, u64), u32>>,
    /// How many entries this process has skipped since its start.
    left_out: AtomicU32,
}

impl<F: Follower> Following<'_, F> {
    /// Processes the next entries of each log that has grown. Returns the logs that have more.
    /// After a failure each log has its own steps, to delay no other, and a longer timeout.
    async fn look(
        &self,
        grown: &Grown,
        failures: u32,
        shutdown: &CancellationToken,
    ) -> Result<BTreeSet<Stream>, Failure> {
        let among = match grown {
            Grown::These(logs) => Some(logs),
            Grown::Perhaps => None,
        };
        let (logs, patience) = (if failures == 0 { LOGS } else { 1 }, ANSWER * 2_u32.pow(failures.min(4)));
        let (mut after, mut unfinished, mut result) = (None, BTreeSet::new(), Ok(()));
        while !shutdown.is_cancelled() {
            let behind =
                cursors::behind(&self.db.read, F::NAME, F::Event::STREAM, among, after, logs).await?;
            let Some(last) = behind.last() else { break };
            after = Some(last.stream);
            let step = match behind[..] {
                [log] if failures > 0 => self.step_alone(log, patience).await,
                _ => self.step_in_time(behind, ENTRIES, patience).await,
            };
            match step {
                Ok(more) => unfinished.extend(more),
                Err(failure) if failures == 0 => return Err(failure),
                Err(failure) => result = Err(failure),
            }
        }
        result.map(|()| unfinished)
    }

    async fn step_in_time(
        &self,
        behind: Vec<Behind>,
        most: u64,
        patience: Duration,
    ) -> Result<Vec<Stream>, Failure> {
        let step = caught(self.step(behind, most));
        let step = tokio::time::timeout(patience, step).await.unwrap_or_else(|_| {
            self.db.did_not_answer();
            Ok(Err(Failure::retry("the database did not answer in time")))
        });
        step.unwrap_or_else(|panic| Err(Reject::panicked(panic).into()))
    }

    /// Processes the next entries of these logs in one transaction. Returns the logs that have
    /// more, or none if no cursor moved.
    async fn step(&self, behind: Vec<Behind>, most: u64) -> Result<Vec<Stream>, Failure> {
        // Ask after the ends were read. An interest that begins later concerns only later entries.
        let wants_any = caught(self.follower.wants_any(&self.db.read)).await;
        // A panic here concerns no entry. So it is retried, and no entry is blamed.
        let wants_any = wants_any.map_err(Failure::retry)?;
        let (moved, followed) = if wants_any? {
            self.next(&behind, most).await?
        } else {
            (behind.iter().map(|log| (*log, log.end)).collect(), Vec::new())
        };
        if moved.is_empty() {
            return Ok(Vec::new());
        }
        let tx = self.db.begin().await?;
        // Move the cursors first. A process that was too late fails here, before it does any work.
        cursors::advance(&tx, F::NAME, &moved).await?;
        let notice = if followed.is_empty() { Notice::default() } else { self.take(&tx, &followed).await? };
        tx.commit().await?;
        metrics::counter!("muster_followed_entries_total", "follower" => F::NAME)
            .increment(followed.len() as u64);
        self.follower.taken();
        self.tell(notice).await;
        let reached: BTreeMap<_, _> = moved.iter().map(|(log, to)| (log.stream, *to)).collect();
        let is_unfinished = |log: &Behind| reached.get(&log.stream).is_none_or(|to| *to < log.end);
        Ok(behind.into_iter().filter(is_unfinished).map(|log| log.stream).collect())
    }

    /// Wakes the readers of what has grown.
    async fn tell(&self, notice: Notice) {
        let notices: Vec<_> = notice.in_parts().filter_map(|part| part.message()).collect();
        if let Err(error) = self.broker.publish_all(notices).await {
            // The readers look by themselves, only later.
            let error = with_causes(&error);
            tracing::warn!(follower = F::NAME, error, "could not publish notices; readers look later");
        }
    }

    async fn take(
        &self,
        tx: &DatabaseTransaction,
        entries: &[LoggedEvent<F::Event>],
    ) -> Result<Notice, Failure> {
        for entry in entries {
            failpoint::hit_about("entry-taking", &format_args!("{}.{}", F::NAME, entry.sequence));
        }
        self.follower.take(tx, clock::now(), entries).await
    }

    /// Reads the next entries of these logs, about `most` in all. Returns new cursors and entries.
    async fn next(
        &self,
        behind: &[Behind],
        most: u64,
    ) -> Result<(Vec<(Behind, u64)>, Vec<LoggedEvent<F::Event>>), Failure> {
        let share = (most / behind.len() as u64).max(SHARE.min(most));
        let wanted = behind.iter().map(|log| {
            let first = log.read.unwrap_or(0) + 1;
            (log.stream, first, share.min((log.end + 1).saturating_sub(first)))
        });
        let entries = log::ranges(&self.db.read, wanted).await?;
        let mut reached: BTreeMap<Stream, u64> =
            behind.iter().map(|log| (log.stream, log.read.unwrap_or(0))).collect();
        let (mut followed, mut is_full) = (Vec::with_capacity(entries.len()), false);
        for entry in entries {
            let reached = reached.entry(entry.stream).or_default();
            // Entries behind a hole wait until it is filled.
            if is_full || *reached + 1 != entry.head.sequence {
                continue;
            }
            *reached += 1;
            if let Some(entry) = read(entry) {
                is_full = F::is_large(&entry.event);
                followed.push(entry);
            }
        }
        let moved: Vec<_> = behind
            .iter()
            .map(|log| (*log, reached[&log.stream]))
            .filter(|(log, to)| *to > log.read.unwrap_or(0))
            .collect();
        let stuck = |log: &&Behind| moved.iter().all(|(other, _)| other.stream != log.stream);
        for log in behind.iter().filter(|log| !is_full && stuck(log)) {
            tracing::error!(stream = %log.stream, read = log.read, end = log.end, "a log has a hole; run `muster verify`");
        }
        Ok((moved, followed))
    }
}

/// An entry as followers see it. `None` if it is no event, which `muster verify` reports.
fn read<E: EventSet>(entry: log::Entry) -> Option<LoggedEvent<E>> {
    let log::Entry { stream, head, bytes } = entry;
    match serde_json::from_slice(&bytes) {
        Ok(event) => Some(LoggedEvent { stream, sequence: head.sequence, event, bytes }),
        Err(error) => {
            tracing::error!(%stream, sequence = head.sequence, %error, "could not read a log entry; run `muster verify`");
            None
        }
    }
}

/// A notice of the logs that a batch of decisions has made grow, each with its last entry.
#[must_use]
pub fn grown_logs(ends: impl Iterator<Item = (Stream, u64)>) -> Notice {
    let mut logs: BTreeMap<Stream, u64> = BTreeMap::new();
    for (stream, end) in ends {
        let known = logs.entry(stream).or_default();
        *known = (*known).max(end);
    }
    Notice { logs: logs.into_iter().collect(), inboxes: Vec::new() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use domain::id::MemberId;

    use super::*;

    #[test]
    fn a_notice_names_each_log_once_with_its_end() {
        let (one, other) = (Stream::from(DriveId::new()), Stream::from(DriveId::new()));
        let notice = grown_logs([(one, 3), (other, 7), (one, 5), (one, 4)].into_iter());
        let logs: BTreeSet<_> = notice.logs.into_iter().collect();
        assert_eq!(logs, BTreeSet::from([(one, 5), (other, 7)]));
        assert!(grown_logs(std::iter::empty()).message().is_none());
    }

    const DRIVE: StreamKind = StreamKind::Drive;

    #[test]
    fn notices_name_what_has_grown_until_they_name_too_much_or_one_may_be_missing() {
        let named = |count: usize| {
            let logs = std::iter::repeat_with(|| (DriveId::new().into(), 1)).take(count).collect();
            let notice = Notice { logs, inboxes: Vec::new() };
            Received::Message(notice.message().unwrap().message)
        };
        let mut grown = Grown::These(BTreeSet::new());
        let other = Notice { logs: vec![(MemberId::new().into(), 1)], inboxes: Vec::new() };
        grown.heard(DRIVE, Received::Message(other.message().unwrap().message));
        assert!(grown.is_nothing(), "another kind of stream has grown");
        grown.heard(DRIVE, named(NAMED - 1));
        grown.heard(DRIVE, named(1));
        assert!(matches!(&grown, Grown::These(logs) if logs.len() == NAMED));
        grown.heard(DRIVE, named(1));
        assert_eq!(grown, Grown::Perhaps);
        grown.heard(DRIVE, named(1));
        assert_eq!(grown, Grown::Perhaps);
        let mut grown = Grown::These(BTreeSet::new());
        grown.heard(DRIVE, Received::Gap);
        assert_eq!(grown, Grown::Perhaps);
    }
}
