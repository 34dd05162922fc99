//! Decisions on registrations. They are pure, like all decisions (see [`crate::drive::decide`]).

mod answers;
mod check_in;
mod waiting_list;

use serde::Serialize;

pub(crate) use self::answers::change_answers;
pub(crate) use self::check_in::{check_in, undo_check_in};
pub(crate) use self::waiting_list::move_in_waiting_list;
use super::{
    AddRegistration, Register, Registration, RegistrationOutcome, RegistrationState, RemoveRegistration,
    Withdraw, questions,
};
use crate::actor::Role;
use crate::attribute::Known;
use crate::command::Command as _;
use crate::drive::decide::{Context, Decision, to_json};
use crate::drive::definition::Slot;
use crate::drive::event::{
    Empty, Event, RegistrationConfirmed, RegistrationEnded, RegistrationPromoted, RegistrationRefused,
    RegistrationWaitlisted,
};
use crate::drive::registration::questions::Answers;
use crate::drive::state::{Drive, DriveState, Places};
use crate::drive::{ClosedBy, DriveCommand, Status};
use crate::eligibility::{READING, Verdict};
use crate::hash::{base64url, sha256};
use crate::id::{DriveId, MemberId, RegistrationId, SlotId};
use crate::refusal::{Code, Refusal};

/// The facts behind a decision. Their JSON is stored beside the log, and their hash is in the log.
#[derive(Debug, Default, Serialize)]
struct Facts<'a> {
    salt: &'a str,
    /// The version of the rules' semantics, if there were rules. See [`READING`].
    #[serde(skip_serializing_if = "Option::is_none")]
    reading: Option<u32>,
    #[serde(flatten)]
    person: Known,
    #[serde(skip_serializing_if = "Answers::is_empty")]
    answers: Answers,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// The device that checked the member in.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a str>,
}

impl Facts<'_> {
    /// Their JSON, if there are any facts.
    fn text(&self) -> Option<String> {
        // Without rules, nothing is known of the person.
        let told = self.reason.or(self.device).is_some();
        let empty = self.reading.is_none() && self.answers.is_empty() && !told;
        (!empty).then(|| serde_json::to_string(self).expect("facts are plain data"))
    }
}

/// The current version of the rules' semantics, if the drive has rules.
fn reading(state: &DriveState) -> Option<u32> {
    (!state.rules.is_empty()).then_some(READING)
}

fn hash(facts: Option<&String>) -> Option<String> {
    facts.map(|text| base64url(&sha256(text.as_bytes())))
}

/// A member asks for a place.
pub(crate) fn register(state: &DriveState, command: &Register, cx: &Context<'_>) -> Decision {
    let nobody = Known::default();
    let answers = kept_answers(state, &command.answers);
    let admitted = admit(state, command, &answers, cx);
    let person = state.rules.facts(cx.person.unwrap_or(&nobody));
    let facts = Facts { salt: cx.salt, reading: reading(state), person, answers, ..Facts::default() }.text();
    let attempt = Attempt { state, kind: Register::KIND, member_id: Some(command.member_id), cx, facts };
    match admitted {
        Ok((drive, slot)) => {
            let mut events = Vec::new();
            if drive.status == Status::Published {
                // The opening time has come. This click is the first command to notice it.
                events.push(Event::DriveOpened(Empty {}));
            }
            attempt.take_place(drive, slot, events, None)
        }
        Err(refusal) => attempt.refuse(refusal),
    }
}

/// The answers in the form in which they are stored.
fn kept_answers(state: &DriveState, answers: &Answers) -> Answers {
    let questions = state.drive.as_ref().map_or(&[][..], |drive| &drive.definition.questions);
    questions::kept(questions, answers)
}

