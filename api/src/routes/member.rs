//! Members, as organisers see them.

use domain::attribute::Attributes;
use domain::id::MemberId;
use domain::member::ImportMembers;
use domain::text::with_causes;
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::Query;
use schemars::JsonSchema;
use serde::Serialize;
use shared::store::members::{self, Listed};

use super::Tags;
use crate::auth::Admin;
use crate::body::CsvBody;
use crate::context::Context;
use crate::idempotency::WriteOptions;
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::submit::{Submission, Submitted};

/// A member.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Member {
    /// The id of the member's account.
    member_id: MemberId,
    /// The member's e-mail address.
    email: String,
    /// The member's name.
    name: String,
    /// The attributes that rules read.
    attributes: Attributes,
}

impl From<Listed> for Member {
    fn from(listed: Listed) -> Self {
        Self {
            member_id: listed.id,
            email: listed.email,
            name: listed.profile.name,
            attributes: listed.profile.attributes,
        }
    }
}

/// People.
#[derive(Debug)]
pub struct AdminMemberRoutes;

#[OpenApi(tag = "Tags::Members")]
impl AdminMemberRoutes {
    /// Import members
    ///
    /// Command `import-members`. The first row names the columns: `email`, `name`, and one per
    /// attribute. A header may give the type of its cells (`roll:text`, `marks:number`, `fit:bool`,
    /// `born:date`). Muster understands commas, semicolons, tabs, UTF-16 and a `charset`. It
    /// imports good rows, and reports bad ones by line. The outcome's numbers add up: `rows` =
    /// `imported` + `updated` + `unchanged` + `rejected_count`. `reasons` has each reason once, and
    /// `columns` says how each column was read.
    #[oai(path = "/members/import", method = "post", operation_id = "import-members")]
    async fn import(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: WriteOptions,
        body: CsvBody,
    ) -> Result<Submitted<ImportMembers>, Problem> {
        let CsvBody { bytes, hash, charset } = body;
        let files = cx.files.as_ref().ok_or_else(Problem::internal)?;
        let file = files.put(bytes).await.map_err(|error| {
            tracing::error!(error = %with_causes(&error), "could not store an upload");
            Problem::internal().detail("the file could not be stored")
        })?;
        let command = ImportMembers { imported_by: admin.0.id, file, charset };
        cx.submit(Submission { actor: admin.0, asked, body_hash: hash }, |_| command).await
    }

    /// List members
    #[oai(path = "/members", method = "get", operation_id = "list-members")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        /// Text to find in the name or the e-mail address.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<Member>>, Problem> {
        let (text, limit) = (page::search_text(q.0)?, page::limit(limit.0)?);
        let pages = page::List::new(&cx.key, "members", &text);
        let after = pages.position::<MemberId>(cursor.0.as_deref())?;
        // A page of all members is the next part of an index. A search reads every name, so it is a
        // report.
        let db = if text.is_some() { &cx.db.reports } else { &cx.db.read };
        let found = members::list(db, text.as_deref(), after, limit + 1).await?;
        let list = Page::of(found, limit, |last| pages.cursor(&last.id), Member::from);
        Ok(Tagged::page(fresh(&list), reading))
    }
}
