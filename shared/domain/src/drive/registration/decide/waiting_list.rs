//! Changes that organisers make to a waiting list by hand.

use super::{Attempt, Facts, hash, live};
use crate::command::Command as _;
use crate::drive::decide::{Context, Decision, to_json};
use crate::drive::event::{Event, RegistrationMoved};
use crate::drive::registration::{
    AddRegistration, MoveInWaitingList, Registration, RegistrationOutcome, RegistrationState,
};
use crate::drive::state::{Drive, DriveState};
use crate::refusal::{Code, Refusal};

/// The registration of the member to add, if it waits and a place of its slot is free. This happens
/// only after promotion has ended. Then an organiser gives places by hand.
pub(super) fn beside_a_free_place<'a>(
    state: &'a DriveState,
    drive: &Drive,
    command: &AddRegistration,
) -> Option<&'a Registration> {
    let found = state.registration(command.member_id)?;
    let is_meant = command.slot_id.is_none_or(|slot_id| slot_id == found.slot_id);
    let confirmed = state.places(found.slot_id).confirmed;
    let is_free = drive.slot(Some(found.slot_id))?.has_room(confirmed);
    (found.state == RegistrationState::Waitlisted && is_meant && is_free).then_some(found)
}

/// An organiser moves a member within the waiting list.
pub(crate) fn move_in_waiting_list(
    state: &DriveState,
    command: &MoveInWaitingList,
    cx: &Context<'_>,
) -> Decision {
    let facts = Facts { salt: cx.salt, reason: Some(&command.reason), ..Facts::default() }.text();
    let registration = state.registration_by_id(command.registration_id);
    let member_id = registration.map(|registration| registration.member_id);
    let attempt = Attempt { state, kind: MoveInWaitingList::KIND, member_id, cx, facts };
    let found = live(state).and_then(|_| match registration {
        Some(found) if found.state == RegistrationState::Waitlisted => Ok(found),
        Some(found) if found.state.is_active() => {
            let detail = format!("the registration is {}", found.state.as_str());
            Err(Refusal::new(Code::NotWaiting).with_detail(detail))
        }
        _ => Err(Code::RegistrationNotFound.into()),
    });
    match found {
        Ok(registration) => attempt.reorder(registration, command.position),
        Err(refusal) => attempt.refuse(refusal),
    }
}

impl Attempt<'_> {
    fn reorder(self, registration: &Registration, position: u32) -> Decision {
        let &Registration { id: registration_id, member_id, slot_id, .. } = registration;
        let last = self.state.places(slot_id).waitlisted.max(1);
        let position = position.clamp(1, last);
        let before = self.state.waiting(slot_id).position(|other| other == member_id);
        let stays = before.is_some_and(|before| before + 1 == position as usize);
        let facts = hash(self.facts.as_ref());
        let event = RegistrationMoved { registration_id, member_id, slot_id, position, facts };
        let outcome = RegistrationOutcome { waitlist_position: Some(position), ..self.outcome(registration) };
        // A member who has this position already is not moved.
        let events = if stays { Vec::new() } else { vec![Event::RegistrationMoved(event)] };
        Decision { events, result: Ok(to_json(&outcome)), facts: self.facts }
    }
}
