//! Webhooks: sends entries of the drives' logs to the webhooks that asked for them.
//!
//! Two parts, with only a table between them. [`Webhooks`] follows the logs and makes each delivery
//! once. The [`sender`] claims due deliveries, sends them ([`post`]), and writes the results.
//! Several senders may run.

pub mod post;
pub mod sender;

use std::sync::Arc;

use domain::clock::Timestamp;
use domain::drive::event::Event;
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

use crate::follow::{self, Follower, LoggedEvent, skipped};
use post::Post;
use sender::Sender;

/// Makes deliveries of log entries.
#[derive(Debug, Default)]
pub struct Webhooks {
    /// Wakes the sender when there are new deliveries.
    pub wake: Arc<Notify>,
    /// Reports entries that a webhook does not get.
    pub parts: Parts,
}

impl Follower for Webhooks {
    const NAME: &'static str = "webhooks";
    type Event = Event;

    async fn wants_any(&self, db: &DatabaseConnection) -> Result<bool, Failure> {
        Ok(!webhooks::enabled(db).await?.is_empty())
    }

    async fn take(
        &self,
        tx: &DatabaseTransaction,
        now: Timestamp,
        entries: &[LoggedEvent],
    ) -> Result<Notice, Failure> {
        let webhooks = webhooks::enabled(tx).await?;
        let each = entries.iter().flat_map(|entry| webhooks.iter().map(move |webhook| (entry, webhook)));
        let made = each.filter_map(|(entry, webhook)| delivery(entry, webhook, now, &self.parts));
        let deliveries: Vec<_> = made.collect();
        // A request to redeliver everything since an instant may have made the delivery already.
        deliveries::insert_missing(tx, &deliveries).await?;
        Ok(Notice::default())
    }

    fn taken(&self) {
        self.wake.notify_one();
    }
}

/// The delivery of an entry to a webhook, if the webhook wants it. A panic for one webhook does not
/// affect the others.
fn delivery(entry: &LoggedEvent, webhook: &Webhook, now: Timestamp, parts: &Parts) -> Option<Delivery> {
    let (webhook_id, place) = (webhook.id, (entry.drive_id(), entry.sequence));
    let made = caught_at_once(|| {
        failpoint::hit_about("delivery-making", &webhook.description);
        let wants = webhook.wants(entry.drive_id(), &entry.event);
        wants.then(|| Delivery::new(webhook_id, place, &entry.event, now))
    });
    made.unwrap_or_else(|panic| {
        metrics::counter!("muster_skipped_entries_total", "follower" => Webhooks::NAME).increment(1);
        let (drive_id, sequence) = place;
        tracing::error!(%webhook_id, %drive_id, sequence, %panic, "a webhook does not get an entry; redeliver it");
        let about = format!("{} for webhook {webhook_id}", skipped::name(entry.stream, sequence));
        parts.has_skipped(Webhooks::NAME, about, panic.to_string());
        None
    })
}

/// Follows the logs and sends until shutdown. With `mails`, the owner of a webhook that is switched
/// off gets a mail.
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
