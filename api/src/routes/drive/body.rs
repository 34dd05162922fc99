//! What organisers write about drives.

use domain::clock::Instant;
use domain::drive::definition::Admission;
use domain::drive::digest::TimeOfDay;
use domain::drive::draft::{Changes, Draft, SlotChanges, SlotDraft};
use domain::drive::reminder;
use domain::drive::when::When;
use domain::id::SlotId;
use domain::patch::Patch;
use domain::refusal::{Code, FieldError, Refusal};
use poem_openapi::Object;
use poem_openapi::types::MaybeUndefined;
use uuid::Uuid;

use super::parts::{
    AdmissionKind, Audience, Kind, QuestionChangesObject, QuestionObject, RuleChangesObject, RuleObject,
};
use crate::problem::Problem;

/// A slot with places of its own, as an organiser writes it.
#[derive(Debug, Clone, Object)]
#[oai(rename = "SlotDraft", deny_unknown_fields)]
pub(super) struct SlotBody {
    /// A new drive has no slots yet: leave it out.
    slot_id: Option<Uuid>,
    /// One line, unique in the drive.
    name: String,
    starts_at: Option<String>,
    ends_at: Option<String>,
    /// Left out: as many as come.
    capacity: Option<u32>,
    /// Left out: nobody waits.
    waitlist_capacity: Option<u32>,
}

/// A drive as an organiser writes it. Instants are RFC 3339 with an offset, or local times in `time_zone` without one
/// (`2026-12-01T09:00`).
#[derive(Debug, Object)]
#[oai(rename = "DriveDraft", deny_unknown_fields)]
pub(super) struct DriveBody {
    title: String,
    kind: Kind,
    #[oai(default)]
    description: String,
    #[oai(default)]
    venue: String,
    /// An IANA zone: `Asia/Kolkata`.
    time_zone: String,
    /// Registration begins.
    opens_at: String,
    /// Registration ends.
    closes_at: String,
    starts_at: Option<String>,
    ends_at: Option<String>,
    /// Left out: as many as come. Drives with slots have their places there.
    capacity: Option<u32>,
    /// Left out: nobody waits.
    waitlist_capacity: Option<u32>,
    #[oai(default)]
    slots: Vec<SlotBody>,
    /// All must hold.
    #[oai(default)]
    rules: Vec<RuleObject>,
    #[oai(default)]
    questions: Vec<QuestionObject>,
    admission: Option<AdmissionKind>,
    /// So many seconds before it begins, or their slot does, those who hold a place are reminded: at most 5, each a minute
    /// to 30 days. Left out: a day and an hour; empty: never.
    reminders: Option<Vec<u32>>,
    /// `08:00`: when those who run Muster are told each day how the drive stands, by the clock in its zone, from when
    /// registration opens until the drive is over. Left out: never.
    digest_at: Option<String>,
    /// Until when a place that becomes free goes to the head of the waiting list by itself, this
    /// instant excluded. Left out: until the end of the slot or the drive, which is the latest in
    /// any case.
    promotes_until: Option<String>,
}

/// What changes of a slot, or a new slot. Fields that are left out stay as they are; null takes
/// away what may be absent.
#[derive(Debug, Clone, Object)]
#[oai(rename = "SlotChanges", deny_unknown_fields)]
pub(super) struct SlotChangesBody {
    /// The slot that is meant; left out for a new one.
    slot_id: Option<Uuid>,
    /// One line, unique in the drive. A new slot needs a name.
    name: Option<String>,
    starts_at: MaybeUndefined<String>,
    ends_at: MaybeUndefined<String>,
    /// Null: as many as come.
    capacity: MaybeUndefined<u32>,
    /// Null: nobody waits.
    waitlist_capacity: MaybeUndefined<u32>,
}

/// What changes of a drive. What is left out stays; null takes away what may be absent.
#[derive(Debug, Object)]
#[oai(rename = "DriveChanges", deny_unknown_fields)]
pub(super) struct ChangesBody {
    title: Option<String>,
    kind: Option<Kind>,
    description: Option<String>,
    venue: Option<String>,
    time_zone: Option<String>,
    opens_at: Option<String>,
    closes_at: Option<String>,
    starts_at: MaybeUndefined<String>,
    ends_at: MaybeUndefined<String>,
    capacity: MaybeUndefined<u32>,
    waitlist_capacity: MaybeUndefined<u32>,
    /// All slots: those with an id stay, those without are new, those not named go. Of a slot that
    /// stays, fields that are left out stay.
    slots: Option<Vec<SlotChangesBody>>,
    /// All rules, by their names; those not named go. Of a rule that stays, fields that are left
    /// out stay.
    rules: Option<Vec<RuleChangesObject>>,
    /// All questions, by their names; those not named go. Of a question that stays, fields that are
    /// left out stay.
    questions: Option<Vec<QuestionChangesObject>>,
    /// All of them.
    reminders: Option<Vec<u32>>,
    digest_at: MaybeUndefined<String>,
    promotes_until: MaybeUndefined<String>,
}

/// The new end of registration.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct Reopening {
    /// Needed when the old one is over.
    pub(super) closes_at: Option<String>,
}

/// Why a drive is called off.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct Cancelling {
    /// For everyone to read.
    pub(super) reason: String,
}

