//! Registrations: a member's own, and those of a drive for organisers.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

use domain::drive;
use domain::drive::registration::questions::Answers;
use domain::drive::registration::{
    AddRegistration, MAX_REASON, Register, Registration, RegistrationState, RemoveRegistration, Withdraw,
    reason_fault,
};
use domain::id::{DriveId, MemberId, RegistrationId, SlotId};
use domain::refusal::{Code, Refusal};
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::store::registrations::{self, After};
use shared::store::{accounts, drives, members};
use uuid::Uuid;

use super::Tags;
use crate::auth::{Admin, Caller};
use crate::body::JsonBody;
use crate::context::Context;
use crate::idempotency::WriteOptions;
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::schema::Word;
use crate::submit::{Submission, Submitted};
use crate::timestamp::At;
use crate::write::Write;

/// A registration for a drive.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "slot_id": "019ab000-0000-7000-8000-000000005101",
    "answers": { "shirt_size": "M" },
}))]
struct RegistrationRequest {
    /// The slot. It may be absent if the drive has only one.
    slot_id: Option<SlotId>,
    /// Answers to the drive's questions, by the names of the questions.
    answers: Option<Answers>,
    /// The member for whom a service registers. A member leaves it out.
    member_id: Option<MemberId>,
}

/// A withdrawal from a drive.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "member_id": "019ab000-0000-7000-8000-00000000a001" }))]
struct WithdrawalRequest {
    /// The member for whom a service withdraws. A member leaves it out.
    member_id: Option<MemberId>,
}

/// A registration of the caller.
#[derive(Debug, Serialize, JsonSchema)]
struct OwnRegistration {
    registration_id: RegistrationId,
    drive_id: DriveId,
    /// The drive's title.
    title: String,
    /// The drive's status.
    drive_status: drive::Status,
    slot_id: SlotId,
    state: RegistrationState,
    /// How many places were taken, including this one, when it was confirmed.
    place: Option<u32>,
    /// Its position in the waiting list of its slot now, from 1; null if it does not wait.
    waitlist_position: Option<u64>,
    registered_at: At,
    /// When the participant came; null if they have not come or have no place.
    checked_in_at: Option<At>,
}

/// The caller's registrations.
#[derive(Debug)]
pub struct RegistrationRoutes;

#[OpenApi(tag = "Tags::Registrations")]
impl RegistrationRoutes {
    /// Command `register`. The outcome's `state` is `confirmed` (with the `place`) or `waitlisted`
    /// (with the `waitlist_position`). Refusals: `drive-full`, `not-eligible` with the verdict,
    /// `already-registered`, `drive-not-open`, `drive-closed`, …
    #[oai(path = "/drives/:drive_id/registrations", method = "post", operation_id = "register")]
    async fn register(
        &self,
        caller: Caller,
        drive_id: Path<Uuid>,
        write: Write<RegistrationRequest>,
    ) -> Result<Submitted<Register>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command = |RegistrationRequest { slot_id, answers, member_id }| {
            let (member_id, answers) = (caller.on_behalf_of(member_id)?, answers.unwrap_or_default());
            Ok(Register { drive_id, member_id, slot_id, answers })
        };
        write.submit(caller, command).await
    }

    /// Withdraw
    ///
    /// Command `withdraw`. A place that becomes free goes to the head of the waiting list in the
    /// same decision.
    #[oai(
        path = "/drives/:drive_id/registrations/mine/withdrawal",
        method = "post",
        operation_id = "withdraw"
    )]
    async fn withdraw(
        &self,
        caller: Caller,
        drive_id: Path<Uuid>,
        write: Write<WithdrawalRequest>,
    ) -> Result<Submitted<Withdraw>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command = |WithdrawalRequest { member_id }| {
            Ok(Withdraw { drive_id, member_id: caller.on_behalf_of(member_id)? })
        };
        write.submit(caller, command).await
    }

    /// List my registrations
    #[oai(path = "/me/registrations", method = "get", operation_id = "list-own-registrations")]
    async fn list(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        reading: Reading,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<OwnRegistration>>, Problem> {
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
                registration_id: registration.id,
                drive_id: *drive_id,
                title: view.drive.definition.title.clone(),
                drive_status: view.drive.status,
                slot_id: registration.slot_id,
                state: registration.state,
                place: registration.place,
                waitlist_position: positions.get(drive_id).copied(),
                registered_at: At(registration.registered_at),
                checked_in_at: registration.checked_in_at.map(At),
            });
        }
        Ok(Tagged::page(fresh(&Page { items, next_cursor }), reading))
    }
}

/// A registration for a drive.
#[derive(Debug, Serialize, JsonSchema)]
struct DriveRegistration {
    registration_id: RegistrationId,
    member_id: MemberId,
    email: Option<String>,
    name: Option<String>,
    slot_id: SlotId,
    state: RegistrationState,
    /// How many places were taken, including this one, when it was confirmed.
    place: Option<u32>,
    /// Its position in the waiting list of its slot now, from 1; null if it does not wait.
    waitlist_position: Option<u64>,
    registered_at: At,
    /// When the participant came; null if they have not come or have no place.
    checked_in_at: Option<At>,
}

