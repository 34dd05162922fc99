//! The table `registrations`: one row per member and drive, with the state after the last entry of
//! the drive's log.

use std::collections::{BTreeMap, BTreeSet};

use domain::clock::Timestamp;
use domain::drive::registration::{Registration, RegistrationState};
use domain::id::{DriveId, MemberId, RegistrationId, SlotId};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{ExprTrait as _, Func, OnConflict, Query, WindowStatement};
use sea_orm::{
    Condition, ConnectionTrait, DbErr, Iterable as _, JoinType, Order, QueryOrder, QuerySelect, Set,
};

use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::store::members;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "registrations")]
#[allow(missing_docs, reason = "the columns are the fields of `Registration`")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub member_id: Uuid,
    #[sea_orm(primary_key, auto_increment = false)]
    pub drive_id: Uuid,
    pub id: Uuid,
    pub slot_id: Uuid,
    pub state: String,
    pub rank: i64,
    pub place: Option<i32>,
    pub registered_at: ChronoDateTimeUtc,
    pub checked_in_at: Option<ChronoDateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// A registration and its drive.
pub type OfDrive = (DriveId, Registration);

impl TryFrom<Model> for Registration {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let state = RegistrationState::from_word(&row.state)
            .ok_or_else(|| DbErr::Type(format!("registration state {:?}", row.state)))?;
        Ok(Self {
            id: RegistrationId(row.id),
            member_id: MemberId(row.member_id),
            slot_id: SlotId(row.slot_id),
            state,
            rank: row.rank.unsigned_abs(),
            place: row.place.map(i32::unsigned_abs),
            registered_at: row.registered_at,
            checked_in_at: row.checked_in_at,
        })
    }
}

fn all(rows: Vec<Model>) -> Result<Vec<OfDrive>, DbErr> {
    rows.into_iter().map(|row| Ok((DriveId(row.drive_id), row.try_into()?))).collect()
}

/// The registrations of these pairs of member and drive. Pairs without one are left out.
pub(crate) async fn of_members(
    db: &impl ConnectionTrait,
    wanted: &BTreeSet<(MemberId, DriveId)>,
) -> Result<Vec<OfDrive>, DbErr> {
    let keys = wanted.iter().map(|(member_id, drive_id)| vec![member_id.0.into(), drive_id.0.into()]);
    all(rows::find::<Entity>(db, &[Column::MemberId, Column::DriveId], keys.collect()).await?)
}

/// The registrations with these ids, for these drives.
pub(crate) async fn by_ids(
    db: &impl ConnectionTrait,
    drives: &BTreeSet<DriveId>,
    ids: &BTreeSet<RegistrationId>,
) -> Result<Vec<OfDrive>, DbErr> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let select = Entity::find()
        .filter(rows::is_one_of(db, Column::DriveId, drives.iter().map(|id| id.0)))
        .filter(rows::is_one_of(db, Column::Id, ids.iter().map(|id| id.0)));
    all(select.all(db).await?)
}

/// The first `limit` registrations in a slot's waiting list, head first.
pub(crate) async fn waiting(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    slot_id: SlotId,
    limit: u64,
) -> Result<Vec<OfDrive>, DbErr> {
    let select = Entity::find()
        .filter(Column::DriveId.eq(drive_id.0))
        .filter(Column::State.eq(RegistrationState::Waitlisted.as_str()))
        .filter(Column::SlotId.eq(slot_id.0))
        .order_by_asc(Column::Rank)
        .limit(limit);
    all(select.all(db).await?)
}

fn row(drive_id: DriveId, registration: &Registration) -> ActiveModel {
    ActiveModel {
        member_id: Set(registration.member_id.0),
        drive_id: Set(drive_id.0),
        id: Set(registration.id.0),
        slot_id: Set(registration.slot_id.0),
        state: Set(registration.state.as_str().to_owned()),
        rank: Set(i64::try_from(registration.rank).unwrap_or(i64::MAX)),
        place: Set(registration.place.map(|place| i32::try_from(place).unwrap_or(i32::MAX))),
        registered_at: Set(registration.registered_at),
        checked_in_at: Set(registration.checked_in_at),
    }
}

