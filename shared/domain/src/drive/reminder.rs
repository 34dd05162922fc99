//! Reminders: what those who hold a place are told before it begins, and everybody before registration opens.
//!
//! What was told last is part of a drive's state, slot by slot, by the start that it was about. When a date moves, it is
//! another start, and all is told again. A start that moves back before its people were told of the other one is the same.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Status;
use crate::clock::Timestamp;
use crate::drive::digest::Digested;
use crate::drive::event::DriveReminded;
use crate::drive::state::Drive;
use crate::id::SlotId;

/// How many seconds before a start people are reminded, when organisers say nothing: a day and an hour. What was written
/// without the field means this, so it never changes.
const UNSAID: [u32; 2] = [86_400, 3_600];
/// The most reminders of one start.
pub const MOST: usize = 5;
/// The shortest and the longest time before a start, in seconds: a minute and 30 days.
pub const RANGE: std::ops::RangeInclusive<u32> = 60..=2_592_000;
/// How many seconds before registration opens everybody is told.
const BEFORE_OPENING: u32 = 3_600;

/// What is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Beginning {
    /// Registration.
    Opening,
    /// The drive itself, or slots of it.
    Start,
}

/// What was told already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reminded {
    /// The opening that everybody was told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opening: Option<Timestamp>,
    /// Of which start those of a slot were told last, and how many seconds before it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    starts: BTreeMap<SlotId, (Timestamp, u32)>,
    /// The last digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digested>,
}

impl Reminded {
    /// Forgets the slots that are gone.
    pub(super) fn keep(&mut self, is_kept: impl Fn(&SlotId) -> bool) {
        self.starts.retain(|slot_id, _| is_kept(slot_id));
    }
}

/// One reminder that was not told yet.
struct Untold {
    /// When it is due.
    at: Timestamp,
    kind: Beginning,
    starts_at: Timestamp,
    before: u32,
    /// None for an opening.
    slot_id: Option<SlotId>,
}

/// What organisers mean when they say nothing.
#[must_use]
pub fn unsaid() -> Vec<u32> {
    UNSAID.to_vec()
}

/// Whether it is what organisers mean when they say nothing.
#[must_use]
#[allow(clippy::ptr_arg, reason = "serde passes a reference to the field")]
pub fn is_unsaid(reminders: &Vec<u32>) -> bool {
    *reminders == UNSAID
}

impl Drive {
    /// The reminders that have fallen due by `now`, in the order in which they did. What has begun by then is not reminded
    /// of any more, and of several that are overdue for the same people only the last is told.
    #[must_use]
    pub fn reminders(&self, now: Timestamp) -> Vec<DriveReminded> {
        let mut last: BTreeMap<Option<SlotId>, Untold> = BTreeMap::new();
        for untold in self.untold(now).filter(|untold| untold.at <= now) {
            let told = last.get(&untold.slot_id);
            if told.is_none_or(|told| told.at < untold.at) {
                last.insert(untold.slot_id, untold);
            }
        }
        let mut due: BTreeMap<_, Vec<SlotId>> = BTreeMap::new();
        for Untold { at, kind, starts_at, before, slot_id } in last.into_values() {
            due.entry((at, kind, starts_at, before)).or_default().extend(slot_id);
        }
        let all = self.definition.slots.len();
        due.into_iter()
            .map(|((_, kind, starts_at, before), slots)| {
                let slots = if slots.len() == all { Vec::new() } else { slots };
                DriveReminded { kind, starts_at, before, slots }
            })
            .collect()
    }

    /// When the next reminder falls due, or has, of those whose start is after `now`; or the next digest.
    #[must_use]
    pub fn next_reminder(&self, now: Timestamp) -> Option<Timestamp> {
        self.untold(now).map(|untold| untold.at).chain(self.next_digest()).min()
    }

    /// Remembers what was told.
    pub(super) fn remember(&mut self, told: &DriveReminded) {
        if told.kind == Beginning::Opening {
            self.reminded.opening = Some(told.starts_at);
            return;
        }
        for slot in &self.definition.slots {
            if told.concerns(slot.slot_id) {
                self.reminded.starts.insert(slot.slot_id, (told.starts_at, told.before));
            }
        }
    }

    /// What is still to be told of starts after `now`. Nobody is reminded of what is not announced or called off; what is
    /// closed takes place.
    fn untold(&self, now: Timestamp) -> impl Iterator<Item = Untold> {
        let Self { definition, reminded, status, .. } = self;
        let takes_place = !matches!(status, Status::Draft | Status::Cancelled);
        let opens_at = definition.opens_at;
        let opening = *status == Status::Published && reminded.opening != Some(opens_at);
        let opening = opening.then(|| Untold::new(Beginning::Opening, opens_at, BEFORE_OPENING, None));
        let slots = definition.slots.iter().filter(move |_| takes_place);
        let starts = slots.filter_map(|slot| Some((slot.slot_id, slot.starts_at.or(definition.starts_at)?)));
        let reminders = starts.flat_map(move |(slot_id, starts_at)| {
            // The longest comes first, so what is shorter than the last is still to come.
            let is_untold = move |before: &u32| match reminded.starts.get(&slot_id) {
                Some((told, last)) if *told == starts_at => before < last,
                _ => true,
            };
            let befores = definition.reminders.iter().copied().filter(is_untold);
            befores.map(move |before| Untold::new(Beginning::Start, starts_at, before, Some(slot_id)))
        });
        opening.into_iter().chain(reminders).filter(move |untold| now < untold.starts_at)
    }
}

impl Untold {
    fn new(kind: Beginning, starts_at: Timestamp, before: u32, slot_id: Option<SlotId>) -> Self {
        let at = starts_at - TimeDelta::seconds(before.into());
        Self { at, kind, starts_at, before, slot_id }
    }
}
