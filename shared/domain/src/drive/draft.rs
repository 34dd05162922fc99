//! What organisers write: a new drive, or changes of one.

mod changes;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::changes::{Changes, QuestionChanges, RuleChanges, SlotChanges, check_changes};
use super::{Kind, reminder};
use crate::drive::definition::{Admission, Definition, Faults, implicit_slot};
use crate::drive::digest::TimeOfDay;
use crate::drive::registration::questions::Question;
use crate::drive::when::When;
use crate::eligibility::Rule;
use crate::id::{CommandId, DriveId, SlotId};
use crate::refusal::Refusal;

/// A slot as an organiser writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlotDraft {
    /// When changing a drive: the slot that is meant; absent for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// Unique in the drive.
    pub name: String,
    /// When it begins.
    #[serde(default)]
    pub starts_at: Option<When>,
    /// When it ends.
    #[serde(default)]
    pub ends_at: Option<When>,
    /// Its places; absent means as many as come.
    #[serde(default)]
    pub capacity: Option<u32>,
    /// How many may wait; absent means nobody.
    #[serde(default)]
    pub waitlist_capacity: Option<u32>,
}

/// A drive as an organiser writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Draft {
    /// Its title.
    pub title: String,
    /// What it is for.
    pub kind: Kind,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Where.
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
    /// The places of a drive without slots; absent means as many as come.
    #[serde(default)]
    pub capacity: Option<u32>,
    /// How many may wait for a drive without slots; absent means nobody.
    #[serde(default)]
    pub waitlist_capacity: Option<u32>,
    /// Slots with places of their own; empty means one implicit slot.
    #[serde(default)]
    pub slots: Vec<SlotDraft>,
    /// Who may come; empty means anyone.
    #[serde(default)]
    pub rules: Vec<Rule>,
    /// What is asked; empty means nothing.
    #[serde(default)]
    pub questions: Vec<Question>,
    /// How people get in.
    #[serde(default)]
    pub admission: Admission,
    /// So many seconds before it begins, or their slot does, those who hold a place are reminded; empty means never.
    #[serde(default = "reminder::unsaid", skip_serializing_if = "reminder::is_unsaid")]
    pub reminders: Vec<u32>,
    /// When those who run Muster are told each day how it stands, by the clock where it is; absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_at: Option<TimeOfDay>,
    /// Until when a place that becomes free goes to the head of the waiting list by itself; absent
    /// means until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotes_until: Option<When>,
}

impl Draft {
    /// Checks it and makes it a definition; says everything that is wrong otherwise. New slots get ids that are
    /// functions of `cause`.
    pub fn define(&self, drive_id: DriveId, cause: CommandId) -> Result<Definition, Refusal> {
        let mut faults = Faults::default();
        let zone = faults.zone(&self.time_zone);
        let definition = Definition {
            title: self.title.trim().to_owned(),
            kind: self.kind,
            description: self.description.clone(),
            venue: self.venue.clone(),
            time_zone: zone,
            opens_at: faults.instant("opens_at", self.opens_at, zone),
            closes_at: faults.instant("closes_at", self.closes_at, zone),
            starts_at: self.starts_at.map(|at| faults.instant("starts_at", at, zone)),
            ends_at: self.ends_at.map(|at| faults.instant("ends_at", at, zone)),
            admission: self.admission,
            slots: if self.slots.is_empty() {
                vec![implicit_slot(drive_id, self.capacity, self.waitlist_capacity)]
            } else {
                faults.no_capacity_beside_slots(self.capacity.is_some() || self.waitlist_capacity.is_some());
                let slots: Vec<_> = self.slots.iter().cloned().map(SlotChanges::from).collect();
                faults.slots(&slots, &[], zone, cause)
            },
            rules: self.rules.clone(),
            questions: self.questions.clone(),
            reminders: faults.reminders(&self.reminders),
            digest_at: self.digest_at,
            promotes_until: self.promotes_until.map(|at| faults.instant("promotes_until", at, zone)),
        };
        faults.check(&definition, drive_id, None);
        faults.finish(definition)
    }
}

/// Checks a draft that is not accepted yet: any id will do, since only the faults count.
pub fn check(draft: &Draft) -> Result<(), Refusal> {
    draft.define(DriveId(Uuid::nil()), CommandId(Uuid::nil())).map(drop)
}

#[cfg(test)]
mod tests;