/// Writes registrations of members that have none for the drive yet.
pub(crate) async fn insert(db: &impl ConnectionTrait, registrations: &[OfDrive]) -> Result<(), DbErr> {
    let new: Vec<_> =
        registrations.iter().map(|(drive_id, registration)| row(*drive_id, registration)).collect();
    rows::insert(db, new, |_| 0).await
}

/// Writes registrations of members that have one for the drive already.
pub(crate) async fn replace(db: &impl ConnectionTrait, registrations: &[OfDrive]) -> Result<(), DbErr> {
    let is_key = |column: &Column| matches!(column, Column::MemberId | Column::DriveId);
    for chunk in registrations.chunks(ROWS_PER_INSERT) {
        let rows = chunk.iter().map(|(drive_id, registration)| row(*drive_id, registration));
        let replace = OnConflict::columns([Column::MemberId, Column::DriveId])
            .update_columns(Column::iter().filter(|column| !is_key(column)))
            .to_owned();
        Entity::insert_many(rows).on_conflict(replace).exec_without_returning(db).await?;
    }
    Ok(())
}

/// At most `limit` registrations of one member, by drive id after `after`.
pub async fn of_member(
    db: &impl ConnectionTrait,
    member_id: MemberId,
    after: Option<DriveId>,
    limit: u64,
) -> Result<Vec<OfDrive>, DbErr> {
    let mut select =
        Entity::find().filter(Column::MemberId.eq(member_id.0)).order_by_asc(Column::DriveId).limit(limit);
    if let Some(after) = after {
        select = select.filter(Column::DriveId.gt(after.0));
    }
    all(select.all(db).await?)
}

/// Where a listing of a drive's registrations continues: after the registration that this member
/// made at this instant.
///
/// A promotion does not move a registration in this order, because it changes only state and rank.
/// A member who withdraws and registers again moves towards the end, which the listing has not
/// reached yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct After {
    /// When the last one was made.
    pub registered_at: Timestamp,
    /// The member of that registration.
    pub member_id: MemberId,
}

impl From<&Registration> for After {
    fn from(last: &Registration) -> Self {
        Self { registered_at: last.registered_at, member_id: last.member_id }
    }
}

/// At most `limit` registrations of a drive in these states, in the order in which they were made.
/// If there is a `text`, only those of people who have it in their name or e-mail address.
pub async fn of_drive(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    states: &[RegistrationState],
    text: Option<&str>,
    after: Option<After>,
    limit: u64,
) -> Result<Vec<Registration>, DbErr> {
    let mut select = Entity::find()
        .filter(Column::DriveId.eq(drive_id.0))
        .filter(Column::State.is_in(states.iter().map(|state| state.as_str())))
        .order_by_asc(Column::RegisteredAt)
        .order_by_asc(Column::MemberId)
        .limit(limit);
    if let Some(named) = text.and_then(members::ids_of_named) {
        select = select.filter(Column::MemberId.in_subquery(named));
    }
    if let Some(After { registered_at, member_id }) = after {
        let later = Condition::any()
            .add(Column::RegisteredAt.gt(registered_at))
            .add(Column::MemberId.gt(member_id.0));
        // Only the first condition tells the database where to begin in the index.
        select = select.filter(Column::RegisteredAt.gte(registered_at)).filter(later);
    }
    select.all(db).await?.into_iter().map(Registration::try_from).collect()
}

