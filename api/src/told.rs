//! What consumers tell an API process: what has grown, for those who watch, and what was decided, for those who wait. One
//! subscription brings both. What it may have missed stands in the tables, and is looked up there.

use shared::bus::broker::{Source, Subscription};
use shared::bus::message::DECISION;
use shared::bus::{Broker, Notice, Received};
use shared::database::Database;
use tokio_util::sync::CancellationToken;

use crate::feed::Feeds;
use crate::waiting::Waiting;

/// Begins to listen, until shutdown.
pub(crate) fn start(db: &Database, broker: &Broker, shutdown: &CancellationToken) -> (Feeds, Waiting) {
    let told = broker.subscribe(Source::Notices);
    let feeds = Feeds::start(db, shutdown.clone());
    let waiting = Waiting::new(db.clone(), told.address());
    tokio::spawn(waiting.clone().look(shutdown.clone()));
    tokio::spawn(listen(told, feeds.clone(), waiting.clone(), shutdown.clone()));
    (feeds, waiting)
}

async fn listen(mut told: Subscription, feeds: Feeds, waiting: Waiting, shutdown: CancellationToken) {
    // Nothing here waits for anything else, so whoever is told is told at once.
    while let Some(Some(received)) = shutdown.run_until_cancelled(told.next()).await {
        match received {
            Received::Message(message) if message.kind == DECISION => {
                match serde_json::from_slice(&message.payload) {
                    Ok(row) => waiting.decided(&row),
                    Err(error) => tracing::warn!(%error, "a decision cannot be read"),
                }
            }
            Received::Message(message) => feeds.heard(Notice::read(&message)),
            Received::Gap => {
                feeds.look_again();
                waiting.missed();
            }
        }
    }
}
