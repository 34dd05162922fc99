//! Messages from consumers to an API process: notices of feeds that have grown, and decisions for
//! requests that wait. One subscription receives both. It may miss messages, so both are also
//! looked up in the tables.

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

/// Starts to listen, until shutdown.
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
    // The subscription outlives this task, because waiting commands name its address.
    let mut told = told.lock().await;
    // When this task last ended, it lost the message that it was handling. So everything is looked
    // up again.
    feeds.look_again();
    waiting.missed();
    // This loop never waits for anything else, so it passes each message on at once.
    while let Some(Some(received)) = shutdown.run_until_cancelled(told.next()).await {
        shared::failpoint::hit("told-heard");
        match received {
            Received::Message(message) if message.kind == DECISION => {
                match serde_json::from_slice(&message.payload) {
                    Ok(row) => waiting.decided(&row),
                    Err(error) => tracing::warn!(%error, "could not read a decision; its request times out"),
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
