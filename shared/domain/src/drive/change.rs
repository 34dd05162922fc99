//! Changes that matter to those who hold or await a place: when it is, and where. Also when a slot is
//! over, and until when its waiting list is promoted.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::drive::definition::{Definition, Slot};
use crate::id::SlotId;

/// What changed for those who hold or await a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// When the drive, or their slot, begins.
    StartsAt,
    /// When it ends.
    EndsAt,
    /// Where it is.
    Venue,
}

impl Change {
    /// The word on the wire and in mail templates.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartsAt => "starts_at",
            Self::EndsAt => "ends_at",
            Self::Venue => "venue",
        }
    }
}

impl Definition {
    /// When it begins and ends for those in this slot, as far as it is known.
    #[must_use]
    pub fn time_of(&self, slot: Option<&Slot>) -> (Option<Timestamp>, Option<Timestamp>) {
        let Some(slot) = slot else { return (self.starts_at, self.ends_at) };
        match slot.starts_at {
            Some(starts_at) => (Some(starts_at), slot.ends_at),
            None => (self.starts_at, slot.ends_at.or(self.ends_at)),
        }
    }

    /// When it is over for those in this slot: at the slot's end; else at the drive's end or the slot's
    /// start, whichever is later; else at the drive's start. None if none of them is known.
    #[must_use]
    pub fn over_at(&self, slot: &Slot) -> Option<Timestamp> {
        // A slot can begin after the drive's own end.
        slot.ends_at.or_else(|| self.ends_at.max(slot.starts_at)).or(self.starts_at)
    }

    /// Until when a free place of this slot goes to the head of its waiting list by itself; this
    /// instant is outside. None: always.
    #[must_use]
    pub fn promotion_ends(&self, slot: &Slot) -> Option<Timestamp> {
        self.over_at(slot).into_iter().chain(self.promotes_until).min()
    }

    /// Whether a place of this slot that is free at `now` goes to the head of its waiting list by
    /// itself.
    #[must_use]
    pub fn promotes(&self, slot: &Slot, now: Timestamp) -> bool {
        self.promotion_ends(slot).is_none_or(|ends| now < ends)
    }
}

/// What changed that people must hear of at `now`, and for which slots; no slots means all. What is
/// over and stays over matters to nobody.
pub(super) fn between(old: &Definition, new: &Definition, now: Timestamp) -> (Vec<Change>, Vec<SlotId>) {
    let is_over = |drive: &Definition, slot: &Slot| drive.over_at(slot).is_some_and(|over_at| over_at <= now);
    let (mut changes, mut concerned, mut existing) = (BTreeSet::new(), Vec::new(), 0);
    for slot in &new.slots {
        let Some(before) = old.slots.iter().find(|other| other.slot_id == slot.slot_id) else { continue };
        existing += 1;
        if is_over(old, before) && is_over(new, slot) {
            continue;
        }
        let ((starts_before, ends_before), (starts_at, ends_at)) =
            (old.time_of(Some(before)), new.time_of(Some(slot)));
        let differs = [
            (Change::StartsAt, starts_before != starts_at),
            (Change::EndsAt, ends_before != ends_at),
            (Change::Venue, old.venue != new.venue),
        ];
        let found: Vec<_> = differs.into_iter().filter(|(_, differs)| *differs).collect();
        if !found.is_empty() {
            concerned.push(slot.slot_id);
            changes.extend(found.into_iter().map(|(change, _)| change));
        }
    }
    if concerned.len() == existing {
        concerned.clear();
    }
    (changes.into_iter().collect(), concerned)
}
