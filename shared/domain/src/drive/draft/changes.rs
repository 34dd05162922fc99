//! Changes to a drive, as organisers write them. Fields that are left out stay, also within lists.

use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::SlotDraft;
use crate::attribute::MAX_ATTRIBUTE_NAME;
use crate::clock::Timestamp;
use crate::drive::definition::{
    Admission, Definition, Faults, MAX_DESCRIPTION, MAX_PLACES, MAX_SLOTS, MAX_TITLE, MAX_VENUE, Slot,
    implicit_slot,
};
use crate::drive::digest::TimeOfDay;
use crate::drive::registration::questions::{AnswerKind, MAX_CHOICES, MAX_QUESTIONS, Question};
use crate::drive::when::When;
use crate::drive::{Kind, reminder};
use crate::eligibility::{self, MAX_RULES, Rule};
use crate::id::{CommandId, DriveId, SlotId};
use crate::member::MAX_TEXT;
use crate::patch::Patch;
use crate::refusal::Refusal;

/// Changes to a slot, or a new slot. Absent fields stay. Null removes an optional field.
///
/// Earlier versions wrote every field, and null for each field that an organiser had left out. That
/// null meant "none", as null does now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SlotChanges {
    /// The slot to change. Absent for a new slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot_id: Option<SlotId>,
    /// Unique in the drive. A new slot needs a name.
    #[schemars(length(min = 1, max = MAX_TITLE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it begins.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub starts_at: Patch<When>,
    /// When it ends.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub ends_at: Patch<When>,
    /// Its places. Null means no limit.
    #[schemars(range(min = 1, max = MAX_PLACES))]
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub capacity: Patch<u32>,
    /// How many may wait. Null means none.
    #[schemars(range(max = MAX_PLACES))]
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

/// Changes to a rule, or a new rule. Absent fields stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RuleChanges {
    /// The rule to change. If the drive has no rule of this name, the rule is new.
    #[schemars(length(min = 1, max = eligibility::MAX_NAME))]
    pub name: String,
    /// The condition. A new rule needs one.
    #[schemars(length(min = 1, max = eligibility::MAX_EXPRESSION))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What a member reads if the rule does not hold. A new rule needs a message.
    #[schemars(length(min = 1, max = eligibility::MAX_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl From<Rule> for RuleChanges {
    fn from(rule: Rule) -> Self {
        Self { name: rule.name, when: Some(rule.when), message: Some(rule.message) }
    }
}

impl RuleChanges {
    /// A valid rule to which these changes can apply.
    pub(in crate::drive) fn neutral(&self) -> Rule {
        Rule { name: self.name.clone(), when: "member.age >= 18".to_owned(), message: "Adults".to_owned() }
    }

    /// The rule with these changes.
    pub(in crate::drive) fn apply(&self, old: Rule) -> Rule {
        let Self { name, when, message } = self.clone();
        Rule { name, when: when.unwrap_or(old.when), message: message.unwrap_or(old.message) }
    }
}

/// Changes to a question, or a new question. Absent fields stay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct QuestionChanges {
    /// The question to change. If the drive has no question of this name, the question is new.
    #[schemars(length(min = 1, max = MAX_ATTRIBUTE_NAME))]
    pub name: String,
    /// The text of the question, on one line. A new question needs one.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The kind of answer. A new question needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AnswerKind>,
    /// Whether it must be answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// The choices. If `kind` is not `choice`, absent means none.
    #[schemars(length(max = MAX_CHOICES), inner(length(min = 1, max = MAX_TEXT)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
}