/// What an organiser writes to all of a drive.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
pub(super) struct Writing {
    /// One line of at most 200 characters.
    pub(super) subject: String,
    /// At most 10,000 characters.
    pub(super) text: String,
    /// Left out: all.
    pub(super) to: Option<Audience>,
}

/// Reads instants and remembers those that are none.
#[derive(Default)]
pub(super) struct Times(Vec<FieldError>);

impl Times {
    pub(super) fn read(&mut self, field: impl Into<String>, text: &str) -> When {
        text.parse().unwrap_or_else(|detail: String| {
            self.0.push(FieldError::new(field, detail));
            When::Instant(Instant::default())
        })
    }

    pub(super) fn read_any(&mut self, field: impl Into<String>, text: Option<String>) -> Option<When> {
        text.map(|text| self.read(field, &text))
    }

    fn time_of_day(&mut self, text: Option<String>) -> Option<TimeOfDay> {
        let read = text?.parse();
        read.map_err(|detail: String| self.0.push(FieldError::new("digest_at", detail))).ok()
    }

    pub(super) fn slots(&mut self, slots: Vec<SlotBody>) -> Vec<SlotDraft> {
        let mut read = |(index, slot): (usize, SlotBody)| SlotDraft {
            slot_id: slot.slot_id.map(SlotId),
            name: slot.name,
            starts_at: self.read_any(format!("slots[{index}].starts_at"), slot.starts_at),
            ends_at: self.read_any(format!("slots[{index}].ends_at"), slot.ends_at),
            capacity: slot.capacity,
            waitlist_capacity: slot.waitlist_capacity,
        };
        slots.into_iter().enumerate().map(&mut read).collect()
    }

    fn slot_changes(&mut self, slots: Vec<SlotChangesBody>) -> Vec<SlotChanges> {
        let mut read = |(index, slot): (usize, SlotChangesBody)| {
            let mut time = |name: &str, text: MaybeUndefined<String>| {
                nullable(text).map(|text| self.read(format!("slots[{index}].{name}"), &text))
            };
            SlotChanges {
                slot_id: slot.slot_id.map(SlotId),
                name: slot.name,
                starts_at: time("starts_at", slot.starts_at),
                ends_at: time("ends_at", slot.ends_at),
                capacity: nullable(slot.capacity),
                waitlist_capacity: nullable(slot.waitlist_capacity),
            }
        };
        slots.into_iter().enumerate().map(&mut read).collect()
    }

    pub(super) fn finish<T>(self, value: T) -> Result<T, Problem> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Refusal::new(Code::InvalidDrive).with_errors(self.0).into())
        }
    }
}

impl TryFrom<DriveBody> for Draft {
    type Error = Problem;

    fn try_from(body: DriveBody) -> Result<Self, Problem> {
        let mut times = Times::default();
        let draft = Self {
            title: body.title,
            kind: body.kind.into(),
            description: body.description,
            venue: body.venue,
            time_zone: body.time_zone,
            opens_at: times.read("opens_at", &body.opens_at),
            closes_at: times.read("closes_at", &body.closes_at),
            starts_at: times.read_any("starts_at", body.starts_at),
            ends_at: times.read_any("ends_at", body.ends_at),
            capacity: body.capacity,
            waitlist_capacity: body.waitlist_capacity,
            slots: times.slots(body.slots),
            rules: body.rules.into_iter().map(Into::into).collect(),
            questions: body.questions.into_iter().map(Into::into).collect(),
            admission: body.admission.map_or(Admission::FirstCome, Into::into),
            reminders: body.reminders.unwrap_or_else(reminder::unsaid),
            digest_at: times.time_of_day(body.digest_at),
            promotes_until: times.read_any("promotes_until", body.promotes_until),
        };
        times.finish(draft)
    }
}

fn nullable<T>(value: MaybeUndefined<T>) -> Patch<T> {
    match value {
        MaybeUndefined::Undefined => Patch::Keep,
        MaybeUndefined::Null => Patch::Clear,
        MaybeUndefined::Value(value) => Patch::Set(value),
    }
}

impl TryFrom<ChangesBody> for Changes {
    type Error = Problem;

    fn try_from(body: ChangesBody) -> Result<Self, Problem> {
        let mut times = Times::default();
        let changes = Self {
            title: body.title,
            kind: body.kind.map(Into::into),
            description: body.description,
            venue: body.venue,
            time_zone: body.time_zone,
            opens_at: times.read_any("opens_at", body.opens_at),
            closes_at: times.read_any("closes_at", body.closes_at),
            starts_at: nullable(body.starts_at).map(|text| times.read("starts_at", &text)),
            ends_at: nullable(body.ends_at).map(|text| times.read("ends_at", &text)),
            capacity: nullable(body.capacity),
            waitlist_capacity: nullable(body.waitlist_capacity),
            slots: body.slots.map(|slots| times.slot_changes(slots)),
            rules: body.rules.map(|rules| rules.into_iter().map(Into::into).collect()),
            questions: body.questions.map(|questions| questions.into_iter().map(Into::into).collect()),
            reminders: body.reminders,
            digest_at: match body.digest_at {
                MaybeUndefined::Undefined => Patch::Keep,
                MaybeUndefined::Null => Patch::Clear,
                MaybeUndefined::Value(text) => times.time_of_day(Some(text)).into(),
            },
            promotes_until: nullable(body.promotes_until).map(|text| times.read("promotes_until", &text)),
        };
        times.finish(changes)
    }
}
