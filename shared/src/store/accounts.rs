//! The tables `accounts` (people with an e-mail address) and `service_accounts` (machines).

mod lookup;
pub mod pending;

use std::collections::{BTreeSet, HashSet};

use domain::actor::Role;
use domain::address::EmailAddress;
use domain::clock::Timestamp;
use domain::id::MemberId;
use domain::text::folded;
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QueryOrder, QuerySelect, Set};

pub use self::lookup::{Seen, Why, by_email, conflicts, ids_by_email};
pub(crate) use self::lookup::{fill, take_addresses};
use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::database::search::Searched;

/// `accounts`: the id is the member's.
pub mod table {
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
        /// The normal form of `email`. `None` while another account has it, or if it is no address.
        #[sea_orm(unique)]
        pub address: Option<String>,
        #[sea_orm(column_type = "Text", nullable)]
        pub search: Option<String>,
        pub search_of: Option<String>,
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

/// A person with an e-mail address. They can log in if they have a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The id, which is also the member's.
    pub id: MemberId,
    /// As people read it (see [`EmailAddress::shown`]). Old accounts may have any text.
    pub email: String,
    /// Member or admin.
    pub role: Role,
    /// An argon2id hash in PHC form. `None` for imported people.
    pub password_hash: Option<String>,
    /// When the account was made.
    pub created_at: Timestamp,
}

impl TryFrom<table::Model> for Account {
    type Error = DbErr;

    fn try_from(row: table::Model) -> Result<Self, DbErr> {
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

/// The columns by which people are searched for by their address.
pub(crate) const EMAIL: Searched<table::Column> = Searched {
    text: table::Column::Email,
    search: table::Column::Search,
    search_of: table::Column::SearchOf,
};

/// The folded form of a stored address: its shown form and, if that differs, its sent form.
pub(crate) fn folded_email(stored: &str) -> String {
    let Ok(address) = EmailAddress::parse(stored) else { return folded(stored) };
    let (shown, sent) = (address.shown(), address.to_string());
    if shown == sent { folded(&sent) } else { folded(&format!("{shown} {sent}")) }
}

/// Writes new accounts. An e-mail address that is taken is a unique violation.
pub async fn insert(db: &impl ConnectionTrait, all: &[Account]) -> Result<(), DbErr> {
    let new = all.iter().map(|account| {
        let address = EmailAddress::parse(&account.email).ok();
        let email = address.as_ref().map_or_else(|| account.email.clone(), EmailAddress::shown);
        table::ActiveModel {
            id: Set(account.id.0),
            role: Set(account.role.as_str().to_owned()),
            password_hash: Set(account.password_hash.clone()),
            created_at: Set(account.created_at),
            address: Set(address.map(|address| address.to_string())),
            search: Set(Some(folded_email(&email))),
            search_of: Set(Some(email.clone())),
            email: Set(email),
        }
    });
    rows::insert(db, new.collect(), |_| 0).await
}

/// Replaces a password's hash, unless it has changed since it was read.
pub async fn rehash(db: &impl ConnectionTrait, id: MemberId, old: &str, new: String) -> Result<(), DbErr> {
    table::Entity::update_many()
        .set(table::ActiveModel { password_hash: Set(Some(new)), ..Default::default() })
        .filter(table::Column::Id.eq(id.0))
        .filter(table::Column::PasswordHash.eq(old))
        .exec(db)
        .await?;
    Ok(())
}

/// The account with this id.
pub async fn by_id(db: &impl ConnectionTrait, id: MemberId) -> Result<Option<Account>, DbErr> {
    table::Entity::find_by_id(id.0).one(db).await?.map(Account::try_from).transpose()
}

/// Locks these people until the transaction ends. Other writers of their data wait. (SQLite has one
/// writer anyway.)
pub async fn hold(db: &impl ConnectionTrait, ids: &BTreeSet<MemberId>) -> Result<BTreeSet<MemberId>, DbErr> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let mut held = BTreeSet::new();
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        // All writers use the same order, so that two never deadlock.
        let found = table::Entity::find()
            .select_only()
            .column(table::Column::Id)
            .filter(table::Column::Id.is_in(chunk.iter().copied()))
            .order_by_asc(table::Column::Id)
            .lock_exclusive()
            .into_tuple::<Uuid>()
            .all(db)
            .await?;
        held.extend(found.into_iter().map(MemberId));
    }
    Ok(held)
}

/// The admins.
pub async fn admins(db: &impl ConnectionTrait) -> Result<Vec<MemberId>, DbErr> {
    let ids = table::Entity::find()
        .select_only()
        .column(table::Column::Id)
        .filter(table::Column::Role.eq(Role::Admin.as_str()))
        .into_tuple::<Uuid>()
        .all(db)
        .await?;
    Ok(ids.into_iter().map(MemberId).collect())
}

/// The first admin, if there is any.
pub async fn first_admin(db: &impl ConnectionTrait) -> Result<Option<Account>, DbErr> {
    let row = table::Entity::find()
        .filter(table::Column::Role.eq(Role::Admin.as_str()))
        .order_by_asc(table::Column::CreatedAt)
        .one(db)
        .await?;
    row.map(Account::try_from).transpose()
}

/// Writes a new service account.
pub async fn insert_service(
    db: &impl ConnectionTrait,
    id: Uuid,
    name: &str,
    created_by: Uuid,
    created_at: Timestamp,
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

/// The person behind an account. For a service account, this is its maker.
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

/// Revokes a service account for ever. Returns false if there is none.
pub async fn revoke_service(db: &impl ConnectionTrait, id: Uuid, now: Timestamp) -> Result<bool, DbErr> {
    let change = service_accounts::ActiveModel { revoked_at: Set(Some(now)), ..Default::default() };
    let found = service_accounts::Column::Id.eq(id);
    let done = service_accounts::Entity::update_many().set(change).filter(found).exec(db).await?;
    Ok(done.rows_affected > 0)
}
