//! The state of a drive: a fold over its log.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{ClosedBy, Status};
use crate::clock::Timestamp;
use crate::drive::definition::{Definition, Slot};
use crate::drive::event::{Event, RegistrationMoved};
use crate::drive::registration::{Registration, RegistrationState};
use crate::drive::reminder::Reminded;
use crate::eligibility::Rules;
use crate::id::{MemberId, RegistrationId, SlotId};

/// A drive at one point of its log.
#[derive(Debug, Clone, PartialEq)]
pub struct Drive {
    /// Its definition.
    pub definition: Definition,
    /// Its status.
    pub status: Status,
    /// What closed it, while it is closed.
    pub closed_by: Option<ClosedBy>,
    /// Why it was cancelled, if it was.
    pub cancel_reason: Option<String>,
    /// The version of its rules.
    pub rules_version: u32,
    /// The reminders and the digest that were sent last.
    pub reminded: Reminded,
}

/// The counts of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Places {
    /// Members who hold a place.
    pub confirmed: u32,
    /// Members who wait for one.
    pub waitlisted: u32,
}

/// Everything that a decision on one drive can read, at one point of its log.
///
/// It has all registrations if a log is folded from its beginning. Otherwise it has those that a
/// batch is about, and the heads of the waiting lists. `shared::store::drives::batch` loads enough
/// for a given batch.
#[derive(Debug, Clone, Default)]
pub struct DriveState {
    /// The drive. `None` before it is created.
    pub drive: Option<Drive>,
    /// The number of the last event in the log.
    pub sequence: u64,
    /// The drive's rules, compiled.
    pub rules: Rules,
    places: HashMap<SlotId, Places>,
    registrations: HashMap<MemberId, Registration>,
    by_id: HashMap<RegistrationId, MemberId>,
    /// The waiting members by rank. The first is the head.
    waiting: HashMap<SlotId, BTreeMap<u64, MemberId>>,
    changed: HashSet<MemberId>,
}

impl DriveState {
    /// A stored state, without registrations.
    #[must_use]
    pub fn stored(drive: Drive, sequence: u64, rules: Rules, places: HashMap<SlotId, Places>) -> Self {
        Self { drive: Some(drive), sequence, rules, places, ..Self::default() }
    }

    /// Adds a stored registration.
    pub fn load(&mut self, registration: Registration) {
        self.put(registration);
    }

    /// The counts of a slot.
    #[must_use]
    pub fn places(&self, slot_id: SlotId) -> Places {
        self.places.get(&slot_id).copied().unwrap_or_default()
    }

    /// The registration of a member, if it is loaded.
    #[must_use]
    pub fn registration(&self, member_id: MemberId) -> Option<&Registration> {
        self.registrations.get(&member_id)
    }

    /// The registration with this id, if it is loaded.
    #[must_use]
    pub fn registration_by_id(&self, id: RegistrationId) -> Option<&Registration> {
        self.by_id.get(&id).and_then(|member_id| self.registration(*member_id))
    }

