//! Finds accounts by e-mail address.
//!
//! `address` is the normal form of `email`, and unique. [`take_addresses`] gives accounts from
//! before the column theirs, the oldest first. A later account with the same normal form has none.
//! A login finds it by its stored `email`, and [`conflicts`] reports it.

use std::collections::{BTreeMap, HashMap, HashSet};

use domain::address::{AddressFault, EmailAddress, compared_before};
use domain::clock::Timestamp;
use domain::id::MemberId;
use sea_orm::entity::prelude::*;
use sea_orm::{Condition, ConnectionTrait, DbErr, QueryOrder, QuerySelect};

use super::{Account, EMAIL, folded_email};
use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::database::search;
use crate::store::accounts::table::{Column, Entity, Model};

/// The account with this e-mail address, however the user types it.
///
/// If several accounts share the normal form, the one with exactly the typed address wins, then the
/// oldest.
pub async fn by_email(db: &impl ConnectionTrait, typed: &str) -> Result<Option<Account>, DbErr> {
    let (stored, address) = (compared_before(typed), EmailAddress::parse(typed).ok());
    let shown = address.as_ref().map(EmailAddress::shown);
    let address = address.map(|address| address.to_string());
    let mut is_it = Condition::any();
    for email in stored.iter().chain(&shown) {
        is_it = is_it.add(Column::Email.eq(email));
    }
    if let Some(address) = &address {
        is_it = is_it.add(Column::Address.eq(address));
    }
    if is_it.is_empty() {
        return Ok(None);
    }
    let found = Entity::find().filter(is_it).all(db).await?;
    let rank = |row: &Model| {
        if stored.as_ref() == Some(&row.email) {
            0
        } else if row.address.is_some() && row.address == address {
            1
        } else {
            2
        }
    };
    found.into_iter().min_by_key(rank).map(Account::try_from).transpose()
}

/// The accounts with these e-mail addresses (in their normal form). If several accounts share one,
/// it is the oldest.
pub async fn ids_by_email(
    db: &impl ConnectionTrait,
    addresses: &[String],
) -> Result<HashMap<String, MemberId>, DbErr> {
    let mut ids = HashMap::with_capacity(addresses.len());
    for chunk in addresses.chunks(ROWS_PER_INSERT) {
        let rows = Entity::find()
            .select_only()
            .columns([Column::Address, Column::Id])
            .filter(Column::Address.is_in(chunk.iter().map(String::as_str)))
            .into_tuple::<(String, Uuid)>()
            .all(db)
            .await?;
        ids.extend(rows.into_iter().map(|(address, id)| (address, MemberId(id))));
        // A version without the column may run beside this one.
        let others = chunk.iter().filter(|address| !ids.contains_key(*address));
        let shown: BTreeMap<String, &String> = others
            .filter_map(|address| Some((EmailAddress::parse(address).ok()?.shown(), address)))
            .collect();
        if shown.is_empty() {
            continue;
        }
        let rows = Entity::find()
            .select_only()
            .columns([Column::Email, Column::Id])
            .filter(Column::Email.is_in(shown.keys().map(String::as_str)))
            .into_tuple::<(String, Uuid)>()
            .all(db)
            .await?;
        let known =
            rows.into_iter().filter_map(|(email, id)| Some(((*shown.get(&email)?).clone(), MemberId(id))));
        ids.extend(known);
    }
    Ok(ids)
}

/// Folds at most a thousand addresses whose folded form is missing or stale, by account id after
/// `after`. Returns the last id, or `None` at the end.
pub(crate) async fn fill(db: &impl ConnectionTrait, after: Option<Uuid>) -> Result<Option<Uuid>, DbErr> {
    search::refill::<Entity>(db, Column::Id, EMAIL, folded_email, after).await
}

