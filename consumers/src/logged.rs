//! The events of decisions about streams that have logs. The handlers of these streams share this.

use std::collections::HashMap;

use domain::event::EventSet;
use domain::id::CommandId;
use sea_orm::ConnectionTrait;
use shared::bus::{CloudEvent, Outgoing};
use shared::failure::{Failure, Reject};
use shared::ledger::Row;
use shared::log::{self, Additions};

use crate::batch::Decided;

/// Gives each decision its events. The additions have them in the order of the decisions.
pub(crate) fn with_events<E: EventSet>(mut decided: Vec<Decided>, additions: Additions<E>) -> Vec<Decided> {
    let mut entries = additions.entries.into_iter();
    for each in &mut decided {
        let count = each.outcome.events as usize;
        each.events = entries.by_ref().take(count).map(|(entry, event)| event.message(entry.bytes)).collect();
    }
    decided
}

/// The events of commands that were decided before, by command, with the exact bytes of the logs.
pub(crate) async fn logged_events<E: EventSet>(
    db: &impl ConnectionTrait,
    rows: &[Row],
) -> Result<HashMap<CommandId, Vec<Outgoing>>, Failure> {
    let ranges = rows.iter().filter_map(|row| Some((row.stream?, row.sequence?, u64::from(row.events))));
    let mut events: HashMap<CommandId, Vec<Outgoing>> = HashMap::new();
    for entry in log::ranges(db, ranges).await? {
        let event: CloudEvent<E> = serde_json::from_slice(&entry.bytes)
            .map_err(|error| Reject::undecodable(format_args!("entry of {}: {error}", entry.stream)))?;
        events.entry(event.cause).or_default().push(event.message(entry.bytes));
    }
    Ok(events)
}
