//! The table `mails`: mails on their way, and their results. [`settings`] has preferences and
//! templates.

pub mod settings;

use domain::clock::Timestamp;
use domain::id::{DriveId, MailId, MemberId, WebhookId, id_at};
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::ExprTrait as _;
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect, Set};

use crate::database::rows;
use crate::mail::{Kind, Mail, Source, State};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "mails")]
#[allow(missing_docs, reason = "the columns are the fields of `Mail`")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub member_id: Uuid,
    pub drive_id: Option<Uuid>,
    pub sequence: Option<i64>,
    pub webhook_id: Option<Uuid>,
    pub kind: String,
    pub state: String,
    pub attempts: i32,
    pub due_at: ChronoDateTimeUtc,
    pub created_at: ChronoDateTimeUtc,
    pub lease: Option<Uuid>,
    #[sea_orm(column_type = "Text", nullable)]
    pub error: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "there are none")]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl TryFrom<Model> for Mail {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let (kind, state) = (Kind::from_word(&row.kind), State::from_word(&row.state));
        let entry = row.drive_id.zip(row.sequence);
        let entry =
            entry.map(|(drive_id, sequence)| Source::Entry(DriveId(drive_id), sequence.unsigned_abs()));
        let source = entry.or_else(|| row.webhook_id.map(|id| Source::Webhook(WebhookId(id))));
        Ok(Self {
            id: MailId(row.id),
            member_id: MemberId(row.member_id),
            source: source.ok_or_else(|| DbErr::Type(format!("mail {} is about nothing", row.id)))?,
            kind: kind.ok_or_else(|| DbErr::Type(format!("kind {:?}", row.kind)))?,
            state: state.ok_or_else(|| DbErr::Type(format!("state {:?}", row.state)))?,
            attempts: row.attempts.unsigned_abs(),
            due_at: row.due_at,
            created_at: row.created_at,
            error: row.error,
        })
    }
}

/// Writes new mails.
pub async fn insert(db: &impl ConnectionTrait, mails: &[Mail]) -> Result<(), DbErr> {
    let rows: Vec<_> = mails
        .iter()
        .map(|mail| ActiveModel {
            id: Set(mail.id.0),
            member_id: Set(mail.member_id.0),
            drive_id: Set(mail.place().map(|(drive_id, _)| drive_id.0)),
            sequence: Set(mail.place().map(|(_, sequence)| i64::try_from(sequence).unwrap_or(i64::MAX))),
            webhook_id: Set(match mail.source {
                Source::Webhook(id) => Some(id.0),
                Source::Entry(..) => None,
            }),
            kind: Set(mail.kind.as_str().to_owned()),
            state: Set(mail.state.as_str().to_owned()),
            attempts: Set(i32::try_from(mail.attempts).unwrap_or(i32::MAX)),
            due_at: Set(mail.due_at),
            created_at: Set(mail.created_at),
            lease: Set(None),
            error: Set(mail.error.clone()),
        })
        .collect();
    rows::insert(db, rows, |_| 0).await
}

/// At most `limit` mails that are due, the most overdue first.
pub async fn due(db: &impl ConnectionTrait, now: Timestamp, limit: u64) -> Result<Vec<MailId>, DbErr> {
    let ids = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::State.eq(State::Pending.as_str()))
        .filter(Column::DueAt.lte(now))
        .order_by_asc(Column::DueAt)
        .limit(limit)
        .into_tuple::<Uuid>()
        .all(db)
        .await?;
    Ok(ids.into_iter().map(MailId).collect())
}

/// Claims these mails until `until`, except those that are not due or were claimed meanwhile. At
/// `until` they are due again, unless a result was written. `lease` is the id of this claim.
pub async fn claim(
    db: &impl ConnectionTrait,
    ids: &[MailId],
    lease: Uuid,
    now: Timestamp,
    until: Timestamp,
) -> Result<Vec<Mail>, DbErr> {
    let these = || rows::is_one_of(db, Column::Id, ids.iter().map(|id| id.0));
    let change = ActiveModel { lease: Set(Some(lease)), due_at: Set(until), ..Default::default() };
    let due = these().and(Column::State.eq(State::Pending.as_str())).and(Column::DueAt.lte(now));
    Entity::update_many().set(change).filter(due).exec(db).await?;
    let ours = these().and(Column::Lease.eq(lease));
    let rows = Entity::find().filter(ours).order_by_asc(Column::Id).all(db).await?;
    let readable = rows.into_iter().filter_map(|row| {
        // A kind of another version. Leave it to that version. The other mails must not wait for
        // it.
        Mail::try_from(row)
            .inspect_err(|error| tracing::error!(%error, "could not read a mail; it stays pending"))
            .ok()
    });
    Ok(readable.collect())
}

/// Makes mails due at `now` whose due time came from a clock that ran ahead. These are the
/// unclaimed mails that are due after `later_than`, and all mails that are due after `taken_until`.
/// If a member does not want a mail yet, the sender postpones it again.
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

/// Writes the same result for these mails, if they are still claimed under this lease.
pub async fn settle(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = MailId>,
    lease: Uuid,
    outcome: &Mail,
) -> Result<(), DbErr> {
    let change = ActiveModel {
        state: Set(outcome.state.as_str().to_owned()),
        attempts: Set(i32::try_from(outcome.attempts).unwrap_or(i32::MAX)),
        due_at: Set(outcome.due_at),
        error: Set(outcome.error.clone()),
        lease: Set(None),
        ..Default::default()
    };
    let these = rows::is_one_of(db, Column::Id, ids.into_iter().map(|id| id.0)).and(Column::Lease.eq(lease));
    Entity::update_many().set(change).filter(these).exec(db).await.map(drop)
}

/// The mail with this id.
pub async fn find(db: &impl ConnectionTrait, id: MailId) -> Result<Option<Mail>, DbErr> {
    Entity::find_by_id(id.0).one(db).await?.map(Mail::try_from).transpose()
}

/// Mails in these states, newest first, before the one with the id `before`.
pub async fn list(
    db: &impl ConnectionTrait,
    states: &[State],
    before: Option<MailId>,
    limit: u64,
) -> Result<Vec<Mail>, DbErr> {
    let mut found = Vec::new();
    // Each state reads its own part of the same index.
    for state in states {
        let mut select =
            Entity::find().filter(Column::State.eq(state.as_str())).order_by_desc(Column::Id).limit(limit);
        if let Some(before) = before {
            select = select.filter(Column::Id.lt(before.0));
        }
        for row in select.all(db).await? {
            found.push(Mail::try_from(row)?);
        }
    }
    found.sort_unstable_by_key(|mail| std::cmp::Reverse(mail.id));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// Notes that a sent mail bounced, because the mailbox does not exist.
pub async fn bounce(
    db: &impl ConnectionTrait,
    id: MailId,
    now: Timestamp,
    reason: &str,
) -> Result<(), DbErr> {
    let change = ActiveModel {
        state: Set(State::Bounced.as_str().to_owned()),
        due_at: Set(now),
        error: Set(Some(reason.to_owned())),
        lease: Set(None),
        ..Default::default()
    };
    Entity::update_many().set(change).filter(Column::Id.eq(id.0)).exec(db).await.map(drop)
}

/// Deletes mails that were made before `before`.
pub async fn forget(db: &impl ConnectionTrait, before: Timestamp) -> Result<u64, DbErr> {
    // Ids grow with the time.
    let old = Column::Id.lt(id_at(before, &[0; 32]));
    Ok(Entity::delete_many().filter(old).exec(db).await?.rows_affected)
}
