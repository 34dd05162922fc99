//! The standing of a drive, for everyone to watch: its state and its places, without names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::id::{DriveId, SlotId};
use domain::refusal::{Code, Refusal};
use moka::future::Cache;
use serde::Serialize;
use shared::database::Database;
use shared::store::drives::{self, DriveView};

use super::{Item, Watcher};
use crate::problem::Problem;

/// The maximum age of a standing. All watchers of a drive together cause one read in this time.
const AGE: Duration = Duration::from_millis(200);
/// The most drives whose standing is cached.
const KEPT: u64 = 10_000;

/// The standing of a slot.
#[derive(Debug, Serialize)]
struct SlotStanding {
    slot_id: SlotId,
    places_left: Option<u32>,
    confirmed: u32,
    waitlisted: u32,
}

/// The standing of a drive after the entry `sequence` of its log.
#[derive(Debug, Serialize)]
struct Standing {
    drive_id: DriveId,
    sequence: u64,
    status: &'static str,
    /// Null if there is no limit.
    places_left: Option<u32>,
    confirmed: u32,
    waitlisted: u32,
    slots: Vec<SlotStanding>,
}

impl Standing {
    fn new(view: &DriveView) -> Self {
        let slots: Vec<_> = view
            .drive
            .definition
            .slots
            .iter()
            .map(|slot| {
                let places = view.places.get(&slot.slot_id).copied().unwrap_or_default();
                SlotStanding {
                    slot_id: slot.slot_id,
                    places_left: slot.capacity.map(|capacity| capacity.saturating_sub(places.confirmed)),
                    confirmed: places.confirmed,
                    waitlisted: places.waitlisted,
                }
            })
            .collect();
        Self {
            drive_id: view.id,
            sequence: view.sequence,
            status: view.drive.status.as_str(),
            places_left: slots.iter().map(|slot| slot.places_left).sum(),
            confirmed: slots.iter().map(|slot| slot.confirmed).sum(),
            waitlisted: slots.iter().map(|slot| slot.waitlisted).sum(),
            slots,
        }
    }
}

/// A cache of standings.
#[derive(Debug, Clone)]
pub(super) struct Standings(Cache<DriveId, Item>);

impl Default for Standings {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(KEPT).time_to_live(AGE).build())
    }
}

impl Standings {
    async fn of(&self, db: &Database, drive_id: DriveId) -> Result<Item, Problem> {
        let read = async {
            let view = drives::find(&db.read, drive_id).await?;
            let view = view.ok_or_else(|| Problem::from(Refusal::new(Code::DriveNotFound)))?;
            let bytes = serde_json::to_vec(&Standing::new(&view)).expect("a standing is plain data");
            Ok::<_, Problem>(Item { number: view.sequence, bytes: Bytes::from(bytes) })
        };
        self.0.try_get_with(drive_id, read).await.map_err(|problem: Arc<Problem>| (*problem).clone())
    }
}

/// A watcher of a drive's standing. It gets the latest standing, and may miss earlier ones.
#[derive(Debug)]
pub struct Places {
    watcher: Watcher,
    drive_id: DriveId,
    told: Option<u64>,
}

impl Places {
    /// Watches from the standing after the entry `told`, which the client has. `watcher` watches
    /// the drive's log.
    pub(super) fn new(watcher: Watcher, drive_id: DriveId, told: Option<u64>) -> Self {
        // A number of another deployment does not say which standing the client has.
        let told = told.filter(|_| watcher.reset.is_none());
        Self { watcher, drive_id, told }
    }

    /// The end of the log, if the client's number is beyond it and the client must start over.
    /// Returned once.
    pub(super) fn reset(&mut self) -> Option<u64> {
        self.watcher.reset.take()
    }

    /// Waits for the next change of the standing. `None` at the end of the process.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, Problem> {
        loop {
            if self.watcher.end_other_than(self.told).await.is_none() {
                return Ok(None);
            }
            let inner = &self.watcher.feeds.inner;
            // Boxed, as in `Watcher::next`.
            let standing = Box::pin(inner.standings.of(&inner.db, self.drive_id)).await?;
            if self.told.is_none_or(|told| told < standing.number) {
                self.told = Some(standing.number);
                return Ok(Some(standing));
            }
            // The cached standing is older than the log. Wait until it expires.
            if inner.ending.run_until_cancelled(tokio::time::sleep(AGE)).await.is_none() {
                return Ok(None);
            }
        }
    }
}
