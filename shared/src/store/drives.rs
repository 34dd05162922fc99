//! The tables `drives` and `slots`, as readers see them. [`batch`] loads and saves the state that
//! decisions change.

pub mod batch;

use std::collections::HashMap;

use domain::clock::Timestamp;
use domain::drive::state::{Drive, Places};
use domain::drive::{ClosedBy, Kind, Status};
use domain::id::{DriveId, SlotId};
use domain::text::folded;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::ExprTrait as _;
use sea_orm::{Condition, ConnectionTrait, DbErr, QueryOrder, QuerySelect};

use crate::database::rows;
use crate::database::search::{self, Pattern, Searched};
use crate::log::Head;

/// `drives`: one row per drive, with the state after the last entry of its log.
pub mod table {
    #![allow(missing_docs, reason = "the columns are the fields of `drive::state::Drive`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
    #[sea_orm(table_name = "drives")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub title: String,
        pub kind: String,
        pub status: String,
        pub closed_by: Option<String>,
        pub cancel_reason: Option<String>,
        #[sea_orm(column_type = "Text")]
        pub definition: String,
        pub rules_version: i32,
        pub opens_at: ChronoDateTimeUtc,
        pub closes_at: ChronoDateTimeUtc,
        pub remind_at: Option<ChronoDateTimeUtc>,
        #[sea_orm(column_type = "Text", nullable)]
        pub reminded: Option<String>,
        pub sequence: i64,
        pub head: Vec<u8>,
        pub created_at: ChronoDateTimeUtc,
        pub updated_at: ChronoDateTimeUtc,
        #[sea_orm(column_type = "Text", nullable)]
        pub search: Option<String>,
        pub search_of: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `slots`: one row per slot, with its counts.
pub mod slots {
    #![allow(missing_docs, reason = "the columns are the fields of `drive::state::Places`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "slots")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub drive_id: Uuid,
        pub capacity: Option<i32>,
        pub confirmed: i32,
        pub waitlisted: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// One drive as readers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct DriveView {
    /// Its id.
    pub id: DriveId,
    /// The drive.
    pub drive: Drive,
    /// The number of the last event in its log.
    pub sequence: u64,
    /// The counts of places in its slots.
    pub places: HashMap<SlotId, Places>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A search for drives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Query {
    /// Drives in one of these states. Empty means any.
    pub statuses: Vec<Status>,
    /// Drives of this kind.
    pub kind: Option<Kind>,
    /// Drives with this text in their title, regardless of case and accents.
    pub text: Option<String>,
    /// Drives after the one that was made at this instant and has this id.
    pub after: Option<(Timestamp, DriveId)>,
    /// The most drives to return.
    pub limit: u64,
}

/// The drives that a query finds, oldest first.
pub async fn list(db: &impl ConnectionTrait, query: &Query) -> Result<Vec<DriveView>, DbErr> {
    let mut select = table::Entity::find()
        .order_by_asc(table::Column::CreatedAt)
        .order_by_asc(table::Column::Id)
        .limit(query.limit);
    if !query.statuses.is_empty() {
        select =
            select.filter(table::Column::Status.is_in(query.statuses.iter().map(|status| status.as_str())));
    }
    if let Some(kind) = query.kind {
        select = select.filter(table::Column::Kind.eq(kind.as_str()));
    }
    if let Some(pattern) = query.text.as_deref().and_then(Pattern::of) {
        select = select.filter(pattern.is_in(TITLE));
    }
    if let Some((created_at, id)) = query.after {
        let same =
            Condition::all().add(table::Column::CreatedAt.eq(created_at)).add(table::Column::Id.gt(id.0));
        select = select.filter(Condition::any().add(table::Column::CreatedAt.gt(created_at)).add(same));
    }
    views(db, select.all(db).await?).await
}

/// The columns by which drives are searched for.
const TITLE: Searched<table::Column> = Searched {
    text: table::Column::Title,
    search: table::Column::Search,
    search_of: table::Column::SearchOf,
};

/// Folds at most a thousand titles whose folded form is missing or stale, by drive id after
/// `after`. Returns the last id, or `None` at the end.
pub(crate) async fn fill(db: &impl ConnectionTrait, after: Option<Uuid>) -> Result<Option<Uuid>, DbErr> {
    search::refill::<table::Entity>(db, table::Column::Id, TITLE, folded, after).await
}

/// One drive.
pub async fn find(db: &impl ConnectionTrait, id: DriveId) -> Result<Option<DriveView>, DbErr> {
    let row = table::Entity::find_by_id(id.0).all(db).await?;
    Ok(views(db, row).await?.pop())
}

/// A drive's row and the end of its log, for checks of both.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The drive.
    pub view: DriveView,
    /// The end of its log, as its row has it.
    pub head: Head,
}

/// One drive with the end of its log.
pub async fn stored(db: &impl ConnectionTrait, id: DriveId) -> Result<Option<Stored>, DbErr> {
    let Some(row) = table::Entity::find_by_id(id.0).one(db).await? else { return Ok(None) };
    let head = Head::stored(row.sequence, &row.head);
    Ok(views(db, vec![row]).await?.pop().map(|view| Stored { view, head }))
}

/// The drives with these ids. Ids without a drive are left out.
pub async fn by_ids(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = DriveId>,
) -> Result<Vec<DriveView>, DbErr> {
    let ids = ids.into_iter().map(|id| id.0);
    let rows = table::Entity::find().filter(table::Column::Id.is_in(ids)).all(db).await?;
    views(db, rows).await
}

/// The ids of all drives, for checks of every drive.
pub async fn ids(db: &impl ConnectionTrait) -> Result<Vec<DriveId>, DbErr> {
    let ids = table::Entity::find()
        .select_only()
        .column(table::Column::Id)
        .order_by_asc(table::Column::Id)
        .into_tuple::<Uuid>()
        .all(db)
        .await?;
    Ok(ids.into_iter().map(DriveId).collect())
}

/// The number of entries in all drives' logs, according to the drives' rows.
pub async fn entries(db: &impl ConnectionTrait) -> Result<u64, DbErr> {
    let all = table::Entity::find().select_only().column(table::Column::Sequence);
    Ok(all.into_tuple::<i64>().all(db).await?.into_iter().map(i64::unsigned_abs).sum())
}

/// The numbers of the last entries in these drives' logs. Ids without a drive are left out.
pub async fn ends(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = DriveId>,
) -> Result<Vec<(DriveId, u64)>, DbErr> {
    let ends = table::Entity::find()
        .select_only()
        .columns([table::Column::Id, table::Column::Sequence])
        .filter(rows::is_one_of(db, table::Column::Id, ids.into_iter().map(|id| id.0)))
        .into_tuple::<(Uuid, i64)>()
        .all(db)
        .await?;
    Ok(ends.into_iter().map(|(id, end)| (DriveId(id), end.unsigned_abs())).collect())
}

/// The numbers of the last entries in all drives' logs, oldest drive first.
pub async fn all_ends(db: &impl ConnectionTrait) -> Result<Vec<(DriveId, u64)>, DbErr> {
    let ends = table::Entity::find()
        .select_only()
        .columns([table::Column::Id, table::Column::Sequence])
        .order_by_asc(table::Column::Id)
        .into_tuple::<(Uuid, i64)>()
        .all(db)
        .await?;
    Ok(ends.into_iter().map(|(id, end)| (DriveId(id), end.unsigned_abs())).collect())
}

async fn views(db: &impl ConnectionTrait, rows: Vec<table::Model>) -> Result<Vec<DriveView>, DbErr> {
    let ids = rows.iter().map(|row| row.id);
    let mut places_of: HashMap<Uuid, HashMap<SlotId, Places>> = HashMap::new();
    for slot in slots::Entity::find().filter(slots::Column::DriveId.is_in(ids)).all(db).await? {
        places_of.entry(slot.drive_id).or_default().insert(SlotId(slot.id), places(&slot));
    }
    rows.into_iter()
        .map(|row| {
            Ok(DriveView {
                id: DriveId(row.id),
                drive: drive(&row)?,
                sequence: row.sequence.unsigned_abs(),
                places: places_of.remove(&row.id).unwrap_or_default(),
                created_at: row.created_at,
            })
        })
        .collect()
}

/// At most `limit` drives whose log has grown at `since` or later, by id after `after`. Each comes
/// with the number of the last event in its log.
pub async fn changed_since(
    db: &impl ConnectionTrait,
    since: Timestamp,
    after: Option<DriveId>,
    limit: u64,
) -> Result<Vec<(DriveId, u64)>, DbErr> {
    let mut select = table::Entity::find()
        .select_only()
        .columns([table::Column::Id, table::Column::Sequence])
        .filter(table::Column::UpdatedAt.gte(since))
        .order_by_asc(table::Column::Id)
        .limit(limit);
    if let Some(after) = after {
        select = select.filter(table::Column::Id.gt(after.0));
    }
    let rows = select.into_tuple::<(Uuid, i64)>().all(db).await?;
    Ok(rows.into_iter().map(|(id, sequence)| (DriveId(id), sequence.unsigned_abs())).collect())
}

/// What can fall due for a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It opens or closes.
    Advance,
    /// Members are reminded of something.
    Remind,
}

