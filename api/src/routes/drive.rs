//! Drives: members read public ones, organisers manage the whole life of each.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

mod view;

use domain::clock::Timestamp;
use domain::drive::draft::{self, Changes, Draft};
use domain::drive::message::{self, Audience, MAX_SUBJECT, MAX_TEXT, MessageDrive};
use domain::drive::registration::MAX_REASON;
use domain::drive::when::When;
use domain::drive::{
    self, CancelDrive, CloseDrive, CreateDrive, Kind, PublishDrive, ReopenDrive, Status, UpdateDrive,
};
use domain::id::DriveId;
use domain::refusal::{Code, Refusal};
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::store::drives;
use uuid::Uuid;

use self::view::Drive;
use super::Tags;
use super::registration::checked_reason;
use crate::auth::Admin;
use crate::body::Nothing;
use crate::context::Context;
use crate::page::{self, Page};
use crate::problem::Problem;
use crate::read::{self, Reading, Tagged, fresh};
use crate::schema::Word;
use crate::submit::Submitted;
use crate::write::Write;

/// The new end of registration.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "closes_at": "2027-01-09T20:00" }))]
struct ReopenRequest {
    /// Required if the old end is over.
    closes_at: Option<When>,
}

/// Why a drive is cancelled.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({ "reason": "The hall is flooded" }))]
struct CancelRequest {
    /// The reason, which everyone can read.
    #[schemars(length(min = 1, max = MAX_REASON))]
    reason: String,
}

/// A message from an organiser to the participants of a drive.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(example = json!({
    "subject": "Bring water",
    "text": "It will be hot.",
    "to": "confirmed",
}))]
struct MessageRequest {
    /// One line.
    #[schemars(length(min = 1, max = MAX_SUBJECT))]
    subject: String,
    /// Plain text.
    #[schemars(length(min = 1, max = MAX_TEXT))]
    text: String,
    /// The recipients. Absent means all participants.
    to: Option<Audience>,
}

/// A request for a list of drives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
struct Wanted {
    /// The name of the list. Members and organisers have different lists.
    name: &'static str,
    status: Option<drive::Status>,
    kind: Option<drive::Kind>,
    q: Option<String>,
    after: Option<(Timestamp, DriveId)>,
    limit: u64,
}

impl Wanted {
    fn read(
        cx: &Context,
        name: &'static str,
        status: Option<Word<Status>>,
        kind: Option<Word<Kind>>,
        q: Option<String>,
        cursor: Option<&str>,
        limit: Option<u64>,
    ) -> Result<Self, Problem> {
        let mut wanted = Self {
            name,
            status: status.map(|Word(status)| status),
            kind: kind.map(|Word(kind)| kind),
            q: page::search_text(q)?,
            after: None,
            limit: page::limit(limit)?,
        };
        wanted.after = wanted.pages(cx).position(cursor)?;
        Ok(wanted)
    }

    fn pages<'a>(&self, cx: &'a Context) -> page::List<'a> {
        page::List::new(&cx.key, self.name, &(self.status, self.kind, &self.q))
    }

    /// Reads the list. `visible` has the states that the caller may see.
    async fn list(&self, cx: &Context, visible: &[drive::Status]) -> Result<Page<Drive>, Problem> {
        let statuses = match self.status {
            Some(status) => visible.iter().copied().filter(|visible| *visible == status).collect(),
            None => visible.to_vec(),
        };
        if statuses.is_empty() {
            return Ok(Page::whole(Vec::new()));
        }
        let query = drives::Query {
            statuses,
            kind: self.kind,
            text: self.q.clone(),
            after: self.after,
            limit: self.limit + 1,
        };
        // A page of all drives is the next part of an index. A search reads every title, so it is a
        // report.
        let db = if query.text.is_some() { &cx.db.reports } else { &cx.db.read };
        let found = drives::list(db, &query).await?;
        let cursor = |last: &drives::DriveView| self.pages(cx).cursor(&(last.created_at, last.id));
        Ok(Page::of(found, self.limit, cursor, Drive::from))
    }
}

/// The states that members see.
const PUBLIC: [drive::Status; 4] =
    [drive::Status::Published, drive::Status::Open, drive::Status::Closed, drive::Status::Cancelled];

async fn find(cx: &Context, id: DriveId, visible: &[drive::Status]) -> Result<Drive, Problem> {
    let found = drives::find(&cx.db.read, id).await?;
    let seen = found.filter(|view| visible.contains(&view.drive.status));
    seen.map(Drive::from).ok_or_else(|| Refusal::new(Code::DriveNotFound).into())
}

/// Drives, as everyone sees them.
#[derive(Debug)]
pub struct DriveRoutes;

#[OpenApi(tag = "Tags::Drives")]
impl DriveRoutes {
    /// List drives
    #[oai(path = "/drives", method = "get", operation_id = "list-drives")]
    async fn list(
        &self,
        cx: Data<&Context>,
        reading: Reading,
        status: Query<Option<Word<Status>>>,
        kind: Query<Option<Word<Kind>>>,
        /// Text to find in the title.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<Drive>>, Problem> {
        let wanted = Wanted::read(&cx, "drives", status.0, kind.0, q.0, cursor.0.as_deref(), limit.0)?;
        let key = format!("drives:{}", serde_json::to_string(&wanted).expect("a question is plain data"));
        let cached = read::through(&cx.cache, &key, || wanted.list(&cx, &PUBLIC)).await?;
        Ok(Tagged::page(cached, reading))
    }

