//! Eligibility checks.

use domain::eligibility::CheckEligibility;
use domain::id::{DriveId, MemberId};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::Tags;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::submit::Submitted;
use crate::write::Write;

/// A check of a member's eligibility.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "member_id": "019ab000-0000-7000-8000-00000000a001" }))]
struct EligibilityCheckRequest {
    /// The member for whom a service checks. A member leaves it out.
    member_id: Option<MemberId>,
}

/// Eligibility.
#[derive(Debug)]
pub struct EligibilityRoutes;

#[OpenApi(tag = "Tags::Registrations")]
impl EligibilityRoutes {
    /// Check eligibility
    ///
    /// Command `check-eligibility`. Evaluates the drive's rules without registering. The outcome is
    /// the verdict.
    #[oai(path = "/drives/:drive_id/eligibility-checks", method = "post", operation_id = "check-eligibility")]
    async fn check(
        &self,
        caller: Caller,
        drive_id: Path<Uuid>,
        write: Write<EligibilityCheckRequest>,
    ) -> Result<Submitted<CheckEligibility>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command = |EligibilityCheckRequest { member_id }| {
            Ok(CheckEligibility { drive_id, member_id: caller.on_behalf_of(member_id)? })
        };
        write.submit(caller, command).await
    }
}
