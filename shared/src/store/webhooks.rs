//! The tables `webhook_endpoints`, `webhook_deliveries` and `webhook_attempts`. [`delivery`] has
//! the deliveries and attempts.

pub mod delivery;

use domain::clock::Timestamp;
use domain::id::WebhookId;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait as _, Query};
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect, Set};

use crate::store::accounts::service_accounts;
use crate::webhook::secret::Secret;
use crate::webhook::{Disabled, Filter, State, Webhook};

/// `webhook_endpoints`.
pub mod endpoints {
    #![allow(missing_docs, reason = "the columns are the fields of `Webhook`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "webhook_endpoints")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        #[sea_orm(column_type = "Text")]
        pub url: String,
        pub description: String,
        #[sea_orm(column_type = "Text")]
        pub filter: String,
        pub ordered: bool,
        pub secret: String,
        pub old_secret: Option<String>,
        pub old_secret_until: Option<ChronoDateTimeUtc>,
        #[sea_orm(column_type = "Text", nullable)]
        pub older_secrets: Option<String>,
        pub owner: Uuid,
        pub created_at: ChronoDateTimeUtc,
        pub failing_since: Option<ChronoDateTimeUtc>,
        pub disabled_at: Option<ChronoDateTimeUtc>,
        pub disabled_reason: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

use endpoints::{ActiveModel, Column, Entity, Model};

impl TryFrom<Model> for Webhook {
    type Error = DbErr;

