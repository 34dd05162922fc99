//! A request for a command.

use domain::actor::Actor;
use domain::command::Command;
use domain::id::CommandId;
use poem::{FromRequest, Request, RequestBody, Result};
use poem_openapi::registry::{MetaRequest, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

use crate::auth::{Admin, Caller};
use crate::body::{JsonBody, Readable};
use crate::context::Context;
use crate::idempotency::WriteOptions;
use crate::problem::Problem;
use crate::submit::{Submission, Submitted};

/// A request for a command: its body and its options.
#[derive(Debug)]
pub struct Write<T> {
    cx: Context,
    asked: WriteOptions,
    body: JsonBody<T>,
}

impl<T> Write<T> {
    /// Submits, for `actor`, the command that `command` makes from the body.
    pub async fn submit<C: Command>(
        self,
        actor: impl Into<Actor>,
        command: impl FnOnce(T) -> Result<C, Problem>,
    ) -> Result<Submitted<C>, Problem> {
        let Self { cx, asked, body } = self;
        let command = command(body.value)?;
        let submission = Submission { actor: actor.into(), asked, body_hash: body.hash };
        cx.submit(submission, |_| command).await
    }

    /// The same for a command that creates something. The command's id becomes the id of what it
    /// creates.
    pub async fn create<C: Command>(
        self,
        actor: impl Into<Actor>,
        check: impl FnOnce(&T) -> Result<(), Problem>,
        command: impl FnOnce(CommandId, T) -> C,
    ) -> Result<Submitted<C>, Problem> {
        let Self { cx, asked, body } = self;
        check(&body.value)?;
        let submission = Submission { actor: actor.into(), asked, body_hash: body.hash };
        cx.submit(submission, |id| command(id, body.value)).await
    }
}

impl From<Admin> for Actor {
    fn from(admin: Admin) -> Self {
        admin.0
    }
}

impl From<Caller> for Actor {
    fn from(caller: Caller) -> Self {
        caller.0
    }
}

impl<'a, T: Readable> ApiExtractor<'a> for Write<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];

    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <JsonBody<T> as ApiExtractor<'a>>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        <JsonBody<T> as ApiExtractor<'a>>::request_meta()
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> Result<Self> {
        let cx = request.data::<Context>().cloned().ok_or_else(Problem::internal)?;
        let asked = <WriteOptions as FromRequest>::from_request(request, body).await?;
        let body = <JsonBody<T> as ApiExtractor<'a>>::from_request(request, body, options).await?;
        Ok(Self { cx, asked, body })
    }
}
