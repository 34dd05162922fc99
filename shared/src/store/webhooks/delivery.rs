//! `webhook_deliveries` and `webhook_attempts`: pending deliveries, and the results of attempts.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use domain::clock::Timestamp;
use domain::id::{DeliveryId, DriveId, WebhookId, id_at};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait as _, Query, WindowStatement};
use sea_orm::{ConnectionTrait, DbErr, Order, QueryOrder as _, QueryResult, QuerySelect as _, Set};

use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::webhook::{Attempt, Delivery, State};

/// `webhook_deliveries`. A ping has no drive, so its drive and number are zero.
pub mod deliveries {
    #![allow(missing_docs, reason = "the columns are the fields of `Delivery`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "webhook_deliveries")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub endpoint_id: Uuid,
        pub event_id: Uuid,
        pub event_type: String,
        pub event_time: ChronoDateTimeUtc,
        pub drive_id: Uuid,
        pub sequence: i64,
        pub state: String,
        pub attempts: i32,
        pub due_at: ChronoDateTimeUtc,
        pub lease: Option<Uuid>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `webhook_attempts`.
pub mod attempts {
    #![allow(missing_docs, reason = "the columns are the fields of `Attempt`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "webhook_attempts")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub delivery_id: Uuid,
        pub at: ChronoDateTimeUtc,
        pub took_ms: i32,
        #[sea_orm(column_type = "Text")]
        pub request_headers: String,
        pub status: Option<i32>,
        #[sea_orm(column_type = "Text")]
        pub answer: String,
        #[sea_orm(column_type = "Text", nullable)]
        pub error: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

use deliveries::{ActiveModel, Column, Entity, Model};

impl TryFrom<Model> for Delivery {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let state = State::from_word(&row.state);
        let place = (DriveId(row.drive_id), row.sequence.unsigned_abs());
        Ok(Self {
            id: DeliveryId(row.id),
            webhook_id: WebhookId(row.endpoint_id),
            event_id: row.event_id,
            event_type: row.event_type,
            event_time: row.event_time,
            place: (!row.drive_id.is_nil()).then_some(place),
            state: state.ok_or_else(|| DbErr::Type(format!("state {:?}", row.state)))?,
            attempts: row.attempts.unsigned_abs(),
            due_at: row.due_at,
        })
    }
}

impl From<&Delivery> for ActiveModel {
    fn from(delivery: &Delivery) -> Self {
        let (drive_id, sequence) = delivery.place.unwrap_or((DriveId(Uuid::nil()), 0));
        Self {
            id: Set(delivery.id.0),
            endpoint_id: Set(delivery.webhook_id.0),
            event_id: Set(delivery.event_id),
            event_type: Set(delivery.event_type.clone()),
            event_time: Set(delivery.event_time),
            drive_id: Set(drive_id.0),
            sequence: Set(i64::try_from(sequence).unwrap_or(i64::MAX)),
            state: Set(delivery.state.as_str().to_owned()),
            attempts: Set(i32::try_from(delivery.attempts).unwrap_or(i32::MAX)),
            due_at: Set(delivery.due_at),
            lease: Set(None),
        }
    }
}

/// Writes the deliveries that do not exist yet. Returns the ids of those that existed. (A duplicate
/// that only the insert finds is a unique violation. Otherwise MariaDB would count it as a row.)
pub async fn insert_missing(
    db: &impl ConnectionTrait,
    deliveries: &[Delivery],
) -> Result<HashSet<DeliveryId>, DbErr> {
    let mut known = HashSet::new();
    for chunk in deliveries.chunks(ROWS_PER_INSERT) {
        let these = rows::is_one_of(db, Column::Id, chunk.iter().map(|delivery| delivery.id.0));
        let ids = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(these)
            .into_tuple::<Uuid>()
            .all(db)
            .await?;
        known.extend(ids.into_iter().map(DeliveryId));
    }
    let new: Vec<_> =
        deliveries.iter().filter(|delivery| !known.contains(&delivery.id)).map(ActiveModel::from).collect();
    rows::insert(db, new, |_| 0).await?;
    Ok(known)
}

/// Makes these deliveries due again, as if they had never been tried. Returns their number.
pub async fn restart(
    db: &impl ConnectionTrait,
    webhook_id: WebhookId,
    ids: impl IntoIterator<Item = DeliveryId>,
    now: Timestamp,
) -> Result<u64, DbErr> {
    let ids: Vec<_> = ids.into_iter().map(|id| id.0).collect();
    let mut restarted = 0;
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        let change = ActiveModel {
            state: Set(State::Pending.as_str().to_owned()),
            attempts: Set(0),
            due_at: Set(now),
            lease: Set(None),
            ..Default::default()
        };
        let these = rows::is_one_of(db, Column::Id, chunk.iter().copied());
        let these = these.and(Column::EndpointId.eq(webhook_id.0));
        restarted += Entity::update_many().set(change).filter(these).exec(db).await?.rows_affected;
    }
    Ok(restarted)
}