/// Whether a member may get a place, if one is free.
fn admit<'a>(
    state: &'a DriveState,
    command: &Register,
    answers: &Answers,
    cx: &Context<'_>,
) -> Result<(&'a Drive, &'a Slot), Refusal> {
    let drive = state.drive.as_ref().ok_or(Code::DriveNotFound)?;
    match drive.status {
        // Only organisers know of a draft.
        Status::Draft => return Err(Code::DriveNotFound.into()),
        Status::Cancelled => return Err(Code::DriveCancelled.into()),
        Status::Closed if drive.closed_by == Some(ClosedBy::Admin) => return Err(Code::DriveClosed.into()),
        Status::Published | Status::Open | Status::Closed => {}
    }
    if cx.accepted_at < drive.definition.opens_at {
        return Err(Code::DriveNotOpen.into());
    }
    if cx.accepted_at >= drive.definition.closes_at {
        return Err(Code::DriveClosed.into());
    }
    // A member who acts for themselves exists, but the profile may still be on its way.
    if cx.person.is_none() && cx.actor.role != Role::Member {
        return Err(Code::MemberNotFound.into());
    }
    let slot = slot_of(drive, command.slot_id)?;
    not_registered_yet(state, command.member_id)?;
    let verdict = judge(state, drive, cx);
    if !verdict.eligible {
        let refusal = Refusal::new(Code::NotEligible);
        return Err(Refusal { verdict: Some(Box::new(verdict)), ..refusal });
    }
    answers_fit(drive, answers)?;
    Ok((drive, slot))
}

fn answers_fit(drive: &Drive, answers: &Answers) -> Result<(), Refusal> {
    let errors = questions::check(&drive.definition.questions, answers);
    if errors.is_empty() { Ok(()) } else { Err(Refusal::new(Code::AnswersInvalid).with_errors(errors)) }
}

fn slot_of(drive: &Drive, slot_id: Option<SlotId>) -> Result<&Slot, Refusal> {
    drive.slot(slot_id).ok_or_else(|| slot_id.map_or(Code::SlotRequired, |_| Code::SlotNotFound).into())
}

fn not_registered_yet(state: &DriveState, member_id: MemberId) -> Result<(), Refusal> {
    match state.registration(member_id) {
        Some(registration) if registration.state.is_active() => {
            let detail = format!("the registration is {}", registration.state.as_str());
            Err(Refusal::new(Code::AlreadyRegistered).with_detail(detail))
        }
        _ => Ok(()),
    }
}

fn judge(state: &DriveState, drive: &Drive, cx: &Context<'_>) -> Verdict {
    let nobody = Known::default();
    state.rules.judge(cx.person.unwrap_or(&nobody), &drive.definition.facts(), cx.accepted_at)
}

/// An organiser registers a member.
pub(crate) fn add(state: &DriveState, command: &AddRegistration, cx: &Context<'_>) -> Decision {
    let nobody = Known::default();
    let facts = Facts {
        salt: cx.salt,
        reading: reading(state),
        person: state.rules.facts(cx.person.unwrap_or(&nobody)),
        reason: Some(&command.reason),
        ..Facts::default()
    }
    .text();
    let attempt =
        Attempt { state, kind: AddRegistration::KIND, member_id: Some(command.member_id), cx, facts };
    let admitted = live(state).and_then(|drive| {
        if drive.status == Status::Draft {
            return Err(Code::DriveNotPublished.into());
        }
        if cx.person.is_none() {
            return Err(Code::MemberNotFound.into());
        }
        if let Some(waiting) = waiting_list::beside_a_free_place(state, drive, command) {
            return Ok((drive, Adding::Promote(waiting)));
        }
        let slot = slot_of(drive, command.slot_id)?;
        not_registered_yet(state, command.member_id)?;
        Ok((drive, Adding::New(slot)))
    });
    let verdict = |drive| (!state.rules.is_empty()).then(|| judge(state, drive, cx));
    match admitted {
        Ok((drive, Adding::New(slot))) => attempt.take_place(drive, slot, Vec::new(), verdict(drive)),
        Ok((drive, Adding::Promote(waiting))) => attempt.promote(waiting, verdict(drive)),
        Err(refusal) => attempt.refuse(refusal),
    }
}

