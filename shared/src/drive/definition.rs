//! What a drive is, complete and checked; and the checks, in one place for the API and for the lane.

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Kind;
use super::digest::TimeOfDay;
use super::draft::SlotDraft;
use super::reminder;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// Whoever comes first, in the order of the drive's lane.
    #[default]
    FirstCome,
}

/// A slot as it is stored. A drive without slots has one implicit slot, whose id is the drive's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    #[schemars(with = "String")]
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
    /// So many seconds before it begins, or their slot does, those who hold a place are reminded; the longest first.
    #[serde(default = "reminder::unsaid", skip_serializing_if = "reminder::is_unsaid")]
    pub reminders: Vec<u32>,
    /// When those who run Muster are told each day how it stands, by the clock where it is; absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_at: Option<TimeOfDay>,
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
            time_zone: self.time_zone,
        }
    }
}

pub(super) fn implicit_slot(
    drive_id: DriveId,
    capacity: Option<u32>,
    waitlist_capacity: Option<u32>,
) -> Slot {
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
pub(super) struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError::new(field, detail));
    }

    pub(super) fn zone(&mut self, text: &str) -> Tz {
        text.parse().unwrap_or_else(|_| {
            self.add("time_zone", format!("{text:?} is no IANA time zone, such as Asia/Kolkata"));
            Tz::UTC
        })
    }

    pub(super) fn instant(&mut self, field: &str, at: When, zone: Tz) -> Instant {
        at.resolve(zone).unwrap_or_else(|detail| {
            self.add(field, detail);
            Instant::default()
        })
    }

    pub(super) fn no_capacity_beside_slots(&mut self, given: bool) {
        if given {
            self.add("capacity", "a drive with slots has its places in the slots");
        }
    }

    pub(super) fn slots(
        &mut self,
        drafts: &[SlotDraft],
        old: &[Slot],
        zone: Tz,
        cause: CommandId,
    ) -> Vec<Slot> {
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

    /// How long before a start people are reminded, the longest first.
    pub(super) fn reminders(&mut self, drafts: &[u32]) -> Vec<u32> {
        let most = reminder::MOST;
        if drafts.len() > most {
            self.add("reminders", format!("there are at most {most} reminders"));
        }
        let (shortest, longest) = reminder::RANGE.into_inner();
        for (index, seconds) in drafts.iter().enumerate().take(most) {
            let field = format!("reminders[{index}]");
            if !reminder::RANGE.contains(seconds) {
                self.add(field, format!("a reminder is {shortest} to {longest} seconds before the start"));
            } else if drafts[..index].contains(seconds) {
                self.add(field, "another reminder is at the same time");
            }
        }
        let mut reminders = drafts.to_vec();
        reminders.sort_unstable_by(|one, other| other.cmp(one));
        reminders
    }

    pub(super) fn check(&mut self, drive: &Definition, drive_id: DriveId) {
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

    pub(super) fn finish(self, definition: Definition) -> Result<Definition, Refusal> {
        if self.0.is_empty() {
            return Ok(definition);
        }
        let only_rules = self.0.iter().all(|error| error.field.starts_with("rules"));
        let code = if only_rules { Code::InvalidRule } else { Code::InvalidDrive };
        Err(Refusal::new(code).with_errors(self.0))
    }
}
