//! The scheduler publishes a command when something falls due. The command is decided exactly once,
//! however many schedulers run and however long they were down.
//!
//! It needs no leader. The id of a timed command is a function of its name and its due instant. So
//! all schedulers publish the same command, and the ledger decides it once. A stored watermark
//! shows what falls due on the timetable. The drives' own dates show what falls due for them, so a
//! change of dates needs no notice. It also publishes first profiles that an API left pending.

pub mod tick;
pub mod timetable;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::clock;
use domain::text::with_causes;
use process::Connections;
use process::part::{Environment, Part};
use process::parts::{Parts, supervise};
use shared::backoff::Outage;
use shared::bus::Broker;
use shared::database::Database;
use shared::guard::caught;
use tick::Scheduler;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

/// Timeout for a beat of the clock.
const MISSED: Duration = Duration::from_secs(3);
/// Timeout for one look. The next one finds the rest.
const PATIENCE: Duration = Duration::from_secs(30);

/// The scheduler as a process of its own, and as a part of the all-in-one process.
#[must_use]
pub fn part() -> Part {
    let about =
        "Publishes the commands that fall due: drives open and close, reminders go out, old data is deleted";
    Part::new("scheduler", about, None, |_, ()| {
        Ok(|environment: Environment| {
            let Connections { db, broker, parts } = environment.connections;
            keep(db, broker, parts, environment.shutdown)
        })
    })
}

/// Runs the scheduler until shutdown.
pub async fn keep(db: Database, broker: Broker, parts: Parts, shutdown: CancellationToken) {
    let start = || run(db.clone(), broker.clone(), shutdown.clone());
    supervise("scheduler", &parts, &shutdown, start).await;
}

/// Looks every second for what is due, until shutdown.
///
/// The cron library gives the heartbeat only. It may miss a beat, freeze a time zone or lag. Each
/// look computes what is due from stored data.
pub async fn run(db: Database, broker: Broker, shutdown: CancellationToken) -> anyhow::Result<()> {
    let beat = Arc::new(Notify::new());
    let beats = beat.clone();
    let mut heart = JobScheduler::new().await.context("make the heartbeat")?;
    let job = Job::new("* * * * * *", move |_, _| beats.notify_one()).context("set the heartbeat")?;
    heart.add(job).await.context("set the heartbeat")?;
    heart.start().await.context("start the heartbeat")?;
    let scheduler = Scheduler::new(db, broker);
    let ended = caught(look(&scheduler, &beat, &shutdown)).await;
    // Otherwise the heartbeat goes on, and each restart adds another one.
    heart.shutdown().await.context("stop the heartbeat")?;
    Ok(ended?)
}

async fn look(scheduler: &Scheduler, beat: &Notify, shutdown: &CancellationToken) {
    let mut outage = Outage::default();
    // The library waits for the system clock. If that is set back, this loop goes on by its
    // timeout.
    while shutdown.run_until_cancelled(tokio::time::timeout(MISSED, beat.notified())).await.is_some() {
        shared::failpoint::hit("scheduler-looking");
        match tokio::time::timeout(PATIENCE, scheduler.tick(clock::now())).await {
            Ok(Ok(published)) if published > 0 => tracing::info!(published, "published due commands"),
            Ok(Ok(_)) => {}
            // Due commands stay due.
            Ok(Err(error)) => {
                if outage.begins() {
                    tracing::warn!(error = %with_causes(&error), "could not publish due commands; looking again");
                }
                continue;
            }
            Err(_) => {
                scheduler.took_too_long();
                if outage.begins() {
                    tracing::warn!("publishing due commands took too long; looking again");
                }
                continue;
            }
        }
        if let Some(seconds) = outage.ends() {
            tracing::info!(seconds, "the scheduler publishes due commands again");
        }
    }
}
