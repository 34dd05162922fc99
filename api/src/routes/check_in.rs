//! Check-ins: organisers note which participants with a place have come.

use domain::clock::Timestamp;
use domain::drive::registration::{CheckIn, MAX_GATE, UndoCheckIn};
use domain::id::{DriveId, RegistrationId};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Tags;
use crate::auth::Admin;
use crate::body::Nothing;
use crate::problem::Problem;
use crate::submit::Submitted;
use crate::write::Write;

/// When and where a participant came.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "gate": "North", "device": "scanner-2" }))]
struct CheckInRequest {
    /// When the participant came. Absent means now. A future instant becomes now. An instant before
    /// the registration becomes that of the registration.
    at: Option<Timestamp>,
    /// The gate or desk, on one line. It is in the drive's log, so it must not contain personal
    /// data.
    #[schemars(length(min = 1, max = MAX_GATE))]
    gate: Option<String>,
    /// The device that read the ticket, on one line. It is kept with the decision; the log has its
    /// salted hash.
    #[schemars(length(min = 1, max = MAX_GATE))]
    device: Option<String>,
}

/// Check-ins.
#[derive(Debug)]
pub struct CheckInRoutes;

#[OpenApi(tag = "Tags::CheckIn")]
impl CheckInRoutes {
    /// Check a participant in
    ///
    /// Command `check-in`. The outcome has `checked_in_at`. It has `repeated` if the participant
    /// had come already; the first time stays then. Refusals: `not-confirmed`,
    /// `registration-not-found`, `drive-cancelled`, …
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/check-in",
        method = "post",
        operation_id = "check-in"
    )]
    async fn check_in(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        write: Write<CheckInRequest>,
    ) -> Result<Submitted<CheckIn>, Problem> {
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command = |CheckInRequest { at, gate, device }| {
            let command = CheckIn { drive_id, registration_id, at, gate, device };
            Problem::unless_empty(command.faults())?;
            Ok(command)
        };
        write.submit(admin, command).await
    }

    /// Undo a check-in
    ///
    /// Command `undo-check-in`. The refusals are those of `check-in`.
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/check-in/undo",
        method = "post",
        operation_id = "undo-check-in"
    )]
    async fn undo(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        write: Write<Nothing>,
    ) -> Result<Submitted<UndoCheckIn>, Problem> {
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        write.submit(admin, |_| Ok(UndoCheckIn { drive_id, registration_id })).await
    }
}
