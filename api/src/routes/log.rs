//! The logs of drives and members, page by page. [`super::stream`] streams them live.

use domain::hash::base64url;
use domain::id::{DriveId, MemberId};
use domain::refusal::{Code, Refusal};
use domain::stream::Stream;
use poem::web::Data;
use poem_openapi::OpenApi;
use poem_openapi::param::{Path, Query};
use schemars::JsonSchema;
use serde::Serialize;
use shared::log;
use shared::store::{accounts, drives};
use uuid::Uuid;

use crate::auth::Admin;
use crate::context::Context;
use crate::page::{self, Page};
use crate::payload::Json;
use crate::problem::Problem;
use crate::routes::Tags;

/// An entry of a log.
#[derive(Debug, Serialize, JsonSchema)]
struct LogEntry {
    /// Its number, from 1, without gaps.
    sequence: u64,
    /// SHA-256 of the hash of the entry before and the exact bytes of this one, in unpadded
    /// URL-safe base64.
    hash: String,
    /// The event, a CloudEvent: exactly the bytes that were hashed, as text.
    event: String,
}

/// Logs, for organisers.
#[derive(Debug)]
pub struct LogRoutes;

#[OpenApi(tag = "Tags::Logs")]
impl LogRoutes {
    /// Read a drive's log
    ///
    /// Every decision about the drive, in order, hash-chained. Anyone who has the entries can
    /// recompute the hashes.
    #[oai(path = "/drives/:drive_id/log", method = "get", operation_id = "read-log")]
    async fn of_drive(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        drive_id: Path<Uuid>,
        /// The number of the last entry that the client has: any number, or `next_cursor`.
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Json<Page<LogEntry>>, Problem> {
        let drive_id = DriveId(drive_id.0);
        let page = read(&cx, drive_id.into(), cursor.0.as_deref(), limit.0).await?;
        if page.items.is_empty() && drives::find(&cx.db.read, drive_id).await?.is_none() {
            return Err(Refusal::new(Code::DriveNotFound).into());
        }
        Ok(Json(page))
    }

    /// Read a member's log
    ///
    /// The changes of the member's profile, and the imports that they ran as an organiser, in
    /// order. The log is hash-chained like a drive's. It does not contain what was changed.
    #[oai(path = "/members/:member_id/log", method = "get", operation_id = "read-member-log")]
    async fn of_member(
        &self,
        cx: Data<&Context>,
        _admin: Admin,
        member_id: Path<Uuid>,
        /// The number of the last entry that the client has: any number, or `next_cursor`.
        cursor: Query<Option<String>>,
        limit: Query<Option<u64>>,
    ) -> Result<Json<Page<LogEntry>>, Problem> {
        let member_id = MemberId(member_id.0);
        let page = read(&cx, member_id.into(), cursor.0.as_deref(), limit.0).await?;
        if page.items.is_empty() {
            known(&cx, member_id).await?;
        }
        Ok(Json(page))
    }
}

/// Fails if there is no such member.
pub(super) async fn known(cx: &Context, member_id: MemberId) -> Result<(), Problem> {
    match accounts::by_id(&cx.db.read, member_id).await? {
        Some(_) => Ok(()),
        None => Err(Refusal::new(Code::MemberNotFound).into()),
    }
}

async fn read(
    cx: &Context,
    stream: Stream,
    cursor: Option<&str>,
    limit: Option<u64>,
) -> Result<Page<LogEntry>, Problem> {
    let limit = page::limit(limit)?;
    let after = cursor.map(str::parse::<u64>).transpose();
    let after = after.map_err(|_| Problem::parameter("cursor", "it is the number of an entry, from 0"))?;
    let entries = log::read(&cx.db.read, stream, after.unwrap_or(0), limit + 1).await?;
    let item = |entry: log::Entry| LogEntry {
        sequence: entry.head.sequence,
        hash: base64url(&entry.head.hash),
        event: String::from_utf8_lossy(&entry.bytes).into_owned(),
    };
    let cursor = |last: &log::Entry| last.head.sequence.to_string();
    Ok(Page::of(entries, limit, cursor, item))
}
