//! The status of a command.

use domain::id::CommandId;
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::Tags;
use crate::auth::Caller;
use crate::context::Context;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::submit::CommandStatus;

/// Commands.
#[derive(Debug)]
pub struct CommandRoutes;

#[OpenApi(tag = "Tags::Commands")]
impl CommandRoutes {
    /// Read the status of a command
    ///
    /// For the command's actor, or an admin. The status is `accepted` until the command is decided.
    /// A command that was answered with 202 is never unknown. The decision about an eligibility
    /// check is kept for 7 days. After that the answer is 410 `forgotten`.
    #[oai(path = "/commands/:command_id", method = "get", operation_id = "read-command")]
    async fn read(
        &self,
        cx: Data<&Context>,
        caller: Caller,
        command_id: Path<Uuid>,
        reading: Reading,
    ) -> Result<Tagged<CommandStatus>, Problem> {
        let status = cx.status(CommandId(command_id.0), caller.0).await?;
        Ok(Tagged::new(fresh(&status), reading))
    }
}
