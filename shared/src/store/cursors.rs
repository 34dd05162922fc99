//! The table `cursors`: one row per follower and drive. [`skipped`] is about the entries that were left out.

pub mod skipped;

use std::collections::BTreeSet;

use domain::id::DriveId;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait as _, IntoCondition as _};
use sea_orm::{Condition, ConnectionTrait, DbErr, JoinType, QueryOrder, QuerySelect, Set};

use crate::cursor::Behind;
use crate::database::rows;
use crate::failure::Failure;
use crate::store::drives::table as drives;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "cursors")]
#[allow(missing_docs, reason = "a follower, a drive, and the number of the last entry that it read")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub follower: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub drive_id: Uuid,
    pub sequence: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// At most `limit` of the logs that `follower` has not read to their end, by the drives' ids, after `after`: of all, or of
/// `among`.
pub async fn behind(
    db: &impl ConnectionTrait,
    follower: &'static str,
    among: Option<&BTreeSet<DriveId>>,
    after: Option<DriveId>,
    limit: u64,
) -> Result<Vec<Behind>, DbErr> {
    let of_follower = drives::Entity::belongs_to(Entity)
        .from(drives::Column::Id)
        .to(Column::DriveId)
        .on_condition(move |_, cursors| Expr::col((cursors, Column::Follower)).eq(follower).into_condition())
        .into();
    let read = || Expr::col((Entity, Column::Sequence));
    let mut select = drives::Entity::find()
        .select_only()
        .columns([drives::Column::Id, drives::Column::Sequence])
        .column_as(Column::Sequence, "read")
        .join(JoinType::LeftJoin, of_follower)
        .filter(
            Condition::any()
                .add(read().is_null())
                .add(Expr::col((drives::Entity, drives::Column::Sequence)).gt(read())),
        )
        .order_by_asc(drives::Column::Id)
        .limit(limit);
    if let Some(among) = among {
        select = select.filter(rows::is_one_of(db, drives::Column::Id, among.iter().map(|id| id.0)));
    }
    if let Some(after) = after {
        select = select.filter(drives::Column::Id.gt(after.0));
    }
    let rows = select.into_tuple::<(Uuid, i64, Option<i64>)>().all(db).await?;
    Ok(rows
        .into_iter()
        .map(|(drive_id, end, read)| Behind {
            drive_id: DriveId(drive_id),
            read: read.map(i64::unsigned_abs),
            end: end.unsigned_abs(),
        })
        .collect())
}

/// Moves a follower's cursors on: each from where it was found to a new number. Nothing may be kept if another process has
/// moved one of them meanwhile.
pub async fn advance(
    db: &impl ConnectionTrait,
    follower: &'static str,
    moved: &[(Behind, u64)],
) -> Result<(), Failure> {
    let new: Vec<_> = moved
        .iter()
        .filter(|(behind, _)| behind.read.is_none())
        .map(|(behind, to)| ActiveModel {
            follower: Set(follower.to_owned()),
            drive_id: Set(behind.drive_id.0),
            sequence: Set(stored(*to)),
        })
        .collect();
    rows::insert(db, new, |_| 0).await?;
    let known = moved.iter().filter_map(|(behind, to)| {
        let from = stored(behind.read?);
        Some(vec![follower.into(), behind.drive_id.0.into(), from.into(), stored(*to).into()])
    });
    let known: Vec<_> = known.collect();
    let count = known.len() as u64;
    let keys = [Column::Follower, Column::DriveId, Column::Sequence];
    if rows::update::<Entity>(db, &keys, &[Column::Sequence], known).await? == count {
        Ok(())
    } else {
        Err(Failure::contended("another process follows the same logs"))
    }
}
