//! Answers to a drive's questions, after registering.

use domain::drive::registration::ChangeAnswers;
use domain::drive::registration::questions::Answers;
use domain::id::DriveId;
use poem::web::Data;
use poem_openapi::param::Path;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use uuid::Uuid;

use crate::asked::Asked;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::context::Context;
use crate::problem::Problem;
use crate::submit::{Submission, Submitted};

/// All answers to a drive's questions.
#[derive(Debug, Object)]
#[oai(deny_unknown_fields)]
struct Answering {
    /// By the questions' names; null is no answer.
    answers: Any<Answers>,
    /// For services: the member. Members answer for themselves.
    member_id: Option<Uuid>,
}

/// Answers to a drive's questions.
#[derive(Debug)]
pub struct AnswerRoutes;

#[OpenApi]
impl AnswerRoutes {
    /// Change the answers
    ///
    /// Command `change-answers`: the answers replace all that were given before. They can be
    /// changed until registration closes, by those who hold or await a place. Refusals:
    /// `answers-invalid`, `not-registered`, `drive-closed`, …
    #[oai(
        path = "/drives/:drive_id/registrations/mine/answers",
        method = "put",
        operation_id = "change-answers"
    )]
    async fn change(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Answering>,
    ) -> Result<Submitted, Problem> {
        let Answering { answers, member_id } = body.value;
        let member_id = caller.on_behalf_of(member_id)?;
        let command = ChangeAnswers { drive_id: DriveId(drive_id.0), member_id, answers: answers.0 };
        cx.submit(Submission { actor: caller.0, asked, body_hash: body.hash }, |_| command).await
    }
}
