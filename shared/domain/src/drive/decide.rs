//! Decisions on a drive's commands: state + command → events and an outcome, or a refusal.
//!
//! Decisions are pure. They read no clock, no table and no random number. So they can be tested
//! without a server and recomputed at any time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    AdvanceDrive, CancelDrive, ClosedBy, CreateDrive, DriveCommand, DriveOutcome, ReopenDrive, Status,
    UpdateDrive, change,
};
use crate::actor::Actor;
use crate::attribute::Known;
use crate::clock::Timestamp;
use crate::command::CommandSet as _;
use crate::drive::definition::Definition;
use crate::drive::event::{
    DriveCancelled, DriveClosed, DriveCreated, DriveMessaged, DriveRefused, DriveReopened, DriveUpdated,
    Empty, Event, RegistrationPromoted,
};
use crate::drive::message::MessageDrive;
use crate::drive::registration::{RegistrationState, decide as registration};
use crate::drive::state::{Drive, DriveState};
use crate::drive::when::When;
use crate::id::{CommandId, DriveId};
use crate::refusal::{Code, FieldError, Refusal};

/// What is known about a command besides its body.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Its id.
    pub id: CommandId,
    /// The drive it is about.
    pub drive_id: DriveId,
    /// The actor who asked for it.
    pub actor: Actor,
    /// When the API accepted it. Registration windows go by this instant.
    pub accepted_at: Timestamp,
    /// The attributes of the member it is about. `None` if there is no such member, or if the
    /// command needs no attributes.
    pub person: Option<&'a Known>,
    /// A random text. It hides the facts whose hash is in the log.
    pub salt: &'a str,
}

/// The decision on one command.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The events. Empty only if the command changed nothing, or if its drive does not exist.
    pub events: Vec<Event>,
    /// The outcome, or the refusal.
    pub result: Result<serde_json::Value, Refusal>,
    /// The facts behind the decision, if they are personal. They are stored beside the log, where
    /// they can be erased.
    pub facts: Option<String>,
}

/// Decides one command.
#[must_use]
pub fn decide(state: &DriveState, command: &DriveCommand, cx: &Context<'_>) -> Decision {
    match command {
        DriveCommand::Register(it) => registration::register(state, it, cx),
        DriveCommand::Withdraw(it) => registration::withdraw(state, it, cx),
        DriveCommand::AddRegistration(it) => registration::add(state, it, cx),
        DriveCommand::RemoveRegistration(it) => registration::remove(state, it, cx),
        DriveCommand::ChangeAnswers(it) => registration::change_answers(state, it, cx),
        DriveCommand::MoveInWaitingList(it) => registration::move_in_waiting_list(state, it, cx),
        DriveCommand::CheckIn(it) => registration::check_in(state, it, cx),
        DriveCommand::UndoCheckIn(it) => registration::undo_check_in(state, it, cx),
        DriveCommand::CreateDrive(it) => lifecycle(state, command, cx, create(state, it, cx)),
        DriveCommand::UpdateDrive(it) => lifecycle(state, command, cx, update(state, it, cx)),
        DriveCommand::PublishDrive(_) => lifecycle(state, command, cx, publish(state, cx)),
        DriveCommand::CloseDrive(_) => lifecycle(state, command, cx, close(state)),
        DriveCommand::ReopenDrive(it) => lifecycle(state, command, cx, reopen(state, it, cx)),
        DriveCommand::CancelDrive(it) => lifecycle(state, command, cx, cancel(state, it)),
        DriveCommand::AdvanceDrive(it) => lifecycle(state, command, cx, advance(state, it)),
        DriveCommand::RemindDrive(_) => lifecycle(state, command, cx, remind(state, cx)),
        DriveCommand::MessageDrive(it) => lifecycle(state, command, cx, message(state, it)),
    }
}