/// A drive for which something has fallen due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The drive.
    pub drive_id: DriveId,
    /// What has fallen due.
    pub what: What,
    /// When it fell due.
    pub at: Timestamp,
    /// The number of the last event in its log.
    pub sequence: u64,
}

/// At most `limit` drives that are due to open or close, without the first `skip`. They are in the
/// order of their closing times.
pub async fn due(
    db: &impl ConnectionTrait,
    now: Timestamp,
    skip: u64,
    limit: u64,
) -> Result<Vec<Due>, DbErr> {
    let rows = table::Entity::find()
        .select_only()
        .columns([
            table::Column::Id,
            table::Column::OpensAt,
            table::Column::ClosesAt,
            table::Column::Sequence,
        ])
        .filter(
            Condition::any()
                .add(
                    table::Column::Status.eq(Status::Published.as_str()).and(table::Column::OpensAt.lte(now)),
                )
                .add(table::Column::Status.eq(Status::Open.as_str()).and(table::Column::ClosesAt.lte(now))),
        )
        .order_by_asc(table::Column::ClosesAt)
        .order_by_asc(table::Column::Id)
        .offset(skip)
        .limit(limit)
        .into_tuple::<(Uuid, Timestamp, Timestamp, i64)>()
        .all(db)
        .await?;
    let due = |(id, opens_at, closes_at, sequence): (_, _, _, i64)| Due {
        drive_id: DriveId(id),
        what: What::Advance,
        at: if closes_at <= now { closes_at } else { opens_at },
        sequence: sequence.unsigned_abs(),
    };
    Ok(rows.into_iter().map(due).collect())
}

