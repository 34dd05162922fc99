//! House-keeping on a schedule.

use std::collections::HashMap;

use domain::id::CommandId;
use domain::upkeep::{CleanUpOutcome, FILES_STAY, UpkeepCommand};
use shared::bus::{Envelope, Outgoing};
use shared::derived;
use shared::failure::Failure;
use shared::files::Files;
use shared::ledger::{self, Outcome, Row};
use shared::mail::MAILS_STAY;
use shared::store::mails;
use shared::store::webhooks::delivery;
use shared::webhook::DELIVERIES_STAY;

use crate::batch::{Cx, Decided, Handler};

/// Longer than a mail or a delivery ever waits for its next attempt, or for the end of quiet hours.
const LONGEST_WAIT: chrono::Duration = chrono::Duration::hours(26);

/// Does the house-keeping.
#[derive(Debug)]
pub struct Upkeep {
    /// The uploaded files.
    pub files: Files,
}

impl Handler for Upkeep {
    type Message = UpkeepCommand;

    async fn handle(&self, cx: &Cx<'_>, batch: &[Envelope<UpkeepCommand>]) -> Result<Vec<Decided>, Failure> {
        // Several clean-ups may have fallen due while no process worked. One pass serves them all.
        let files = self.files.delete_older(cx.now - FILES_STAY).await;
        let files = files.map_err(Failure::retry)?;
        let decisions = ledger::delete_expired(cx.tx, cx.now).await?;
        let deliveries = delivery::forget(cx.tx, cx.now - DELIVERIES_STAY).await?;
        let mails = mails::forget(cx.tx, cx.now - MAILS_STAY).await?;
        // A mail or delivery that is due even later got its due time from a clock that ran ahead.
        let (ahead, now) = (cx.now + LONGEST_WAIT, cx.now);
        mails::bring_forward(cx.tx, now, ahead, ahead).await?;
        delivery::bring_forward(cx.tx, now, ahead, ahead).await?;
        // During a rollout, an older version may have written rows without these columns.
        derived::fill(cx.tx).await?;
        let outcome = serde_json::to_value(CleanUpOutcome { files, decisions, deliveries, mails })
            .expect("an outcome is plain data");
        Ok(batch
            .iter()
            .map(|_| Decided { outcome: Outcome::of(Ok(outcome.clone())), events: Vec::new() })
            .collect())
    }

    async fn events_again(
        &self,
        _: &Cx<'_>,
        _: &[Row],
    ) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
        Ok(HashMap::new())
    }
}
