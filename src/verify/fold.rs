//! Folds one drive's log entry by entry, and checks that each entry may follow the one before.

use domain::attribute::{Attributes, Known};
use domain::clock::Timestamp;
use domain::command::Command as _;
use domain::drive;
use domain::drive::decide::broken_invariant;
use domain::drive::event::Event;
use domain::drive::registration::{Register, Registration, RegistrationState};
use domain::drive::state::DriveState;
use domain::eligibility::{READING, READING_OF_ONE_MAP};
use domain::event::EventSet as _;
use domain::id::{DriveId, MemberId, RegistrationId, SlotId};
use domain::refusal::Code;
use serde::Deserialize;
use shared::ledger::{Row, Status};
use shared::log::{Entry, Head};

use super::chain::{Chain, Step, Wrong};

/// The facts behind a decision, as far as they were not erased.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Facts {
    /// The version of the rules' semantics; see [`READING`].
    #[serde(default)]
    pub reading: Option<u32>,
    /// What was known of the member, as far as the rules used it.
    #[serde(flatten)]
    pub person: Known,
    /// The same in decisions of versions that had one map.
    #[serde(default)]
    member: Attributes,
}

/// The facts of a decision.
pub(super) fn facts_of(row: &Row) -> Option<Facts> {
    let mut facts: Facts = serde_json::from_str(row.facts.as_deref()?).ok()?;
    if !facts.member.is_empty() {
        facts.person = Known::imported(std::mem::take(&mut facts.member), row.accepted_at);
    }
    Some(facts)
}

/// The fold of a drive's log so far.
#[derive(Debug)]
pub struct Fold {
    chain: Chain,
    state: DriveState,
    /// The latest acceptance of the commands so far.
    latest: Timestamp,
}

impl Fold {
    /// The fold of an empty log.
    #[must_use]
    pub fn new(drive_id: DriveId) -> Self {
        Self {
            chain: Chain::new(drive_id.into()),
            state: DriveState::default(),
            latest: Timestamp::UNIX_EPOCH,
        }
    }

