//! What organisers do to waiting lists by hand.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

use domain::drive::registration::MoveInWaitingList;
use domain::id::{DriveId, RegistrationId};
use domain::refusal::FieldError;
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use super::registration::checked_reason;
use crate::asked::Asked;
use crate::auth::Admin;
use crate::body::JsonBody;
use crate::context::Context;
use crate::problem::Problem;
use crate::submit::{Submission, Submitted};

/// The new position of a registration in its waiting list, and the reason.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Moving {
    /// From 1, which is the head. Beyond the end of the list means at its end.
    position: u32,
    /// Kept with the decision; the log has its salted hash.
    reason: String,
}

/// Waiting lists.
#[derive(Debug)]
pub struct WaitingListRoutes;

#[OpenApi]
impl WaitingListRoutes {
    /// Move somebody within the waiting list
    ///
    /// Command `move-in-waiting-list`. Those between the old and the new position move by one.
    /// Refusals: `not-waiting`, `registration-not-found`, …
    #[oai(
        path = "/drives/:drive_id/registrations/:registration_id/position",
        method = "put",
        operation_id = "move-in-waiting-list"
    )]
    async fn reorder(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        registration_id: Path<Uuid>,
        body: JsonBody<Moving>,
    ) -> Result<Submitted, Problem> {
        let Moving { position, reason } = body.value;
        if position == 0 {
            let error = FieldError::new("position", "the first position is 1");
            return Err(Problem::invalid_body().errors(vec![error]));
        }
        let (drive_id, registration_id) = (DriveId(drive_id.0), RegistrationId(registration_id.0));
        let command =
            MoveInWaitingList { drive_id, registration_id, position, reason: checked_reason(reason)? };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }
}
