//! What a drive is: what organisers write, checked in one place for the API and for the lane.

use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::Kind;
use super::when::When;
use crate::clock::Instant;
use crate::eligibility::{DriveFacts, Rule, Rules};
use crate::id::{CommandId, DriveId, SlotId, event_id};
use crate::refusal::{Code, FieldError, Refusal};
use crate::registration::questions::{self, Question};

/// The longest title, in bytes.
pub const MAX_TITLE: usize = 200;
/// The longest description, in bytes.
pub const MAX_DESCRIPTION: usize = 20_000;
/// The longest venue, in bytes.
pub const MAX_VENUE: usize = 500;
/// The most slots of one drive.
pub const MAX_SLOTS: usize = 100;
/// The most places of one slot, and of its waiting list.
pub const MAX_PLACES: u32 = 10_000_000;

/// How people get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Whoever comes first, in the order of the drive's lane.
    #[default]
    FirstCome,
}

/// A slot as it is stored. A drive without slots has one implicit slot, whose id is the drive's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its id.
    pub slot_id: SlotId,
    /// Unique in the drive; empty for the implicit slot.
    pub name: String,
    /// When it begins, if it differs from the drive.
    pub starts_at: Option<Instant>,
    /// When it ends.
    pub ends_at: Option<Instant>,
    /// Its places; none means as many as come.
    pub capacity: Option<u32>,
    /// How many may wait.
    pub waitlist_capacity: u32,
}

/// A drive as it is stored and logged: complete, checked, all instants absolute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// Its title.
    pub title: String,
    /// What it is for.
    pub kind: Kind,
    /// Free text.
    pub description: String,
    /// Where.
    pub venue: String,
    /// Where the clock hangs: an IANA zone.
    pub time_zone: Tz,
    /// Registration begins.
    pub opens_at: Instant,
    /// Registration ends; this instant is outside.
    pub closes_at: Instant,
    /// The drive itself begins.
    pub starts_at: Option<Instant>,
    /// The drive itself ends.
    pub ends_at: Option<Instant>,
    /// How people get in.
    pub admission: Admission,
    /// Where the places are; at least one.
    pub slots: Vec<Slot>,
    /// Who may come.
    pub rules: Vec<Rule>,
    /// What is asked of those who register.
    pub questions: Vec<Question>,
}

impl Definition {
    /// Whether its places are in the implicit slot.
    #[must_use]
    pub fn has_implicit_slot(&self, drive_id: DriveId) -> bool {
        matches!(self.slots.as_slice(), [only] if only.slot_id.0 == drive_id.0)
    }

    /// What its rules may read of it.
    #[must_use]
    pub fn facts(&self) -> DriveFacts {
        DriveFacts {
            title: self.title.clone(),
            kind: self.kind.as_str().to_owned(),
            venue: self.venue.clone(),
            opens_at: self.opens_at,
            closes_at: self.closes_at,
            starts_at: self.starts_at,
            ends_at: self.ends_at,
        }
    }
}

/// A slot as an organiser writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
}

impl Changes {
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
        faults.check(&new, drive_id);
        faults.finish(new)
    }
}

fn implicit_slot(drive_id: DriveId, capacity: Option<u32>, waitlist_capacity: Option<u32>) -> Slot {
    Slot {
        slot_id: SlotId(drive_id.0),
        name: String::new(),
        starts_at: None,
        ends_at: None,
        capacity,
        waitlist_capacity: waitlist_capacity.unwrap_or(0),
    }
}

