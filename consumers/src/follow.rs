//! Those who follow the logs of streams: they take in each entry once, per stream in order, whatever dies in between.
//!
//! A notice wakes a follower and says which logs have grown; what there is to take in them it finds by its cursors, and every few
//! seconds it looks at all logs. The cursors move on in the transaction that keeps
//! what was made of the entries, each from where it was found, so several processes may follow at once: one of them wins,
//! the others look again. A notice that is lost costs until the next look at all.
//!
//! An entry that nobody can take in, because of a bug, holds its log for some tries and no other. Then it is left out (`follow/skipped.rs`).

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

/// The most logs that are read together.
const LOGS: u64 = 200;
/// About how many entries are taken in together.
const ENTRIES: u64 = 1000;
/// The most logs that a look is at if it is not at all of them.
const NAMED: usize = 500;
/// How many entries of a log are read at least, however many logs there are.
const SHARE: u64 = 10;
/// A batch costs about as much as its entries: after a notice, a few more are let come for so long.
const GATHER: Duration = Duration::from_millis(100);
/// How often a follower looks at all logs, whatever notices say.
const LOOK: Duration = Duration::from_secs(10);
/// How long the database may take for one step.
const ANSWER: Duration = Duration::from_secs(60);

/// One entry of a log.
#[derive(Debug, Clone)]
pub struct LoggedEvent<E = Event> {
    /// Whose log.
    pub stream: Stream,
    /// Its number there.
    pub sequence: u64,
    /// What it says.
    pub event: CloudEvent<E>,
    /// Its exact bytes.
    pub bytes: Bytes,
}

impl LoggedEvent {
    /// The drive in whose log it stands.
    #[must_use]
    pub fn drive_id(&self) -> DriveId {
        DriveId(self.stream.id)
    }
}

/// What is done with the entries of all logs of one kind of stream.
pub trait Follower: Send + Sync + 'static {
    /// Its name among the cursors.
    const NAME: &'static str;
    /// What stands in the logs that it follows. This says which kind of stream they are of.
    type Event: EventSet + Send + Sync;

    /// Whether it wants anything of what is logged by now. What nobody wants counts as taken in, unread.
    fn wants_any(&self, _db: &DatabaseConnection) -> impl Future<Output = Result<bool, Failure>> + Send {
        std::future::ready(Ok(true))
    }

    /// Takes in the next entries of some streams, in the transaction that moves its cursors on. Returns what has grown by it.
    fn take(
        &self,
        tx: &DatabaseTransaction,
        now: clock::Timestamp,
        entries: &[LoggedEvent<Self::Event>],
    ) -> impl Future<Output = Result<Notice, Failure>> + Send;

    /// Whether an entry is so much work that none is taken in with it after it: a transaction holds as much as one of them.
    #[must_use]
    fn is_large(_event: &CloudEvent<Self::Event>) -> bool {
        false
    }

    /// They are committed: wakes whoever works on them.
    fn taken(&self) {}
}

/// Lets a follower follow until shutdown.
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
    // The process may be of a newer version, in which what could not be taken in can.
    following.try_skipped_again(shutdown).await;
    let mut backoff = Backoff::default();
    let up = liveness.up(F::NAME);
    let (mut grown, mut looked) = (Grown::Perhaps, Instant::now());
    while !shutdown.is_cancelled() {
        // However busy these logs are, the others have their turn.
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
                    tracing::warn!(follower = F::NAME, failure, "could not take entries in; trying again");
                }
                shutdown.run_until_cancelled(backoff.wait()).await;
            }
        }
    }
    drop(up);
}

/// What has grown.
#[derive(Debug, PartialEq, Eq)]
enum Grown {
    /// These logs, and no others as far as is known.
    These(BTreeSet<Stream>),
    /// Any.
    Perhaps,
}

impl Grown {
    fn of(logs: BTreeSet<Stream>) -> Self {
        if logs.len() > NAMED { Self::Perhaps } else { Self::These(logs) }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::These(logs) if logs.is_empty())
    }

    /// Takes in what is told to have grown. If nothing has yet, waits for it, but no longer than `patience`.
    async fn more(&mut self, kind: StreamKind, notices: &mut Subscription, patience: Duration) {
        if self.is_nothing() {
            let heard = async {
                while self.is_nothing() {
                    match notices.next().await {
                        Some(received) => self.heard(kind, received),
                        // The broker is closed, and so is soon the process.
                        None => std::future::pending().await,
                    }
                }
                tokio::time::sleep(GATHER).await;
            };
            if tokio::time::timeout(patience, heard).await.is_err() {
                *self = Self::Perhaps;
            }
        }
        // In a rush there is a notice for every batch. One look finds all that these tell.
        while let Some(Some(received)) = notices.next().now_or_never() {
            self.heard(kind, received);
        }
    }

    /// Takes in what was received.
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
    /// How often entries that stood alone could not be taken in, by log and number.
    tries: Mutex<BTreeMap<(Stream, u64), u32>>,
    /// How many were left out since the start.
    left_out: AtomicU32,
}

impl<F: Follower> Following<'_, F> {
    /// Takes in the next entries of each log that has grown, and returns the logs of which there are more. After a failure each log
    /// stands alone, so that one that cannot be taken in holds no other up, and has more time each time.
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

    /// Takes in the next entries of these logs, in one transaction. Returns those of which there are more, unless none moved on.
    async fn step(&self, behind: Vec<Behind>, most: u64) -> Result<Vec<Stream>, Failure> {
        // Asked after these ends were read: whoever begins to want something wants what comes after.
        let wants_any = caught(self.follower.wants_any(&self.db.read)).await;
        // This is about no entry, so it is tried again and no entry is blamed.
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
        // First of all: who comes second learns it before it has done anything.
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

    /// Wakes those who wait for what has grown.
    async fn tell(&self, notice: Notice) {
        let notices: Vec<_> = notice.in_parts().filter_map(|part| part.message()).collect();
        if let Err(error) = self.broker.publish_all(notices).await {
            // Those whom they would have woken look by themselves.
            let error = with_causes(&error);
            tracing::warn!(follower = F::NAME, error, "could not tell that something has grown");
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

    /// The next entries of these logs, about `most` in all, and up to where each of those that moved on is read with them.
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
            // Nothing behind a hole is taken in before the hole is filled.
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

/// An entry as its followers see it. It was an event when it was written; one that is not is left to `verify`.
fn read<E: EventSet>(entry: log::Entry) -> Option<LoggedEvent<E>> {
    let log::Entry { stream, head, bytes } = entry;
    match serde_json::from_slice(&bytes) {
        Ok(event) => Some(LoggedEvent { stream, sequence: head.sequence, event, bytes }),
        Err(error) => {
            tracing::error!(%stream, sequence = head.sequence, %error, "an entry cannot be read; run `muster verify`");
            None
        }
    }
}

/// What a batch of decisions has made grow: each stream's log, up to the last entry of the last decision.
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
