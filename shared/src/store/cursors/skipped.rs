//! The table `skipped_entries`: entries that followers could not process.

use domain::clock::Timestamp;
use domain::stream::{Stream, StreamKind};
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QueryOrder as _, QuerySelect as _, Set};

use super::stored;
use crate::cursor::Skipped;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "skipped_entries")]
#[allow(missing_docs, reason = "a follower, and the fields of `Skipped`")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub follower: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub drive_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub sequence: i64,
    pub at: ChronoDateTimeUtc,
    #[sea_orm(column_type = "Text")]
    pub reason: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Notes that a follower skips an entry.
pub async fn insert(
    db: &impl ConnectionTrait,
    follower: &'static str,
    skipped: &Skipped,
    now: Timestamp,
) -> Result<(), DbErr> {
    let row = ActiveModel {
        follower: Set(follower.to_owned()),
        drive_id: Set(skipped.stream.id),
        sequence: Set(stored(skipped.sequence)),
        at: Set(now),
        reason: Set(skipped.reason.clone()),
    };
    Entity::insert(row).exec_without_returning(db).await.map(drop)
}

/// At most `limit` entries that a follower of streams of this kind has skipped, by stream id and
/// number.
pub async fn of(
    db: &impl ConnectionTrait,
    follower: &'static str,
    kind: StreamKind,
    limit: u64,
) -> Result<Vec<Skipped>, DbErr> {
    let rows = Entity::find()
        .filter(Column::Follower.eq(follower))
        .order_by_asc(Column::DriveId)
        .order_by_asc(Column::Sequence)
        .limit(limit)
        .all(db)
        .await?;
    let skipped = |row: Model| Skipped {
        stream: Stream { kind, id: row.drive_id },
        sequence: row.sequence.unsigned_abs(),
        reason: row.reason,
    };
    Ok(rows.into_iter().map(skipped).collect())
}

/// Deletes the note of a skipped entry. Returns whether it was there. Of several processes, only
/// one gets true.
pub async fn delete(
    db: &impl ConnectionTrait,
    follower: &'static str,
    skipped: &Skipped,
) -> Result<bool, DbErr> {
    let key = (follower.to_owned(), skipped.stream.id, stored(skipped.sequence));
    Ok(Entity::delete_by_id(key).exec(db).await?.rows_affected == 1)
}