/// Collects everything that is wrong, so that an organiser hears it at once.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError::new(field, detail));
    }

    fn zone(&mut self, text: &str) -> Tz {
        text.parse().unwrap_or_else(|_| {
            self.add("time_zone", format!("{text:?} is no IANA time zone, such as Asia/Kolkata"));
            Tz::UTC
        })
    }

    fn instant(&mut self, field: &str, at: When, zone: Tz) -> Instant {
        at.resolve(zone).unwrap_or_else(|detail| {
            self.add(field, detail);
            Instant::default()
        })
    }

    fn no_capacity_beside_slots(&mut self, given: bool) {
        if given {
            self.add("capacity", "a drive with slots has its places in the slots");
        }
    }

    fn slots(&mut self, drafts: &[SlotDraft], old: &[Slot], zone: Tz, cause: CommandId) -> Vec<Slot> {
        if drafts.len() > MAX_SLOTS {
            self.add("slots", format!("a drive has at most {MAX_SLOTS} slots"));
            return Vec::new();
        }
        let mut slots: Vec<Slot> = Vec::with_capacity(drafts.len());
        for (index, draft) in drafts.iter().enumerate() {
            let field = |name: &str| format!("slots[{index}].{name}");
            let slot_id = match draft.slot_id {
                Some(id) if old.iter().any(|slot| slot.slot_id == id) => id,
                Some(_) => {
                    self.add(field("slot_id"), "the drive has no such slot; leave it out for a new one");
                    continue;
                }
                None => SlotId(event_id(cause, usize::MAX - index)),
            };
            if slots.iter().any(|slot| slot.slot_id == slot_id) {
                self.add(field("slot_id"), "the slot is named twice");
            }
            slots.push(Slot {
                slot_id,
                name: draft.name.trim().to_owned(),
                starts_at: draft.starts_at.map(|at| self.instant(&field("starts_at"), at, zone)),
                ends_at: draft.ends_at.map(|at| self.instant(&field("ends_at"), at, zone)),
                capacity: draft.capacity,
                waitlist_capacity: draft.waitlist_capacity.unwrap_or(0),
            });
        }
        slots
    }

    fn check(&mut self, drive: &Definition, drive_id: DriveId) {
        if drive.title.is_empty() || drive.title.len() > MAX_TITLE {
            self.add("title", format!("a title is 1 to {MAX_TITLE} bytes long"));
        }
        if drive.description.len() > MAX_DESCRIPTION {
            self.add("description", format!("a description has at most {MAX_DESCRIPTION} bytes"));
        }
        if drive.venue.len() > MAX_VENUE {
            self.add("venue", format!("a venue has at most {MAX_VENUE} bytes"));
        }
        if drive.closes_at <= drive.opens_at {
            self.add("closes_at", "registration must close after it opens");
        }
        self.order("ends_at", drive.starts_at, drive.ends_at);
        let named = !drive.has_implicit_slot(drive_id);
        for (index, slot) in drive.slots.iter().enumerate() {
            let field = |name: &str| {
                if named { format!("slots[{index}].{name}") } else { name.to_owned() }
            };
            if named && (slot.name.is_empty() || slot.name.len() > MAX_TITLE) {
                self.add(field("name"), format!("a slot's name is 1 to {MAX_TITLE} bytes long"));
            }
            if drive.slots[..index].iter().any(|other| other.name == slot.name) {
                self.add(field("name"), "another slot has the same name");
            }
            self.order(&field("ends_at"), slot.starts_at, slot.ends_at);
            if slot.capacity.is_some_and(|places| places == 0 || places > MAX_PLACES) {
                self.add(
                    field("capacity"),
                    format!("a capacity is 1 to {MAX_PLACES}, or absent for no limit"),
                );
            }
            if slot.waitlist_capacity > MAX_PLACES {
                self.add(
                    field("waitlist_capacity"),
                    format!("a waiting list has at most {MAX_PLACES} places"),
                );
            }
        }
        self.0.extend(questions::faults(&drive.questions));
        if let Err(errors) = Rules::compile(&drive.rules, 0) {
            for error in errors {
                let position = drive.rules.iter().position(|rule| rule.name == error.rule);
                let field = match position {
                    Some(index) if error.line.is_some() => format!("rules[{index}].when"),
                    Some(index) => format!("rules[{index}]"),
                    None => "rules".to_owned(),
                };
                self.0.push(FieldError {
                    field,
                    detail: error.detail,
                    line: error.line,
                    column: error.column,
                });
            }
        }
    }

    fn order(&mut self, field: &str, starts_at: Option<Instant>, ends_at: Option<Instant>) {
        if let (Some(starts_at), Some(ends_at)) = (starts_at, ends_at)
            && ends_at <= starts_at
        {
            self.add(field, "it must end after it starts");
        }
    }

    fn finish(self, definition: Definition) -> Result<Definition, Refusal> {
        if self.0.is_empty() {
            return Ok(definition);
        }
        let only_rules = self.0.iter().all(|error| error.field.starts_with("rules"));
        let code = if only_rules { Code::InvalidRule } else { Code::InvalidDrive };
        Err(Refusal::new(code).with_errors(self.0))
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