/// Makes a decision from the events of a command about the drive itself, or from its refusal.
fn lifecycle(
    state: &DriveState,
    command: &DriveCommand,
    cx: &Context<'_>,
    result: Result<Vec<Event>, Refusal>,
) -> Decision {
    match result {
        Ok(events) => {
            let mut after = state.clone();
            for event in &events {
                after.apply(event);
            }
            let promoted =
                events.iter().filter(|event| matches!(event, Event::RegistrationPromoted(_))).count();
            let note = zone_note(state.drive.as_ref(), after.drive.as_ref());
            let outcome = after.drive.map(|drive| DriveOutcome {
                drive_id: cx.drive_id,
                status: drive.status,
                rules_version: drive.rules_version,
                promoted,
                note,
            });
            Decision { events, result: Ok(to_json(&outcome)), facts: None }
        }
        Err(refusal) => {
            debug_assert!(DriveCommand::may_be_refused(command.kind(), refusal.code), "{refusal:?}");
            // A drive that does not exist has no log.
            let refused = DriveRefused { kind: command.kind().to_owned(), code: refusal.code };
            let events = state.drive.iter().map(|_| Event::DriveRefused(refused.clone())).collect();
            Decision { events, result: Err(refusal), facts: None }
        }
    }
}

/// The note on a changed time zone. A new zone moves no instant by itself, so the note gives the
/// times by the new clock.
fn zone_note(before: Option<&Drive>, after: Option<&Drive>) -> Option<String> {
    let (old, new) = (&before?.definition, &after?.definition);
    let zone = new.time_zone;
    if old.time_zone == zone {
        return None;
    }
    let named = [
        ("registration opens", Some(new.opens_at)),
        ("registration closes", Some(new.closes_at)),
        ("the drive starts", new.starts_at),
        ("the drive ends", new.ends_at),
    ];
    let shown = |(what, at): (&str, Option<Timestamp>)| {
        Some(format!("{what} at {}", at?.with_timezone(&zone).format("%Y-%m-%d %H:%M")))
    };
    let times: Vec<_> = named.into_iter().filter_map(shown).collect();
    let times = times.join(", ");
    Some(format!("The time zone is {zone} now. This moves no instant by itself; by the new clock {times}."))
}

/// An outcome as JSON.
pub(crate) fn to_json(outcome: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(outcome).expect("an outcome is plain data")
}

fn existing(state: &DriveState) -> Result<&Drive, Refusal> {
    state.drive.as_ref().ok_or_else(|| Code::DriveNotFound.into())
}

fn create(state: &DriveState, command: &CreateDrive, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    if state.drive.is_some() {
        let error = FieldError::new("drive_id", "there is a drive with this id already");
        return Err(Refusal::new(Code::InvalidDrive).with_errors(vec![error]));
    }
    let definition = command.draft.define(command.drive_id, cx.id)?;
    Ok(vec![Event::DriveCreated(DriveCreated { definition })])
}

fn publish(state: &DriveState, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    match drive.status {
        Status::Draft if drive.definition.closes_at <= cx.accepted_at => Err(Code::WindowOver.into()),
        Status::Draft => {
            let mut events = vec![Event::DrivePublished(Empty {})];
            if drive.definition.opens_at <= cx.accepted_at {
                events.push(Event::DriveOpened(Empty {}));
            }
            Ok(events)
        }
        Status::Cancelled => Err(Code::DriveCancelled.into()),
        Status::Published | Status::Open | Status::Closed => Err(Code::DrivePublished.into()),
    }
}

fn close(state: &DriveState) -> Result<Vec<Event>, Refusal> {
    match existing(state)?.status {
        Status::Published | Status::Open => Ok(vec![Event::DriveClosed(DriveClosed { by: ClosedBy::Admin })]),
        Status::Draft => Err(Code::DriveNotPublished.into()),
        Status::Closed => Err(Code::DriveClosed.into()),
        Status::Cancelled => Err(Code::DriveCancelled.into()),
    }
}

