//! Logs once when the database is lost, and once when it is back. (The broker logs its own.)

use std::time::Duration;

use domain::text::with_causes;
use shared::backoff::Outage;
use shared::database::Database;
use tokio_util::sync::CancellationToken;

/// How often the database is checked.
const LOOK: Duration = Duration::from_secs(1);

/// Watches the database until shutdown.
pub(crate) async fn watch(db: Database, shutdown: CancellationToken) {
    let mut outage = Outage::default();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
        let found = db.is_reachable().await;
        if shutdown.is_cancelled() {
            return;
        }
        match found {
            Ok(()) => {
                if let Some(seconds) = outage.ends() {
                    tracing::info!(part = "database", seconds, "a part is back");
                }
            }
            Err(error) if outage.begins() => {
                tracing::warn!(part = "database", error = %with_causes(&error), "a part is lost; trying again");
            }
            Err(_) => {}
        }
    }
}
