//! The table `cursors`: one row per follower and stream. [`skipped`] has the skipped entries.

pub mod skipped;

use std::collections::BTreeSet;

use domain::stream::{Stream, StreamKind};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait as _, IntoCondition as _};
use sea_orm::{Condition, ConnectionTrait, DbErr, JoinType, QueryOrder, QuerySelect, Select, Set};

use crate::cursor::Behind;
use crate::database::rows;
use crate::failure::Failure;
use crate::store::drives::table as drives;
use crate::store::streams;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "cursors")]
#[allow(
    missing_docs,
    reason = "a follower, the id of a stream, and the number of the last entry that it read"
)]
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

/// At most `limit` logs that `follower` has not read to their end, by stream id after `after`. They
/// belong to any streams of this kind, or only to `among`.
pub async fn behind(
    db: &impl ConnectionTrait,
    follower: &'static str,
    kind: StreamKind,
    among: Option<&BTreeSet<Stream>>,
    after: Option<Stream>,
    limit: u64,
) -> Result<Vec<Behind>, DbErr> {
    let select = match kind {
        StreamKind::Drive => {
            use drives::Column::{Id, Sequence};
            let these = among.map(|among| is_among(db, Id, among));
            unfinished::<drives::Entity>(follower, Id, Sequence, these, after, limit).into_tuple()
        }
        StreamKind::Member => {
            use streams::Column::{Id, Kind, Sequence};
            let these = among.map_or(Kind.eq(kind.as_str()), |among| is_among(db, Id, among));
            unfinished::<streams::Entity>(follower, Id, Sequence, Some(these), after, limit).into_tuple()
        }
    };
    let rows: Vec<(Uuid, i64, Option<i64>)> = select.all(db).await?;
    Ok(rows
        .into_iter()
        .map(|(id, end, read)| Behind {
            stream: Stream { kind, id },
            read: read.map(i64::unsigned_abs),
            end: end.unsigned_abs(),
        })
        .collect())
}

fn is_among<C: ColumnTrait>(db: &impl ConnectionTrait, id: C, among: &BTreeSet<Stream>) -> Expr {
    rows::is_one_of(db, id, among.iter().map(|stream| stream.id))
}

/// The streams of one table whose end is beyond the follower's cursor: id, end, cursor. `these`
/// restricts the streams.
fn unfinished<H: EntityTrait>(
    follower: &'static str,
    id: H::Column,
    end: H::Column,
    these: Option<Expr>,
    after: Option<Stream>,
    limit: u64,
) -> Select<H> {
    let of_follower = H::belongs_to(Entity)
        .from(id)
        .to(Column::DriveId)
        .on_condition(move |_, cursors| Expr::col((cursors, Column::Follower)).eq(follower).into_condition())
        .into();
    let read = || Expr::col((Entity, Column::Sequence));
    let mut select = H::find()
        .select_only()
        .columns([id, end])
        .column_as(Column::Sequence, "read")
        .join(JoinType::LeftJoin, of_follower)
        .filter(Condition::any().add(read().is_null()).add(end.into_expr().gt(read())))
        .order_by_asc(id)
        .limit(limit);
    if let Some(these) = these {
        select = select.filter(these);
    }
    if let Some(after) = after {
        select = select.filter(id.gt(after.id));
    }
    select
}

/// Advances a follower's cursors, each from where it was found to a new number. This is a
/// compare-and-set. It fails if another process has moved one of them meanwhile. Then the
/// transaction must be rolled back.
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
            drive_id: Set(behind.stream.id),
            sequence: Set(stored(*to)),
        })
        .collect();
    rows::insert(db, new, |_| 0).await?;
    let known = moved.iter().filter_map(|(behind, to)| {
        let from = stored(behind.read?);
        Some(vec![follower.into(), behind.stream.id.into(), from.into(), stored(*to).into()])
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
