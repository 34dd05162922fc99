//! Who has come: organisers check in those who hold a place.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

use chrono::{DateTime, Utc};
use domain::drive::registration::{CheckIn, UndoCheckIn};
use domain::id::{DriveId, RegistrationId};
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use crate::asked::Asked;
use crate::auth::Admin;
use crate::body::{JsonBody, Nothing};
use crate::context::Context;
use crate::problem::Problem;
use crate::submit::{Submission, Submitted};

/// Where and when somebody came.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Coming {
    /// When they came. Left out: now. An instant in the future, or before the registration, is moved to now or to the registration.
    at: Option<DateTime<Utc>>,
    /// The gate or desk: one line, at most 100 bytes. The drive's log says it, so it is no place for personal data.
    gate: Option<String>,
    /// The device that read the ticket: one line, at most 100 bytes. Kept with the decision; the log has its salted hash.
    device: Option<String>,
}

/// Check-ins.
#[derive(Debug)]
pub struct CheckInRoutes;

#[OpenApi]
impl CheckInRoutes {
    /// Check somebody in
    ///
    /// Command `check-in`. The outcome has `checked_in_at`, and `repeated` if they had come already: then the first time
    /// stays. Refusals: `not-confirmed`, `registration-not-found`, `drive-cancelled`, …
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/check-in",
        method = "post",
        operation_id = "check-in"
    )]
    async fn check_in(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        body: JsonBody<Coming>,
    ) -> Result<Submitted, Problem> {
        let Coming { at, gate, device } = body.value;
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command = CheckIn { drive_id, registration_id, at, gate, device };
        let faults = command.faults();
        if !faults.is_empty() {
            return Err(Problem::invalid_body().errors(faults));
        }
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Take a check-in back
    ///
    /// Command `undo-check-in`. Refusals as for `check-in`.
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/check-in/undo",
        method = "post",
        operation_id = "undo-check-in"
    )]
    async fn undo(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        body: JsonBody<Nothing>,
    ) -> Result<Submitted, Problem> {
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command = UndoCheckIn { drive_id, registration_id };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }
}
