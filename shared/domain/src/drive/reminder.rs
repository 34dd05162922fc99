//! Reminders: members who hold a place get them before the start. Everybody gets one before
//! registration opens.
//!
//! A drive's state has the last reminder of each slot, with the start that it was about. If a start
//! moves, it is a new start, and all its reminders are sent again. If it moves back before a
//! reminder of the new start was sent, it is the same start as before.

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

/// The default offsets in seconds: a day and an hour. Data that was written without the field means
/// this, so it never changes.
const UNSAID: [u32; 2] = [86_400, 3_600];
/// The most reminders of one start.
pub const MOST: usize = 5;
/// The shortest and the longest offset in seconds: a minute and 30 days.
pub const RANGE: std::ops::RangeInclusive<u32> = 60..=2_592_000;
/// The offset of the reminder before registration opens, in seconds.
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

/// The reminders and the digest that were sent last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reminded {
    /// The opening of which everybody was reminded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opening: Option<Timestamp>,
    /// For each slot, the start of its last reminder, and the offset in seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    starts: BTreeMap<SlotId, (Timestamp, u32)>,
    /// The last digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digest: Option<Digested>,
}

impl Reminded {
    /// Forgets the slots that were removed.
    pub(super) fn keep(&mut self, is_kept: impl Fn(&SlotId) -> bool) {
        self.starts.retain(|slot_id, _| is_kept(slot_id));
    }
}

/// One reminder that is still to be sent.
struct Untold {
    /// When it is due.
    at: Timestamp,
    kind: Beginning,
    starts_at: Timestamp,
    before: u32,
    /// None for an opening.
    slot_id: Option<SlotId>,
}

/// The offsets if an organiser gives none.
#[must_use]
pub fn unsaid() -> Vec<u32> {
    UNSAID.to_vec()
}

/// Whether these are the offsets of an organiser who gives none.
#[must_use]
#[allow(clippy::ptr_arg, reason = "serde passes a reference to the field")]
pub fn is_unsaid(reminders: &Vec<u32>) -> bool {
    *reminders == UNSAID
}

impl Drive {
    /// The reminders that are due at `now`, in the order of their due times. A start in the past
    /// has none. Of several overdue reminders for the same members, only the last is sent.
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

    /// When the next reminder or digest is due, which may be in the past. Only reminders of a start
    /// after `now` count.
    #[must_use]
    pub fn next_reminder(&self, now: Timestamp) -> Option<Timestamp> {
        self.untold(now).map(|untold| untold.at).chain(self.next_digest()).min()
    }

    /// Remembers the reminder that was sent.
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

    /// The reminders of starts after `now` that are still to be sent. A draft or cancelled drive
    /// has none. A drive whose registration is closed still takes place.
    fn untold(&self, now: Timestamp) -> impl Iterator<Item = Untold> {
        let Self { definition, reminded, status, .. } = self;
        let takes_place = !matches!(status, Status::Draft | Status::Cancelled);
        let opens_at = definition.opens_at;
        let opening = *status == Status::Published && reminded.opening != Some(opens_at);
        let opening = opening.then(|| Untold::new(Beginning::Opening, opens_at, BEFORE_OPENING, None));
        let slots = definition.slots.iter().filter(move |_| takes_place);
        let starts = slots.filter_map(|slot| Some((slot.slot_id, slot.starts_at.or(definition.starts_at)?)));
        let reminders = starts.flat_map(move |(slot_id, starts_at)| {
            // The longest offset comes first, so offsets shorter than the last one are still to
            // come.
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
