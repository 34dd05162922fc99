//! Changes of a drive, as organisers write them: what is left out stays, in lists as well.

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SlotDraft;
use crate::clock::Instant;
use crate::drive::Kind;
use crate::drive::definition::{Admission, Definition, Faults, Slot, implicit_slot};
use crate::drive::digest::TimeOfDay;
use crate::drive::registration::questions::{AnswerKind, Question};
use crate::drive::when::When;
use crate::eligibility::Rule;
use crate::id::{CommandId, DriveId, SlotId};
use crate::patch::Patch;
use crate::refusal::Refusal;

/// What changes of a slot, or a new slot. Absent fields stay; null takes away what may be absent.
///
/// Earlier versions wrote every field, and null where an organiser had left one out: that meant
/// "none", as null does now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlotChanges {
    /// The slot that is meant; absent for a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// Unique in the drive; a new slot needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it begins.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub starts_at: Patch<When>,
    /// When it ends.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub ends_at: Patch<When>,
    /// Its places; null means as many as come.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub capacity: Patch<u32>,
    /// How many may wait; null means nobody.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub waitlist_capacity: Patch<u32>,
}

impl From<SlotDraft> for SlotChanges {
    fn from(draft: SlotDraft) -> Self {
        Self {
            slot_id: draft.slot_id,
            name: Some(draft.name),
            starts_at: draft.starts_at.into(),
            ends_at: draft.ends_at.into(),
            capacity: draft.capacity.into(),
            waitlist_capacity: draft.waitlist_capacity.into(),
        }
    }
}

/// What changes of a rule, or a new rule. Absent fields stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RuleChanges {
    /// The rule that is meant; a new one if the drive has none of this name.
    pub name: String,
    /// The condition; a new rule needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What a member reads when it does not hold; a new rule needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl From<Rule> for RuleChanges {
    fn from(rule: Rule) -> Self {
        Self { name: rule.name, when: Some(rule.when), message: Some(rule.message) }
    }
}

impl RuleChanges {
    /// A rule that these may be changes of.
    pub(in crate::drive) fn neutral(&self) -> Rule {
        Rule { name: self.name.clone(), when: "member.age >= 18".to_owned(), message: "Adults".to_owned() }
    }

    /// The rule with these changes.
    pub(in crate::drive) fn apply(&self, old: Rule) -> Rule {
        let Self { name, when, message } = self.clone();
        Rule { name, when: when.unwrap_or(old.when), message: message.unwrap_or(old.message) }
    }
}

/// What changes of a question, or a new question. Absent fields stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct QuestionChanges {
    /// The question that is meant; a new one if the drive has none of this name.
    pub name: String,
    /// What is asked; a new question needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What kind of answer it wants; a new question needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AnswerKind>,
    /// Whether it must be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// What can be chosen. With a `kind` other than `choice`, absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
}

impl QuestionChanges {
    /// A question that these may be changes of.
    pub(in crate::drive) fn neutral(&self) -> Question {
        let has_choices = self.choices.as_ref().is_some_and(|choices| !choices.is_empty());
        let kind = self.kind.unwrap_or(if has_choices { AnswerKind::Choice } else { AnswerKind::Text });
        let choices = if kind == AnswerKind::Choice { ["A", "B"].as_slice() } else { &[] };
        Question {
            name: self.name.clone(),
            text: "A question".to_owned(),
            kind,
            required: false,
            choices: choices.iter().map(|choice| (*choice).to_owned()).collect(),
        }
    }

