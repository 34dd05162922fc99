//! The input of organisers: a new drive, or changes to one.

mod changes;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

pub use self::changes::{Changes, QuestionChanges, RuleChanges, SlotChanges, check_changes};
use super::{Kind, reminder};
use crate::drive::definition::{
    Admission, Definition, Faults, MAX_DESCRIPTION, MAX_PLACES, MAX_SLOTS, MAX_TITLE, MAX_VENUE,
    implicit_slot,
};
use crate::drive::digest::TimeOfDay;
use crate::drive::registration::questions::{MAX_QUESTIONS, Question};
use crate::drive::when::When;
use crate::eligibility::{MAX_RULES, Rule};
use crate::id::{CommandId, DriveId, SlotId};
use crate::refusal::Refusal;

/// A slot with places of its own, as an organiser writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlotDraft {
    /// A new drive has no slots yet, so leave this out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// One line, unique in the drive.
    #[schemars(length(min = 1, max = MAX_TITLE))]
    pub name: String,
    /// When it begins, if not with the drive.
    #[serde(default)]
    pub starts_at: Option<When>,
    /// When it ends.
    #[serde(default)]
    pub ends_at: Option<When>,
    /// Its places. Absent means no limit.
    #[schemars(range(min = 1, max = MAX_PLACES))]
    #[serde(default)]
    pub capacity: Option<u32>,
    /// How many may wait. Absent means none.
    #[schemars(range(max = MAX_PLACES))]
    #[serde(default)]
    pub waitlist_capacity: Option<u32>,
}

/// A drive as an organiser writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "DriveDraft")]
#[schemars(example = json!({
    "title": "Blood donation, Pune",
    "kind": "donation",
    "venue": "Hall 3",
    "time_zone": "Asia/Kolkata",
    "opens_at": "2026-12-01T09:00",
    "closes_at": "2027-01-09T18:00",
    "starts_at": "2027-01-10T09:00",
    "slots": [{ "name": "Morning", "capacity": 100, "waitlist_capacity": 20 }],
    "rules": [
        { "name": "adults", "when": "member.age >= 18", "message": "Donors are 18 or older" },
    ],
    "questions": [
        { "name": "shirt_size", "text": "Which shirt?", "kind": "choice", "required": true, "choices": ["S", "M", "L"] },
    ],
}))]
pub struct Draft {
    /// Its title, on one line.
    #[schemars(length(min = 1, max = MAX_TITLE))]
    pub title: String,
    /// What it is for.
    pub kind: Kind,
    /// Free text.
    #[schemars(length(max = MAX_DESCRIPTION))]
    #[serde(default)]
    pub description: String,
    /// Where it is, on one line.
    #[schemars(length(max = MAX_VENUE))]
    #[serde(default)]
    pub venue: String,
    /// An IANA zone, such as `Asia/Kolkata`.
    pub time_zone: String,
    /// Registration begins.
    pub opens_at: When,
    /// Registration ends.
    pub closes_at: When,
    /// The drive itself begins.
    #[serde(default)]
    pub starts_at: Option<When>,
    /// The drive itself ends.
    #[serde(default)]
    pub ends_at: Option<When>,
    /// The places of a drive without slots. Absent means no limit.
    #[schemars(range(min = 1, max = MAX_PLACES))]
    #[serde(default)]
    pub capacity: Option<u32>,
    /// How many may wait for a drive without slots. Absent means none.
    #[schemars(range(max = MAX_PLACES))]
    #[serde(default)]
    pub waitlist_capacity: Option<u32>,
    /// Slots with places of their own. Empty means one implicit slot.
    #[schemars(length(max = MAX_SLOTS))]
    #[serde(default)]
    pub slots: Vec<SlotDraft>,
    /// The rules that decide who may come. All must hold. Empty means that anyone may come.
    #[schemars(length(max = MAX_RULES))]
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// The questions to members who register. Empty means none.
    #[schemars(length(max = MAX_QUESTIONS))]
    #[serde(default)]
    pub questions: Vec<Question>,
    /// How people get in.
    #[serde(default)]
    pub admission: Admission,
    /// Reminder offsets in seconds before the start of the drive, or of the participant's slot.
    /// Only confirmed participants are reminded. Absent means a day and an hour. Empty means never.
    #[schemars(length(max = reminder::MOST), inner(range(min = *reminder::RANGE.start(), max = *reminder::RANGE.end())))]
    #[serde(default = "reminder::unsaid", skip_serializing_if = "reminder::is_unsaid")]
    pub reminders: Vec<u32>,
    /// When admins get a daily digest, as local time in the drive's time zone. The first comes
    /// after registration opens, the last after the drive is over. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_at: Option<TimeOfDay>,
    /// Until when Muster gives a free place to the head of the waiting list. This instant is
    /// excluded. Promotion ends with the slot or the drive at the latest. Absent means that end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotes_until: Option<When>,
}

impl Draft {
    /// Checks the draft and makes a definition of it. New slots get ids that are derived from
    /// `cause`.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn define(&self, drive_id: DriveId, cause: CommandId) -> Result<Definition, Refusal> {
        // Every field is named here and below, so that a new one cannot be forgotten.
        let Self {
            title,
            kind,
            description,
            venue,
            time_zone,
            opens_at,
            closes_at,
            starts_at,
            ends_at,
            capacity,
            waitlist_capacity,
            slots,
            rules,
            questions,
            admission,
            reminders,
            digest_at,
            promotes_until,
        } = self.clone();
        let mut faults = Faults::default();
        let zone = faults.zone(&time_zone);
        let definition = Definition {
            title: title.trim().to_owned(),
            kind,
            description,
            venue,
            time_zone: zone,
            opens_at: faults.instant("opens_at", opens_at, zone),
            closes_at: faults.instant("closes_at", closes_at, zone),
            starts_at: starts_at.map(|at| faults.instant("starts_at", at, zone)),
            ends_at: ends_at.map(|at| faults.instant("ends_at", at, zone)),
            admission,
            slots: if slots.is_empty() {
                vec![implicit_slot(drive_id, capacity, waitlist_capacity)]
            } else {
                faults.no_capacity_beside_slots(capacity.is_some() || waitlist_capacity.is_some());
                let slots: Vec<_> = slots.into_iter().map(SlotChanges::from).collect();
                faults.slots(&slots, &[], zone, cause)
            },
            rules,
            questions,
            reminders: faults.reminders(&reminders),
            digest_at,
            promotes_until: promotes_until.map(|at| faults.instant("promotes_until", at, zone)),
        };
        faults.check(&definition, drive_id, None);
        faults.finish(definition)
    }
}

/// Checks a draft that is not accepted yet. The ids do not matter, because only the faults count.
pub fn check(draft: &Draft) -> Result<(), Refusal> {
    draft.define(DriveId(Uuid::nil()), CommandId(Uuid::nil())).map(drop)
}

#[cfg(test)]
mod tests;