    /// The number of the last entry that was read.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.head().sequence
    }

    /// The end of what was read.
    #[must_use]
    pub fn head(&self) -> Head {
        self.chain.head()
    }

    /// The state after these entries.
    #[must_use]
    pub fn state(&self) -> &DriveState {
        &self.state
    }

    /// How many commands caused the entries.
    #[must_use]
    pub fn decisions(&self) -> u64 {
        self.chain.decisions()
    }

    /// Reads the next entry: its number, its hash, its form.
    pub fn read(&mut self, entry: &Entry) -> Result<Step, Wrong> {
        self.chain.read(entry)
    }

    /// Folds an entry, and checks that the rules allow it. With its row of the ledger, checks that
    /// both agree.
    pub fn step(&mut self, step: &Step, row: Option<(&Row, Option<Facts>)>) -> Result<(), Wrong> {
        self.chain.step(step, row.as_ref().map(|(row, _)| *row))?;
        let Step { sequence, event } = step;
        let wrong = |what: String| format!("entry {sequence} ({}): {what}", event.event.kind());
        self.allowed(&event.event).map_err(&wrong)?;
        // The log alone has the time of the decision, which is later.
        self.latest = self.latest.max(row.as_ref().map_or(event.time, |(row, _)| row.accepted_at));
        if let Some((row, facts)) = row {
            self.agrees(&event.event, row, facts.as_ref()).map_err(&wrong)?;
        }
        self.state.apply(&event.event);
        Ok(())
    }

    /// Ends the fold. Checks that the last decision is complete and the totals agree.
    pub fn finish(&self) -> Result<(), Wrong> {
        self.chain.finish()?;
        broken_invariant(&self.state, self.latest).map_or(Ok(()), |broken| Err(broken.into()))
    }

    /// Whether the state allows an event: places, the order of the waiting list, and fullness for a
    /// refusal.
    fn allowed(&self, event: &Event) -> Result<(), String> {
        let drive = self.state.drive.as_ref();
        let capacity =
            |slot: SlotId| drive.and_then(|drive| drive.slot(Some(slot))).and_then(|slot| slot.capacity);
        let place = |slot: SlotId, place: u32| {
            let confirmed = self.state.places(slot).confirmed;
            if place != confirmed + 1 {
                return Err(format!("place {place} after {confirmed} confirmed"));
            }
            match capacity(slot) {
                Some(capacity) if place > capacity => Err(format!("place {place} of {capacity}")),
                _ => Ok(()),
            }
        };
        match event {
            Event::DriveCreated(_) if drive.is_some() => Err("the drive exists already".to_owned()),
            Event::DriveCreated(_) => Ok(()),
            _ if drive.is_none() => Err("the drive does not exist yet".to_owned()),
            Event::RegistrationConfirmed(event) => match self.state.places(event.slot_id).waitlisted {
                0 => place(event.slot_id, event.place),
                waiting => Err(format!("{waiting} members waited already")),
            },
            Event::RegistrationWaitlisted(event) => {
                let places = self.state.places(event.slot_id);
                let free = capacity(event.slot_id).is_none_or(|capacity| places.confirmed < capacity);
                match free && places.waitlisted == 0 {
                    true => Err("a place was free".to_owned()),
                    false if event.position != places.waitlisted + 1 => {
                        Err(format!("position {} after {} waiting", event.position, places.waitlisted))
                    }
                    false => Ok(()),
                }
            }
            Event::RegistrationPromoted(event) => {
                let mut waiting = self.state.waiting(event.slot_id);
                let by_hand = event.facts.is_some();
                if by_hand && !waiting.any(|member_id| member_id == event.member_id) {
                    return Err("the member does not wait".to_owned());
                }
                if !by_hand && waiting.next() != Some(event.member_id) {
                    return Err("another member has waited longer".to_owned());
                }
                place(event.slot_id, event.place)
            }
            Event::RegistrationMoved(event) => {
                let mut waiting = self.state.waiting(event.slot_id);
                let waits = waiting.any(|member_id| member_id == event.member_id);
                match self.state.places(event.slot_id).waitlisted {
                    _ if !waits => Err("the member does not wait".to_owned()),
                    all if (1..=all).contains(&event.position) => Ok(()),
                    all => Err(format!("position {} of {all} waiting", event.position)),
                }
            }
            Event::RegistrationAnswersChanged(event) => {
                let active = self.state.registration(event.member_id).filter(|found| found.state.is_active());
                match (active, drive) {
                    (Some(found), _) if found.id != event.registration_id => {
                        Err("it is another registration".to_owned())
                    }
                    (Some(_), Some(drive)) if event.accepted_at < drive.definition.closes_at => Ok(()),
                    (Some(_), _) => Err("registration was closed".to_owned()),
                    (None, _) => Err("there is no such registration".to_owned()),
                }
            }
            Event::RegistrationWithdrawn(event) | Event::RegistrationRemoved(event) => {
                let active = self.state.registration(event.member_id).filter(|found| found.state.is_active());
                active.map(drop).ok_or_else(|| "there is no such registration".to_owned())
            }
            Event::RegistrationRefused(event) if event.code == Code::DriveFull => {
                let slots = drive.into_iter().flat_map(|drive| &drive.definition.slots);
                let is_full = |slot: &domain::drive::definition::Slot| {
                    let places = self.state.places(slot.slot_id);
                    // While a member waits, newcomers get no free place.
                    (slot.capacity.is_some_and(|capacity| places.confirmed >= capacity)
                        || places.waitlisted > 0)
                        && places.waitlisted >= slot.waitlist_capacity
                };
                if slots.into_iter().any(is_full) { Ok(()) } else { Err("no slot was full".to_owned()) }
            }
            Event::RegistrationCheckedIn(event) => {
                let found = self.came(event.member_id, event.registration_id, event.slot_id, false)?;
                if event.at < found.registered_at {
                    return Err("the check-in is before the registration".to_owned());
                }
                Ok(())
            }
            Event::RegistrationCheckInUndone(event) => {
                self.came(event.member_id, event.registration_id, event.slot_id, true).map(drop)
            }
            // These may come at any time.
            Event::DriveUpdated(_)
            | Event::DrivePublished(_)
            | Event::DriveOpened(_)
            | Event::DriveClosed(_)
            | Event::DriveReopened(_)
            | Event::DriveCancelled(_)
            | Event::DriveReminded(_)
            | Event::DriveDigested(_)
            | Event::DriveMessaged(_)
            | Event::RegistrationRefused(_)
            | Event::DriveRefused(_) => Ok(()),
        }
    }

    /// The registration of a member who holds a place and is, or is not, checked in.
    fn came(
        &self,
        member_id: MemberId,
        id: RegistrationId,
        slot_id: SlotId,
        expected: bool,
    ) -> Result<&Registration, String> {
        if self.state.drive.as_ref().is_some_and(|drive| drive.status == drive::Status::Cancelled) {
            return Err("the drive was cancelled".to_owned());
        }
        let found = self.state.registration(member_id);
        match found.filter(|found| found.id == id && found.state == RegistrationState::Confirmed) {
            None => Err("the member holds no place".to_owned()),
            Some(found) if found.slot_id != slot_id => Err("it is another slot".to_owned()),
            Some(found) if found.checked_in_at.is_some() == expected => Ok(found),
            Some(_) if expected => Err("the member is not checked in".to_owned()),
            Some(_) => Err("the member is checked in already".to_owned()),
        }
    }

    /// Whether the ledger agrees on the command: its result, and the verdict, which is computed
    /// again if the facts were not erased.
    fn agrees(&self, event: &Event, row: &Row, facts: Option<&Facts>) -> Result<(), String> {
        let refused = matches!(event, Event::RegistrationRefused(_) | Event::DriveRefused(_));
        if refused != (row.status == Status::Refused) {
            return Err(format!("in the ledger, decision {} is {}", row.id, row.status.as_str()));
        }
        if let Event::RegistrationCheckedIn(event) = event {
            let registered_at = self.state.registration(event.member_id).map(|found| found.registered_at);
            if event.at > row.accepted_at.max(registered_at.unwrap_or(row.accepted_at)) {
                return Err(format!("{} was accepted before the check-in", row.id));
            }
        }
        self.judged_right(event, row, facts)
    }

    fn judged_right(&self, event: &Event, row: &Row, facts: Option<&Facts>) -> Result<(), String> {
        let Some(drive) = self.state.drive.as_ref().filter(|_| row.kind == Register::KIND) else {
            return Ok(());
        };
        let nobody = Known::default();
        let judge = || {
            let person = facts.map_or(&nobody, |facts| &facts.person);
            self.state.rules.judge(person, &drive.definition.facts(), row.accepted_at)
        };
        // A decision by an earlier version of the rules' semantics is not judged again by this one.
        let reading = facts.and_then(|facts| facts.reading);
        let is_known = |reading| [READING, READING_OF_ONE_MAP].contains(&reading);
        let knows = self.state.rules.is_empty() || reading.is_some_and(is_known);
        match event {
            Event::RegistrationConfirmed(_) | Event::RegistrationWaitlisted(_) => {
                if !drive.window_contains(row.accepted_at) {
                    return Err(format!("{} was accepted outside the window", row.id));
                }
                if knows && !judge().eligible {
                    return Err(format!("{} is not eligible by the rules of that time", row.id));
                }
                Ok(())
            }
            Event::RegistrationRefused(event) if event.code == Code::NotEligible && knows => {
                let failed: Vec<_> = judge().failed().map(ToOwned::to_owned).collect();
                if failed == event.failed {
                    Ok(())
                } else {
                    Err(format!("judged again, {failed:?} fail instead of {:?}", event.failed))
                }
            }
            _ => Ok(()),
        }
    }
}