/// A registration that an organiser adds.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "email": "asha@example.org",
    "slot_id": "019ab000-0000-7000-8000-000000005101",
    "reason": "She called the office in time",
}))]
struct AddRequest {
    /// The member. Give this or `email`.
    member_id: Option<MemberId>,
    /// The member's e-mail address. Give this or `member_id`.
    email: Option<String>,
    /// The slot. It may be absent if the drive has only one.
    slot_id: Option<SlotId>,
    /// The reason. It is kept with the decision, not in the log.
    #[schemars(length(min = 1, max = MAX_REASON))]
    reason: String,
}

/// The removal of a registration.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "reason": "She asked for it by phone" }))]
struct RemovalRequest {
    /// The reason. It is kept with the decision, not in the log.
    #[schemars(length(min = 1, max = MAX_REASON))]
    reason: String,
}

/// All registrations of a drive.
#[derive(Debug)]
pub struct AdminRegistrationRoutes;

#[OpenApi(tag = "Tags::Registrations")]
impl AdminRegistrationRoutes {
    /// List a drive's registrations
    ///
    /// In the order in which they were made. Without `state`, the list has confirmed and waitlisted
    /// registrations. A registration that stays in these states is on exactly one page, even if
    /// decisions happen between two pages.
    #[oai(path = "/drives/:drive_id/registrations", method = "get", operation_id = "list-registrations")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        drive_id: Path<Uuid>,
        state: Query<Option<Word<RegistrationState>>>,
        /// Text to find in the member's name or e-mail address.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<DriveRegistration>>, Problem> {
        let (limit, drive_id) = (page::limit(limit.0)?, DriveId(drive_id.0));
        let states = match state.0 {
            Some(Word(state)) => vec![state],
            None => vec![RegistrationState::Confirmed, RegistrationState::Waitlisted],
        };
        let text = page::search_text(q.0)?;
        let pages = page::List::new(&cx.key, "registrations", &(drive_id, &states, &text));
        let after = pages.position::<After>(cursor.0.as_deref())?;
        // A snapshot: the states and the positions in the waiting list are of the same moment.
        let tx = cx.db.snapshot().await?;
        let mut found =
            registrations::of_drive(&tx, drive_id, &states, text.as_deref(), after, limit + 1).await?;
        if found.is_empty() && drives::find(&tx, drive_id).await?.is_none() {
            return Err(Refusal::new(Code::DriveNotFound).into());
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
                registration_id: registration.id,
                member_id: registration.member_id,
                email: person.as_ref().map(|person| person.email.clone()),
                name: person.map(|person| person.profile.name),
                slot_id: registration.slot_id,
                state: registration.state,
                place: registration.place,
                waitlist_position: positions.get(&registration.member_id).copied(),
                registered_at: At(registration.registered_at),
                checked_in_at: registration.checked_in_at.map(At),
            }
        };
        let items = found.into_iter().map(item).collect();
        Ok(Tagged::page(fresh(&Page { items, next_cursor }), reading))
    }

    /// Add a registration
    ///
    /// Command `add-registration`. The registration window and the rules do not apply to an
    /// organiser; the verdict is in the outcome. The number of places does apply. A member who
    /// waits gets a place if one is free. So an organiser can give places by hand after the waiting
    /// list has stopped moving by itself.
    #[oai(path = "/drives/:drive_id/registrations", method = "post", operation_id = "add-registration")]
    async fn add(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: WriteOptions,
        drive_id: Path<Uuid>,
        body: JsonBody<AddRequest>,
    ) -> Result<Submitted<AddRegistration>, Problem> {
        let AddRequest { member_id, email, slot_id, reason } = body.value;
        let reason = checked_reason(reason)?;
        let member_id = match (member_id, email) {
            (Some(member_id), None) => member_id,
            (None, Some(email)) => {
                let unknown = || Problem::from(Refusal::new(Code::MemberNotFound));
                accounts::by_email(&cx.db.read, &email).await?.ok_or_else(unknown)?.id
            }
            _ => return Err(Problem::invalid_body().detail("give either member_id or email")),
        };
        let command = AddRegistration { drive_id: DriveId(drive_id.0), member_id, slot_id, reason };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Remove a registration
    ///
    /// Command `remove-registration`. A place that becomes free goes to the head of the waiting
    /// list in the same decision.
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/removal",
        method = "post",
        operation_id = "remove-registration"
    )]
    async fn remove(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        write: Write<RemovalRequest>,
    ) -> Result<Submitted<RemoveRegistration>, Problem> {
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command = |RemovalRequest { reason }| {
            Ok(RemoveRegistration { drive_id, registration_id, reason: checked_reason(reason)? })
        };
        write.submit(admin, command).await
    }
}

/// Checks a reason: one line that is not blank and not too long.
pub(super) fn checked_reason(reason: String) -> Result<String, Problem> {
    match reason_fault(&reason) {
        Some(fault) => Err(Problem::invalid_body().errors(vec![fault])),
        None => Ok(reason),
    }
}
