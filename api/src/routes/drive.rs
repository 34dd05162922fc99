//! Drives: public reading for members, the whole life for organisers.

#![allow(clippy::too_many_arguments, reason = "a route takes what its parameters are")]

mod body;
mod parts;
mod view;

use domain::clock::Instant;
use domain::drive::draft::{self, Changes, Draft};
use domain::drive::message::{self, MessageDrive};
use domain::drive::{self, CancelDrive, CloseDrive, CreateDrive, PublishDrive, ReopenDrive, UpdateDrive};
use domain::hash::base64url;
use domain::id::DriveId;
use domain::refusal::{Code, Refusal};
use poem::web::Data;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;
use shared::log;
use shared::store::drives;
use uuid::Uuid;

use self::body::{Cancelling, ChangesBody, DriveBody, Reopening, Times, Writing};
use self::parts::{Kind, Status};
use self::view::Drive;
use super::registration::checked_reason;
use crate::asked::Asked;
use crate::auth::Admin;
use crate::body::{JsonBody, Nothing};
use crate::context::Context;
use crate::page;
use crate::problem::Problem;
use crate::read::{self, Reading, Tagged, fresh};
use crate::submit::{Submission, Submitted};

/// A page of drives.
#[derive(Debug, Object)]
struct DriveList {
    items: Vec<Drive>,
    /// For the parameter `cursor`; null at the end.
    next_cursor: Option<String>,
}

/// What a list of drives was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
struct Wanted {
    /// The name of the list: members and organisers have different ones.
    name: &'static str,
    status: Option<drive::Status>,
    kind: Option<drive::Kind>,
    q: Option<String>,
    after: Option<(Instant, DriveId)>,
    limit: u64,
}

