//! The tables `inbox` (one row per message and member) and `inbox_reads` (how far members have
//! read).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use domain::clock::Timestamp;
use domain::id::{DriveId, MemberId};
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ConnectionTrait, DbErr, JoinType, QueryOrder, QuerySelect, Set, SqlErr};

use crate::database::rows;
use crate::inbox::{Item, New};
use crate::log;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "inbox")]
#[allow(missing_docs, reason = "the columns are the fields of `Item` and `New`")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub member_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub number: i64,
    pub drive_id: Uuid,
    pub sequence: i64,
    pub at: ChronoDateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// `inbox_reads`: the number up to which each member has read their inbox. The API writes it, like
/// accounts.
pub mod reads {
    #![allow(missing_docs, reason = "a member and a number")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "inbox_reads")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub member_id: Uuid,
        pub number: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Puts messages into their inboxes, in this order. Returns the last number of each inbox. If
/// another process has added a message meanwhile, a number is taken, and the result is a unique
/// violation.
pub async fn put(db: &impl ConnectionTrait, messages: &[New]) -> Result<BTreeMap<MemberId, u64>, DbErr> {
    let members: BTreeSet<_> = messages.iter().map(|message| message.member_id).collect();
    let mut last = ends(db, &members).await?;
    let rows: Vec<_> = messages
        .iter()
        .map(|message| {
            let number = last.entry(message.member_id).or_default();
            *number += 1;
            ActiveModel {
                member_id: Set(message.member_id.0),
                number: Set(stored(*number)),
                drive_id: Set(message.drive_id.0),
                sequence: Set(stored(message.sequence)),
                at: Set(message.at),
            }
        })
        .collect();
    rows::insert(db, rows, |_| 0).await?;
    Ok(last)
}

/// The last number of each of these inboxes. Empty ones are left out.
pub async fn ends(
    db: &impl ConnectionTrait,
    members: &BTreeSet<MemberId>,
) -> Result<BTreeMap<MemberId, u64>, DbErr> {
    let ids = members.iter().map(|id| id.0).collect();
    let ends = rows::highest::<Entity>(db, Column::MemberId, ids, Column::Number).await?;
    Ok(ends.into_iter().map(|(id, last)| (MemberId(id), last.unsigned_abs())).collect())
}

/// At most `limit` messages of an inbox after the number `after`, oldest first.
pub async fn after(
    db: &impl ConnectionTrait,
    member_id: MemberId,
    after: u64,
    limit: u64,
) -> Result<Vec<Item>, DbErr> {
    let select = Entity::find()
        .filter(Column::MemberId.eq(member_id.0))
        .filter(Column::Number.gt(stored(after)))
        .order_by_asc(Column::Number)
        .limit(limit);
    items(db, select).await
}

/// At most `limit` messages of an inbox with numbers above `above` and below `below`, newest first.
pub async fn newest(
    db: &impl ConnectionTrait,
    member_id: MemberId,
    above: u64,
    below: Option<u64>,
    limit: u64,
) -> Result<Vec<Item>, DbErr> {
    let mut select = Entity::find()
        .filter(Column::MemberId.eq(member_id.0))
        .filter(Column::Number.gt(stored(above)))
        .order_by_desc(Column::Number)
        .limit(limit);
    if let Some(below) = below {
        select = select.filter(Column::Number.lt(stored(below)));
    }
    items(db, select).await
}

/// The messages with numbers in these ranges (first, count), ordered by member and number.
pub async fn ranges(
    db: &impl ConnectionTrait,
    ranges: impl Iterator<Item = (MemberId, u64, u64)>,
) -> Result<Vec<(MemberId, Item)>, DbErr> {
    let (mut any, mut is_empty) = (Condition::any(), true);
    for (member_id, first, count) in ranges {
        is_empty = false;
        let within = Condition::all()
            .add(Column::MemberId.eq(member_id.0))
            .add(Column::Number.gte(stored(first)))
            .add(Column::Number.lt(stored(first + count)));
        any = any.add(within);
    }
    if is_empty {
        return Ok(Vec::new());
    }
    let select = Entity::find().filter(any).order_by_asc(Column::MemberId).order_by_asc(Column::Number);
    of_members(db, select).await
}

/// The number up to which a member has read their inbox. 0 if they never have.
pub async fn read_up_to(db: &impl ConnectionTrait, member_id: MemberId) -> Result<u64, DbErr> {
    let row = reads::Entity::find_by_id(member_id.0).one(db).await?;
    Ok(row.map_or(0, |row| row.number.unsigned_abs()))
}

/// Notes that a member has read their inbox up to this number.
pub async fn mark_read(db: &impl ConnectionTrait, member_id: MemberId, up_to: u64) -> Result<(), DbErr> {
    let number = stored(up_to);
    let row = reads::ActiveModel { member_id: Set(member_id.0), number: Set(number) };
    match reads::Entity::insert(row).exec_without_returning(db).await {
        // The row exists. Its number only grows.
        Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
            let moved = reads::Entity::update_many()
                .set(reads::ActiveModel { number: Set(number), ..Default::default() })
                .filter(reads::Column::MemberId.eq(member_id.0))
                .filter(reads::Column::Number.lt(number));
            moved.exec(db).await.map(drop)
        }
        inserted => inserted.map(drop),
    }
}

/// The rows with their entries from the logs.
async fn items(db: &impl ConnectionTrait, select: Select<Entity>) -> Result<Vec<Item>, DbErr> {
    Ok(of_members(db, select).await?.into_iter().map(|(_, item)| item).collect())
}

async fn of_members(
    db: &impl ConnectionTrait,
    select: Select<Entity>,
) -> Result<Vec<(MemberId, Item)>, DbErr> {
    let entry = Entity::belongs_to(log::Entity)
        .from((Column::DriveId, Column::Sequence))
        .to((log::Column::DriveId, log::Column::Sequence))
        .into();
    let rows = select
        .select_only()
        .columns([Column::MemberId, Column::Number, Column::DriveId, Column::At])
        .column_as(log::Column::Event, "event")
        .join(JoinType::InnerJoin, entry)
        .into_tuple::<(Uuid, i64, Uuid, Timestamp, String)>()
        .all(db)
        .await?;
    Ok(rows
        .into_iter()
        .map(|(member_id, number, drive_id, at, event)| {
            let (number, drive_id) = (number.unsigned_abs(), DriveId(drive_id));
            (MemberId(member_id), Item { number, drive_id, at, bytes: Bytes::from(event) })
        })
        .collect())
}