    /// The question with these changes.
    pub(in crate::drive) fn apply(&self, old: Question) -> Question {
        let Self { name, text, kind, required, choices } = self.clone();
        // Earlier versions left empty choices out, always with the kind.
        let loses_choices = kind.is_some_and(|kind| kind != AnswerKind::Choice);
        Question {
            name,
            text: text.unwrap_or(old.text),
            kind: kind.unwrap_or(old.kind),
            required: required.unwrap_or(old.required),
            choices: choices.unwrap_or(if loses_choices { Vec::new() } else { old.choices }),
        }
    }
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
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub starts_at: Patch<When>,
    /// The end.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub ends_at: Patch<When>,
    /// The places of a drive without slots.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub capacity: Patch<u32>,
    /// How many may wait for a drive without slots.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub waitlist_capacity: Patch<u32>,
    /// All slots: those with an id stay, those without are new, those that are not named go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Vec<SlotChanges>>,
    /// All rules, by their names: those that are not named go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleChanges>>,
    /// All questions, by their names: those that are not named go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<Vec<QuestionChanges>>,
    /// All reminders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminders: Option<Vec<u32>>,
    /// The time of the daily digest.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub digest_at: Patch<TimeOfDay>,
    /// Until when a place that becomes free goes to the head of the waiting list by itself.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub promotes_until: Patch<When>,
}

impl Changes {
    /// Whether they may give places to those who wait: there may be more places, or a later end.
    #[must_use]
    pub fn may_move_people(&self) -> bool {
        !self.capacity.is_keep()
            || self.slots.is_some()
            || !self.starts_at.is_keep()
            || !self.ends_at.is_keep()
            || !self.promotes_until.is_keep()
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
        new.starts_at = self.starts_at.map(|at| faults.instant("starts_at", at, zone)).apply(new.starts_at);
        new.ends_at = self.ends_at.map(|at| faults.instant("ends_at", at, zone)).apply(new.ends_at);
        if let Some(slots) = &self.slots {
            new.slots = if slots.is_empty() {
                let before = old.slots.iter().find(|slot| slot.slot_id.0 == drive_id.0).cloned();
                vec![before.unwrap_or_else(|| implicit_slot(drive_id, None, None))]
            } else {
                faults.slots(slots, &old.slots, zone, cause)
            };
        }
        if !self.capacity.is_keep() || !self.waitlist_capacity.is_keep() {
            match new.slots.as_mut_slice() {
                [only] if only.slot_id.0 == drive_id.0 => {
                    only.change_places(self.capacity, self.waitlist_capacity);
                }
                _ => faults.no_capacity_beside_slots(true),
            }
        }
        if let Some(rules) = &self.rules {
            new.rules = faults.rules(rules, &old.rules);
        }
        if let Some(questions) = &self.questions {
            new.questions = faults.questions(questions, &old.questions);
        }
        if let Some(reminders) = &self.reminders {
            new.reminders = faults.reminders(reminders);
        }
        new.digest_at = self.digest_at.apply(new.digest_at);
        new.promotes_until = self
            .promotes_until
            .map(|at| faults.instant("promotes_until", at, zone))
            .apply(new.promotes_until);
        faults.check(&new, drive_id, Some(old));
        faults.finish(new)
    }
}

/// Checks changes that are not accepted yet, as far as that is possible without the drive: rules,
/// questions, texts, numbers. What depends on the rest of the drive is decided on its lane.
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
        promotes_until: None,
    };
    // Only the lane knows which slots, rules and questions exist; here those that are named count
    // as if they did.
    let existing = changes.slots.iter().flatten().filter_map(|slot| slot.slot_id);
    neutral.slots.extend(existing.map(|slot_id| Slot {
        slot_id,
        name: slot_id.to_string(),
        ..implicit_slot(drive_id, None, None)
    }));
    neutral.rules = changes.rules.iter().flatten().map(RuleChanges::neutral).collect();
    neutral.questions = changes.questions.iter().flatten().map(QuestionChanges::neutral).collect();
    let alone = Changes {
        opens_at: None,
        closes_at: None,
        // Only the lane knows whether the drive has slots.
        slots: changes.slots.clone().filter(|slots| !slots.is_empty()),
        capacity: if changes.slots.is_none() { changes.capacity } else { Patch::Keep },
        waitlist_capacity: if changes.slots.is_none() { changes.waitlist_capacity } else { Patch::Keep },
        ..changes.clone()
    };
    if changes.slots.is_none() {
        neutral.slots.truncate(1);
    }
    alone.apply(&neutral, drive_id, cause).map(drop)
}
