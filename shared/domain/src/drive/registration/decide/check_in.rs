//! Check-ins.

use super::{Attempt, Facts, hash, live};
use crate::clock::{self, Timestamp};
use crate::command::Command as _;
use crate::drive::decide::{Context, Decision, to_json};
use crate::drive::event::{Event, RegistrationCheckInUndone, RegistrationCheckedIn};
use crate::drive::registration::{CheckIn, CheckInOutcome, Registration, RegistrationState, UndoCheckIn};
use crate::drive::state::DriveState;
use crate::id::RegistrationId;
use crate::refusal::{Code, Refusal};

/// An organiser checks a member in.
pub(crate) fn check_in(state: &DriveState, command: &CheckIn, cx: &Context<'_>) -> Decision {
    let facts = Facts { salt: cx.salt, device: command.device.as_deref(), ..Facts::default() }.text();
    let hashed = hash(facts.as_ref());
    decide(state, command.registration_id, CheckIn::KIND, cx, facts, |found| {
        // The clock of a device may be wrong. A member cannot come before the registration, or
        // after the click was accepted.
        let at = command.at.map_or(cx.accepted_at, |at| clock::from_ms(at.timestamp_millis()));
        let at = at.min(cx.accepted_at).max(found.registered_at);
        let event = RegistrationCheckedIn {
            registration_id: found.id,
            member_id: found.member_id,
            slot_id: found.slot_id,
            at,
            gate: command.gate.clone(),
            facts: hashed,
        };
        // A repetition keeps the time of the first check-in.
        let at = found.checked_in_at.or(Some(at));
        (found.checked_in_at.is_none().then_some(Event::RegistrationCheckedIn(event)), at)
    })
}

/// An organiser undoes a check-in.
pub(crate) fn undo_check_in(state: &DriveState, command: &UndoCheckIn, cx: &Context<'_>) -> Decision {
    decide(state, command.registration_id, UndoCheckIn::KIND, cx, None, |found| {
        let event = RegistrationCheckInUndone {
            registration_id: found.id,
            member_id: found.member_id,
            slot_id: found.slot_id,
        };
        (found.checked_in_at.is_some().then_some(Event::RegistrationCheckInUndone(event)), None)
    })
}

/// `change` returns the event, if anything changes, and the new time of the check-in.
fn decide(
    state: &DriveState,
    id: RegistrationId,
    kind: &'static str,
    cx: &Context<'_>,
    facts: Option<String>,
    change: impl FnOnce(&Registration) -> (Option<Event>, Option<Timestamp>),
) -> Decision {
    let registration = state.registration_by_id(id);
    let member_id = registration.map(|registration| registration.member_id);
    let attempt = Attempt { state, kind, member_id, cx, facts };
    let found = live(state).and_then(|_| match registration {
        Some(found) if found.state == RegistrationState::Confirmed => Ok(found),
        Some(found) => {
            let detail = format!("the registration is {}", found.state);
            Err(Refusal::new(Code::NotConfirmed).with_detail(detail))
        }
        None => Err(Code::RegistrationNotFound.into()),
    });
    match found {
        Ok(found) => {
            let (event, checked_in_at) = change(found);
            let (registration, repeated) = (attempt.outcome(found), event.is_none());
            let checked_in_at = checked_in_at.map(clock::rfc3339);
            let outcome = CheckInOutcome { registration, checked_in_at, repeated };
            // A repetition changes nothing, so it has no facts.
            let facts = attempt.facts.filter(|_| !repeated);
            Decision { events: event.into_iter().collect(), result: Ok(to_json(&outcome)), facts }
        }
        Err(refusal) => attempt.refuse(refusal),
    }
}
