//! The decision about a drive's commands: state + command → events and an outcome, or a refusal. Pure: it reads no
//! clock, no table and no random number, so it can be tested without a server and recomputed at any time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    AdvanceDrive, CancelDrive, ClosedBy, CreateDrive, DriveCommand, DriveOutcome, ReopenDrive, Status,
    UpdateDrive, change,
};
use crate::actor::Actor;
use crate::attribute::Attributes;
use crate::clock::Timestamp;
use crate::command::CommandSet as _;
use crate::drive::definition::Definition;
use crate::drive::event::{
    DriveCancelled, DriveClosed, DriveCreated, DriveMessaged, DriveRefused, DriveReopened, DriveUpdated,
    Empty, Event, RegistrationPromoted,
};
use crate::drive::message::MessageDrive;
use crate::drive::registration::{RegistrationState, decide as registration};
use crate::drive::state::{Drive, State};
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
    /// Who asked.
    pub actor: Actor,
    /// When the API accepted it: windows are judged by this instant.
    pub accepted_at: Timestamp,
    /// The attributes of the member it is about; none when there is no such member, or when nothing reads them.
    pub person: Option<&'a Attributes>,
    /// Random; hides what is hashed into the log.
    pub salt: &'a str,
}

/// What was decided about one command.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What happened; empty only for commands that changed nothing and commands about no drive.
    pub events: Vec<Event>,
    /// What whoever asked is told.
    pub result: Result<serde_json::Value, Refusal>,
    /// What the decision rested on, if that is personal: kept beside the log, where it can be erased.
    pub facts: Option<String>,
}

/// Decides about one command.
#[must_use]
pub fn decide(state: &State, command: &DriveCommand, cx: &Context<'_>) -> Decision {
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

/// Makes a decision of what happens to a drive, or of why it does not.
fn lifecycle(
    state: &State,
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
            // What does not exist has no log.
            let refused = DriveRefused { kind: command.kind().to_owned(), code: refusal.code };
            let events = state.drive.iter().map(|_| Event::DriveRefused(refused.clone())).collect();
            Decision { events, result: Err(refusal), facts: None }
        }
    }
}

/// What another time zone does to a drive: it shows the same instants by another clock.
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

fn existing(state: &State) -> Result<&Drive, Refusal> {
    state.drive.as_ref().ok_or_else(|| Code::DriveNotFound.into())
}

fn create(state: &State, command: &CreateDrive, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    if state.drive.is_some() {
        let error = FieldError::new("drive_id", "there is a drive with this id already");
        return Err(Refusal::new(Code::InvalidDrive).with_errors(vec![error]));
    }
    let definition = command.draft.define(command.drive_id, cx.id)?;
    Ok(vec![Event::DriveCreated(DriveCreated { definition })])
}

fn publish(state: &State, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
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

fn close(state: &State) -> Result<Vec<Event>, Refusal> {
    match existing(state)?.status {
        Status::Published | Status::Open => Ok(vec![Event::DriveClosed(DriveClosed { by: ClosedBy::Admin })]),
        Status::Draft => Err(Code::DriveNotPublished.into()),
        Status::Closed => Err(Code::DriveClosed.into()),
        Status::Cancelled => Err(Code::DriveCancelled.into()),
    }
}

fn reopen(state: &State, command: &ReopenDrive, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
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

fn cancel(state: &State, command: &CancelDrive) -> Result<Vec<Event>, Refusal> {
    match existing(state)?.status {
        Status::Cancelled => Err(Code::DriveCancelled.into()),
        _ => Ok(vec![Event::DriveCancelled(DriveCancelled { reason: command.reason.clone() })]),
    }
}

/// What the schedule does when `due` has come. If the drive was changed meanwhile, perhaps nothing.
fn advance(state: &State, command: &AdvanceDrive) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    Ok(by_schedule(drive.status, &drive.definition, command.due))
}

/// What is to be told by now: reminders, the day's digest. If the drive was changed meanwhile, perhaps nothing.
fn remind(state: &State, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
    let drive = existing(state)?;
    let digest = drive.digest(cx.accepted_at).map(|at| Event::DriveDigested(state.digest(at)));
    let reminders = drive.reminders(cx.accepted_at);
    Ok(digest.into_iter().chain(reminders.into_iter().map(Event::DriveReminded)).collect())
}

/// An organiser writes to people who signed up, whatever has become of the drive since it was announced.
fn message(state: &State, command: &MessageDrive) -> Result<Vec<Event>, Refusal> {
    if existing(state)?.status == Status::Draft {
        return Err(Code::DriveNotPublished.into());
    }
    let MessageDrive { subject, text, to, .. } = command.clone();
    Ok(vec![Event::DriveMessaged(DriveMessaged { subject, text, to })])
}

/// What has happened to a drive by the instant `at`, going by its schedule alone.
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

fn update(state: &State, command: &UpdateDrive, cx: &Context<'_>) -> Result<Vec<Event>, Refusal> {
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
    // Who waits is known only when the changes may give them places.
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

fn nobody_loses_their_place(state: &State, old: &Drive, new: &Definition) -> Result<(), Refusal> {
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

/// Who gets a place from the waiting lists at `now` when the places are those of `definition`.
fn promotions(state: &State, definition: &Definition, now: Timestamp) -> Vec<Event> {
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

/// Checks that must hold in every state, whatever was decided: the words of the first that does
/// not. `latest` is the latest instant at which one of the commands was accepted: a free place may
/// stay free beside people who wait only if a command came after the instant at which promotion
/// ends.
///
/// Used by the properties and by `muster verify`; a decision that breaks one is a bug.
#[must_use]
pub fn broken_invariant(state: &State, latest: Timestamp) -> Option<String> {
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
            return Some(format!("{} has come and holds no place", registration.member_id));
        }
    }
    for slot in &drive.definition.slots {
        let places = state.places(slot.slot_id);
        let (confirmed, waitlisted) = counted.get(&slot.slot_id).copied().unwrap_or_default();
        if (places.confirmed, places.waitlisted) != (confirmed, waitlisted) {
            return Some(format!("slot {}: counted {confirmed}+{waitlisted}, kept {places:?}", slot.slot_id));
        }
        if slot.capacity.is_some_and(|capacity| confirmed > capacity) {
            return Some(format!("slot {}: {confirmed} confirmed, {:?} places", slot.slot_id, slot.capacity));
        }
        if waitlisted > 0 && slot.has_room(confirmed) && drive.definition.promotes(slot, latest) {
            return Some(format!("slot {}: {waitlisted} wait beside a free place", slot.slot_id));
        }
    }
    None
}

#[cfg(test)]
mod tests;
