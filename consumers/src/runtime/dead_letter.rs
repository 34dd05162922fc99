//! Messages that cannot be decided now: delay ladder and dead letters.

use std::time::Instant;

use domain::command::CommandSet as _;
use domain::id::CommandId;
use domain::text::with_causes;
use shared::backoff::Backoff;
use shared::bus::{Batch, Message, Outgoing};
use shared::failure::{Failure, Reject};
use shared::ledger::{self, Row};

use super::{ANSWER, GivenUp, HOLD, Runtime};
use crate::batch::Handler;
use crate::messages::{dead_letter, failed_row, later, reply};

impl<H: Handler> Runtime<H> {
    /// The messages to publish for a batch that cannot be decided now. They go to the delay ladder
    /// or, for a single bad message, to the dead letters.
    pub(super) async fn set_aside(
        &self,
        queue: &str,
        batch: &Batch,
        failure: Failure,
    ) -> Result<Vec<Outgoing>, GivenUp> {
        match failure {
            Failure::Reject(reject) => {
                let mut outgoing = Vec::new();
                for message in batch.messages() {
                    tracing::error!(queue, id = %message.id, kind = message.kind, %reject, "could not decide a message; it becomes a dead letter");
                    let row = self.record_failure(queue, message, &reject).await?;
                    let waits = message.reply_to.as_deref().zip(row.as_ref());
                    outgoing.extend(waits.map(|(address, row)| reply(address, row)));
                    outgoing.push(dead_letter(queue, message, &reject));
                }
                Ok(outgoing)
            }
            Failure::Retry(why) | Failure::Contended(why) => {
                let why = with_causes(&why);
                if self.shutdown.is_cancelled() || H::Message::QUEUE.has_lanes() {
                    // The consumer closes its channel, and the broker delivers the messages again
                    // in order.
                    tracing::warn!(queue, why, "gave a batch back; it will be delivered again");
                    return Err(GivenUp);
                }
                Ok(batch.messages().map(|message| later(queue, message, &why)).collect())
            }
        }
    }

    /// Records in the ledger that a message could not be decided, unless it was decided before.
    async fn record_failure(
        &self,
        queue: &str,
        message: &Message,
        reject: &Reject,
    ) -> Result<Option<Row>, GivenUp> {
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let recorded = async {
                let tx = self.db.begin().await?;
                let id = CommandId(message.id);
                if message.id.is_nil() || ledger::find(&tx, [id]).await?.contains_key(&id) {
                    return Ok(None);
                }
                let row = failed_row(message, reject);
                ledger::insert(&tx, std::slice::from_ref(&row)).await?;
                tx.commit().await?;
                Ok(Some(row))
            };
            let recorded = tokio::time::timeout(ANSWER, recorded).await.unwrap_or_else(|_| {
                self.db.did_not_answer();
                Err(sea_orm::DbErr::Custom("the database did not answer in time".to_owned()))
            });
            match recorded.map_err(Failure::from) {
                Ok(row) => {
                    let kind = message.kind.clone();
                    metrics::counter!("muster_commands_total", "kind" => kind, "outcome" => "failed")
                        .increment(1);
                    return Ok(row);
                }
                // The ledger cannot store the failure either. The dead letter still has it.
                Err(Failure::Reject(reject)) => {
                    tracing::error!(queue, id = %message.id, %reject, "could not record a failure; only the dead letter has it");
                    return Ok(None);
                }
                Err(failure) => {
                    if backoff.failures() == 0 {
                        tracing::warn!(queue, failure = %with_causes(&failure), "could not record a failure; trying again");
                    }
                    self.shutdown.run_until_cancelled(backoff.wait()).await;
                    if self.shutdown.is_cancelled() || since.elapsed() > HOLD {
                        return Err(GivenUp);
                    }
                }
            }
        }
    }
}
