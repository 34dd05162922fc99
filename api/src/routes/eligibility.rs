//! Eligibility checks.

use domain::eligibility::CheckEligibility;
use domain::id::DriveId;
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use crate::asked::Asked;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::context::Context;
use crate::problem::Problem;
use crate::submit::{Submission, Submitted};

/// For whom to check.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Check {
    /// For services: the member. Members check for themselves.
    member_id: Option<Uuid>,
}

/// Eligibility.
#[derive(Debug)]
pub struct EligibilityRoutes;

#[OpenApi]
impl EligibilityRoutes {
    /// Check eligibility
    ///
    /// Command `check-eligibility`: what the drive's rules say, without registering. Its outcome is the verdict.
    #[oai(path = "/drives/:drive_id/eligibility-checks", method = "post", operation_id = "check-eligibility")]
    async fn check(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Check>,
    ) -> Result<Submitted, Problem> {
        let member_id = caller.on_behalf_of(body.value.member_id)?;
        let command = CheckEligibility { drive_id: DriveId(drive_id.0), member_id };
        cx.submit(Submission { actor: caller.0, asked, body_hash: body.hash }, |_| command).await
    }
}
