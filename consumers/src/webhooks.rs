//! Webhooks: what stands in the drives' logs is sent to whoever asked for it.
//!
//! Two movements, which know of each other only through the table between them. [`Webhooks`] follows the logs and makes
//! deliveries of their entries, each once. The [`sender`] claims what is due, sends it ([`post`]), and writes what came of
//! it; several may run.

pub mod post;
pub mod sender;

use std::process::ExitCode;
use std::sync::Arc;

use process::watch::Liveness;
use process::{Connections, worker};
use sea_orm::{DatabaseConnection, DatabaseTransaction};
use shared::bus::{Failure, Notice};
use shared::clock::Instant;
use shared::config::Outlet;
use shared::webhook::Delivery;
use shared::webhook::table::{self, delivery};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::follow::{self, Followed, Follower};
use post::Post;
use sender::Sender;

/// Makes deliveries of what is logged.
#[derive(Debug, Default)]
pub struct Webhooks {
    /// Told whenever there is something to send.
    pub wake: Arc<Notify>,
}

impl Follower for Webhooks {
    const NAME: &'static str = "webhooks";

    async fn wants_any(&self, db: &DatabaseConnection) -> Result<bool, Failure> {
        Ok(!table::enabled(db).await?.is_empty())
    }

    async fn take(
        &self,
        tx: &DatabaseTransaction,
        now: Instant,
        entries: &[Followed],
    ) -> Result<Notice, Failure> {
        let webhooks = table::enabled(tx).await?;
        let deliveries: Vec<_> = entries
            .iter()
            .flat_map(|entry| {
                let wanting = webhooks.iter().filter(|webhook| webhook.wants(entry.drive_id, &entry.event));
                let place = (entry.drive_id, entry.sequence);
                wanting.map(move |webhook| Delivery::new(webhook.id, place, &entry.event, now))
            })
            .collect();
        // Whoever asked for everything since an instant may have been faster.
        delivery::insert_missing(tx, &deliveries).await?;
        Ok(Notice::default())
    }

    fn taken(&self) {
        self.wake.notify_one();
    }
}

/// Follows the logs and sends until shutdown.
pub async fn run(connections: &Connections, liveness: Liveness, shutdown: CancellationToken) {
    let wake = Arc::new(Notify::new());
    let post = Post::new(connections.webhook_allow.clone());
    let mails = connections.mailing.outlet != Outlet::Nowhere;
    let sender = Sender::new(connections.db.clone(), post, wake.clone(), mails);
    let webhooks = Webhooks { wake };
    tokio::join!(
        follow::follow(&webhooks, connections, liveness, shutdown.clone()),
        sender.run(shutdown.clone())
    );
}

/// The main function of the binary.
#[must_use]
pub fn main() -> ExitCode {
    worker::main(
        "webhooks-follower",
        "Sends what happens to webhooks of Muster",
        Vec::new(),
        |connections, liveness, shutdown| {
            Box::pin(async move {
                run(&connections, liveness, shutdown).await;
                Ok(())
            })
        },
    )
}