/// How a member is added.
enum Adding<'a> {
    /// The member is not registered.
    New(&'a Slot),
    /// The member waits, and a place is free.
    Promote(&'a Registration),
}

/// A member withdraws.
pub(crate) fn withdraw(state: &DriveState, command: &Withdraw, cx: &Context<'_>) -> Decision {
    let attempt =
        Attempt { state, kind: Withdraw::KIND, member_id: Some(command.member_id), cx, facts: None };
    let found = live(state).and_then(|drive| {
        let registration = state.registration(command.member_id).filter(|found| found.state.is_active());
        registration.map(|registration| (drive, registration)).ok_or_else(|| Code::NotRegistered.into())
    });
    match found {
        Ok((drive, registration)) => attempt.give_up(drive, registration, Event::RegistrationWithdrawn),
        Err(refusal) => attempt.refuse(refusal),
    }
}

/// An organiser removes a registration.
pub(crate) fn remove(state: &DriveState, command: &RemoveRegistration, cx: &Context<'_>) -> Decision {
    let facts = Facts { salt: cx.salt, reason: Some(&command.reason), ..Facts::default() }.text();
    let registration = state.registration_by_id(command.registration_id);
    let member_id = registration.map(|registration| registration.member_id);
    let attempt = Attempt { state, kind: RemoveRegistration::KIND, member_id, cx, facts };
    let found = live(state).and_then(|drive| {
        let active = registration.filter(|found| found.state.is_active());
        active.map(|registration| (drive, registration)).ok_or_else(|| Code::RegistrationNotFound.into())
    });
    match found {
        Ok((drive, registration)) => attempt.give_up(drive, registration, Event::RegistrationRemoved),
        Err(refusal) => attempt.refuse(refusal),
    }
}

/// Why the slot is full, in words.
fn full(slot: &Slot, places: Places) -> String {
    match slot.capacity {
        Some(capacity) if places.confirmed >= capacity && slot.waitlist_capacity == 0 => {
            format!("all {capacity} places are taken")
        }
        Some(capacity) if places.confirmed >= capacity => {
            let waitlist = slot.waitlist_capacity;
            format!("all {capacity} places and all {waitlist} on the waiting list are taken")
        }
        _ => {
            let waiting = places.waitlisted;
            format!("the free places are for the {waiting} who wait, and the waiting list is full")
        }
    }
}

/// The drive, if it exists and is not cancelled.
fn live(state: &DriveState) -> Result<&Drive, Refusal> {
    match &state.drive {
        None => Err(Code::DriveNotFound.into()),
        Some(drive) if drive.status == Status::Cancelled => Err(Code::DriveCancelled.into()),
        Some(drive) => Ok(drive),
    }
}

/// A command about a registration, on its way to a decision.
struct Attempt<'a> {
    state: &'a DriveState,
    kind: &'static str,
    member_id: Option<MemberId>,
    cx: &'a Context<'a>,
    facts: Option<String>,
}

