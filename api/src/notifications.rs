//! What consumers tell an API process: what has grown, for those who watch, and what was decided, for those who wait. One
//! subscription brings both. What it may have missed stands in the tables, and is looked up there.

use std::sync::Arc;

use process::parts::Parts;
use shared::bus::broker::{Source, Subscription};
use shared::bus::message::DECISION;
use shared::bus::{Broker, Notice, Received};
use shared::database::Database;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::feed::Feeds;
use crate::waiting::Waiting;

/// Begins to listen, until shutdown.
pub(crate) fn start(
    db: &Database,
    broker: &Broker,
    parts: &Parts,
    shutdown: &CancellationToken,
) -> (Feeds, Waiting) {
    let told = broker.subscribe(Source::Notices);
    let feeds = Feeds::start(db, parts, shutdown.clone());
    let waiting = Waiting::new(db.clone(), told.address());
    waiting.clone().keep_looking(parts, shutdown);
    let (told, stop) = (Arc::new(Mutex::new(told)), shutdown.clone());
    let (heard, decided) = (feeds.clone(), waiting.clone());
    let start = move || listen(told.clone(), heard.clone(), decided.clone(), stop.clone());
    parts.spawn("told", shutdown, start);
    (feeds, waiting)
}

async fn listen(told: Arc<Mutex<Subscription>>, feeds: Feeds, waiting: Waiting, shutdown: CancellationToken) {
    // The subscription outlives this task: commands that wait name its address.
    let mut told = told.lock().await;
    // A message that was in hand when this task last ended is lost, so all look again.
    feeds.look_again();
    waiting.missed();
    // Nothing here waits for anything else, so whoever is told is told at once.
    while let Some(Some(received)) = shutdown.run_until_cancelled(told.next()).await {
        shared::failpoint::hit("told-heard");
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