/// The positions of these members in the waiting lists of a drive's slots, from 1. Members who do
/// not wait are left out.
pub async fn waitlist_positions_of(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    members: impl IntoIterator<Item = MemberId>,
) -> Result<BTreeMap<MemberId, u64>, DbErr> {
    let members: Vec<_> = members.into_iter().map(|id| id.0).collect();
    if members.is_empty() {
        return Ok(BTreeMap::new());
    }
    let in_line = WindowStatement::partition_by(Column::SlotId).order_by(Column::Rank, Order::Asc).to_owned();
    let line = Query::select()
        .column(Column::MemberId)
        .expr_window_as(Func::cust("row_number"), in_line, "position")
        .from(Entity)
        .and_where(Column::DriveId.eq(drive_id.0))
        .and_where(Column::State.eq(RegistrationState::Waitlisted.as_str()))
        .to_owned();
    let select = Query::select()
        .column(("line", Column::MemberId))
        .column(("line", "position"))
        .from_subquery(line, "line")
        .and_where(Expr::col(("line", Column::MemberId)).is_in(members))
        .to_owned();
    let rows = db.query_all(&select).await?;
    rows.iter()
        .map(|row| {
            let position = row.try_get_by_index::<i64>(1)?;
            Ok((MemberId(row.try_get_by_index(0)?), position.unsigned_abs()))
        })
        .collect()
}

/// The positions of a member in the waiting lists of these drives, from 1. Drives where the member
/// does not wait are left out.
pub async fn waitlist_positions(
    db: &impl ConnectionTrait,
    member_id: MemberId,
    drives: impl IntoIterator<Item = DriveId>,
) -> Result<BTreeMap<DriveId, u64>, DbErr> {
    let col = |table: &'static str, column: Column| Expr::col((table, column));
    let (own, list) = ("own", "list");
    let not_after = Condition::all()
        .add(col(list, Column::DriveId).equals((own, Column::DriveId)))
        .add(col(list, Column::SlotId).equals((own, Column::SlotId)))
        .add(col(list, Column::State).equals((own, Column::State)))
        .add(col(list, Column::Rank).lte(col(own, Column::Rank)));
    let select = Query::select()
        .column((own, Column::DriveId))
        .expr(col(list, Column::Id).count())
        .from_as(Entity, own)
        .join_as(JoinType::InnerJoin, Entity, list, not_after)
        .and_where(col(own, Column::MemberId).eq(member_id.0))
        .and_where(col(own, Column::DriveId).is_in(drives.into_iter().map(|id| id.0)))
        .and_where(col(own, Column::State).eq(RegistrationState::Waitlisted.as_str()))
        .group_by_col((own, Column::DriveId))
        .to_owned();
    let rows = db.query_all(&select).await?;
    rows.iter()
        .map(|row| {
            let position = row.try_get_by_index::<i64>(1)?;
            Ok((DriveId(row.try_get_by_index(0)?), position.unsigned_abs()))
        })
        .collect()
}

/// The members with registrations of a drive in these states, each with their slot.
pub async fn members_in(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    states: &[RegistrationState],
) -> Result<Vec<(MemberId, SlotId)>, DbErr> {
    let found = Entity::find()
        .select_only()
        .columns([Column::MemberId, Column::SlotId])
        .filter(Column::DriveId.eq(drive_id.0))
        .filter(Column::State.is_in(states.iter().map(|state| state.as_str())))
        .into_tuple::<(Uuid, Uuid)>()
        .all(db)
        .await?;
    Ok(found.into_iter().map(|(member_id, slot_id)| (MemberId(member_id), SlotId(slot_id))).collect())
}

/// The registrations of any of these members for any of these drives.
pub async fn standing(
    db: &impl ConnectionTrait,
    drives: &BTreeSet<DriveId>,
    members: &BTreeSet<MemberId>,
) -> Result<Vec<OfDrive>, DbErr> {
    let of_members = rows::is_one_of(db, Column::MemberId, members.iter().map(|id| id.0));
    let for_drives = rows::is_one_of(db, Column::DriveId, drives.iter().map(|id| id.0));
    all(Entity::find().filter(of_members.and(for_drives)).all(db).await?)
}

/// At most `limit` registrations of a drive, by id after `after`, for checks of every registration.
pub async fn page(
    db: &impl ConnectionTrait,
    drive_id: DriveId,
    after: Option<RegistrationId>,
    limit: u64,
) -> Result<Vec<Registration>, DbErr> {
    let mut select =
        Entity::find().filter(Column::DriveId.eq(drive_id.0)).order_by_asc(Column::Id).limit(limit);
    if let Some(after) = after {
        select = select.filter(Column::Id.gt(after.0));
    }
    select.all(db).await?.into_iter().map(Registration::try_from).collect()
}
