//! What consumers tell an API process: what has grown, for those who watch, and what was decided, for those who wait. One
//! subscription brings both. What it may have missed stands in the tables, and is looked up there.

use std::time::Duration;

use shared::bus::broker::{Source, Subscription};
use shared::bus::message::DECISION;
use shared::bus::{Broker, Notice, Received};
use shared::database::Database;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::feed::Feeds;
use crate::waiting::Waiting;

/// How often it is looked whether a decision went where nobody listens any more.
const LOOK: Duration = Duration::from_secs(5);

/// Begins to listen, until shutdown.
pub(crate) fn start(db: &Database, broker: &Broker, shutdown: &CancellationToken) -> (Feeds, Waiting) {
    let told = broker.subscribe(Source::Notices);
    let feeds = Feeds::start(db, shutdown.clone());
    let waiting = Waiting::new(db.clone(), told.address());
    tokio::spawn(listen(told, feeds.clone(), waiting.clone(), shutdown.clone()));
    (feeds, waiting)
}

async fn listen(mut told: Subscription, feeds: Feeds, waiting: Waiting, shutdown: CancellationToken) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = look.tick() => waiting.look_for_strays().await,
            received = told.next() => match received {
                Some(Received::Message(message)) if message.kind == DECISION => {
                    match serde_json::from_slice(&message.payload) {
                        Ok(row) => waiting.decided(&row),
                        Err(error) => tracing::warn!(%error, "a decision cannot be read"),
                    }
                }
                Some(Received::Message(message)) => feeds.heard(Notice::read(&message)),
                Some(Received::Gap) => {
                    feeds.look_again();
                    waiting.look_for_all().await;
                }
                None => break,
            },
        }
    }
    waiting.end();
}
