//! The ledger: one row per decided command. Most rows are kept for ever.
//!
//! A command's id is the primary key. A consumer writes the row in the transaction that stores the
//! rest of the decision. So a repeated command is recognised after any crash, and at any later
//! time. If two processes decide the same command at once, one gets a unique violation, and its
//! whole batch is rolled back.

use std::collections::HashMap;

use domain::actor::Actor;
use domain::clock::Timestamp;
use domain::hash::Digest256;
use domain::id::{CommandId, DriveId};
use domain::refusal::Refusal;
use domain::stream::{self, Stream};
use domain::upkeep;
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QuerySelect, Set};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::database::rows;
use crate::failure::Reject;
use crate::log;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "ledger")]
#[allow(
    missing_docs,
    reason = "the columns are the fields of `Row`; a stream that is no drive has two of its own"
)]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub kind: String,
    pub actor_role: String,
    pub actor_id: Uuid,
    pub drive_id: Option<Uuid>,
    pub accepted_at: ChronoDateTimeUtc,
    pub decided_at: ChronoDateTimeUtc,
    pub status: String,
    pub sequence: Option<i64>,
    pub events: i32,
    pub body_hash: Vec<u8>,
    #[sea_orm(column_type = "Text", nullable)]
    pub result: Option<String>,
    #[sea_orm(column_type = "Text", nullable)]
    pub facts: Option<String>,
    pub expires_at: Option<ChronoDateTimeUtc>,
    pub stream_kind: Option<String>,
    pub stream_id: Option<Uuid>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

domain::words! {
    /// The result of a command.
    pub enum Status {
        /// It was done.
        Succeeded = "succeeded",
        /// It was refused, with reasons.
        Refused = "refused",
        /// It could not be decided, and is a dead letter. This is the only status that a replay can
        /// change.
        Failed = "failed",
    }
}

/// The decision about one command. Its JSON goes to the API process that waits for it. The JSON has
/// neither hash nor facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The command.
    pub id: CommandId,
    /// Its kind.
    pub kind: String,
    /// The actor of the command.
    pub actor: Actor,
    /// The stream that the command is about, if there is one.
    #[serde(flatten, with = "stream::fields")]
    pub stream: Option<Stream>,
    /// When the API accepted the command.
    pub accepted_at: Timestamp,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// The result.
    pub status: Status,
    /// The number of its first event in the stream's log, if it has any.
    pub sequence: Option<u64>,
    /// The number of its events in that log.
    pub events: u32,
    /// The SHA-256 of the meaning of the decided request body, however it was written. Rows of
    /// older versions have the hash of its exact bytes.
    #[serde(skip)]
    pub body_hash: Digest256,
    /// The outcome, or the problem.
    pub result: Option<Json>,
    /// The facts of the decision. They are personal data, and can be erased.
    #[serde(skip)]
    pub facts: Option<String>,
}

/// The part of a row that a handler provides.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The stream that the command is about.
    pub stream: Option<Stream>,
    /// The number of its first event.
    pub sequence: Option<u64>,
    /// The number of its events.
    pub events: u32,
    /// The answer to the client: an outcome or a refusal.
    pub result: Result<Json, Refusal>,
    /// The facts of the decision.
    pub facts: Option<String>,
}

impl Outcome {
    /// An outcome without events in a log.
    #[must_use]
    pub fn of(result: Result<Json, Refusal>) -> Self {
        Self { stream: None, sequence: None, events: 0, result, facts: None }
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.result.is_ok() { Status::Succeeded } else { Status::Refused }
    }

    /// Its outcome or problem as JSON.
    #[must_use]
    pub fn to_json(&self) -> Json {
        match &self.result {
            Ok(outcome) => outcome.clone(),
            Err(refusal) => serde_json::to_value(refusal).expect("a refusal is plain data"),
        }
    }
}

/// The problem of a command that could not be decided.
#[must_use]
pub fn failure(reject: &Reject) -> Json {
    serde_json::json!({ "code": reject.code, "detail": reject.detail })
}

impl Row {
    /// The drive that the command is about, if there is one.
    #[must_use]
    pub fn drive_id(&self) -> Option<DriveId> {
        self.stream.and_then(Stream::drive)
    }
}

/// The stream that a row names. The column `drive_id` holds only drives, because older versions
/// read it.
fn stream_of(drive_id: Option<Uuid>, kind: Option<&str>, id: Option<Uuid>) -> Result<Option<Stream>, DbErr> {
    match (drive_id, kind.zip(id)) {
        (Some(id), _) => Ok(Some(DriveId(id).into())),
        (None, Some((kind, id))) => log::stream(kind, id).map(Some),
        (None, None) => Ok(None),
    }
}

