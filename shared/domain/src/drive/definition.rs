//! The definition of a drive, complete and checked. The API and the lane share the checks.

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, reminder};
use crate::clock::Timestamp;
use crate::drive::digest::TimeOfDay;
use crate::drive::draft::{QuestionChanges, RuleChanges, SlotChanges};
use crate::drive::registration::questions::{self, MAX_QUESTIONS, Question};
use crate::drive::when::When;
use crate::eligibility::{DriveFacts, MAX_RULES, Rule, Rules};
use crate::id::{CommandId, DriveId, SlotId, event_id};
use crate::patch::Patch;
use crate::refusal::{Code, FieldError, Refusal};
use crate::text;

/// The longest title, in characters.
pub const MAX_TITLE: usize = 200;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 20_000;
/// The longest venue, in characters.
pub const MAX_VENUE: usize = 500;
/// The most slots of one drive.
pub const MAX_SLOTS: usize = 100;
/// The most places of one slot, and of its waiting list.
pub const MAX_PLACES: u32 = 10_000_000;

/// How people get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// First come, first served, in the order of the drive's lane.
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
    pub starts_at: Option<Timestamp>,
    /// When it ends.
    pub ends_at: Option<Timestamp>,
    /// Its places. None means no limit.
    pub capacity: Option<u32>,
    /// How many may wait.
    pub waitlist_capacity: u32,
}

impl Slot {
    /// Whether a place is free when `confirmed` are taken.
    #[must_use]
    pub fn has_room(&self, confirmed: u32) -> bool {
        self.capacity.is_none_or(|capacity| confirmed < capacity)
    }

    /// Changes the number of places. Without a waiting list nobody can wait.
    pub(super) fn change_places(&mut self, capacity: Patch<u32>, waitlist_capacity: Patch<u32>) {
        self.capacity = capacity.apply(self.capacity);
        self.waitlist_capacity = waitlist_capacity.apply(Some(self.waitlist_capacity)).unwrap_or_default();
    }
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
    /// Its time zone: an IANA name.
    #[schemars(with = "String")]
    pub time_zone: Tz,
    /// Registration begins.
    pub opens_at: Timestamp,
    /// Registration ends. This instant is excluded.
    pub closes_at: Timestamp,
    /// The drive itself begins.
    pub starts_at: Option<Timestamp>,
    /// The drive itself ends.
    pub ends_at: Option<Timestamp>,
    /// How people get in.
    pub admission: Admission,
    /// The slots, which have the places. There is at least one.
    pub slots: Vec<Slot>,
    /// The rules that decide who may come.
    pub rules: Vec<Rule>,
    /// The questions to members who register.
    pub questions: Vec<Question>,
    /// Reminder offsets in seconds before the start of the drive (or of the participant's slot),
    /// longest first. Only confirmed participants are reminded.
    #[serde(default = "reminder::unsaid", skip_serializing_if = "reminder::is_unsaid")]
    pub reminders: Vec<u32>,
    /// When admins get a daily digest, as local time in the drive's time zone. Absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_at: Option<TimeOfDay>,
    /// Until when Muster gives a free place to the head of the waiting list. This instant is
    /// excluded. Promotion ends with the slot or the drive at the latest. Absent means that end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotes_until: Option<Timestamp>,
}

impl Definition {
    /// Whether its places are in the implicit slot.
    #[must_use]
    pub fn has_implicit_slot(&self, drive_id: DriveId) -> bool {
        matches!(self.slots.as_slice(), [only] if only.slot_id.0 == drive_id.0)
    }

    /// The fields that its rules may read.
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
    let waitlist_capacity = waitlist_capacity.unwrap_or(0);
    Slot { capacity, waitlist_capacity, ..empty_slot(SlotId(drive_id.0)) }
}

/// A slot without any values.
fn empty_slot(slot_id: SlotId) -> Slot {
    Slot {
        slot_id,
        name: String::new(),
        starts_at: None,
        ends_at: None,
        capacity: None,
        waitlist_capacity: 0,
    }
}

