//! Selects the events that are sent again. A request reads a bounded number of entries; if it needs
//! more, nothing is sent again.

use std::ops::RangeInclusive;

use domain::clock::{Timestamp, is_storable, latest_year};
use domain::event::EventSet as _;
use domain::id::DriveId;
use domain::refusal::FieldError;
use shared::bus::CloudEvent;
use shared::database::Database;
use shared::log::{self, Entry};
use shared::store::drives;
use shared::store::webhooks::delivery;
use shared::webhook::{Delivery, Webhook};

use crate::problem::Problem;

/// The most entries that one request reads.
const MOST: usize = 50_000;
/// How many entries are read at a time.
const PAGE: u64 = 500;
/// How many drives are looked up at a time.
const DRIVES: u64 = 200;

/// Collects deliveries from the entries of logs.
struct Gathering<'w> {
    webhook: &'w Webhook,
    now: Timestamp,
    looked_at: usize,
    found: Vec<Delivery>,
}

impl Gathering<'_> {
    /// Collects deliveries for the entries at `since` or later. Returns whether the first entry is
    /// one of them.
    fn look(&mut self, entries: &[Entry], since: Option<Timestamp>) -> Result<bool, Problem> {
        self.looked_at += entries.len();
        if self.looked_at > MOST {
            let detail = format!("more than {MOST} entries would be looked at; ask for less at a time");
            return Err(Problem::too_many_deliveries().detail(detail));
        }
        let mut first = None;
        for entry in entries {
            let event: CloudEvent = serde_json::from_slice(&entry.bytes).map_err(|error| {
                tracing::error!(%error, stream = %entry.stream, "an entry of a log cannot be read");
                Problem::internal()
            })?;
            let Some(drive_id) = entry.stream.drive() else { continue };
            let in_time = since.is_none_or(|since| event.time >= since);
            first = first.or(Some(in_time));
            if in_time && self.webhook.filter.matches(drive_id, event.event.kind()) {
                let place = (drive_id, entry.head.sequence);
                self.found.push(Delivery::new(self.webhook.id, place, &event, self.now));
            }
        }
        Ok(first.unwrap_or_default())
    }
}

/// The deliveries for a range of a drive's log.
pub(super) async fn of_range(
    db: &Database,
    webhook: &Webhook,
    drive_id: DriveId,
    range: RangeInclusive<u64>,
    now: Timestamp,
) -> Result<Vec<Delivery>, Problem> {
    let mut gathering = Gathering { webhook, now, looked_at: 0, found: Vec::new() };
    let (mut after, end) = (range.start().saturating_sub(1), *range.end());
    while after < end {
        let entries = log::read(&db.read, drive_id.into(), after, PAGE.min(end - after)).await?;
        let Some(last) = entries.last() else { break };
        after = last.head.sequence;
        gathering.look(&entries, None)?;
    }
    Ok(gathering.found)
}

/// The deliveries for all entries since an instant.
pub(super) async fn of_everything(
    db: &Database,
    webhook: &Webhook,
    since: Timestamp,
    now: Timestamp,
) -> Result<Vec<Delivery>, Problem> {
    if !is_storable(since) {
        let detail = format!("an instant is in the years from 1970 to {}", latest_year());
        let error = FieldError::new("since", detail);
        return Err(Problem::invalid_body().errors(vec![error]));
    }
    let mut gathering = Gathering { webhook, now, looked_at: 0, found: Vec::new() };
    let mut after = None;
    loop {
        let drives = drives::changed_since(&db.reports, since, after, DRIVES).await?;
        let Some((last, _)) = drives.last() else { break };
        after = Some(*last);
        for (drive_id, head) in drives {
            // Read backwards in longer and longer steps, because most drives have few new entries.
            let (mut end, mut step) = (head, 16);
            while end > 0 {
                let start = end.saturating_sub(step);
                let entries = log::read(&db.read, drive_id.into(), start, end - start).await?;
                if !gathering.look(&entries, Some(since))? {
                    break;
                }
                (end, step) = (start, (step * 4).min(PAGE));
            }
        }
    }
    Ok(gathering.found)
}

/// Makes all of these deliveries due now, whether or not they existed before. Returns their number.
pub(super) async fn send_again(
    db: &Database,
    webhook: &Webhook,
    all: &[Delivery],
    now: Timestamp,
) -> Result<u64, Problem> {
    let tx = db.begin().await?;
    let known = delivery::insert_missing(&tx, all).await?;
    delivery::restart(&tx, webhook.id, known, now).await?;
    tx.commit().await?;
    Ok(all.len() as u64)
}
