//! Writes the results of attempts, and what follows for the webhooks.

use std::collections::BTreeMap;

use domain::clock::{self, Timestamp};
use domain::text::with_causes;
use sea_orm::{DatabaseTransaction, DbErr, SqlErr};
use shared::failpoint;
use shared::failure::{Failure, Reject};
use shared::guard::caught;
use shared::mail::{Kind, Mail, Source};
use shared::store::webhooks::{self, delivery};
use shared::store::{accounts, mails};
use shared::webhook::{Health, State, health, next_attempt};

use super::{Sender, Sent, lock};

impl Sender {
    /// Writes the results of attempts, and releases untried deliveries.
    pub(super) async fn record(&mut self) -> Result<(), Failure> {
        if self.sent.is_empty() {
            self.sent = std::mem::take(&mut *lock(&self.done));
        }
        if self.sent.is_empty() && self.left.is_empty() {
            return Ok(());
        }
        failpoint::hit("webhook-answered");
        if let Err(failure) = self.write_some(&self.sent, true).await {
            if !matches!(failure, Failure::Reject(_) | Failure::Contended(_)) {
                return Err(failure);
            }
            tracing::warn!(
                failure = %with_causes(&failure),
                "could not write the results of deliveries together; writing each alone"
            );
            for sent in &self.sent {
                match self.write_some(std::slice::from_ref(sent), false).await {
                    Ok(()) => {}
                    Err(failure @ Failure::Reject(_)) => {
                        let (delivery_id, failure) = (sent.delivery.id, with_causes(&failure));
                        tracing::error!(%delivery_id, failure, "could not write the result of a delivery; it will be sent again");
                    }
                    Err(failure) => return Err(failure),
                }
            }
            self.write_some(&[], true).await?;
        }
        self.left.clear();
        self.sent.clear();
        Ok(())
    }

    /// Writes the results of some attempts, and may release untried deliveries. A panic counts as a
    /// failure.
    async fn write_some(&self, sent: &[Sent], releases: bool) -> Result<(), Failure> {
        match caught(self.write(sent, releases)).await {
            // An attempt has a unique id. So this one was committed before, and only the database's
            // answer was lost.
            Ok(Err(error))
                if sent.len() == 1
                    && !releases
                    && matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                Ok(())
            }
            Ok(written) => written.map_err(Failure::from),
            Err(panic) => Err(Reject::panicked(panic).into()),
        }
    }

    async fn write(&self, sent: &[Sent], releases: bool) -> Result<(), DbErr> {
        let now = clock::now();
        let attempts: Vec<_> = sent.iter().map(|sent| sent.attempt.clone()).collect();
        let tx = self.db.begin().await?;
        delivery::insert_attempts(&tx, &attempts).await?;
        // Write attempts of one claim with the same result at the same webhook together.
        let mut settled: BTreeMap<_, (Timestamp, Vec<_>)> = BTreeMap::new();
        for Sent { lease, ordered, delivery, attempt } in sent {
            failpoint::hit_about("webhook-writing", &delivery.event_type);
            let tried = delivery.attempts + 1;
            let jitter = rand::random_range(0.0..=1.0);
            let (state, due_at) =
                match next_attempt(delivery, tried, *ordered, now, jitter, attempt.retry_after) {
                    _ if attempt.succeeded() => (State::Delivered, now),
                    Some(again) => (State::Pending, again),
                    None => (State::Failed, now),
                };
            metrics::counter!("muster_webhook_attempts_total", "succeeded" => attempt.succeeded().to_string())
                .increment(1);
            let group = settled
                .entry((*lease, delivery.webhook_id, state, tried, attempt.retry_after))
                .or_insert_with(|| (due_at, vec![]));
            group.1.push(delivery.id);
        }
        for ((lease, _, state, tried, _), (due_at, ids)) in settled {
            delivery::settle(&tx, ids, lease, (state, tried, due_at)).await?;
        }
        for (lease, ids) in self.left.iter().filter(|_| releases) {
            delivery::release(&tx, ids.iter().copied(), *lease).await?;
        }
        self.judge(&tx, now, sent).await?;
        tx.commit().await
    }

    /// Updates the health of the webhooks after these attempts. Pings do not count.
    async fn judge(&self, tx: &DatabaseTransaction, now: Timestamp, sent: &[Sent]) -> Result<(), DbErr> {
        let mut of: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for sent in sent.iter().filter(|sent| sent.delivery.place.is_some()) {
            of.entry(sent.delivery.webhook_id).or_default().push(&sent.attempt);
        }
        // Read the webhooks again, because other attempts may have ended since these began.
        let webhooks = if of.is_empty() { Vec::new() } else { webhooks::enabled(tx).await? };
        for webhook in webhooks {
            let Some(attempts) = of.get(&webhook.id) else { continue };
            match health(webhook.failing_since, now, attempts.iter().copied()) {
                Health::Well if webhook.failing_since.is_some() => {
                    webhooks::set_failing_since(tx, webhook.id, None).await?;
                }
                Health::FailingSince(since) if webhook.failing_since.is_none() => {
                    webhooks::set_failing_since(tx, webhook.id, Some(since)).await?;
                }
                Health::Off(why) => {
                    let switched = webhooks::disable(tx, webhook.id, now, why).await?;
                    let owner = if switched > 0 && self.mails {
                        accounts::behind(tx, webhook.owner).await?
                    } else {
                        None
                    };
                    let told = owner.map(|owner| {
                        Mail::new(owner, Source::Webhook(webhook.id), Kind::WebhookDisabled, now, now)
                    });
                    mails::insert(tx, told.as_slice()).await?;
                    let (webhook_id, owner, why) = (webhook.id, webhook.owner, why.as_str());
                    tracing::warn!(%webhook_id, %owner, why, "a webhook was switched off");
                }
                Health::Well | Health::FailingSince(_) => {}
            }
        }
        Ok(())
    }
}
