//! Members, as organisers see them.

use domain::id::MemberId;
use domain::member::ImportMembers;
use domain::text::with_causes;
use poem::web::Data;
use poem_openapi::param::Query;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use serde_json::Value;
use shared::store::members::{self, Listed};
use uuid::Uuid;

use crate::asked::Asked;
use crate::auth::Admin;
use crate::body::CsvBody;
use crate::context::Context;
use crate::page;
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::submit::{Submission, Submitted};

/// A person.
#[derive(Debug, Object)]
pub(super) struct Member {
    /// Their account.
    member_id: Uuid,
    /// Their address.
    email: String,
    /// Their name.
    name: String,
    /// What rules read.
    attributes: Any<Value>,
}

impl From<Listed> for Member {
    fn from(listed: Listed) -> Self {
        Self {
            member_id: listed.id.0,
            email: listed.email,
            name: listed.profile.name,
            attributes: Any(serde_json::to_value(&listed.profile.attributes).unwrap_or_default()),
        }
    }
}

/// A page of people.
#[derive(Debug, Object)]
struct MemberList {
    items: Vec<Member>,
    /// For the parameter `cursor`; null at the end.
    next_cursor: Option<String>,
}

/// People.
#[derive(Debug)]
pub struct AdminMemberRoutes;

#[OpenApi]
impl AdminMemberRoutes {
    /// Import members
    ///
    /// Command `import-members`. The first row names the columns: `email`, `name`, and one per attribute; a header may say what its
    /// cells are (`roll:text`, `marks:number`, `fit:bool`, `born:date`). Commas, semicolons, tabs, UTF-16 and a `charset` are
    /// understood. Good rows go in, bad ones are reported by line. The outcome's numbers add up: `rows` = `imported` + `updated` +
    /// `unchanged` + `rejected_count`; `reasons` has each reason once, and `columns` what each column was taken for.
    #[oai(path = "/members/import", method = "post", operation_id = "import-members")]
    async fn import(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        body: CsvBody,
    ) -> Result<Submitted, Problem> {
        let CsvBody { bytes, hash, charset } = body;
        let file = cx.files.put(bytes).await.map_err(|error| {
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
        /// In the name or the e-mail address.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<MemberList>, Problem> {
        let (text, limit) = (page::search_text(q.0)?, page::limit(limit.0)?);
        let pages = page::List::new(&cx.key, "members", &text);
        let after = pages.position::<MemberId>(cursor.0.as_deref())?;
        let mut found = members::list(&cx.db.read, text.as_deref(), after, limit + 1).await?;
        let more = page::cut(&mut found, limit);
        let next_cursor = found.last().filter(|_| more).map(|last| pages.cursor(&last.id));
        let list = MemberList { items: found.into_iter().map(Member::from).collect(), next_cursor };
        Ok(Tagged::page(fresh(&list), reading))
    }
}
