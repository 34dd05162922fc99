//! Registrations: members' own, and all of a drive's for organisers.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

use domain::drive::registration::questions::Answers;
use domain::drive::registration::{
    AddRegistration, Register, Registration, RegistrationState, RemoveRegistration, Withdraw, reason_fault,
};
use domain::id::{DriveId, MemberId, RegistrationId, SlotId};
use domain::refusal::Code;
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::types::Any;
use poem_openapi::{Enum, Object, OpenApi};
use shared::store::registrations::{self, After};
use shared::store::{accounts, drives, members};
use uuid::Uuid;

use crate::asked::Asked;
use crate::at::At;
use crate::auth::{Admin, Caller};
use crate::body::JsonBody;
use crate::context::Context;
use crate::page;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::submit::{Submission, Submitted};

/// Where a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "RegistrationState")]
enum State {
    Confirmed,
    Waitlisted,
    Withdrawn,
    Removed,
}

/// What a member gives to register.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Registering {
    /// Which slot; may be left out when there is only one.
    slot_id: Option<Uuid>,
    /// Answers to the drive's questions, by their names.
    answers: Option<Any<Answers>>,
    /// For services: the member. Members register themselves.
    member_id: Option<Uuid>,
}

/// Who withdraws.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Withdrawing {
    /// For services: the member. Members withdraw for themselves.
    member_id: Option<Uuid>,
}

/// One of the own registrations.
#[derive(Debug, Object)]
struct OwnRegistration {
    registration_id: Uuid,
    drive_id: Uuid,
    /// The drive's title.
    title: String,
    /// The drive's status.
    drive_status: String,
    slot_id: Uuid,
    state: State,
    /// How many places were taken with this one, when it was confirmed.
    place: Option<u32>,
    /// How many wait up to this one, now.
    waitlist_position: Option<u64>,
    registered_at: At,
    /// When they came, if they hold a place and came.
    checked_in_at: Option<At>,
}

/// A page of the own registrations.
#[derive(Debug, Object)]
struct OwnRegistrationList {
    items: Vec<OwnRegistration>,
    /// For the parameter `cursor`; null at the end.
    next_cursor: Option<String>,
}

/// The own registrations.
#[derive(Debug)]
pub struct RegistrationRoutes;