impl QuestionChanges {
    /// A valid question to which these changes can apply.
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
        // Earlier versions left empty choices out, and always wrote the kind.
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

/// Changes to a drive. Absent fields stay. Null removes an optional field.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "DriveChanges")]
#[schemars(example = json!({
    "venue": "Hall 4",
    "ends_at": null,
    "slots": [
        { "slot_id": "019ab000-0000-7000-8000-000000005101", "capacity": 120 },
        { "name": "Afternoon", "capacity": 50 },
    ],
}))]
pub struct Changes {
    /// The title, on one line.
    #[schemars(length(min = 1, max = MAX_TITLE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The description.
    #[schemars(length(max = MAX_DESCRIPTION))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The venue.
    #[schemars(length(max = MAX_VENUE))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub venue: Option<String>,
    /// An IANA zone, such as `Asia/Kolkata`. A new zone does not move the instants that are not
    /// changed with it.
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
    #[schemars(range(min = 1, max = MAX_PLACES))]
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub capacity: Patch<u32>,
    /// How many may wait for a drive without slots.
    #[schemars(range(max = MAX_PLACES))]
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub waitlist_capacity: Patch<u32>,
    /// All slots. A slot with an id stays, and a slot without one is new. A slot that is not listed
    /// is removed. If a slot stays, its absent fields stay.
    #[schemars(length(max = MAX_SLOTS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Vec<SlotChanges>>,
    /// All rules, by name. A rule that is not listed is removed. If a rule stays, its absent fields
    /// stay.
    #[schemars(length(max = MAX_RULES))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleChanges>>,
    /// All questions, by name. A question that is not listed is removed. If a question stays, its
    /// absent fields stay.
    #[schemars(length(max = MAX_QUESTIONS))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<Vec<QuestionChanges>>,
    /// All reminder offsets, in seconds before a start.
    #[schemars(length(max = reminder::MOST), inner(range(min = *reminder::RANGE.start(), max = *reminder::RANGE.end())))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reminders: Option<Vec<u32>>,
    /// When admins get a daily digest, as local time in the drive's time zone.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub digest_at: Patch<TimeOfDay>,
    /// Until when Muster gives a free place to the head of the waiting list.
    #[serde(skip_serializing_if = "Patch::is_keep")]
    pub promotes_until: Patch<When>,
}

impl Changes {
    /// Whether the changes may promote waiting members, through more places or a later end.
    #[must_use]
    pub fn may_move_people(&self) -> bool {
        !self.capacity.is_keep()
            || self.slots.is_some()
            || !self.starts_at.is_keep()
            || !self.ends_at.is_keep()
            || !self.promotes_until.is_keep()
    }

    /// Applies the changes to a drive.
    ///
    /// # Errors
    /// With everything that is wrong with the result.
    pub fn apply(
        &self,
        old: &Definition,
        drive_id: DriveId,
        cause: CommandId,
    ) -> Result<Definition, Refusal> {
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
            reminders,
            digest_at,
            promotes_until,
        } = self.clone();
        let mut faults = Faults::default();
        let zone = time_zone.map_or(old.time_zone, |text| faults.zone(&text));
        let mut time = |field: &str, at: When| faults.instant(field, at, zone);
        let opens_at = opens_at.map_or(old.opens_at, |at| time("opens_at", at));
        let closes_at = closes_at.map_or(old.closes_at, |at| time("closes_at", at));
        let starts_at = starts_at.map(|at| time("starts_at", at)).apply(old.starts_at);
        let ends_at = ends_at.map(|at| time("ends_at", at)).apply(old.ends_at);
        let promotes_until = promotes_until.map(|at| time("promotes_until", at)).apply(old.promotes_until);
        let mut slots = match slots {
            Some(slots) if slots.is_empty() => {
                let before = old.slots.iter().find(|slot| slot.slot_id.0 == drive_id.0).cloned();
                vec![before.unwrap_or_else(|| implicit_slot(drive_id, None, None))]
            }
            Some(slots) => faults.slots(&slots, &old.slots, zone, cause),
            None => old.slots.clone(),
        };
        if !capacity.is_keep() || !waitlist_capacity.is_keep() {
            match slots.as_mut_slice() {
                [only] if only.slot_id.0 == drive_id.0 => only.change_places(capacity, waitlist_capacity),
                _ => faults.no_capacity_beside_slots(true),
            }
        }
        let new = Definition {
            title: title.map_or_else(|| old.title.clone(), |title| title.trim().to_owned()),
            kind: kind.unwrap_or(old.kind),
            description: description.unwrap_or_else(|| old.description.clone()),
            venue: venue.unwrap_or_else(|| old.venue.clone()),
            time_zone: zone,
            opens_at,
            closes_at,
            starts_at,
            ends_at,
            admission: old.admission,
            slots,
            rules: rules.map_or_else(|| old.rules.clone(), |rules| faults.rules(&rules, &old.rules)),
            questions: questions.map_or_else(
                || old.questions.clone(),
                |questions| faults.questions(&questions, &old.questions),
            ),
            reminders: reminders.map_or_else(|| old.reminders.clone(), |all| faults.reminders(&all)),
            digest_at: digest_at.apply(old.digest_at),
            promotes_until,
        };
        faults.check(&new, drive_id, Some(old));
        faults.finish(new)
    }
}

/// Checks changes that are not accepted yet, as far as possible without the drive: rules,
/// questions, texts, numbers. The lane decides what depends on the rest of the drive.
pub fn check_changes(changes: &Changes) -> Result<(), Refusal> {
    let (drive_id, cause) = (DriveId(Uuid::nil()), CommandId(Uuid::nil()));
    let (opens_at, closes_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH + chrono::Duration::days(1));
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
    // Only the lane knows which slots, rules and questions exist. Here, those that the changes name
    // count as existing.
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
