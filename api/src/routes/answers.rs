//! Answers to a drive's questions, after registering.

use domain::drive::registration::ChangeAnswers;
use domain::drive::registration::questions::Answers;
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

/// All answers to a drive's questions.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "answers": { "shirt_size": "L" } }))]
struct AnswersRequest {
    /// Answers, by the names of the questions. Null means no answer.
    answers: Answers,
    /// The member for whom a service answers. A member leaves it out.
    member_id: Option<MemberId>,
}

/// Answers to a drive's questions.
#[derive(Debug)]
pub struct AnswerRoutes;

#[OpenApi(tag = "Tags::Registrations")]
impl AnswerRoutes {
    /// Change the answers
    ///
    /// Command `change-answers`. The answers replace all earlier ones. A participant who holds or
    /// awaits a place can change them until registration closes. Refusals: `answers-invalid`,
    /// `not-registered`, `drive-closed`, …
    #[oai(
        path = "/drives/:drive_id/registrations/mine/answers",
        method = "put",
        operation_id = "change-answers"
    )]
    async fn change(
        &self,
        caller: Caller,
        drive_id: Path<Uuid>,
        write: Write<AnswersRequest>,
    ) -> Result<Submitted<ChangeAnswers>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command = |AnswersRequest { answers, member_id }| {
            Ok(ChangeAnswers { drive_id, member_id: caller.on_behalf_of(member_id)?, answers })
        };
        write.submit(caller, command).await
    }
}