    fn try_from(row: Model) -> Result<Self, DbErr> {
        let secret = |text: &str| text.parse::<Secret>().map_err(|error| DbErr::Type(error.to_string()));
        let newest = row.old_secret.as_deref().map(secret).transpose()?.zip(row.old_secret_until);
        let older = row.older_secrets.as_deref().map(serde_json::from_str::<Vec<(String, Timestamp)>>);
        let older = older.transpose().map_err(|error| DbErr::Json(error.to_string()))?.unwrap_or_default();
        let older = older.into_iter().map(|(text, until)| Ok((secret(&text)?, until)));
        let old_secrets = newest.into_iter().map(Ok).chain(older).collect::<Result<_, DbErr>>()?;
        let reason = row.disabled_reason.as_deref().map(|word| {
            Disabled::from_word(word).ok_or_else(|| DbErr::Type(format!("disabled_reason {word:?}")))
        });
        Ok(Self {
            id: WebhookId(row.id),
            url: row.url,
            description: row.description,
            filter: serde_json::from_str(&row.filter).map_err(|error| DbErr::Json(error.to_string()))?,
            ordered: row.ordered,
            secret: secret(&row.secret)?,
            old_secrets,
            owner: row.owner,
            created_at: row.created_at,
            failing_since: row.failing_since,
            disabled: row.disabled_at.zip(reason.transpose()?),
        })
    }
}

fn stored(filter: &Filter) -> String {
    serde_json::to_string(filter).expect("a filter is plain data")
}

/// Writes a new webhook.
pub async fn insert(db: &impl ConnectionTrait, webhook: &Webhook) -> Result<(), DbErr> {
    let row = ActiveModel {
        id: Set(webhook.id.0),
        url: Set(webhook.url.clone()),
        description: Set(webhook.description.clone()),
        filter: Set(stored(&webhook.filter)),
        ordered: Set(webhook.ordered),
        secret: Set(webhook.secret.reveal()),
        old_secret: Set(None),
        old_secret_until: Set(None),
        older_secrets: Set(None),
        owner: Set(webhook.owner),
        created_at: Set(webhook.created_at),
        failing_since: Set(None),
        disabled_at: Set(None),
        disabled_reason: Set(None),
    };
    Entity::insert(row).exec_without_returning(db).await.map(drop)
}

/// Writes an owner's changes: address, description, filter, order.
pub async fn change(db: &impl ConnectionTrait, webhook: &Webhook) -> Result<(), DbErr> {
    let change = ActiveModel {
        url: Set(webhook.url.clone()),
        description: Set(webhook.description.clone()),
        filter: Set(stored(&webhook.filter)),
        ordered: Set(webhook.ordered),
        ..Default::default()
    };
    Entity::update_many().set(change).filter(Column::Id.eq(webhook.id.0)).exec(db).await.map(drop)
}

/// Writes the secrets of a webhook that was rotated, if its secret is still `before`. Returns
/// whether it was.
///
/// The newest old secret has a column of its own, for versions that know only one.
pub async fn rotate(db: &impl ConnectionTrait, webhook: &Webhook, before: &Secret) -> Result<bool, DbErr> {
    let (newest, older) = match webhook.old_secrets.split_first() {
        Some((newest, older)) => (Some(newest), older),
        None => (None, &[][..]),
    };
    let older: Vec<_> = older.iter().map(|(secret, until)| (secret.reveal(), until)).collect();
    let older = (!older.is_empty()).then(|| serde_json::to_string(&older).expect("secrets are plain data"));
    let change = ActiveModel {
        secret: Set(webhook.secret.reveal()),
        old_secret: Set(newest.map(|(secret, _)| secret.reveal())),
        old_secret_until: Set(newest.map(|(_, until)| *until)),
        older_secrets: Set(older),
        ..Default::default()
    };
    let is_as_before = Column::Id.eq(webhook.id.0).and(Column::Secret.eq(before.reveal()));
    let changed = Entity::update_many().set(change).filter(is_as_before).exec(db).await?;
    Ok(changed.rows_affected == 1)
}

/// Switches this webhook off, if it is on. Returns the number of webhooks that were on.
pub async fn disable(
    db: &impl ConnectionTrait,
    id: WebhookId,
    now: Timestamp,
    why: Disabled,
) -> Result<u64, DbErr> {
    disable_those(db, Column::Id.eq(id.0), now, why).await
}

/// Switches off the webhooks of this account that are on. Returns their number.
pub async fn disable_of(
    db: &impl ConnectionTrait,
    owner: Uuid,
    now: Timestamp,
    why: Disabled,
) -> Result<u64, DbErr> {
    disable_those(db, Column::Owner.eq(owner), now, why).await
}

async fn disable_those(
    db: &impl ConnectionTrait,
    these: Expr,
    now: Timestamp,
    why: Disabled,
) -> Result<u64, DbErr> {
    let change = ActiveModel {
        disabled_at: Set(Some(now)),
        disabled_reason: Set(Some(why.as_str().to_owned())),
        ..Default::default()
    };
    let on = these.and(Column::DisabledAt.is_null());
    Ok(Entity::update_many().set(change).filter(on).exec(db).await?.rows_affected)
}

/// Switches a webhook on, and clears its failures.
pub async fn enable(db: &impl ConnectionTrait, id: WebhookId) -> Result<(), DbErr> {
    let change = ActiveModel {
        disabled_at: Set(None),
        disabled_reason: Set(None),
        failing_since: Set(None),
        ..Default::default()
    };
    Entity::update_many().set(change).filter(Column::Id.eq(id.0)).exec(db).await.map(drop)
}

/// Writes since when a webhook has been failing. `None` means that it is not failing.
pub async fn set_failing_since(
    db: &impl ConnectionTrait,
    id: WebhookId,
    since: Option<Timestamp>,
) -> Result<(), DbErr> {
    let change = ActiveModel { failing_since: Set(since), ..Default::default() };
    Entity::update_many().set(change).filter(Column::Id.eq(id.0)).exec(db).await.map(drop)
}

/// Deletes a webhook and its pending deliveries. The attempts stay until [`delivery::forget`].
pub async fn delete(db: &impl ConnectionTrait, id: WebhookId) -> Result<(), DbErr> {
    delivery::delete_of(db, id).await?;
    Entity::delete_by_id(id.0).exec(db).await.map(drop)
}

/// The number of webhooks.
pub async fn count(db: &impl ConnectionTrait) -> Result<u64, DbErr> {
    Entity::find().count(db).await
}

/// The webhooks of one owner, or all, oldest first, without those that cannot be read. There are
/// never many.
pub async fn list(db: &impl ConnectionTrait, owner: Option<Uuid>) -> Result<Vec<Webhook>, DbErr> {
    let mut select = Entity::find().order_by_asc(Column::Id);
    if let Some(owner) = owner {
        select = select.filter(Column::Owner.eq(owner));
    }
    Ok(select.all(db).await?.into_iter().filter_map(readable).collect())
}

/// The webhook, or `None` if its row cannot be read. The other webhooks must go on.
fn readable(row: Model) -> Option<Webhook> {
    let id = row.id;
    let read = Webhook::try_from(row);
    read.map_err(|error| tracing::error!(webhook_id = %id, %error, "could not read a webhook; skipping it"))
        .ok()
}

/// One webhook, if it belongs to this owner, or the caller may see all.
pub async fn find(
    db: &impl ConnectionTrait,
    id: WebhookId,
    owner: Option<Uuid>,
) -> Result<Option<Webhook>, DbErr> {
    let mut select = Entity::find_by_id(id.0);
    if let Some(owner) = owner {
        select = select.filter(Column::Owner.eq(owner));
    }
    select.one(db).await?.map(Webhook::try_from).transpose()
}

/// The webhooks that are on.
pub async fn enabled(db: &impl ConnectionTrait) -> Result<Vec<Webhook>, DbErr> {
    // For some seconds a revoked account may still act, for example make a webhook.
    let revoked = Query::select()
        .column(service_accounts::Column::Id)
        .from(service_accounts::Entity)
        .and_where(service_accounts::Column::RevokedAt.is_not_null())
        .to_owned();
    let rows = Entity::find()
        .filter(Column::DisabledAt.is_null())
        .filter(Column::Owner.not_in_subquery(revoked))
        .order_by_asc(Column::Id)
        .all(db)
        .await?;
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// The webhooks that are on and have pending deliveries, each with the due time of its first
/// delivery. The most overdue come first.
pub async fn waiting(db: &impl ConnectionTrait) -> Result<Vec<(WebhookId, Timestamp)>, DbErr> {
    use delivery::deliveries;
    let pending = |column| Expr::col((deliveries::Entity, column));
    let first = Query::select()
        .expr(pending(deliveries::Column::DueAt).min())
        .from(deliveries::Entity)
        .and_where(pending(deliveries::Column::EndpointId).equals((Entity, Column::Id)))
        .and_where(pending(deliveries::Column::State).eq(State::Pending.as_str()))
        .to_owned();
    // One index look-up per webhook, however much is pending.
    let rows = Entity::find()
        .select_only()
        .column(Column::Id)
        .expr_as(Expr::SubQuery(None, Box::new(first.into())), "due_at")
        .filter(Column::DisabledAt.is_null())
        .into_tuple::<(Uuid, Option<Timestamp>)>()
        .all(db)
        .await?;
    let mut waiting: Vec<_> =
        rows.into_iter().filter_map(|(id, due_at)| Some((WebhookId(id), due_at?))).collect();
    waiting.sort_unstable_by_key(|(_, due_at)| *due_at);
    Ok(waiting)
}