    /// Read a drive
    #[oai(path = "/drives/:drive_id", method = "get", operation_id = "read-drive")]
    async fn read(
        &self,
        cx: Data<&Context>,
        reading: Reading,
        drive_id: Path<Uuid>,
    ) -> Result<Tagged<Drive>, Problem> {
        let key = read::drive_key(drive_id.0);
        let cached = read::through(&cx.cache, &key, || find(&cx, DriveId(drive_id.0), &PUBLIC)).await?;
        Ok(Tagged::new(cached, reading))
    }
}

/// Drives, as organisers run them.
#[derive(Debug)]
pub struct AdminDriveRoutes;

#[OpenApi(tag = "Tags::Drives")]
impl AdminDriveRoutes {
    /// List drives, drafts included
    #[oai(path = "/drives", method = "get", operation_id = "list-all-drives")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        status: Query<Option<Word<Status>>>,
        kind: Query<Option<Word<Kind>>>,
        /// Text to find in the title.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<Page<Drive>>, Problem> {
        let wanted = Wanted::read(&cx, "all-drives", status.0, kind.0, q.0, cursor.0.as_deref(), limit.0)?;
        let list = wanted.list(&cx, &drive::Status::ALL).await?;
        Ok(Tagged::page(fresh(&list), reading))
    }

    /// Read a drive or a draft
    #[oai(path = "/drives/:drive_id", method = "get", operation_id = "read-any-drive")]
    async fn read(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        drive_id: Path<Uuid>,
    ) -> Result<Tagged<Drive>, Problem> {
        let drive = find(&cx, DriveId(drive_id.0), &drive::Status::ALL).await?;
        Ok(Tagged::new(fresh(&drive), reading))
    }

    /// Create a drive
    ///
    /// Command `create-drive`. The receipt has the new `drive_id`. A rule that cannot be used is
    /// refused at once, with its line and column.
    #[oai(path = "/drives", method = "post", operation_id = "create-drive")]
    async fn create(&self, admin: Admin, write: Write<Draft>) -> Result<Submitted<CreateDrive>, Problem> {
        let check = |draft: &Draft| Ok(draft::check(draft)?);
        write.create(admin, check, |id, draft| CreateDrive { drive_id: DriveId(id.0), draft }).await
    }

    /// Change a drive
    ///
    /// Command `update-drive`. An absent field stays as it is, also in the items of lists. No
    /// participant loses a place: a capacity below the number of confirmed registrations is
    /// refused. Participants who hold or await a place get a message when their start, end or venue
    /// changes. Another `time_zone` moves no instant by itself. The outcome's `note` then says what
    /// the new clock shows.
    #[oai(path = "/drives/:drive_id", method = "patch", operation_id = "update-drive")]
    async fn update(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        write: Write<Changes>,
    ) -> Result<Submitted<UpdateDrive>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command = |changes| {
            draft::check_changes(&changes)?;
            Ok(UpdateDrive { drive_id, changes })
        };
        write.submit(admin, command).await
    }

    /// Publish a drive
    ///
    /// Command `publish-drive`. Everyone can see the drive then. Registration opens at `opens_at`
    /// and closes at `closes_at`.
    #[oai(path = "/drives/:drive_id/publish", method = "post", operation_id = "publish-drive")]
    async fn publish(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        write: Write<Nothing>,
    ) -> Result<Submitted<PublishDrive>, Problem> {
        let drive_id = DriveId(drive_id.0);
        write.submit(admin, |_| Ok(PublishDrive { drive_id })).await
    }

    /// Close registration before its time
    ///
    /// Command `close-drive`.
    #[oai(path = "/drives/:drive_id/close", method = "post", operation_id = "close-drive")]
    async fn close(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        write: Write<Nothing>,
    ) -> Result<Submitted<CloseDrive>, Problem> {
        let drive_id = DriveId(drive_id.0);
        write.submit(admin, |_| Ok(CloseDrive { drive_id })).await
    }

    /// Open registration again
    ///
    /// Command `reopen-drive`.
    #[oai(path = "/drives/:drive_id/reopen", method = "post", operation_id = "reopen-drive")]
    async fn reopen(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        write: Write<ReopenRequest>,
    ) -> Result<Submitted<ReopenDrive>, Problem> {
        let drive_id = DriveId(drive_id.0);
        write.submit(admin, |ReopenRequest { closes_at }| Ok(ReopenDrive { drive_id, closes_at })).await
    }

    /// Cancel a drive
    ///
    /// Command `cancel-drive`.
    #[oai(path = "/drives/:drive_id/cancel", method = "post", operation_id = "cancel-drive")]
    async fn cancel(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        write: Write<CancelRequest>,
    ) -> Result<Submitted<CancelDrive>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command =
            |CancelRequest { reason }| Ok(CancelDrive { drive_id, reason: checked_reason(reason)? });
        write.submit(admin, command).await
    }

    /// Send a message to participants
    ///
    /// Command `message-drive`. The message goes to the inboxes of the participants who now hold a
    /// place, who wait for one, or both. It stays in the drive's log for good, and subscribers of
    /// events receive it. So it must not contain personal data.
    #[oai(path = "/drives/:drive_id/messages", method = "post", operation_id = "message-drive")]
    async fn message(
        &self,
        admin: Admin,
        drive_id: Path<Uuid>,
        write: Write<MessageRequest>,
    ) -> Result<Submitted<MessageDrive>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let command = |MessageRequest { subject, text, to }| {
            Problem::unless_empty(message::faults(&subject, &text))?;
            Ok(MessageDrive { drive_id, subject, text, to: to.unwrap_or_default() })
        };
        write.submit(admin, command).await
    }
}
