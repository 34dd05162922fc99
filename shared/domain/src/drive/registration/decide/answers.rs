//! Changes of a member's answers to the drive's questions.

use super::{Attempt, Facts, answers_fit, hash, kept_answers, live};
use crate::command::Command as _;
use crate::drive::decide::{Context, Decision, to_json};
use crate::drive::event::{Event, RegistrationAnswersChanged};
use crate::drive::registration::{ChangeAnswers, Registration};
use crate::drive::state::{Drive, DriveState};
use crate::drive::{ClosedBy, Status};
use crate::refusal::{Code, Refusal};

/// A member changes the answers to the drive's questions, until registration closes.
pub(crate) fn change_answers(state: &DriveState, command: &ChangeAnswers, cx: &Context<'_>) -> Decision {
    let answers = kept_answers(state, &command.answers);
    let admitted = admit(state, command).and_then(|(drive, registration)| {
        if cx.accepted_at >= drive.definition.closes_at {
            return Err(Code::DriveClosed.into());
        }
        answers_fit(drive, &answers)?;
        Ok(registration)
    });
    let facts = Facts { salt: cx.salt, answers, ..Facts::default() }.text();
    let attempt = Attempt { state, kind: ChangeAnswers::KIND, member_id: Some(command.member_id), cx, facts };
    match admitted {
        Ok(registration) => attempt.answer_anew(registration),
        Err(refusal) => attempt.refuse(refusal),
    }
}

/// The registration whose answers may change. It checks everything but the closing time.
fn admit<'a>(
    state: &'a DriveState,
    command: &ChangeAnswers,
) -> Result<(&'a Drive, &'a Registration), Refusal> {
    let drive = live(state)?;
    match drive.status {
        // Only organisers know of a draft.
        Status::Draft => return Err(Code::DriveNotFound.into()),
        Status::Closed if drive.closed_by == Some(ClosedBy::Admin) => return Err(Code::DriveClosed.into()),
        _ => {}
    }
    let registration = state.registration(command.member_id).filter(|found| found.state.is_active());
    Ok((drive, registration.ok_or(Code::NotRegistered)?))
}

impl Attempt<'_> {
    fn answer_anew(self, registration: &Registration) -> Decision {
        let &Registration { id: registration_id, member_id, slot_id, .. } = registration;
        let event = RegistrationAnswersChanged {
            registration_id,
            member_id,
            slot_id,
            accepted_at: self.cx.accepted_at,
            facts: hash(self.facts.as_ref()),
        };
        let outcome = self.outcome(registration);
        let events = vec![Event::RegistrationAnswersChanged(event)];
        Decision { events, result: Ok(to_json(&outcome)), facts: self.facts }
    }
}
