//! Drives, as everyone reads them.

use domain::drive::definition::{self, Admission, Definition};
use domain::drive::digest::TimeOfDay;
use domain::drive::registration::questions::Question;
use domain::drive::{Kind, Status, state};
use domain::eligibility::Rule;
use domain::id::{DriveId, SlotId};
use schemars::JsonSchema;
use serde::Serialize;
use shared::store::drives::DriveView;

use crate::timestamp::At;

/// A slot and its places.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Slot {
    slot_id: SlotId,
    name: String,
    starts_at: Option<At>,
    ends_at: Option<At>,
    /// The number of places. Null means no limit.
    capacity: Option<u32>,
    /// The number of free places. Null means no limit.
    places_left: Option<u32>,
    confirmed: u32,
    waitlist_capacity: u32,
    waitlisted: u32,
}

/// A drive, at most one second old.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Drive {
    drive_id: DriveId,
    title: String,
    kind: Kind,
    description: String,
    venue: String,
    status: Status,
    /// The IANA time zone of the drive's organisers.
    time_zone: String,
    /// When registration opens.
    opens_at: At,
    /// When registration closes.
    closes_at: At,
    starts_at: Option<At>,
    ends_at: Option<At>,
    /// The number of places in all slots together. Null means no limit.
    capacity: Option<u32>,
    /// The number of free places in all slots together. Null means no limit.
    places_left: Option<u32>,
    confirmed: u32,
    waitlist_capacity: u32,
    waitlisted: u32,
    slots: Vec<Slot>,
    rules: Vec<Rule>,
    /// Increases by one when the rules change.
    rules_version: u32,
    questions: Vec<Question>,
    admission: Admission,
    /// Reminder offsets in seconds before the start of the drive, or of the participant's slot.
    reminders: Vec<u32>,
    /// The time of day of the daily digest, in the drive's time zone.
    digest_at: Option<TimeOfDay>,
    /// Until when a place that becomes free goes to the head of the waiting list by itself. Null
    /// means until the drive ends.
    promotes_until: Option<At>,
    /// Why the drive was cancelled, if it was.
    cancel_reason: Option<String>,
}

impl From<DriveView> for Drive {
    fn from(view: DriveView) -> Self {
        let DriveView { id, drive, places, .. } = view;
        let state::Drive { definition, status, rules_version, cancel_reason, .. } = drive;
        // Every field is named, so that a new one cannot be forgotten.
        let Definition {
            title,
            kind,
            description,
            venue,
            time_zone,
            opens_at,
            closes_at,
            starts_at,
            ends_at,
            admission,
            slots,
            rules,
            questions,
            reminders,
            digest_at,
            promotes_until,
        } = definition;
        let slot = |slot: definition::Slot| {
            let places = places.get(&slot.slot_id).copied().unwrap_or_default();
            Slot {
                slot_id: slot.slot_id,
                name: slot.name,
                starts_at: slot.starts_at.map(At),
                ends_at: slot.ends_at.map(At),
                capacity: slot.capacity,
                places_left: slot.capacity.map(|capacity| capacity.saturating_sub(places.confirmed)),
                confirmed: places.confirmed,
                waitlist_capacity: slot.waitlist_capacity,
                waitlisted: places.waitlisted,
            }
        };
        let slots: Vec<_> = slots.into_iter().map(slot).collect();
        Self {
            drive_id: id,
            title,
            kind,
            description,
            venue,
            status,
            time_zone: time_zone.name().to_owned(),
            opens_at: At(opens_at),
            closes_at: At(closes_at),
            starts_at: starts_at.map(At),
            ends_at: ends_at.map(At),
            capacity: slots.iter().map(|slot| slot.capacity).sum(),
            places_left: slots.iter().map(|slot| slot.places_left).sum(),
            confirmed: slots.iter().map(|slot| slot.confirmed).sum(),
            waitlist_capacity: slots.iter().map(|slot| slot.waitlist_capacity).sum(),
            waitlisted: slots.iter().map(|slot| slot.waitlisted).sum(),
            slots,
            rules,
            rules_version,
            questions,
            admission,
            reminders,
            digest_at,
            promotes_until: promotes_until.map(At),
            cancel_reason,
        }
    }
}