/// At most `limit` drives with a reminder that is due, without the first `skip`. The most overdue
/// come first.
pub async fn reminders(
    db: &impl ConnectionTrait,
    now: Timestamp,
    skip: u64,
    limit: u64,
) -> Result<Vec<Due>, DbErr> {
    let rows = table::Entity::find()
        .select_only()
        .columns([table::Column::Id, table::Column::RemindAt, table::Column::Sequence])
        .filter(table::Column::RemindAt.lte(now))
        .order_by_asc(table::Column::RemindAt)
        .order_by_asc(table::Column::Id)
        .offset(skip)
        .limit(limit)
        .into_tuple::<(Uuid, Timestamp, i64)>()
        .all(db)
        .await?;
    let due = |(id, at, sequence): (_, _, i64)| Due {
        drive_id: DriveId(id),
        what: What::Remind,
        at,
        sequence: sequence.unsigned_abs(),
    };
    Ok(rows.into_iter().map(due).collect())
}

fn places(slot: &slots::Model) -> Places {
    Places { confirmed: slot.confirmed.unsigned_abs(), waitlisted: slot.waitlisted.unsigned_abs() }
}

/// Reads a drive from its row.
fn drive(row: &table::Model) -> Result<Drive, DbErr> {
    let definition = serde_json::from_str(&row.definition).map_err(|error| DbErr::Json(error.to_string()))?;
    let reminded = row.reminded.as_deref().map(serde_json::from_str).transpose();
    let reminded = reminded.map_err(|error| DbErr::Json(error.to_string()))?.unwrap_or_default();
    let status =
        Status::from_word(&row.status).ok_or_else(|| DbErr::Type(format!("status {:?}", row.status)))?;
    let closed_by = match row.closed_by.as_deref() {
        None => None,
        Some("schedule") => Some(ClosedBy::Schedule),
        Some("admin") => Some(ClosedBy::Admin),
        Some(other) => return Err(DbErr::Type(format!("closed_by {other:?}"))),
    };
    let rules_version = row.rules_version.unsigned_abs();
    let cancel_reason = row.cancel_reason.clone();
    Ok(Drive { definition, status, closed_by, cancel_reason, rules_version, reminded })
}
