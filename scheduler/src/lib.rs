//! The scheduler: what falls due becomes a command, exactly once, however many schedulers run and however long they were
//! down.
//!
//! It needs no leader. The id of a timed command is a function of its name and its due instant, so all schedulers publish
//! the same command and the ledger decides it once. What falls due on a timetable is found from a stored watermark; what
//! falls due for drives is found from the drives themselves, so a change of their dates needs no notice.

pub mod tick;
pub mod timetable;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::clock;
use domain::text::with_causes;
use process::parts::{Parts, supervise};
use shared::backoff::Outage;
use shared::bus::Broker;
use shared::database::Database;
use shared::guard::caught;
use tick::Scheduler;
use tokio::sync::Notify;
use tokio_cron_scheduler::{Job, JobScheduler};
use tokio_util::sync::CancellationToken;

/// How long a beat is waited for.
const MISSED: Duration = Duration::from_secs(3);
/// How long one look may take; the next one finds what it left.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps the scheduler at work until shutdown.
pub async fn keep(db: Database, broker: Broker, parts: Parts, shutdown: CancellationToken) {
    let start = || run(db.clone(), broker.clone(), shutdown.clone());
    supervise("scheduler", &parts, &shutdown, start).await;
}

/// Looks every second for what is due, until shutdown.
///
/// The cron library is the heartbeat only: it may miss a beat, freeze a zone or lag; what is due is computed at each beat
/// from what is stored.
pub async fn run(db: Database, broker: Broker, shutdown: CancellationToken) -> anyhow::Result<()> {
    let beat = Arc::new(Notify::new());
    let beats = beat.clone();
    let mut heart = JobScheduler::new().await.context("make the heartbeat")?;
    let job = Job::new("* * * * * *", move |_, _| beats.notify_one()).context("set the heartbeat")?;
    heart.add(job).await.context("set the heartbeat")?;
    heart.start().await.context("start the heartbeat")?;
    let scheduler = Scheduler::new(db, broker);
    let ended = caught(look(&scheduler, &beat, &shutdown)).await;
    // It goes on beating otherwise, once more for each start.
    heart.shutdown().await.context("stop the heartbeat")?;
    Ok(ended?)
}

async fn look(scheduler: &Scheduler, beat: &Notify, shutdown: &CancellationToken) {
    let mut outage = Outage::default();
    // The library waits for the clock; should that be set back, this does not wait with it.
    while shutdown.run_until_cancelled(tokio::time::timeout(MISSED, beat.notified())).await.is_some() {
        shared::failpoint::hit("scheduler-looking");
        match tokio::time::timeout(PATIENCE, scheduler.tick(clock::now())).await {
            Ok(Ok(published)) if published > 0 => tracing::info!(published, "published what fell due"),
            Ok(Ok(_)) => {}
            // What is due stays due.
            Ok(Err(error)) => {
                if outage.begins() {
                    tracing::warn!(error = %with_causes(&error), "could not look for what is due; looking again");
                }
                continue;
            }
            Err(_) => {
                scheduler.took_too_long();
                if outage.begins() {
                    tracing::warn!("looking for what is due took too long; looking again");
                }
                continue;
            }
        }
        if let Some(seconds) = outage.ends() {
            tracing::info!(seconds, "what is due is found again");
        }
    }
}
