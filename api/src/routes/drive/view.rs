//! What everyone reads about drives.

use domain::drive::definition;
use poem_openapi::Object;
use shared::store::drives::DriveView;
use uuid::Uuid;

use super::parts::{AdmissionKind, Kind, QuestionObject, RuleObject, Status};
use crate::at::At;

/// A slot, and how its places stand.
#[derive(Debug, Object)]
pub(super) struct Slot {
    slot_id: Uuid,
    name: String,
    starts_at: Option<At>,
    ends_at: Option<At>,
    /// Null: as many as come.
    capacity: Option<u32>,
    /// Null: as many as come.
    places_left: Option<u32>,
    confirmed: u32,
    waitlist_capacity: u32,
    waitlisted: u32,
}

/// A drive, at most one second old.
#[derive(Debug, Object)]
pub(super) struct Drive {
    drive_id: Uuid,
    title: String,
    kind: Kind,
    description: String,
    venue: String,
    status: Status,
    /// The IANA zone in which the organisers think.
    time_zone: String,
    /// Registration begins.
    opens_at: At,
    /// Registration ends.
    closes_at: At,
    starts_at: Option<At>,
    ends_at: Option<At>,
    /// Of all slots together; null: as many as come.
    capacity: Option<u32>,
    /// In all slots together; null: as many as come.
    places_left: Option<u32>,
    confirmed: u32,
    waitlist_capacity: u32,
    waitlisted: u32,
    slots: Vec<Slot>,
    rules: Vec<RuleObject>,
    /// Grows by one when the rules change.
    rules_version: u32,
    questions: Vec<QuestionObject>,
    admission: AdmissionKind,
    /// So many seconds before it begins, or their slot does, those who hold a place are reminded.
    reminders: Vec<u32>,
    /// `08:00`: when the daily digest comes, by the clock in the drive's zone.
    digest_at: Option<String>,
    /// Until when a place that becomes free goes to the head of the waiting list by itself. Null:
    /// until the end.
    promotes_until: Option<At>,
    /// Why it was called off, if it was.
    cancel_reason: Option<String>,
}

impl From<DriveView> for Drive {
    fn from(view: DriveView) -> Self {
        let DriveView { id, drive, places, .. } = view;
        let definition = drive.definition;
        let slot = |slot: &definition::Slot| {
            let places = places.get(&slot.slot_id).copied().unwrap_or_default();
            Slot {
                slot_id: slot.slot_id.0,
                name: slot.name.clone(),
                starts_at: slot.starts_at.map(At),
                ends_at: slot.ends_at.map(At),
                capacity: slot.capacity,
                places_left: slot.capacity.map(|capacity| capacity.saturating_sub(places.confirmed)),
                confirmed: places.confirmed,
                waitlist_capacity: slot.waitlist_capacity,
                waitlisted: places.waitlisted,
            }
        };
        let slots: Vec<_> = definition.slots.iter().map(slot).collect();
        Self {
            drive_id: id.0,
            title: definition.title,
            kind: definition.kind.into(),
            description: definition.description,
            venue: definition.venue,
            status: drive.status.into(),
            time_zone: definition.time_zone.name().to_owned(),
            opens_at: At(definition.opens_at),
            closes_at: At(definition.closes_at),
            starts_at: definition.starts_at.map(At),
            ends_at: definition.ends_at.map(At),
            capacity: slots.iter().map(|slot| slot.capacity).sum(),
            places_left: slots.iter().map(|slot| slot.places_left).sum(),
            confirmed: slots.iter().map(|slot| slot.confirmed).sum(),
            waitlist_capacity: slots.iter().map(|slot| slot.waitlist_capacity).sum(),
            waitlisted: slots.iter().map(|slot| slot.waitlisted).sum(),
            slots,
            rules: definition.rules.into_iter().map(Into::into).collect(),
            rules_version: drive.rules_version,
            questions: definition.questions.into_iter().map(Into::into).collect(),
            admission: definition.admission.into(),
            reminders: definition.reminders,
            digest_at: definition.digest_at.map(Into::into),
            promotes_until: definition.promotes_until.map(At),
            cancel_reason: drive.cancel_reason,
        }
    }
}