impl Attempt<'_> {
    /// Gives a place if one is free, or a position on the waiting list. Otherwise refuses. The same
    /// holds for members and organisers.
    fn take_place(
        self,
        drive: &Drive,
        slot: &Slot,
        mut events: Vec<Event>,
        verdict: Option<Verdict>,
    ) -> Decision {
        let Some(member_id) = self.member_id else { return self.refuse(Code::MemberNotFound.into()) };
        let places = self.state.places(slot.slot_id);
        // A place that has stayed free since promotion ended is for waiting members.
        let is_free = places.waitlisted == 0 && slot.has_room(places.confirmed);
        let registration_id = RegistrationId(self.cx.id.0);
        let facts = hash(self.facts.as_ref());
        let (slot_id, accepted_at) = (slot.slot_id, self.cx.accepted_at);
        let rules_version = drive.rules_version;
        let (place, waitlist_position, state);
        if is_free {
            (place, waitlist_position) = (Some(places.confirmed + 1), None);
            state = RegistrationState::Confirmed;
            events.push(Event::RegistrationConfirmed(RegistrationConfirmed {
                registration_id,
                member_id,
                slot_id,
                place: places.confirmed + 1,
                accepted_at,
                rules_version,
                facts,
            }));
        } else if places.waitlisted < slot.waitlist_capacity {
            (place, waitlist_position) = (None, Some(places.waitlisted + 1));
            state = RegistrationState::Waitlisted;
            events.push(Event::RegistrationWaitlisted(RegistrationWaitlisted {
                registration_id,
                member_id,
                slot_id,
                position: places.waitlisted + 1,
                accepted_at,
                rules_version,
                facts,
            }));
        } else {
            let detail = full(slot, places);
            return self.refuse(Refusal::new(Code::DriveFull).with_detail(detail));
        }
        let outcome = RegistrationOutcome {
            registration_id,
            drive_id: self.drive_id(),
            slot_id,
            state,
            place,
            waitlist_position,
            verdict,
        };
        Decision { events, result: Ok(to_json(&outcome)), facts: self.facts }
    }

    /// Gives a free place to a waiting member, because an organiser decided so.
    fn promote(self, waiting: &Registration, verdict: Option<Verdict>) -> Decision {
        let &Registration { id: registration_id, member_id, slot_id, .. } = waiting;
        let place = self.state.places(slot_id).confirmed + 1;
        let facts = hash(self.facts.as_ref());
        let event = RegistrationPromoted { registration_id, member_id, slot_id, place, facts };
        let outcome = RegistrationOutcome {
            state: RegistrationState::Confirmed,
            place: Some(place),
            verdict,
            ..self.outcome(waiting)
        };
        let events = vec![Event::RegistrationPromoted(event)];
        Decision { events, result: Ok(to_json(&outcome)), facts: self.facts }
    }

    /// Ends a registration. A place that it held goes to the head of the waiting list in the same
    /// decision, until promotion ends.
    fn give_up(
        self,
        drive: &Drive,
        registration: &Registration,
        event: fn(RegistrationEnded) -> Event,
    ) -> Decision {
        let &Registration { id, member_id, slot_id, .. } = registration;
        let mut events = vec![event(RegistrationEnded {
            registration_id: id,
            member_id,
            slot_id,
            facts: hash(self.facts.as_ref()),
        })];
        let confirmed = self.state.places(slot_id).confirmed;
        if registration.state == RegistrationState::Confirmed
            && let Some(slot) = drive.slot(Some(slot_id))
            && slot.capacity.is_none_or(|capacity| confirmed <= capacity)
            && drive.definition.promotes(slot, self.cx.accepted_at)
            && let Some(head) =
                self.state.waiting(slot_id).next().and_then(|next| self.state.registration(next))
        {
            events.push(Event::RegistrationPromoted(RegistrationPromoted {
                registration_id: head.id,
                member_id: head.member_id,
                slot_id,
                place: confirmed,
                facts: None,
            }));
        }
        let state = match events[0] {
            Event::RegistrationRemoved(_) => RegistrationState::Removed,
            _ => RegistrationState::Withdrawn,
        };
        let outcome = RegistrationOutcome { state, place: None, ..self.outcome(registration) };
        Decision { events, result: Ok(to_json(&outcome)), facts: self.facts }
    }

    /// The outcome for a registration that keeps its state.
    fn outcome(&self, registration: &Registration) -> RegistrationOutcome {
        RegistrationOutcome {
            registration_id: registration.id,
            drive_id: self.drive_id(),
            slot_id: registration.slot_id,
            state: registration.state,
            place: registration.place,
            waitlist_position: None,
            verdict: None,
        }
    }

    fn refuse(self, refusal: Refusal) -> Decision {
        debug_assert!(DriveCommand::may_be_refused(self.kind, refusal.code), "{}: {refusal:?}", self.kind);
        let events = match &self.state.drive {
            // A drive that does not exist has no log.
            None => Vec::new(),
            Some(drive) => vec![Event::RegistrationRefused(RegistrationRefused {
                kind: self.kind.to_owned(),
                member_id: self.member_id,
                code: refusal.code,
                accepted_at: self.cx.accepted_at,
                rules_version: drive.rules_version,
                failed: refusal
                    .verdict
                    .as_ref()
                    .map(|verdict| verdict.failed().map(ToOwned::to_owned).collect())
                    .unwrap_or_default(),
                facts: hash(self.facts.as_ref()),
            })],
        };
        Decision { events, result: Err(refusal), facts: self.facts }
    }

    fn drive_id(&self) -> DriveId {
        self.cx.drive_id
    }
}