/// At most `limit` pending deliveries of a webhook that may be tried next, with their drives and
/// the instants at which they are due, in that order. For an ordered webhook, these are only the
/// first of each drive.
pub async fn next(
    db: &impl ConnectionTrait,
    webhook_id: WebhookId,
    ordered: bool,
    limit: u64,
) -> Result<Vec<(DeliveryId, DriveId, Timestamp)>, DbErr> {
    let mut pending = Query::select();
    pending
        .columns([Column::Id, Column::DriveId, Column::DueAt])
        .from(Entity)
        .and_where(Column::EndpointId.eq(webhook_id.0))
        .and_where(Column::State.eq(State::Pending.as_str()));
    let select = if ordered {
        // One pass over an index, however many deliveries there are. A join with the first of each
        // drive becomes a nested loop when the database expects few rows.
        let of_a_drive =
            WindowStatement::partition_by(Column::DriveId).order_by(Column::Sequence, Order::Asc).take();
        pending.expr_window_as(Expr::cust("ROW_NUMBER()"), of_a_drive, "place");
        let mut heads = Query::select();
        heads.columns([Column::Id, Column::DriveId, Column::DueAt]).from_subquery(pending, "pending");
        heads.and_where(Expr::col("place").eq(1)).take()
    } else {
        pending
    };
    let mut select = select;
    select.order_by(Column::DueAt, Order::Asc).limit(limit);
    let rows = db.query_all(&select).await?;
    let next = |row: &QueryResult| {
        Ok((
            DeliveryId(row.try_get_by_index(0)?),
            DriveId(row.try_get_by_index(1)?),
            row.try_get_by_index(2)?,
        ))
    };
    rows.iter().map(next).collect()
}

/// A run: at most `limit` of the first pending deliveries of a drive to a webhook, in order. It
/// ends before the first that is not due.
pub async fn run(
    db: &impl ConnectionTrait,
    webhook_id: WebhookId,
    drive_id: DriveId,
    now: Timestamp,
    limit: u64,
) -> Result<Vec<DeliveryId>, DbErr> {
    let first = Entity::find()
        .select_only()
        .columns([Column::Id, Column::DueAt])
        .filter(Column::EndpointId.eq(webhook_id.0))
        .filter(Column::State.eq(State::Pending.as_str()))
        .filter(Column::DriveId.eq(drive_id.0))
        .order_by_asc(Column::Sequence)
        .limit(limit)
        .into_tuple::<(Uuid, Timestamp)>()
        .all(db)
        .await?;
    Ok(first.into_iter().take_while(|(_, due_at)| *due_at <= now).map(|(id, _)| DeliveryId(id)).collect())
}

/// Claims these deliveries until `until`, except those that are not due or were claimed meanwhile.
/// At `until` they are due again, unless a result was written. `lease` is the id of this claim.
pub async fn claim(
    db: &impl ConnectionTrait,
    ids: &[DeliveryId],
    lease: Uuid,
    now: Timestamp,
    until: Timestamp,
) -> Result<Vec<Delivery>, DbErr> {
    let these = || rows::is_one_of(db, Column::Id, ids.iter().map(|id| id.0));
    let pending = || Column::State.eq(State::Pending.as_str());
    let change = ActiveModel { lease: Set(Some(lease)), due_at: Set(until), ..Default::default() };
    let due = these().and(pending()).and(Column::DueAt.lte(now));
    Entity::update_many().set(change).filter(due).exec(db).await?;
    let ours = these().and(Column::Lease.eq(lease));
    Entity::find().filter(ours).all(db).await?.into_iter().map(Delivery::try_from).collect()
}

/// Makes deliveries due at `now` whose due time came from a clock that ran ahead. These are the
/// unclaimed deliveries that are due after `later_than`, and all deliveries that are due after
/// `taken_until`.
pub async fn bring_forward(
    db: &impl ConnectionTrait,
    now: Timestamp,
    later_than: Timestamp,
    taken_until: Timestamp,
) -> Result<u64, DbErr> {
    let is_free = Column::Lease.is_null().and(Column::DueAt.gt(later_than)).or(Column::DueAt.gt(taken_until));
    let change = ActiveModel { due_at: Set(now), lease: Set(None), ..Default::default() };
    let these = Column::State.eq(State::Pending.as_str()).and(is_free);
    Ok(Entity::update_many().set(change).filter(these).exec(db).await?.rows_affected)
}

