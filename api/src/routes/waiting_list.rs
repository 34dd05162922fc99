//! Changes of waiting lists by organisers.

use domain::drive::registration::{MAX_REASON, MoveInWaitingList};
use domain::id::{DriveId, RegistrationId};
use domain::refusal::FieldError;
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Tags;
use super::registration::checked_reason;
use crate::auth::Admin;
use crate::problem::Problem;
use crate::submit::Submitted;
use crate::write::Write;

/// The new position of a registration in its waiting list, and the reason.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "position": 1, "reason": "She was first in the queue on paper" }))]
struct PositionRequest {
    /// The new position. 1 is the head. A position beyond the end means the end.
    #[schemars(range(min = 1))]
    position: u32,
    /// The reason. It is kept with the decision; the log has its salted hash.
    #[schemars(length(min = 1, max = MAX_REASON))]
    reason: String,
}

/// Waiting lists.
#[derive(Debug)]
pub struct WaitingListRoutes;

#[OpenApi(tag = "Tags::WaitingLists")]
impl WaitingListRoutes {
    /// Move a registration in the waiting list
    ///
    /// Command `move-in-waiting-list`. The registrations between the old and the new position move
    /// by one. Refusals: `not-waiting`, `registration-not-found`, …
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/position",
        method = "put",
        operation_id = "move-in-waiting-list"
    )]
    async fn reorder(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        write: Write<PositionRequest>,
    ) -> Result<Submitted<MoveInWaitingList>, Problem> {
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command = |PositionRequest { position, reason }| {
            if position == 0 {
                return Err(Problem::invalid_body()
                    .errors(vec![FieldError::new("position", "the first position is 1")]));
            }
            let reason = checked_reason(reason)?;
            Ok(MoveInWaitingList { drive_id, registration_id, position, reason })
        };
        write.submit(admin, command).await
    }
}