fn reopen(state: &DriveState, command: &ReopenDrive, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    match drive.status {
        Status::Closed => {}
        Status::Cancelled => return Err(Code::DriveCancelled.into()),
        Status::Draft | Status::Published | Status::Open => return Err(Code::DriveNotClosed.into()),
    }
    let Definition { time_zone, opens_at, closes_at, .. } = drive.definition;
    let fault =
        |detail| Refusal::new(Code::InvalidDrive).with_errors(vec![FieldError::new("closes_at", detail)]);
    let closes_at =
        command.closes_at.map_or(Ok(closes_at), |at| When::resolve(at, time_zone)).map_err(fault)?;
    if closes_at <= cx.accepted_at {
        let detail = "to open registration again, give a closes_at that is still to come";
        return Err(Refusal::new(Code::WindowOver).with_detail(detail));
    }
    if closes_at <= opens_at {
        return Err(fault("registration must close after it opens".to_owned()));
    }
    let status = if cx.accepted_at < opens_at { Status::Published } else { Status::Open };
    Ok(vec![Event::DriveReopened(DriveReopened { closes_at, status })])
}

fn cancel(state: &DriveState, command: &CancelDrive) -> Result<Vec<Event>, Refusal> {
    match existing(state)?.status {
        Status::Cancelled => Err(Code::DriveCancelled.into()),
        _ => Ok(vec![Event::DriveCancelled(DriveCancelled { reason: command.reason.clone() })]),
    }
}

/// The events of the schedule at `due`. There may be none, if the drive was changed since.
fn advance(state: &DriveState, command: &AdvanceDrive) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    Ok(by_schedule(drive.status, &drive.definition, command.due))
}

/// The digest and the reminders that are due. There may be none, if the drive was changed since.
fn remind(state: &DriveState, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    let digest = drive.digest(cx.accepted_at).map(|at| Event::DriveDigested(state.digest(at)));
    let reminders = drive.reminders(cx.accepted_at);
    Ok(digest.into_iter().chain(reminders.into_iter().map(Event::DriveReminded)).collect())
}

/// An organiser's message to registered members. It is possible in every status but draft.
fn message(state: &DriveState, command: &MessageDrive) -> Result<Vec<Event>, Refusal> {
    if existing(state)?.status == Status::Draft {
        return Err(Code::DriveNotPublished.into());
    }
    let MessageDrive { subject, text, to, .. } = command.clone();
    Ok(vec![Event::DriveMessaged(DriveMessaged { subject, text, to })])
}

/// The events that the schedule alone causes until the instant `at`.
fn by_schedule(status: Status, definition: &Definition, at: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    if status == Status::Published && definition.opens_at <= at {
        events.push(Event::DriveOpened(Empty {}));
    }
    if matches!(status, Status::Published | Status::Open) && definition.closes_at <= at {
        events.push(Event::DriveClosed(DriveClosed { by: ClosedBy::Schedule }));
    }
    events
}

fn update(state: &DriveState, command: &UpdateDrive, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    let changes = &command.changes;
    match drive.status {
        Status::Cancelled => return Err(Code::DriveCancelled.into()),
        Status::Closed if changes.opens_at.is_some() || changes.closes_at.is_some() => {
            let detail = "registration is closed; to change its window, reopen it with a new closes_at";
            return Err(Refusal::new(Code::DriveClosed).with_detail(detail));
        }
        _ => {}
    }
    let definition = changes.apply(&drive.definition, command.drive_id, cx.id)?;
    if drive.status == Status::Open && definition.opens_at > cx.accepted_at {
        let error = FieldError::new("opens_at", "registration is open; close it first");
        return Err(Refusal::new(Code::InvalidDrive).with_errors(vec![error]));
    }
    nobody_loses_their_place(state, drive, &definition)?;
    let rules_version = drive.rules_version + u32::from(definition.rules != drive.definition.rules);
    // The waiting lists are loaded for an update only if it may promote members.
    let promoted =
        if changes.may_move_people() { promotions(state, &definition, cx.accepted_at) } else { Vec::new() };
    let scheduled = by_schedule(drive.status, &definition, cx.accepted_at);
    let (changed, slots) = match drive.status {
        Status::Draft => Default::default(),
        _ => change::between(&drive.definition, &definition, cx.accepted_at),
    };
    let updated = DriveUpdated { definition, rules_version, changed, slots };
    let mut events = vec![Event::DriveUpdated(updated)];
    events.extend(scheduled);
    events.extend(promoted);
    Ok(events)
}