/// Writes the results of deliveries that are still claimed under this lease.
pub async fn settle(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = DeliveryId>,
    lease: Uuid,
    (state, attempts, due_at): (State, u32, Timestamp),
) -> Result<(), DbErr> {
    let change = ActiveModel {
        state: Set(state.as_str().to_owned()),
        attempts: Set(i32::try_from(attempts).unwrap_or(i32::MAX)),
        due_at: Set(due_at),
        lease: Set(None),
        ..Default::default()
    };
    let these = rows::is_one_of(db, Column::Id, ids.into_iter().map(|id| id.0)).and(Column::Lease.eq(lease));
    Entity::update_many().set(change).filter(these).exec(db).await.map(drop)
}

/// Releases deliveries that were claimed under this lease and not tried. They are due again at
/// once, because their due time becomes the time of their event.
pub async fn release(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = DeliveryId>,
    lease: Uuid,
) -> Result<(), DbErr> {
    let these = rows::is_one_of(db, Column::Id, ids.into_iter().map(|id| id.0)).and(Column::Lease.eq(lease));
    Entity::update_many()
        .col_expr(Column::DueAt, Expr::col(Column::EventTime))
        .col_expr(Column::Lease, Expr::value(None::<Uuid>))
        .filter(these)
        .exec(db)
        .await
        .map(drop)
}

/// A webhook's deliveries in these states, newest event first, before the one with the id `before`.
pub async fn list(
    db: &impl ConnectionTrait,
    webhook_id: WebhookId,
    states: &[State],
    before: Option<DeliveryId>,
    limit: u64,
) -> Result<Vec<Delivery>, DbErr> {
    let mut found = Vec::new();
    // Each state reads its own part of the same index.
    for state in states {
        let mut select = Entity::find()
            .filter(Column::EndpointId.eq(webhook_id.0))
            .filter(Column::State.eq(state.as_str()))
            .order_by_desc(Column::Id)
            .limit(limit);
        if let Some(before) = before {
            select = select.filter(Column::Id.lt(before.0));
        }
        for row in select.all(db).await? {
            found.push(Delivery::try_from(row)?);
        }
    }
    found.sort_unstable_by_key(|delivery| std::cmp::Reverse(delivery.id));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// Deletes the pending deliveries of a webhook.
pub(super) async fn delete_of(db: &impl ConnectionTrait, webhook_id: WebhookId) -> Result<(), DbErr> {
    Entity::delete_many().filter(Column::EndpointId.eq(webhook_id.0)).exec(db).await.map(drop)
}

/// Deletes deliveries of events before `before` without an attempt since then, and attempts before
/// it.
pub async fn forget(db: &impl ConnectionTrait, before: Timestamp) -> Result<u64, DbErr> {
    // Ids grow with the time.
    let first = id_at(before, &[0; 32]);
    let old = Column::Id.lt(first).and(Column::DueAt.lt(before));
    let forgotten = Entity::delete_many().filter(old).exec(db).await?.rows_affected;
    attempts::Entity::delete_many().filter(attempts::Column::Id.lt(first)).exec(db).await?;
    Ok(forgotten)
}

/// Writes the results of attempts.
pub async fn insert_attempts(db: &impl ConnectionTrait, all: &[Attempt]) -> Result<(), DbErr> {
    let rows =
        all.iter().map(|attempt| attempts::ActiveModel {
            id: Set(attempt.id),
            delivery_id: Set(attempt.delivery_id.0),
            at: Set(attempt.at),
            took_ms: Set(i32::try_from(attempt.took.as_millis()).unwrap_or(i32::MAX)),
            request_headers: Set(
                serde_json::to_string(&attempt.request_headers).expect("headers are plain data")
            ),
            status: Set(attempt.status.map(i32::from)),
            answer: Set(attempt.answer.clone()),
            error: Set(attempt.error.clone()),
        });
    rows::insert(db, rows.collect(), |row: &attempts::ActiveModel| row.answer.as_ref().len()).await
}

/// The attempts of these deliveries, oldest first.
pub async fn attempts_of(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = DeliveryId>,
) -> Result<HashMap<DeliveryId, Vec<Attempt>>, DbErr> {
    let these = rows::is_one_of(db, attempts::Column::DeliveryId, ids.into_iter().map(|id| id.0));
    let rows = attempts::Entity::find().filter(these).order_by_asc(attempts::Column::Id).all(db).await?;
    let mut all: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows {
        let attempt = Attempt {
            id: row.id,
            delivery_id: DeliveryId(row.delivery_id),
            at: row.at,
            took: Duration::from_millis(u64::from(row.took_ms.unsigned_abs())),
            request_headers: serde_json::from_str(&row.request_headers)
                .map_err(|error| DbErr::Json(error.to_string()))?,
            status: row.status.and_then(|status| u16::try_from(status).ok()),
            answer: row.answer,
            error: row.error,
            retry_after: None,
        };
        all.entry(attempt.delivery_id).or_default().push(attempt);
    }
    Ok(all)
}
