//! The tables `accounts` (people who can be known by an e-mail address) and `service_accounts` (machines).

use std::collections::{BTreeSet, HashMap, HashSet};

use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect, Set};

use super::Role;
use crate::clock::Instant;
use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::id::MemberId;

/// `accounts`: the id is the member's.
pub mod accounts {
    #![allow(missing_docs, reason = "the columns are the fields of `Account`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "accounts")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        #[sea_orm(unique)]
        pub email: String,
        pub role: String,
        pub password_hash: Option<String>,
        pub created_at: ChronoDateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `service_accounts`.
pub mod service_accounts {
    #![allow(missing_docs, reason = "the columns are the fields of `ServiceAccount`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "service_accounts")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub name: String,
        pub created_by: Uuid,
        pub created_at: ChronoDateTimeUtc,
        pub revoked_at: Option<ChronoDateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// A person who can be known by an e-mail address, and can log in if they have a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Theirs as a member, too.
    pub id: MemberId,
    /// Normalised (see [`super::normal_email`]); unique.
    pub email: String,
    /// Member or admin.
    pub role: Role,
    /// An argon2id hash in PHC form; none for people who were imported.
    pub password_hash: Option<String>,
    /// When they came.
    pub created_at: Instant,
}

impl TryFrom<accounts::Model> for Account {
    type Error = DbErr;

    fn try_from(row: accounts::Model) -> Result<Self, DbErr> {
        let role = row.role.parse().map_err(|_| DbErr::Type(format!("role {:?}", row.role)))?;
        Ok(Self {
            id: MemberId(row.id),
            email: row.email,
            role,
            password_hash: row.password_hash,
            created_at: row.created_at,
        })
    }
}

/// Writes new accounts. An e-mail address that is taken is a unique violation.
pub async fn insert(db: &impl ConnectionTrait, all: &[Account]) -> Result<(), DbErr> {
    let new = all.iter().map(|account| accounts::ActiveModel {
        id: Set(account.id.0),
        email: Set(account.email.clone()),
        role: Set(account.role.as_str().to_owned()),
        password_hash: Set(account.password_hash.clone()),
        created_at: Set(account.created_at),
    });
    rows::insert(db, new.collect(), |_| 0).await
}

/// The account with this (normalised) e-mail address.
pub async fn by_email(db: &impl ConnectionTrait, email: &str) -> Result<Option<Account>, DbErr> {
    let row = accounts::Entity::find().filter(accounts::Column::Email.eq(email)).one(db).await?;
    row.map(Account::try_from).transpose()
}

/// The account with this id.
pub async fn by_id(db: &impl ConnectionTrait, id: MemberId) -> Result<Option<Account>, DbErr> {
    accounts::Entity::find_by_id(id.0).one(db).await?.map(Account::try_from).transpose()
}

/// Whose these (normalised) e-mail addresses are, those that are known.
pub async fn ids_by_email(
    db: &impl ConnectionTrait,
    emails: &[String],
) -> Result<HashMap<String, MemberId>, DbErr> {
    let mut ids = HashMap::with_capacity(emails.len());
    for chunk in emails.chunks(ROWS_PER_INSERT) {
        let rows = accounts::Entity::find()
            .select_only()
            .columns([accounts::Column::Email, accounts::Column::Id])
            .filter(accounts::Column::Email.is_in(chunk.iter().map(String::as_str)))
            .into_tuple::<(String, Uuid)>()
            .all(db)
            .await?;
        ids.extend(rows.into_iter().map(|(email, id)| (email, MemberId(id))));
    }
    Ok(ids)
}

/// Holds these people until the transaction ends: whoever else wants to change what is known about them waits. (SQLite has
/// one writer anyway.)
pub async fn hold(db: &impl ConnectionTrait, ids: &BTreeSet<MemberId>) -> Result<(), DbErr> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        // Everybody in the same order, so that two of them never wait for each other.
        accounts::Entity::find()
            .select_only()
            .column(accounts::Column::Id)
            .filter(accounts::Column::Id.is_in(chunk.iter().copied()))
            .order_by_asc(accounts::Column::Id)
            .lock_exclusive()
            .into_tuple::<Uuid>()
            .all(db)
            .await?;
    }
    Ok(())
}

/// Those who run Muster.
pub async fn admins(db: &impl ConnectionTrait) -> Result<Vec<MemberId>, DbErr> {
    let ids = accounts::Entity::find()
        .select_only()
        .column(accounts::Column::Id)
        .filter(accounts::Column::Role.eq(Role::Admin.as_str()))
        .into_tuple::<Uuid>()
        .all(db)
        .await?;
    Ok(ids.into_iter().map(MemberId).collect())
}

/// The first admin, if there is any.
pub async fn first_admin(db: &impl ConnectionTrait) -> Result<Option<Account>, DbErr> {
    let row = accounts::Entity::find()
        .filter(accounts::Column::Role.eq(Role::Admin.as_str()))
        .order_by_asc(accounts::Column::CreatedAt)
        .one(db)
        .await?;
    row.map(Account::try_from).transpose()
}

/// Makes a service account known.
pub async fn insert_service(
    db: &impl ConnectionTrait,
    id: Uuid,
    name: &str,
    created_by: Uuid,
    created_at: Instant,
) -> Result<(), DbErr> {
    let row = service_accounts::ActiveModel {
        id: Set(id),
        name: Set(name.to_owned()),
        created_by: Set(created_by),
        created_at: Set(created_at),
        revoked_at: Set(None),
    };
    service_accounts::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

/// The person behind an account: themselves, or whoever made the service account.
pub async fn behind(db: &impl ConnectionTrait, id: Uuid) -> Result<Option<MemberId>, DbErr> {
    let service = service_accounts::Entity::find_by_id(id).one(db).await?;
    let person = by_id(db, MemberId(service.map_or(id, |service| service.created_by))).await?;
    Ok(person.map(|account| account.id))
}

/// The service accounts that were revoked.
pub async fn revoked_services(db: &impl ConnectionTrait) -> Result<HashSet<Uuid>, DbErr> {
    let ids = service_accounts::Entity::find()
        .select_only()
        .column(service_accounts::Column::Id)
        .filter(service_accounts::Column::RevokedAt.is_not_null())
        .into_tuple::<Uuid>()
        .all(db)
        .await?;
    Ok(ids.into_iter().collect())
}

/// Takes a service account's rights away for ever. False if there is none.
pub async fn revoke_service(db: &impl ConnectionTrait, id: Uuid, now: Instant) -> Result<bool, DbErr> {
    let change = service_accounts::ActiveModel { revoked_at: Set(Some(now)), ..Default::default() };
    let found = service_accounts::Column::Id.eq(id);
    let done = service_accounts::Entity::update_many().set(change).filter(found).exec(db).await?;
    Ok(done.rows_affected > 0)
}