fn nobody_loses_their_place(state: &DriveState, old: &Drive, new: &Definition) -> Result<(), Refusal> {
    for slot in &old.definition.slots {
        let places = state.places(slot.slot_id);
        match new.slots.iter().find(|other| other.slot_id == slot.slot_id) {
            None if places.confirmed + places.waitlisted > 0 => {
                let detail = format!("{} are confirmed and {} wait", places.confirmed, places.waitlisted);
                return Err(Refusal::new(Code::SlotInUse).with_detail(detail));
            }
            Some(kept) if kept.capacity.is_some_and(|capacity| capacity < places.confirmed) => {
                let detail = format!("{} are confirmed", places.confirmed);
                return Err(Refusal::new(Code::CapacityBelowConfirmed).with_detail(detail));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The promotions from the waiting lists at `now`, with the places of `definition`.
fn promotions(state: &DriveState, definition: &Definition, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    for slot in definition.slots.iter().filter(|slot| definition.promotes(slot, now)) {
        let mut confirmed = state.places(slot.slot_id).confirmed;
        let mut heads = state.waiting(slot.slot_id);
        while slot.has_room(confirmed)
            && let Some(head) = heads.next().and_then(|member_id| state.registration(member_id))
        {
            confirmed += 1;
            events.push(Event::RegistrationPromoted(RegistrationPromoted {
                registration_id: head.id,
                member_id: head.member_id,
                slot_id: slot.slot_id,
                place: confirmed,
                facts: None,
            }));
        }
    }
    events
}

/// Checks the invariants of every state. Returns the first broken one, in words.
///
/// `latest` is the latest instant at which one of the commands was accepted. A free place may
/// remain beside waiting members only if a command came after the end of promotion.
///
/// The property tests and `muster verify` use this. A decision that breaks an invariant is a bug.
#[must_use]
pub fn broken_invariant(state: &DriveState, latest: Timestamp) -> Option<String> {
    let drive = state.drive.as_ref()?;
    let mut counted: BTreeMap<_, (u32, u32)> = BTreeMap::new();
    for registration in state.registrations() {
        let (confirmed, waitlisted) = counted.entry(registration.slot_id).or_default();
        match registration.state {
            RegistrationState::Confirmed => *confirmed += 1,
            RegistrationState::Waitlisted => *waitlisted += 1,
            RegistrationState::Withdrawn | RegistrationState::Removed => {}
        }
        if registration.checked_in_at.is_some() && registration.state != RegistrationState::Confirmed {
            return Some(format!("{} is checked in but holds no place", registration.member_id));
        }
    }
    for slot in &drive.definition.slots {
        let places = state.places(slot.slot_id);
        let (confirmed, waitlisted) = counted.get(&slot.slot_id).copied().unwrap_or_default();
        if (places.confirmed, places.waitlisted) != (confirmed, waitlisted) {
            return Some(format!(
                "slot {}: counted {confirmed}+{waitlisted}, but the state has {places:?}",
                slot.slot_id
            ));
        }
        if slot.capacity.is_some_and(|capacity| confirmed > capacity) {
            return Some(format!("slot {}: {confirmed} confirmed, {:?} places", slot.slot_id, slot.capacity));
        }
        if waitlisted > 0 && slot.has_room(confirmed) && drive.definition.promotes(slot, latest) {
            return Some(format!("slot {}: {waitlisted} wait although a place is free", slot.slot_id));
        }
    }
    None
}

#[cfg(test)]
mod tests;