#[OpenApi]
impl RegistrationRoutes {
    /// Register
    ///
    /// Command `register`. The outcome's `state` is `confirmed` (with the `place`) or `waitlisted` (with the
    /// `waitlist_position`). Refusals: `drive-full`, `not-eligible` with the verdict, `already-registered`,
    /// `drive-not-open`, `drive-closed`, …
    #[oai(path = "/drives/:drive_id/registrations", method = "post", operation_id = "register")]
    async fn register(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Registering>,
    ) -> Result<Submitted, Problem> {
        let Registering { slot_id, answers, member_id } = body.value;
        let command = Register {
            drive_id: DriveId(drive_id.0),
            member_id: caller.on_behalf_of(member_id)?,
            slot_id: slot_id.map(SlotId),
            answers: answers.map(|any| any.0).unwrap_or_default(),
        };
        cx.submit(Submission { actor: caller.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Withdraw
    ///
    /// Command `withdraw`. A place that becomes free goes to the head of the waiting list in the same decision.
    #[oai(path = "/drives/:drive_id/registrations/mine", method = "delete", operation_id = "withdraw")]
    async fn withdraw(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Withdrawing>,
    ) -> Result<Submitted, Problem> {
        let member_id = caller.on_behalf_of(body.value.member_id)?;
        let command = Withdraw { drive_id: DriveId(drive_id.0), member_id };
        cx.submit(Submission { actor: caller.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// List the own registrations
    #[oai(path = "/me/registrations", method = "get", operation_id = "list-own-registrations")]
    async fn list(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        reading: Reading,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<OwnRegistrationList>, Problem> {
        let (member_id, limit) = (caller.person()?, page::limit(limit.0)?);
        let pages = page::List::new(&cx.key, "own-registrations", &member_id);
        let after = pages.position(cursor.0.as_deref())?;
        let mut found = registrations::of_member(&cx.db.read, member_id, after, limit + 1).await?;
        let more = page::cut(&mut found, limit);
        let next_cursor = found.last().filter(|_| more).map(|(drive_id, _)| pages.cursor(drive_id));
        let drives = drives::by_ids(&cx.db.read, found.iter().map(|(drive_id, _)| *drive_id)).await?;
        let waiting = found.iter().filter(|(_, of)| of.state == RegistrationState::Waitlisted);
        let positions =
            registrations::waitlist_positions(&cx.db.read, member_id, waiting.map(|(drive_id, _)| *drive_id))
                .await?;
        let mut items = Vec::with_capacity(found.len());
        for (drive_id, registration) in &found {
            let Some(view) = drives.iter().find(|view| view.id == *drive_id) else { continue };
            items.push(OwnRegistration {
                registration_id: registration.id.0,
                drive_id: drive_id.0,
                title: view.drive.definition.title.clone(),
                drive_status: view.drive.status.as_str().to_owned(),
                slot_id: registration.slot_id.0,
                state: registration.state.into(),
                place: registration.place,
                waitlist_position: positions.get(drive_id).copied(),
                registered_at: At(registration.registered_at),
                checked_in_at: registration.checked_in_at.map(At),
            });
        }
        Ok(Tagged::page(fresh(&OwnRegistrationList { items, next_cursor }), reading))
    }
}

/// One of a drive's registrations.
#[derive(Debug, Object)]
struct DriveRegistration {
    registration_id: Uuid,
    member_id: Uuid,
    email: Option<String>,
    name: Option<String>,
    slot_id: Uuid,
    state: State,
    /// How many places were taken with this one, when it was confirmed.
    place: Option<u32>,
    /// Where it stands in the waiting list of its slot now, from 1; null if it does not wait.
    waitlist_position: Option<u64>,
    registered_at: At,
    /// When they came, if they hold a place and came.
    checked_in_at: Option<At>,
}

/// A page of a drive's registrations.
#[derive(Debug, Object)]
struct DriveRegistrationList {
    items: Vec<DriveRegistration>,
    /// For the parameter `cursor`; null at the end.
    next_cursor: Option<String>,
}

/// Whom to add.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Adding {
    /// The member, or …
    member_id: Option<Uuid>,
    /// … their address.
    email: Option<String>,
    /// Which slot; may be left out when there is only one.
    slot_id: Option<Uuid>,
    /// Why. Kept with the decision, not in the log.
    reason: String,
}

/// Why someone is removed.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Removing {
    /// Kept with the decision, not in the log.
    reason: String,
}

/// All registrations of a drive.
#[derive(Debug)]
pub struct AdminRegistrationRoutes;

#[OpenApi]
impl AdminRegistrationRoutes {
    /// List a drive's registrations
    ///
    /// In the order in which they were made. Without `state`: those that are confirmed and those that wait. A registration
    /// that stays in these states is on exactly one page, even if there are decisions between two pages.
    #[oai(path = "/drives/:drive_id/registrations", method = "get", operation_id = "list-registrations")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        drive_id: Path<Uuid>,
        state: Query<Option<State>>,
        /// In the member's name or e-mail address.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<DriveRegistrationList>, Problem> {
        let (limit, drive_id) = (page::limit(limit.0)?, DriveId(drive_id.0));
        let states = match state.0 {
            Some(state) => vec![state.into()],
            None => vec![RegistrationState::Confirmed, RegistrationState::Waitlisted],
        };
        let text = page::search_text(q.0)?;
        let pages = page::List::new(&cx.key, "registrations", &(drive_id, &states, &text));
        let after = pages.position::<After>(cursor.0.as_deref())?;
        // Who waits, and where in the waiting list, is of one moment.
        let tx = cx.db.snapshot().await?;
        let mut found =
            registrations::of_drive(&tx, drive_id, &states, text.as_deref(), after, limit + 1).await?;
        if found.is_empty() && drives::find(&tx, drive_id).await?.is_none() {
            return Err(domain::refusal::Refusal::new(Code::DriveNotFound).into());
        }
        let more = page::cut(&mut found, limit);
        let next_cursor = found.last().filter(|_| more).map(|last| pages.cursor(&After::from(last)));
        let waiting = found.iter().filter(|one| one.state == RegistrationState::Waitlisted);
        let positions =
            registrations::waitlist_positions_of(&tx, drive_id, waiting.map(|one| one.member_id)).await?;
        let mut people =
            members::by_ids(&tx, found.iter().map(|registration| registration.member_id)).await?;
        tx.commit().await?;
        let item = |registration: Registration| {
            let person = people.remove(&registration.member_id);
            DriveRegistration {
                registration_id: registration.id.0,
                member_id: registration.member_id.0,
                email: person.as_ref().map(|person| person.email.clone()),
                name: person.map(|person| person.profile.name),
                slot_id: registration.slot_id.0,
                state: registration.state.into(),
                place: registration.place,
                waitlist_position: positions.get(&registration.member_id).copied(),
                registered_at: At(registration.registered_at),
                checked_in_at: registration.checked_in_at.map(At),
            }
        };
        let items = found.into_iter().map(item).collect();
        Ok(Tagged::page(fresh(&DriveRegistrationList { items, next_cursor }), reading))
    }

    /// Add someone
    ///
    /// Command `add-registration`. Window and rules do not hold an organiser up (the verdict is in
    /// the outcome); places do, as for everyone. Someone who waits gets a place if one is free: so
    /// an organiser gives places by hand after the waiting list has stopped moving by itself.
    #[oai(path = "/drives/:drive_id/registrations", method = "post", operation_id = "add-registration")]
    async fn add(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Adding>,
    ) -> Result<Submitted, Problem> {
        let Adding { member_id, email, slot_id, reason } = body.value;
        let reason = checked_reason(reason)?;
        let member_id = match (member_id, email) {
            (Some(member_id), None) => MemberId(member_id),
            (None, Some(email)) => {
                let unknown = || Problem::from(domain::refusal::Refusal::new(Code::MemberNotFound));
                accounts::by_email(&cx.db.read, &email).await?.ok_or_else(unknown)?.id
            }
            _ => return Err(Problem::invalid_body().detail("give either member_id or email")),
        };
        let drive_id = DriveId(drive_id.0);
        let command = AddRegistration { drive_id, member_id, slot_id: slot_id.map(SlotId), reason };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Remove a registration
    ///
    /// Command `remove-registration`. A place that becomes free goes to the head of the waiting list in the same
    /// decision.
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id",
        method = "delete",
        operation_id = "remove-registration"
    )]
    async fn remove(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        body: JsonBody<Removing>,
    ) -> Result<Submitted, Problem> {
        let reason = checked_reason(body.value.reason)?;
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command = RemoveRegistration { drive_id, registration_id, reason };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }
}

/// A reason: one line that says something.
pub(super) fn checked_reason(reason: String) -> Result<String, Problem> {
    match reason_fault(&reason) {
        Some(fault) => Err(Problem::invalid_body().errors(vec![fault])),
        None => Ok(reason),
    }
}