impl Wanted {
    fn read(
        cx: &Context,
        name: &'static str,
        status: Option<Status>,
        kind: Option<Kind>,
        q: Option<String>,
        cursor: Option<&str>,
        limit: Option<u64>,
    ) -> Result<Self, Problem> {
        let mut wanted = Self {
            name,
            status: status.map(Into::into),
            kind: kind.map(Into::into),
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

    /// The list, among drives in these states.
    async fn list(&self, cx: &Context, visible: &[drive::Status]) -> Result<DriveList, Problem> {
        let statuses = match self.status {
            Some(status) => visible.iter().copied().filter(|visible| *visible == status).collect(),
            None => visible.to_vec(),
        };
        if statuses.is_empty() {
            return Ok(DriveList { items: Vec::new(), next_cursor: None });
        }
        let query = drives::Query {
            statuses,
            kind: self.kind,
            text: self.q.clone(),
            after: self.after,
            limit: self.limit + 1,
        };
        let mut found = drives::list(&cx.db.read, &query).await?;
        let more = page::cut(&mut found, self.limit);
        let next_cursor =
            found.last().filter(|_| more).map(|last| self.pages(cx).cursor(&(last.created_at, last.id)));
        Ok(DriveList { items: found.into_iter().map(Drive::from).collect(), next_cursor })
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

#[OpenApi]
impl DriveRoutes {
    /// List drives
    #[oai(path = "/drives", method = "get", operation_id = "list-drives")]
    async fn list(
        &self,
        cx: Data<&Context>,
        reading: Reading,
        status: Query<Option<Status>>,
        kind: Query<Option<Kind>>,
        /// In the title.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<DriveList>, Problem> {
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

/// An entry of a drive's log.
#[derive(Debug, Object)]
struct LogEntry {
    /// Its number, from 1, without gaps.
    sequence: u64,
    /// SHA-256 of the hash before it and its exact bytes, in unpadded URL-safe base64.
    hash: String,
    /// The event, a CloudEvent: exactly the bytes that were hashed, as text.
    event: String,
}

/// A part of a drive's log.
#[derive(Debug, Object)]
struct LogPage {
    items: Vec<LogEntry>,
    /// For the parameter `after`; null at the end.
    next_after: Option<u64>,
}

/// Drives, as organisers run them.
#[derive(Debug)]
pub struct AdminDriveRoutes;

#[OpenApi]
impl AdminDriveRoutes {
    /// List drives, drafts included
    #[oai(path = "/drives", method = "get", operation_id = "list-all-drives")]
    async fn list(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        reading: Reading,
        status: Query<Option<Status>>,
        kind: Query<Option<Kind>>,
        /// In the title.
        q: Query<Option<String>>,
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Tagged<DriveList>, Problem> {
        let wanted = Wanted::read(&cx, "all-drives", status.0, kind.0, q.0, cursor.0.as_deref(), limit.0)?;
        let list = wanted.list(&cx, &drive::Status::ALL).await?;
        Ok(Tagged::page(fresh(&list), reading))
    }

    /// Read a drive, a draft or not
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
    /// Command `create-drive`; the receipt has the new `drive_id`. A rule that cannot be used is refused here, with its
    /// line and column.
    #[oai(path = "/drives", method = "post", operation_id = "create-drive")]
    async fn create(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        body: JsonBody<DriveBody>,
    ) -> Result<Submitted, Problem> {
        let draft = Draft::try_from(body.value)?;
        draft::check(&draft)?;
        let submission = Submission { actor: admin.0, asked, body_hash: body.hash };
        cx.submit(submission, |id| CreateDrive { drive_id: DriveId(id.0), draft }).await
    }

    /// Change a drive
    ///
    /// Command `update-drive`. What is left out stays, in the items of lists as well. Nobody who is
    /// registered loses their place: a capacity below the confirmed is refused. Those who hold or
    /// await a place are told when their start, end or venue changes. Another `time_zone` moves no
    /// instant by itself; the outcome's `note` then says what the new clock shows.
    #[oai(path = "/drives/:drive_id", method = "patch", operation_id = "update-drive")]
    async fn update(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<ChangesBody>,
    ) -> Result<Submitted, Problem> {
        let changes = Changes::try_from(body.value)?;
        draft::check_changes(&changes)?;
        let command = UpdateDrive { drive_id: DriveId(drive_id.0), changes };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Publish a drive
    ///
    /// Command `publish-drive`: everyone sees it; registration opens and closes at its instants.
    #[oai(path = "/drives/:drive_id/publish", method = "post", operation_id = "publish-drive")]
    async fn publish(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Nothing>,
    ) -> Result<Submitted, Problem> {
        let command = PublishDrive { drive_id: DriveId(drive_id.0) };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Close registration before its time
    ///
    /// Command `close-drive`.
    #[oai(path = "/drives/:drive_id/close", method = "post", operation_id = "close-drive")]
    async fn close(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Nothing>,
    ) -> Result<Submitted, Problem> {
        let command = CloseDrive { drive_id: DriveId(drive_id.0) };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Open registration again
    ///
    /// Command `reopen-drive`.
    #[oai(path = "/drives/:drive_id/reopen", method = "post", operation_id = "reopen-drive")]
    async fn reopen(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Reopening>,
    ) -> Result<Submitted, Problem> {
        let mut times = Times::default();
        let closes_at = times.read_any("closes_at", body.value.closes_at);
        let command = times.finish(ReopenDrive { drive_id: DriveId(drive_id.0), closes_at })?;
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Call a drive off
    ///
    /// Command `cancel-drive`.
    #[oai(path = "/drives/:drive_id/cancel", method = "post", operation_id = "cancel-drive")]
    async fn cancel(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Cancelling>,
    ) -> Result<Submitted, Problem> {
        let command =
            CancelDrive { drive_id: DriveId(drive_id.0), reason: checked_reason(body.value.reason)? };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Write to those who signed up
    ///
    /// Command `message-drive`: it goes into the inboxes of those who hold a place, who wait for one, or both, as of now. It
    /// stands in the drive's log for good, and subscribers of events get it: no personal data belongs in it.
    #[oai(path = "/drives/:drive_id/messages", method = "post", operation_id = "message-drive")]
    async fn message(
        &self,
        cx: Data<&Context>,
        admin: Admin,
        asked: Asked,
        drive_id: Path<Uuid>,
        body: JsonBody<Writing>,
    ) -> Result<Submitted, Problem> {
        let Writing { subject, text, to } = body.value;
        let faults = message::faults(&subject, &text);
        if !faults.is_empty() {
            return Err(Problem::invalid_body().errors(faults));
        }
        let to = to.map(Into::into).unwrap_or_default();
        let command = MessageDrive { drive_id: DriveId(drive_id.0), subject, text, to };
        cx.submit(Submission { actor: admin.0, asked, body_hash: body.hash }, |_| command).await
    }

    /// Read a drive's log
    ///
    /// Every decision about the drive, in order, hash-chained: anyone who has the entries can recompute the hashes.
    #[oai(path = "/drives/:drive_id/log", method = "get", operation_id = "read-log")]
    async fn log(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        drive_id: Path<Uuid>,
        /// The number of the last entry that is known already.
        after: Query<Option<u64>>,
        limit: Query<Option<u64>>,
    ) -> Result<Json<LogPage>, Problem> {
        let (drive_id, limit) = (DriveId(drive_id.0), page::limit(limit.0)?);
        let mut entries = log::read(&cx.db.read, drive_id, after.0.unwrap_or(0), limit + 1).await?;
        if entries.is_empty() && drives::find(&cx.db.read, drive_id).await?.is_none() {
            return Err(Refusal::new(Code::DriveNotFound).into());
        }
        let more = page::cut(&mut entries, limit);
        let next_after = entries.last().filter(|_| more).map(|last| last.head.sequence);
        let item = |entry: log::Entry| LogEntry {
            sequence: entry.head.sequence,
            hash: base64url(&entry.head.hash),
            event: String::from_utf8_lossy(&entry.bytes).into_owned(),
        };
        Ok(Json(LogPage { items: entries.into_iter().map(item).collect(), next_after }))
    }
}