impl TryFrom<Model> for Row {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let role = row.actor_role.parse().map_err(|_| DbErr::Type(format!("role {:?}", row.actor_role)))?;
        let result = row.result.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            id: CommandId(row.id),
            kind: row.kind,
            actor: Actor { role, id: row.actor_id },
            stream: stream_of(row.drive_id, row.stream_kind.as_deref(), row.stream_id)?,
            accepted_at: row.accepted_at,
            decided_at: row.decided_at,
            status: Status::from_word(&row.status)
                .ok_or_else(|| DbErr::Type(format!("status {:?}", row.status)))?,
            sequence: row.sequence.map(i64::unsigned_abs),
            events: row.events.unsigned_abs(),
            body_hash: row
                .body_hash
                .try_into()
                .map_err(|_| DbErr::Type("a body hash has 32 bytes".to_owned()))?,
            result: result.map_err(|error| DbErr::Json(error.to_string()))?,
            facts: row.facts,
        })
    }
}

impl From<&Row> for ActiveModel {
    fn from(row: &Row) -> Self {
        let other = row.stream.filter(|stream| stream.drive().is_none());
        Self {
            id: Set(row.id.0),
            kind: Set(row.kind.clone()),
            actor_role: Set(row.actor.role.as_str().to_owned()),
            actor_id: Set(row.actor.id),
            drive_id: Set(row.drive_id().map(|id| id.0)),
            accepted_at: Set(row.accepted_at),
            decided_at: Set(row.decided_at),
            status: Set(row.status.as_str().to_owned()),
            sequence: Set(row.sequence.map(|number| i64::try_from(number).unwrap_or(i64::MAX))),
            events: Set(i32::try_from(row.events).unwrap_or(i32::MAX)),
            body_hash: Set(row.body_hash.to_vec()),
            result: Set(row.result.as_ref().map(Json::to_string)),
            facts: Set(row.facts.clone()),
            expires_at: Set(upkeep::expiry(&row.kind, row.decided_at)),
            stream_kind: Set(other.map(|stream| stream.kind.as_str().to_owned())),
            stream_id: Set(other.map(|stream| stream.id)),
        }
    }
}

/// The decisions about these commands. Undecided commands are left out.
pub async fn find(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = CommandId>,
) -> Result<HashMap<CommandId, Row>, DbErr> {
    let these = rows::is_one_of(db, Column::Id, ids.into_iter().map(|id| id.0));
    let rows = Entity::find().filter(these).all(db).await?;
    rows.into_iter().map(|row| Row::try_from(row).map(|row| (row.id, row))).collect()
}

/// Writes decisions. A command that has a decision already is a unique violation.
pub async fn insert(db: &impl ConnectionTrait, rows: &[Row]) -> Result<(), DbErr> {
    let rows: Vec<_> = rows.iter().map(ActiveModel::from).collect();
    let bytes = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    rows::insert(db, rows, |row| bytes(row.result.as_ref()) + bytes(row.facts.as_ref())).await
}

/// Deletes the failures of these commands, so that a replay can decide them.
pub async fn forget_failures(db: &impl ConnectionTrait, ids: &[CommandId]) -> Result<(), DbErr> {
    if !ids.is_empty() {
        Entity::delete_many()
            .filter(Column::Id.is_in(ids.iter().map(|id| id.0)))
            .filter(Column::Status.eq(Status::Failed.as_str()))
            .exec(db)
            .await?;
    }
    Ok(())
}

/// The number of decisions with events in each stream's log, according to the ledger.
pub async fn logged_per_stream(db: &impl ConnectionTrait) -> Result<HashMap<Stream, u64>, DbErr> {
    let rows = Entity::find()
        .select_only()
        .columns([Column::DriveId, Column::StreamKind, Column::StreamId])
        .column_as(Column::Id.count(), "decisions")
        .filter(Column::Sequence.is_not_null())
        .group_by(Column::DriveId)
        .group_by(Column::StreamKind)
        .group_by(Column::StreamId)
        .into_tuple::<(Option<Uuid>, Option<String>, Option<Uuid>, i64)>()
        .all(db)
        .await?;
    let logged = |(drive_id, kind, id, count): (_, Option<String>, _, i64)| {
        let stream = stream_of(drive_id, kind.as_deref(), id)?;
        Ok(stream.map(|stream| (stream, count.unsigned_abs())))
    };
    rows.into_iter().filter_map(|row| logged(row).transpose()).collect()
}

/// Deletes expired decisions. Their commands changed nothing, so a repeated command may be decided
/// again.
pub async fn delete_expired(db: &impl ConnectionTrait, now: Timestamp) -> Result<u64, DbErr> {
    let expired = Entity::delete_many().filter(Column::ExpiresAt.lt(now)).exec(db).await?;
    Ok(expired.rows_affected)
}
