//! Members, as organisers see them.

use std::collections::{BTreeMap, BTreeSet};

use domain::attribute::{Attribute, Attributes, Known, Origin, Source};
use domain::id::MemberId;
use domain::member::{EditMember, ImportMembers, MAX_ATTRIBUTES, MAX_NAME};
use domain::text::with_causes;
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::store::members::{self, Listed};
use uuid::Uuid;

use super::Tags;
use crate::auth::Admin;
use crate::body::CsvBody;
use crate::context::Context;
use crate::idempotency::WriteOptions;
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::read::{Reading, Tagged, fresh};
use crate::submit::{Submission, Submitted};
use crate::write::Write;

/// A member.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Member {
    /// The id of the member's account.
    member_id: MemberId,
    /// The member's e-mail address.
    email: String,
    /// The member's name.
    name: String,
    /// Who said the name, if it was not the member.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_source: Option<Source>,
    /// What the organisation says of the member: `member.x` in rules.
    verified: BTreeMap<String, VerifiedAttribute>,
    /// What the member says: `declared.x` in rules.
    declared: Attributes,
}

/// What an organisation says of a member.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct VerifiedAttribute {
    /// The value. Without one, the member is known not to have the attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Attribute>,
    /// Who said it, and when.
    #[serde(flatten)]
    origin: Origin,
}

/// The verified attributes of a profile.
pub(super) fn verified(known: &mut Known) -> BTreeMap<String, VerifiedAttribute> {
    let all = std::mem::take(&mut known.verified).into_iter();
    all.map(|(name, said)| {
        let origin = said.origin();
        (name, VerifiedAttribute { value: said.value, origin })
    })
    .collect()
}

impl From<Listed> for Member {
    fn from(listed: Listed) -> Self {
        let mut profile = listed.profile;
        Self {
            member_id: listed.id,
            email: listed.email,
            name: profile.name,
            name_source: profile.name_source,
            verified: verified(&mut profile.known),
            declared: profile.known.declared,
        }
    }
}

/// Changes of what the organisation says of a member.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "set": { "marks": 82.5 }, "absent": ["backlogs"], "release": ["city"] }))]
struct MemberChanges {
    /// The new name. The member cannot change it afterwards.
    #[schemars(length(min = 1, max = MAX_NAME))]
    name: Option<String>,
    /// Attributes to set: a flat object of texts, numbers, booleans and dates (`2001-02-03`).
    #[serde(default)]
    #[schemars(extend("maxProperties" = MAX_ATTRIBUTES))]
    set: BTreeMap<String, Attribute>,
    /// Attributes that the member is known not to have. The member cannot set these.
    #[serde(default)]
    #[schemars(extend("maxItems" = MAX_ATTRIBUTES))]
    absent: BTreeSet<String>,
    /// Attributes of which the organisation says nothing any more. The member may set these. `name`
    /// releases the name.
    #[serde(default)]
    #[schemars(extend("maxItems" = MAX_ATTRIBUTES))]
    release: BTreeSet<String>,
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
    /// imports good rows, and reports bad ones by line. A filled cell sets a verified attribute. An
    /// empty one says that the member has none, so it takes a value away. A value that an organiser
    /// has set by hand stays, and is reported in `held`. The outcome's numbers add up: `rows` =
    /// `imported` + `updated` + `unchanged` + `rejected_count`. `reasons` has each reason once, and
    /// `columns` says how each column was read.
    #[oai(path = "/members/import", method = "post", operation_id = "import-members")]
    async fn import(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: WriteOptions,
        /// Replace also names and values that an organiser has set by hand.
        #[oai(name = "override", default)]
        overrides: Query<bool>,
        body: CsvBody,
    ) -> Result<Submitted<ImportMembers>, Problem> {
        let CsvBody { bytes, hash, charset } = body;
        let files = cx.files.as_ref().ok_or_else(Problem::internal)?;
        let file = files.put(bytes).await.map_err(|error| {
            tracing::error!(error = %with_causes(&error), "could not store an upload");
            Problem::internal().detail("the file could not be stored")
        })?;
        let command = ImportMembers { imported_by: admin.0.id, file, charset, overrides: overrides.0 };
        // The path and the file are the same with and without it, and the command is not.
        let asked = if overrides.0 { asked.of_another("override") } else { asked };
        cx.submit(Submission { actor: admin.0, asked, body_hash: hash }, |_| command).await
    }

    /// Change a member
    ///
    /// Command `edit-member`. It sets what the organisation says of a member: names and values that
    /// rules read as `member.x`. It wins over imports, and the member cannot change it.
    #[oai(path = "/members/:member_id", method = "patch", operation_id = "edit-member")]
    async fn edit(
        &self,
        admin: Admin,
        member_id: Path<Uuid>,
        write: Write<MemberChanges>,
    ) -> Result<Submitted<EditMember>, Problem> {
        let command = |MemberChanges { name, set, absent, release }| {
            let command = EditMember { member_id: MemberId(member_id.0), name, set, absent, release };
            Problem::unless_empty(command.faults())?;
            Ok(command)
        };
        write.submit(admin.0, command).await
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
