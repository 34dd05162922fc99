//! Webhooks: what stands in the drives' logs is sent to whoever asked for it.
//!
//! Two movements, which know of each other only through the table between them. [`Webhooks`] follows the logs and makes
//! deliveries of their entries, each once. The [`sender`] claims what is due, sends it ([`post`]), and writes what came of
//! it; several may run.

pub mod post;
pub mod sender;

use std::sync::Arc;

use domain::clock::Instant;
use process::part::Environment;
use process::parts::{Parts, supervise};
use sea_orm::{DatabaseConnection, DatabaseTransaction};
use shared::bus::Notice;
use shared::failpoint;
use shared::failure::Failure;
use shared::guard::caught_at_once;
use shared::store::webhooks::{self, delivery as deliveries};
use shared::webhook::{Delivery, Webhook};
use tokio::sync::Notify;

use crate::follow::{self, Followed, Follower, skipped};
use post::Post;
use sender::Sender;

/// Makes deliveries of what is logged.
#[derive(Debug, Default)]
pub struct Webhooks {
    /// Told whenever there is something to send.
    pub wake: Arc<Notify>,
    /// Told of what a webhook does not get.
    pub parts: Parts,
}

impl Follower for Webhooks {
    const NAME: &'static str = "webhooks";

    async fn wants_any(&self, db: &DatabaseConnection) -> Result<bool, Failure> {
        Ok(!webhooks::enabled(db).await?.is_empty())
    }

    async fn take(
        &self,
        tx: &DatabaseTransaction,
        now: Instant,
        entries: &[Followed],
    ) -> Result<Notice, Failure> {
        let webhooks = webhooks::enabled(tx).await?;
        let each = entries.iter().flat_map(|entry| webhooks.iter().map(move |webhook| (entry, webhook)));
        let made = each.filter_map(|(entry, webhook)| delivery(entry, webhook, now, &self.parts));
        let deliveries: Vec<_> = made.collect();
        // Whoever asked for everything since an instant may have been faster.
        deliveries::insert_missing(tx, &deliveries).await?;
        Ok(Notice::default())
    }

    fn taken(&self) {
        self.wake.notify_one();
    }
}

/// What a webhook gets of an entry, if it wants it. A bug that one webhook meets is no other one's.
fn delivery(entry: &Followed, webhook: &Webhook, now: Instant, parts: &Parts) -> Option<Delivery> {
    let (webhook_id, place) = (webhook.id, (entry.drive_id, entry.sequence));
    let made = caught_at_once(|| {
        failpoint::hit_about("delivery-making", &webhook.description);
        let wants = webhook.wants(entry.drive_id, &entry.event);
        wants.then(|| Delivery::new(webhook_id, place, &entry.event, now))
    });
    made.unwrap_or_else(|panic| {
        metrics::counter!("muster_skipped_entries_total", "follower" => Webhooks::NAME).increment(1);
        let (drive_id, sequence) = place;
        tracing::error!(%webhook_id, %drive_id, sequence, %panic, "a webhook does not get an entry; redeliver it");
        let about = format!("{} for webhook {webhook_id}", skipped::name(drive_id, sequence));
        parts.has_skipped(Webhooks::NAME, about, panic.to_string());
        None
    })
}

/// Follows the logs and sends until shutdown. `mails`: mails are sent, so an owner can be told of a
/// webhook that was switched off.
pub async fn run(post: Post, mails: bool, environment: Environment) {
    let Environment { connections, liveness, shutdown, .. } = environment;
    let (parts, wake) = (&connections.parts, Arc::new(Notify::new()));
    let webhooks = Webhooks { wake: wake.clone(), parts: parts.clone() };
    let send = || {
        let sender = Sender::new(connections.db.clone(), post.clone(), wake.clone(), mails);
        sender.run(parts.clone(), shutdown.clone())
    };
    tokio::join!(
        follow::follow(&webhooks, &connections, liveness, shutdown.clone()),
        supervise(sender::PART, parts, &shutdown, send)
    );
}