    /// All loaded registrations.
    pub fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.registrations.values()
    }

    /// The waiting members of a slot, head first, as far as they are loaded.
    pub fn waiting(&self, slot_id: SlotId) -> impl Iterator<Item = MemberId> {
        self.waiting.get(&slot_id).into_iter().flat_map(BTreeMap::values).copied()
    }

    /// The registrations that events changed since the state was loaded.
    pub fn changed(&self) -> impl Iterator<Item = &Registration> {
        self.changed.iter().filter_map(|member_id| self.registration(*member_id))
    }

    /// Applies one event, which was decided earlier or just now. It becomes the last one of the
    /// log.
    pub fn apply(&mut self, event: &Event) {
        self.sequence += 1;
        match event {
            Event::DriveCreated(event) => {
                self.rules = Rules::compile_stored(&event.definition.rules, 1);
                self.drive = Some(Drive {
                    definition: event.definition.clone(),
                    status: Status::Draft,
                    closed_by: None,
                    cancel_reason: None,
                    rules_version: 1,
                    reminded: Reminded::default(),
                });
            }
            Event::DriveUpdated(event) => {
                self.rules = Rules::compile_stored(&event.definition.rules, event.rules_version);
                let kept = |slot: &SlotId| event.definition.slots.iter().any(|other| other.slot_id == *slot);
                if let Some(drive) = &mut self.drive {
                    drive.definition = event.definition.clone();
                    drive.rules_version = event.rules_version;
                    drive.reminded.keep(kept);
                }
                self.places.retain(|slot, _| kept(slot));
            }
            Event::DrivePublished(_) => self.set_status(Status::Published),
            Event::DriveOpened(_) => self.set_status(Status::Open),
            Event::DriveClosed(event) => {
                self.set_status(Status::Closed);
                self.with_drive(|drive| drive.closed_by = Some(event.by));
            }
            Event::DriveReopened(event) => {
                self.set_status(event.status);
                self.with_drive(|drive| drive.definition.closes_at = event.closes_at);
            }
            Event::DriveCancelled(event) => {
                self.set_status(Status::Cancelled);
                self.with_drive(|drive| drive.cancel_reason = Some(event.reason.clone()));
            }
            Event::DriveReminded(event) => self.with_drive(|drive| drive.remember(event)),
            Event::DriveDigested(event) => self.digested(event),
            Event::RegistrationConfirmed(event) => self.change(Registration {
                id: event.registration_id,
                member_id: event.member_id,
                slot_id: event.slot_id,
                state: RegistrationState::Confirmed,
                rank: self.sequence,
                place: Some(event.place),
                registered_at: event.accepted_at,
                checked_in_at: None,
            }),
            Event::RegistrationWaitlisted(event) => self.change(Registration {
                id: event.registration_id,
                member_id: event.member_id,
                slot_id: event.slot_id,
                state: RegistrationState::Waitlisted,
                rank: self.sequence,
                place: None,
                registered_at: event.accepted_at,
                checked_in_at: None,
            }),
            Event::RegistrationPromoted(event) => {
                self.move_to(event.member_id, RegistrationState::Confirmed, Some(event.place));
            }
            Event::RegistrationMoved(event) => self.reorder(event),
            Event::RegistrationWithdrawn(event) => {
                self.move_to(event.member_id, RegistrationState::Withdrawn, None);
            }
            Event::RegistrationRemoved(event) => {
                self.move_to(event.member_id, RegistrationState::Removed, None);
            }
            Event::RegistrationCheckedIn(event) => self.check_in(event.member_id, Some(event.at)),
            Event::RegistrationCheckInUndone(event) => self.check_in(event.member_id, None),
            Event::RegistrationAnswersChanged(_)
            | Event::RegistrationRefused(_)
            | Event::DriveRefused(_)
            | Event::DriveMessaged(_) => {}
        }
    }

    fn with_drive(&mut self, change: impl FnOnce(&mut Drive)) {
        if let Some(drive) = &mut self.drive {
            change(drive);
        }
    }

    fn set_status(&mut self, status: Status) {
        self.with_drive(|drive| {
            drive.status = status;
            drive.closed_by = None;
        });
    }

    fn move_to(&mut self, member_id: MemberId, state: RegistrationState, place: Option<u32>) {
        if let Some(old) = self.registrations.get(&member_id).copied() {
            self.change(Registration { state, rank: self.sequence, place, checked_in_at: None, ..old });
        }
    }

    fn check_in(&mut self, member_id: MemberId, at: Option<Timestamp>) {
        if let Some(old) = self.registrations.get(&member_id).copied() {
            self.change(Registration { checked_in_at: at, ..old });
        }
    }

    /// Moves a member within the waiting list. The members from the old to the new position
    /// exchange their ranks, so no two ranks are ever the same.
    fn reorder(&mut self, event: &RegistrationMoved) {
        let Some(waiting) = self.waiting.get(&event.slot_id) else { return };
        let list: Vec<(u64, MemberId)> =
            waiting.iter().map(|(rank, member_id)| (*rank, *member_id)).collect();
        let Some(old) = list.iter().position(|(_, member_id)| *member_id == event.member_id) else { return };
        let new = (event.position.max(1) as usize - 1).min(list.len() - 1);
        let (first, last) = (old.min(new), old.max(new));
        let mut members: Vec<MemberId> = list[first..=last].iter().map(|(_, member_id)| *member_id).collect();
        if old < new {
            members.rotate_left(1);
        } else {
            members.rotate_right(1);
        }
        for ((rank, _), member_id) in list[first..=last].iter().zip(members) {
            if let Some(waiting) = self.waiting.get_mut(&event.slot_id) {
                waiting.insert(*rank, member_id);
            }
            if let Some(registration) = self.registrations.get_mut(&member_id) {
                registration.rank = *rank;
                self.changed.insert(member_id);
            }
        }
    }

    /// Replaces a member's registration and keeps the counts in step.
    fn change(&mut self, new: Registration) {
        if let Some(old) = self.registrations.get(&new.member_id).copied() {
            self.count(&old, -1);
            if let Some(waiting) = self.waiting.get_mut(&old.slot_id) {
                waiting.remove(&old.rank);
            }
            self.by_id.remove(&old.id);
        }
        self.count(&new, 1);
        self.changed.insert(new.member_id);
        self.put(new);
    }

    fn count(&mut self, registration: &Registration, by: i32) {
        let places = self.places.entry(registration.slot_id).or_default();
        let count = match registration.state {
            RegistrationState::Confirmed => &mut places.confirmed,
            RegistrationState::Waitlisted => &mut places.waitlisted,
            RegistrationState::Withdrawn | RegistrationState::Removed => return,
        };
        *count = count.saturating_add_signed(by);
    }

    fn put(&mut self, registration: Registration) {
        if registration.state == RegistrationState::Waitlisted {
            self.waiting
                .entry(registration.slot_id)
                .or_default()
                .insert(registration.rank, registration.member_id);
        }
        self.by_id.insert(registration.id, registration.member_id);
        self.registrations.insert(registration.member_id, registration);
    }
}

impl Drive {
    /// The slot with this id. Without an id, the only slot.
    #[must_use]
    pub fn slot(&self, slot_id: Option<SlotId>) -> Option<&Slot> {
        match (slot_id, self.definition.slots.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(id), slots) => slots.iter().find(|slot| slot.slot_id == id),
        }
    }

    /// Whether a click that was accepted at `accepted_at` lies within the registration window.
    #[must_use]
    pub fn window_contains(&self, accepted_at: Timestamp) -> bool {
        self.definition.opens_at <= accepted_at && accepted_at < self.definition.closes_at
    }
}
