//! The history of a drive. Any client with its log can check it: hashes, places, one decision per
//! receipt.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use domain::clock::Timestamp;
use domain::drive::event::Event;
use domain::hash::digest_from_base64url;
use domain::id::{CommandId, DriveId, SlotId};
use serde_json::Value;
use shared::log::{Entry, Head};

use crate::client::{As, Client};
use crate::verify::Fold;

/// A drive's log as far as it was read.
#[derive(Debug)]
pub struct History {
    drive_id: DriveId,
    fold: Fold,
    /// When each command was decided.
    pub decided: HashMap<CommandId, Timestamp>,
    last: Option<CommandId>,
    /// When the drive's last place was taken, the first time.
    pub full: Option<Timestamp>,
    /// The number of refused registrations.
    pub refused: u64,
}

impl History {
    /// The history of a drive before anything was read.
    #[must_use]
    pub fn new(drive_id: DriveId) -> Self {
        let fold = Fold::new(drive_id);
        Self { drive_id, fold, decided: HashMap::new(), last: None, full: None, refused: 0 }
    }

    /// Reads to the log's present end. Recomputes hashes and places, and finds commands that were
    /// decided twice.
    pub async fn read_on(&mut self, client: &Client) -> anyhow::Result<()> {
        loop {
            let after = self.fold.sequence();
            let path = format!("/admin/v1/drives/{}/log?limit=200&cursor={after}", self.drive_id);
            let page = client.get(As::Admin, &path).await?;
            for item in page["items"].as_array().into_iter().flatten() {
                let entry = entry(self.drive_id, item).context("an entry lacks a part")?;
                let step = self.fold.read(&entry)?;
                let cause = step.event.cause;
                if self.decided.insert(cause, step.event.time).is_some() && self.last != Some(cause) {
                    bail!("{cause} was decided twice");
                }
                self.last = Some(cause);
                self.refused += u64::from(matches!(step.event.event, Event::RegistrationRefused(_)));
                self.fold.step(&step, None)?;
                if self.full.is_none() && self.is_full() {
                    self.full = Some(step.event.time);
                }
            }
            if page["next_cursor"].is_null() {
                return Ok(());
            }
        }
    }

    /// Whether the drive has no place left. It only looks at the slot of a drive without named
    /// slots.
    fn is_full(&self) -> bool {
        let slot_id = SlotId(self.drive_id.0);
        let drive = self.fold.state().drive.as_ref();
        let capacity = drive.and_then(|drive| drive.slot(Some(slot_id))?.capacity);
        capacity.is_some_and(|places| self.fold.state().places(slot_id).confirmed >= places)
    }

    /// Compares the log with the API's view of the drive. Returns the number of entries.
    pub async fn finish(&self, client: &Client) -> anyhow::Result<u64> {
        self.fold.finish()?;
        let path = format!("/admin/v1/drives/{}", self.drive_id);
        let drive = client.get(As::Admin, &path).await?;
        let places = self.fold.state().places(SlotId(self.drive_id.0));
        if drive["confirmed"] == places.confirmed && drive["waitlisted"] == places.waitlisted {
            return Ok(self.fold.sequence());
        }
        let (confirmed, waitlisted) = (&drive["confirmed"], &drive["waitlisted"]);
        bail!("the log has {places:?}, the drive says {confirmed} and {waitlisted}")
    }
}

/// Checks the whole log of a drive, and that it has a decision for each of these receipts. Returns
/// the number of entries.
pub async fn verify(client: &Client, drive_id: DriveId, receipts: &[CommandId]) -> anyhow::Result<u64> {
    let mut history = History::new(drive_id);
    history.read_on(client).await?;
    match receipts.iter().find(|id| !history.decided.contains_key(id)) {
        Some(lost) => bail!("receipt {lost} has no decision in the log"),
        None => history.finish(client).await,
    }
}

fn entry(drive_id: DriveId, item: &Value) -> Option<Entry> {
    let head =
        Head { sequence: item["sequence"].as_u64()?, hash: digest_from_base64url(item["hash"].as_str()?)? };
    Some(Entry { stream: drive_id.into(), head, bytes: Bytes::from(item["event"].as_str()?.to_owned()) })
}