/// Gives at most a thousand accounts their missing address, if no other account has it. They are
/// the first after `after`, by id and so by age. Returns the last id, or `None` at the end.
pub(crate) async fn take_addresses(
    db: &impl ConnectionTrait,
    after: Option<Uuid>,
) -> Result<Option<Uuid>, DbErr> {
    let found = without_address(db, after).await?;
    let last = found.last().map(|account| account.id.0);
    let addresses: Vec<_> = found
        .into_iter()
        .filter_map(|account| Some((account.id.0, EmailAddress::parse(&account.email).ok()?.to_string())))
        .collect();
    let holders = holders(db, addresses.iter().map(|(_, address)| address.clone())).await?;
    let mut taken: HashSet<_> = holders.into_keys().collect();
    let free = addresses.into_iter().filter(|(_, address)| taken.insert(address.clone()));
    let rows = free.map(|(id, address)| vec![id.into(), address.into()]).collect();
    rows::update::<Entity>(db, &[Column::Id], &[Column::Address], rows).await?;
    Ok(last)
}

/// An account as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: MemberId,
    /// Its address as it is stored.
    pub email: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it has a password.
    pub has_password: bool,
}

/// Why an account has no address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The stored address cannot get mail.
    NotMailable(AddressFault),
    /// This account has the same address.
    SameAs(Seen),
}

/// At most a thousand accounts without an address, by id after `after`, and why they have none.
/// Also the last id, or `None` at the end.
pub async fn conflicts(
    db: &impl ConnectionTrait,
    after: Option<Uuid>,
) -> Result<(Vec<(Seen, Why)>, Option<Uuid>), DbErr> {
    let found = without_address(db, after).await?;
    let last = found.last().map(|seen| seen.id.0);
    let parsed = found.into_iter().map(|seen| (EmailAddress::parse(&seen.email), seen)).collect::<Vec<_>>();
    let addresses = parsed.iter().filter_map(|(address, _)| address.as_ref().ok().map(ToString::to_string));
    let holders = holders(db, addresses).await?;
    let conflicts = parsed.into_iter().filter_map(|(address, seen)| match address {
        Err(fault) => Some((seen, Why::NotMailable(fault))),
        Ok(address) => Some((seen, Why::SameAs(holders.get(&address.to_string())?.clone()))),
    });
    Ok((conflicts.collect(), last))
}

/// The accounts without an address.
async fn without_address(db: &impl ConnectionTrait, after: Option<Uuid>) -> Result<Vec<Seen>, DbErr> {
    let mut select = named(Entity::find())
        .filter(Column::Address.is_null())
        .order_by_asc(Column::Id)
        .limit(ROWS_PER_INSERT as u64);
    if let Some(after) = after {
        select = select.filter(Column::Id.gt(after));
    }
    let rows = select.into_tuple::<Named>().all(db).await?;
    Ok(rows.into_iter().map(|row| seen(row).1).collect())
}

/// An account's id, e-mail address, normal form, creation time and password hash.
type Named = (Uuid, String, Option<String>, Timestamp, Option<String>);

/// Reads only these columns, because a migration calls this, and later ones add columns.
fn named(select: Select<Entity>) -> Select<Entity> {
    use Column::{Address, CreatedAt, Email, Id, PasswordHash};
    select.select_only().columns([Id, Email, Address, CreatedAt, PasswordHash])
}

/// The accounts that have these addresses.
async fn holders(
    db: &impl ConnectionTrait,
    addresses: impl IntoIterator<Item = String>,
) -> Result<HashMap<String, Seen>, DbErr> {
    let select = named(Entity::find()).filter(Column::Address.is_in(addresses));
    let found = select.into_tuple::<Named>().all(db).await?;
    Ok(found.into_iter().map(seen).filter_map(|(address, seen)| Some((address?, seen))).collect())
}

fn seen((id, email, address, created_at, password_hash): Named) -> (Option<String>, Seen) {
    let has_password = password_hash.is_some();
    (address, Seen { id: MemberId(id), email, created_at, has_password })
}