/// Collects all faults, so that an organiser sees them at once.
#[derive(Default)]
pub(super) struct Faults(Vec<FieldError>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, detail: impl Into<String>) {
        self.0.push(FieldError::new(field, detail));
    }

    pub(super) fn zone(&mut self, text: &str) -> Tz {
        text.parse().unwrap_or_else(|_| {
            let text = text::shortened(text.to_owned(), 60);
            self.add("time_zone", format!("{text:?} is no IANA time zone, such as Asia/Kolkata"));
            Tz::UTC
        })
    }

    pub(super) fn instant(&mut self, field: &str, at: When, zone: Tz) -> Timestamp {
        at.resolve(zone).unwrap_or_else(|detail| {
            self.add(field, detail);
            Timestamp::default()
        })
    }

    pub(super) fn no_capacity_beside_slots(&mut self, given: bool) {
        if given {
            self.add("capacity", "a drive with slots has its places in the slots");
        }
    }

    /// Applies changes to the slots `old`. Fields that are left out stay.
    pub(super) fn slots(
        &mut self,
        changes: &[SlotChanges],
        old: &[Slot],
        zone: Tz,
        cause: CommandId,
    ) -> Vec<Slot> {
        if changes.len() > MAX_SLOTS {
            self.add("slots", format!("a drive has at most {MAX_SLOTS} slots"));
            return Vec::new();
        }
        let mut slots: Vec<Slot> = Vec::with_capacity(changes.len());
        for (index, change) in changes.iter().enumerate() {
            let field = |name: &str| format!("slots[{index}].{name}");
            let before = match change.slot_id {
                Some(id) => old.iter().find(|slot| slot.slot_id == id).cloned(),
                None => Some(empty_slot(SlotId(event_id(cause, usize::MAX - index)))),
            };
            let Some(mut slot) = before else {
                self.add(field("slot_id"), "the drive has no such slot; leave it out for a new one");
                continue;
            };
            if slots.iter().any(|other| other.slot_id == slot.slot_id) {
                self.add(field("slot_id"), "the slot is named twice");
            }
            if let Some(name) = &change.name {
                name.trim().clone_into(&mut slot.name);
            }
            let mut time = |name: &str, at: Patch<When>| at.map(|at| self.instant(&field(name), at, zone));
            slot.starts_at = time("starts_at", change.starts_at).apply(slot.starts_at);
            slot.ends_at = time("ends_at", change.ends_at).apply(slot.ends_at);
            slot.change_places(change.capacity, change.waitlist_capacity);
            slots.push(slot);
        }
        slots
    }

    /// Applies changes to the rules `old`, by name.
    pub(super) fn rules(&mut self, changes: &[RuleChanges], old: &[Rule]) -> Vec<Rule> {
        if changes.len() > MAX_RULES {
            self.add("rules", format!("a drive has at most {MAX_RULES} rules"));
            return Vec::new();
        }
        let mut rules = Vec::with_capacity(changes.len());
        for (index, change) in changes.iter().enumerate() {
            let before = old.iter().find(|rule| rule.name == change.name).cloned();
            if before.is_none() {
                let needed = [("when", change.when.is_some()), ("message", change.message.is_some())];
                self.needed("rules", "rule", index, &needed);
            }
            rules.push(change.apply(before.unwrap_or_else(|| change.neutral())));
        }
        rules
    }

    /// Applies changes to the questions `old`, by name.
    pub(super) fn questions(&mut self, changes: &[QuestionChanges], old: &[Question]) -> Vec<Question> {
        if changes.len() > MAX_QUESTIONS {
            self.add("questions", format!("a drive has at most {MAX_QUESTIONS} questions"));
            return Vec::new();
        }
        let mut questions = Vec::with_capacity(changes.len());
        for (index, change) in changes.iter().enumerate() {
            let before = old.iter().find(|question| question.name == change.name).cloned();
            if before.is_none() {
                let needed = [("text", change.text.is_some()), ("kind", change.kind.is_some())];
                self.needed("questions", "question", index, &needed);
            }
            questions.push(change.apply(before.unwrap_or_else(|| change.neutral())));
        }
        questions
    }

    /// A new item must have all these fields.
    fn needed(&mut self, list: &str, item: &str, index: usize, fields: &[(&str, bool)]) {
        for (field, _) in fields.iter().filter(|(_, given)| !given) {
            let detail = format!("the drive has no {item} of this name yet, and a new {item} needs it");
            self.add(format!("{list}[{index}].{field}"), detail);
        }
    }

    /// Checks the reminder offsets and sorts them, longest first.
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

    /// Checks a new or changed drive. A text, the questions, the rules and the times of a slot are
    /// checked only if they differ from `old`. An organiser who only moves a date must not fail on
    /// a text that an earlier version accepted.
    pub(super) fn check(&mut self, drive: &Definition, drive_id: DriveId, old: Option<&Definition>) {
        let is_new = |text: fn(&Definition) -> &String| old.is_none_or(|old| text(old) != text(drive));
        if is_new(|drive| &drive.title) {
            self.text("title", text::line_fault(&drive.title, MAX_TITLE));
        }
        if is_new(|drive| &drive.description) {
            self.text("description", text::lines_fault(&drive.description, MAX_DESCRIPTION));
        }
        if is_new(|drive| &drive.venue) {
            self.text("venue", text::optional_line_fault(&drive.venue, MAX_VENUE));
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
            let before = old.iter().flat_map(|old| &old.slots).find(|old| old.slot_id == slot.slot_id);
            let is_renamed = before.is_none_or(|before| before.name != slot.name || before.name.is_empty());
            if named && is_renamed {
                self.text(&field("name"), text::line_fault(&slot.name, MAX_TITLE));
            }
            if drive.slots[..index].iter().any(|other| other.name == slot.name) {
                self.add(field("name"), "another slot has the same name");
            }
            // A slot without a start of its own begins with the drive.
            let starts_at = slot.starts_at.or(drive.starts_at);
            let was =
                old.zip(before).map(|(old, before)| (before.starts_at.or(old.starts_at), before.ends_at));
            if was != Some((starts_at, slot.ends_at)) {
                self.order(&field("ends_at"), starts_at, slot.ends_at);
            }
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
        if old.is_none_or(|old| old.questions != drive.questions) {
            self.0.extend(questions::faults(&drive.questions));
        }
        if old.is_none_or(|old| old.rules != drive.rules) {
            self.check_rules(drive);
        }
    }

    fn check_rules(&mut self, drive: &Definition) {
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

    /// Adds the fault of a text, if there is one.
    fn text(&mut self, field: &str, fault: Option<String>) {
        if let Some(fault) = fault {
            self.add(field, fault);
        }
    }

    fn order(&mut self, field: &str, starts_at: Option<Timestamp>, ends_at: Option<Timestamp>) {
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
