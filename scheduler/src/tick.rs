//! One look at the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use domain::actor::Actor;
use domain::clock::Timestamp;
use domain::command::Command;
use domain::drive::{AdvanceDrive, RemindDrive};
use domain::id::{CommandId, timed_id};
use domain::upkeep::CleanUp;
use moka::sync::Cache;
use sea_orm::DbErr;
use shared::bus::{Broker, Envelope, Outgoing, PublishError};
use shared::database::Database;
use shared::guard::caught_at_once;
use shared::store::accounts::pending;
use shared::store::drives::{self, Due, What};
use shared::{failpoint, settings};

use crate::timetable::{Emits, TIMETABLE, due};

/// The most rows that one look reads at once of a list, and the most commands that it publishes for
/// an entry of the timetable. The next look finds the rest.
const AT_ONCE: usize = 500;
/// How long an undecided command waits before it is published again. The time doubles with each
/// publication, up to [`LONGEST`]. A command that became a dead letter stays due, and each
/// publication makes another dead letter.
const PATIENCE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_hours(1);
/// How old a pending profile is before the scheduler publishes it. The API does it at sign-up.
const PENDING: chrono::TimeDelta = chrono::TimeDelta::minutes(1);
/// The most that the clocks of schedulers may differ.
const AHEAD: chrono::TimeDelta = chrono::TimeDelta::minutes(5);
/// How far before the present a watermark is reset, and how soon that may happen again.
const BACK: chrono::TimeDelta = chrono::TimeDelta::hours(1);
const AGAIN: Duration = Duration::from_mins(10);

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum TickError {
    /// The database did not answer.
    #[error("database")]
    Database(#[from] DbErr),
    /// The broker did not accept a command.
    #[error("broker")]
    Publish(#[from] PublishError),
    /// An entry of the timetable cannot be read. A test prevents this.
    #[error("timetable")]
    Timetable(#[from] croner::errors::CronError),
}

/// Finds what is due and publishes it.
#[derive(Debug)]
pub struct Scheduler {
    db: Database,
    broker: Broker,
    published: Cache<CommandId, Published>,
    /// How many rows of each list the next look skips.
    skips: Skips,
    /// When a watermark was last reset.
    taken_back: tokio::sync::Mutex<Option<std::time::Instant>>,
}

/// For each list of due rows, how many of its first rows the last looks have read.
#[derive(Debug, Default)]
struct Skips {
    drives: AtomicU64,
    reminders: AtomicU64,
    profiles: AtomicU64,
}

/// Published commands: how often, and when each may be published again.
#[derive(Debug, Clone, Copy)]
struct Published {
    times: u32,
    again: std::time::Instant,
}

impl Scheduler {
    /// A scheduler on this database and broker.
    #[must_use]
    pub fn new(db: Database, broker: Broker) -> Self {
        let published = Cache::builder().max_capacity(100_000).time_to_live(2 * LONGEST).build();
        Self { db, broker, published, skips: Skips::default(), taken_back: tokio::sync::Mutex::default() }
    }

    /// Notes that a look took too long.
    pub(crate) fn took_too_long(&self) {
        self.db.did_not_answer();
    }

    /// Publishes the commands that are due by `now`. Returns their number.
    pub async fn tick(&self, now: Timestamp) -> Result<usize, TickError> {
        // Drives come first: people wait for them, and finding them writes nothing. A failure of
        // one does not stop the others.
        let (drives, profiles) = (self.drives(now).await, self.profiles(now).await);
        let timetable = self.timetable(now).await;
        Ok(drives? + profiles? + timetable?)
    }

    /// Publishes first profiles that the API did not publish: it died after it made the account, or
    /// had no broker. Each stays due until it is decided, like a drive.
    async fn profiles(&self, now: Timestamp) -> Result<usize, TickError> {
        let (db, since) = (&self.db.read, now - PENDING);
        let due = page(&self.skips.profiles, |skip| pending::since(db, since, skip, AT_ONCE as u64)).await?;
        let outgoing = due.into_iter().filter(|profile| !self.is_waiting(profile.id()));
        let outgoing = outgoing.filter_map(|profile| {
            let member_id = profile.member_id;
            // The others are published. This one stays due.
            let failed = |error| tracing::error!(%member_id, %error, "could not read a pending profile");
            Some(profile.envelope().map_err(failed).ok()?.seal(self.broker.topology()))
        });
        self.publish(outgoing.collect()).await
    }

    /// Publishes what falls due on the timetable since the stored watermark. The watermark moves
    /// only after the broker has confirmed.
    async fn timetable(&self, now: Timestamp) -> Result<usize, TickError> {
        let mut published = 0;
        for entry in TIMETABLE {
            // Use the reading connection. There is a look every second, and on SQLite writers wait
            // for each other.
            let reached = match settings::watermark(&self.db.read, entry.name).await? {
                Some(reached) if reached > now + AHEAD => self.take_back(entry.name, reached, now).await?,
                Some(reached) => reached,
                None => settings::begin_watermark(self.db.writer(), entry.name, now).await?,
            };
            let instants = due(entry.cron, entry.zone, reached, now, AT_ONCE)?;
            if instants.is_empty() {
                continue;
            }
            // After a reset an instant falls due again. Its command needs another id.
            let name = match settings::taken_back(&self.db.read, entry.name).await? {
                0 => entry.name.to_owned(),
                times => format!("{} {times}", entry.name),
            };
            let outgoing = instants.iter().map(|instant| {
                let id = timed_id(&name, instant.timestamp_millis());
                match entry.emits {
                    Emits::CleanUp => self.seal(id, now, CleanUp {}),
                }
            });
            published += self.publish(outgoing.collect()).await?;
            let to = if instants.len() < AT_ONCE { now } else { instants[AT_ONCE - 1] };
            settings::move_watermark(self.db.writer(), entry.name, to).await?;
        }
        Ok(published)
    }

    /// Resets a watermark that is in the future, because a clock ran ahead. Otherwise nothing would
    /// fall due until this clock reaches it. Returns the watermark. If the clocks of two schedulers
    /// differ this much, each resets it only now and then.
    async fn take_back(
        &self,
        name: &'static str,
        reached: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, DbErr> {
        let mut last = self.taken_back.lock().await;
        if last.is_some_and(|at| at.elapsed() < AGAIN) {
            return Ok(reached);
        }
        // The instants since then fall due now.
        let to = now - BACK;
        if settings::take_watermark_back(&self.db, name, reached, to).await?.is_none() {
            return Ok(reached);
        }
        *last = Some(std::time::Instant::now());
        tracing::warn!(name, %reached, %now, "a watermark was in the future, because a clock ran ahead; it was reset to this clock");
        Ok(to)
    }

    /// Publishes the drives that open or close, then the reminders. Each stays due until it is
    /// decided, so none is forgotten.
    ///
    /// The same instant can fall due twice. If clocks differ, a drive that was closed at its
    /// `closes_at` can be reopened before it. Its log has grown then, so the id of the command
    /// differs.
    async fn drives(&self, now: Timestamp) -> Result<usize, TickError> {
        let db = &self.db.read;
        let mut due = page(&self.skips.drives, |skip| drives::due(db, now, skip, AT_ONCE as u64)).await?;
        due.extend(
            page(&self.skips.reminders, |skip| drives::reminders(db, now, skip, AT_ONCE as u64)).await?,
        );
        let outgoing = due.into_iter().filter_map(|Due { drive_id, what, at, sequence }| {
            let kind = match what {
                What::Advance => AdvanceDrive::KIND,
                What::Remind => RemindDrive::KIND,
            };
            let id = timed_id(&format!("{kind} {drive_id} {sequence}"), at.timestamp_millis());
            if self.is_waiting(id) {
                return None;
            }
            let sealed = caught_at_once(|| {
                failpoint::hit_about("scheduler-sealing", &kind);
                match what {
                    What::Advance => self.seal(id, now, AdvanceDrive { drive_id, due: at }),
                    What::Remind => self.seal(id, now, RemindDrive { drive_id, due: at }),
                }
            });
            // The others are published. This one stays due.
            let failed = |panic| tracing::error!(%drive_id, kind, %panic, "could not make a due command");
            sealed.map_err(failed).ok()
        });
        self.publish(outgoing.collect()).await
    }

    /// Whether a command was published a short time ago.
    fn is_waiting(&self, id: CommandId) -> bool {
        self.published.get(&id).is_some_and(|published| std::time::Instant::now() < published.again)
    }

    fn seal<C: Command>(&self, id: CommandId, now: Timestamp, body: C) -> Outgoing {
        Envelope::new(id, Actor::SYSTEM, now, body).seal(self.broker.topology())
    }

    async fn publish(&self, outgoing: Vec<Outgoing>) -> Result<usize, TickError> {
        let ids: Vec<_> = outgoing.iter().map(|each| CommandId(each.message.id)).collect();
        failpoint::hit(if ids.is_empty() { "" } else { "scheduler-before-publish" });
        self.broker.publish_all(outgoing).await?;
        failpoint::hit(if ids.is_empty() { "" } else { "scheduler-published" });
        for id in &ids {
            let times = self.published.get(id).map_or(0, |published| published.times);
            let again = std::time::Instant::now() + wait(times);
            self.published.insert(*id, Published { times: times + 1, again });
        }
        metrics::counter!("muster_timed_commands_total").increment(ids.len() as u64);
        Ok(ids.len())
    }
}

/// Reads one page of a list, and the first page again at the list's end. After a full page, the
/// next look reads the page behind it. So rows that stay due do not hide the rows behind them.
async fn page<T, F>(skip: &AtomicU64, read: impl Fn(u64) -> F) -> Result<Vec<T>, DbErr>
where
    F: Future<Output = Result<Vec<T>, DbErr>>,
{
    let from = skip.load(Ordering::Relaxed);
    let mut rows = read(from).await?;
    let is_full = rows.len() >= AT_ONCE;
    skip.store(if is_full { from + AT_ONCE as u64 } else { 0 }, Ordering::Relaxed);
    if !is_full && from > 0 {
        rows.extend(read(0).await?);
    }
    Ok(rows)
}

/// How long a command waits before its next publication, after `times` earlier ones.
fn wait(times: u32) -> Duration {
    PATIENCE.saturating_mul(1 << times.min(10)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_stays_undecided_is_published_less_and_less_often() {
        let waits = [0, 1, 2, 6, 7, 100].map(|times| wait(times).as_secs());
        assert_eq!(waits, [30, 60, 120, 1920, 3600, 3600]);
    }
}
