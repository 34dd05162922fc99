//! Changes of a drive's time and venue, of which members who hold or await a place are notified.
//! Also the end of a slot, and the end of promotion from its waiting list.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::drive::definition::{Definition, Slot};
use crate::id::SlotId;

/// A change of which members who hold or await a place are notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// When the drive or their slot begins.
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
    /// The start and the end for members of this slot, as far as they are known.
    #[must_use]
    pub fn time_of(&self, slot: Option<&Slot>) -> (Option<Timestamp>, Option<Timestamp>) {
        let Some(slot) = slot else { return (self.starts_at, self.ends_at) };
        match slot.starts_at {
            Some(starts_at) => (Some(starts_at), slot.ends_at),
            None => (self.starts_at, slot.ends_at.or(self.ends_at)),
        }
    }

    /// When this slot is over: at its end, if that is known. Otherwise at the drive's end or the
    /// slot's start, whichever is later. Otherwise at the drive's start. `None` if none of these is
    /// known.
    #[must_use]
    pub fn over_at(&self, slot: &Slot) -> Option<Timestamp> {
        // A slot can begin after the drive's own end.
        slot.ends_at.or_else(|| self.ends_at.max(slot.starts_at)).or(self.starts_at)
    }

    /// When promotion from this slot's waiting list ends. That instant is excluded. `None` means
    /// that promotion never ends.
    #[must_use]
    pub fn promotion_ends(&self, slot: &Slot) -> Option<Timestamp> {
        self.over_at(slot).into_iter().chain(self.promotes_until).min()
    }

    /// Whether Muster gives a place of this slot that is free at `now` to the head of the waiting
    /// list.
    #[must_use]
    pub fn promotes(&self, slot: &Slot, now: Timestamp) -> bool {
        self.promotion_ends(slot).is_none_or(|ends| now < ends)
    }
}

/// The changes of which members are notified at `now`, and the slots that they concern. No slots
/// means all slots. A slot that is over both before and after the change does not count.
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
