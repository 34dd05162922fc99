//! What organisers write: a new drive, or changes of one.

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::Kind;
use super::definition::{Admission, Definition, Faults, Slot, implicit_slot};
use super::digest::TimeOfDay;
use super::reminder;
use super::when::When;
use crate::clock::Instant;
use crate::eligibility::Rule;
use crate::id::{CommandId, DriveId, SlotId};
use crate::refusal::Refusal;
use crate::registration::questions::Question;

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
                faults.slots(&self.slots, &[], zone, cause)
            },
            rules: self.rules.clone(),
            questions: self.questions.clone(),
            reminders: faults.reminders(&self.reminders),
            digest_at: self.digest_at,
        };
        faults.check(&definition, drive_id);
        faults.finish(definition)
    }
}

/// Reads a field whose absence means "as it is" and whose null means "none".
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What changes of a drive. Absent fields stay; null takes away what may be absent.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Changes {
    /// The title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The venue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub venue: Option<String>,
    /// The zone; instants that are not changed with it stay the instants they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// The beginning of registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<When>,
    /// The end of registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closes_at: Option<When>,
    /// The beginning.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub starts_at: Option<Option<When>>,
    /// The end.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub ends_at: Option<Option<When>>,
    /// The places of a drive without slots.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub capacity: Option<Option<u32>>,
    /// How many may wait for a drive without slots.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub waitlist_capacity: Option<Option<u32>>,
    /// All slots: those with an id stay, those without are new, those that are not named go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Vec<SlotDraft>>,
    /// All rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<Rule>>,
    /// All questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<Vec<Question>>,
    /// All reminders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminders: Option<Vec<u32>>,
    /// The time of the daily digest.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub digest_at: Option<Option<TimeOfDay>>,
}

impl Changes {
    /// Whether they may give places to those who wait.
    #[must_use]
    pub fn may_move_people(&self) -> bool {
        self.capacity.is_some() || self.slots.is_some()
    }

    /// Applies them to a drive; says everything that is wrong with the result otherwise.
    pub fn apply(
        &self,
        old: &Definition,
        drive_id: DriveId,
        cause: CommandId,
    ) -> Result<Definition, Refusal> {
        let mut faults = Faults::default();
        let zone = self.time_zone.as_ref().map_or(old.time_zone, |text| faults.zone(text));
        let mut new = Definition { time_zone: zone, ..old.clone() };
        if let Some(title) = &self.title {
            title.trim().clone_into(&mut new.title);
        }
        new.kind = self.kind.unwrap_or(new.kind);
        new.description = self.description.clone().unwrap_or(new.description);
        new.venue = self.venue.clone().unwrap_or(new.venue);
        if let Some(at) = self.opens_at {
            new.opens_at = faults.instant("opens_at", at, zone);
        }
        if let Some(at) = self.closes_at {
            new.closes_at = faults.instant("closes_at", at, zone);
        }
        if let Some(at) = self.starts_at {
            new.starts_at = at.map(|at| faults.instant("starts_at", at, zone));
        }
        if let Some(at) = self.ends_at {
            new.ends_at = at.map(|at| faults.instant("ends_at", at, zone));
        }
        if let Some(slots) = &self.slots {
            new.slots = if slots.is_empty() {
                let before = old.slots.iter().find(|slot| slot.slot_id.0 == drive_id.0).cloned();
                vec![before.unwrap_or_else(|| implicit_slot(drive_id, None, None))]
            } else {
                faults.slots(slots, &old.slots, zone, cause)
            };
        }
        if self.capacity.is_some() || self.waitlist_capacity.is_some() {
            match new.slots.as_mut_slice() {
                [only] if only.slot_id.0 == drive_id.0 => {
                    only.capacity = self.capacity.unwrap_or(only.capacity);
                    only.waitlist_capacity =
                        self.waitlist_capacity.map_or(only.waitlist_capacity, Option::unwrap_or_default);
                }
                _ => faults.no_capacity_beside_slots(true),
            }
        }
        new.rules = self.rules.clone().unwrap_or(new.rules);
        new.questions = self.questions.clone().unwrap_or(new.questions);
        if let Some(reminders) = &self.reminders {
            new.reminders = faults.reminders(reminders);
        }
        new.digest_at = self.digest_at.unwrap_or(new.digest_at);
        faults.check(&new, drive_id);
        faults.finish(new)
    }
}

/// Checks a draft that is not accepted yet: any id will do, since only the faults count.
pub fn check(draft: &Draft) -> Result<(), Refusal> {
    draft.define(DriveId(Uuid::nil()), CommandId(Uuid::nil())).map(drop)
}

/// Checks changes that are not accepted yet, as far as that is possible without the drive: rules, questions, texts,
/// numbers. What depends on the rest of the drive is decided on its lane.
pub fn check_changes(changes: &Changes) -> Result<(), Refusal> {
    let (drive_id, cause) = (DriveId(Uuid::nil()), CommandId(Uuid::nil()));
    let (opens_at, closes_at) = (Instant::UNIX_EPOCH, Instant::UNIX_EPOCH + chrono::Duration::days(1));
    let mut neutral = Definition {
        title: "A drive".to_owned(),
        kind: Kind::Other,
        description: String::new(),
        venue: String::new(),
        time_zone: Tz::UTC,
        opens_at,
        closes_at,
        starts_at: None,
        ends_at: None,
        admission: Admission::FirstCome,
        slots: vec![implicit_slot(drive_id, None, None)],
        rules: Vec::new(),
        questions: Vec::new(),
        reminders: Vec::new(),
        digest_at: None,
    };
    // Slots that exist are known to the lane only; here they count as if they did.
    let existing = changes.slots.iter().flatten().filter_map(|slot| slot.slot_id);
    neutral.slots.extend(existing.map(|slot_id| Slot { slot_id, ..implicit_slot(drive_id, None, None) }));
    let alone = Changes {
        opens_at: None,
        closes_at: None,
        // Only the lane knows whether the drive has slots.
        slots: changes.slots.clone().filter(|slots| !slots.is_empty()),
        capacity: changes.capacity.filter(|_| changes.slots.is_none()),
        waitlist_capacity: changes.waitlist_capacity.filter(|_| changes.slots.is_none()),
        ..changes.clone()
    };
    if changes.slots.is_none() {
        neutral.slots.truncate(1);
    }
    alone.apply(&neutral, drive_id, cause).map(drop)
}

#[cfg(test)]
mod tests;
