//! The table `members`: the profiles of people.

use std::collections::{BTreeMap, HashMap};

use domain::actor::Role;
use domain::address::shown_email;
use domain::attribute::{Known, Source};
use domain::clock::Timestamp;
use domain::id::MemberId;
use domain::member::Profile;
use domain::text::folded;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{OnConflict, SelectStatement};
use sea_orm::{Condition, ConnectionTrait, DbErr, JoinType, QueryOrder, QuerySelect, QueryTrait as _, Set};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::database::search::{self, Pattern, Searched};
use crate::store::accounts as account;
use crate::store::accounts::table as accounts;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "members")]
#[allow(missing_docs, reason = "the columns are the fields of `Profile`")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    /// What older versions read: all attributes in one map.
    #[sea_orm(column_type = "Text")]
    pub attributes: String,
    /// What older versions read: the names of those that an organisation says.
    #[sea_orm(column_type = "Text")]
    pub verified: String,
    pub updated_at: ChronoDateTimeUtc,
    #[sea_orm(column_type = "Text", nullable)]
    pub search: Option<String>,
    pub search_of: Option<String>,
    /// Null in a row that only older versions have written.
    #[sea_orm(column_type = "Text", nullable)]
    pub known: Option<String>,
    pub name_source: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
#[allow(missing_docs, reason = "one account per member")]
pub enum Relation {
    #[sea_orm(
        belongs_to = "crate::store::accounts::table::Entity",
        from = "Column::Id",
        to = "crate::store::accounts::table::Column::Id"
    )]
    Account,
}

impl ActiveModelBehavior for ActiveModel {}

fn profile(row: Model) -> Result<Profile, DbErr> {
    let is_new = row.known.is_some();
    let known = match &row.known {
        Some(known) => json(known)?,
        None => of_older(&row.attributes, &row.verified, row.updated_at)?,
    };
    // Older versions did not store who said a name. An import that had values had the name, too.
    let name_source = match row.name_source {
        Some(word) => Source::from_word(&word),
        None => (!is_new && !known.verified.is_empty()).then_some(Source::Import),
    };
    Ok(Profile { name: row.name, name_source, known })
}

/// What is known by a row that an older version has written.
fn of_older(attributes: &str, verified: &str, updated_at: Timestamp) -> Result<Known, DbErr> {
    let imported: Vec<String> = json(verified)?;
    Ok(Known::of_one_map(json(attributes)?, &imported, updated_at))
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T, DbErr> {
    serde_json::from_str(text).map_err(|error| DbErr::Json(error.to_string()))
}

/// The profiles of these members. Members without one are left out.
pub async fn profiles(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = MemberId>,
) -> Result<HashMap<MemberId, Profile>, DbErr> {
    let ids: Vec<_> = ids.into_iter().map(|id| id.0).collect();
    let mut profiles = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        for row in
            Entity::find().filter(rows::is_one_of(db, Column::Id, chunk.iter().copied())).all(db).await?
        {
            profiles.insert(MemberId(row.id), profile(row)?);
        }
    }
    Ok(profiles)
}

/// What is known of these members, if they have a profile or an account. Nothing is known of a
/// member without a profile.
pub async fn known(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = MemberId>,
) -> Result<HashMap<MemberId, Known>, DbErr> {
    let ids: Vec<_> = ids.into_iter().map(|id| id.0).collect();
    let mut found = HashMap::with_capacity(ids.len());
    if ids.is_empty() {
        return Ok(found);
    }
    let profiles = Entity::find()
        .select_only()
        .columns([Column::Id, Column::Known])
        .filter(rows::is_one_of(db, Column::Id, ids.iter().copied()))
        .into_tuple::<(Uuid, Option<String>)>()
        .all(db)
        .await?;
    for (id, text) in profiles {
        if let Some(text) = text {
            found.insert(MemberId(id), json(&text)?);
        }
    }
    // Nearly all members who register were imported, and have a profile. Read the others' accounts
    // together with their profiles: a profile may have been written since the first read, or by an
    // older version.
    let others: Vec<_> = ids.into_iter().filter(|id| !found.contains_key(&MemberId(*id))).collect();
    if others.is_empty() {
        return Ok(found);
    }
    let accounts = accounts::Entity::find()
        .filter(rows::is_one_of(db, accounts::Column::Id, others))
        .find_also_related_member()
        .all(db)
        .await?;
    for (account, member) in accounts {
        let known = member.map(profile).transpose()?.unwrap_or_default().known;
        found.insert(MemberId(account.id), known);
    }
    Ok(found)
}

/// The ids of people with a profile, after `after`. All imported people have one.
pub async fn ids(
    db: &impl ConnectionTrait,
    after: Option<MemberId>,
    limit: u64,
) -> Result<Vec<MemberId>, DbErr> {
    let mut select = Entity::find().select_only().column(Column::Id).order_by_asc(Column::Id).limit(limit);
    if let Some(after) = after {
        select = select.filter(Column::Id.gt(after.0));
    }
    Ok(select.into_tuple::<Uuid>().all(db).await?.into_iter().map(MemberId).collect())
}

/// For each attribute: how many members have it verified, and how many only declared it.
pub async fn counts(db: &impl ConnectionTrait) -> Result<BTreeMap<String, (u64, u64)>, DbErr> {
    let (mut counts, mut after) = (BTreeMap::<_, (u64, u64)>::new(), None);
    loop {
        let page = ids(db, after, ROWS_PER_INSERT as u64).await?;
        let Some(last) = page.last() else { return Ok(counts) };
        after = Some(*last);
        for profile in profiles(db, page).await?.into_values() {
            let Known { verified, declared } = profile.known;
            for (name, _) in verified.into_iter().filter(|(_, said)| said.value.is_some()) {
                counts.entry(name).or_default().0 += 1;
            }
            for (name, _) in declared.iter() {
                counts.entry(name.clone()).or_default().1 += 1;
            }
        }
    }
}

/// Inserts or updates profiles.
pub async fn save(
    db: &impl ConnectionTrait,
    profiles: &BTreeMap<MemberId, Profile>,
    now: Timestamp,
) -> Result<(), DbErr> {
    let rows: Vec<_> = profiles
        .iter()
        .map(|(id, profile)| ActiveModel {
            id: Set(id.0),
            name: Set(profile.name.clone()),
            attributes: Set(profile.known.as_one_map().to_text()),
            verified: Set(to_text(&profile.known.verified.keys().collect::<Vec<_>>())),
            updated_at: Set(now),
            search: Set(Some(folded(&profile.name))),
            search_of: Set(Some(profile.name.clone())),
            known: Set(Some(to_text(&profile.known))),
            name_source: Set(profile.name_source.map(|source| source.as_str().to_owned())),
        })
        .collect();
    let bytes = |row: &ActiveModel| {
        let known = row.known.as_ref().as_ref().map_or(0, String::len);
        row.attributes.as_ref().len() + row.verified.as_ref().len() + known
    };
    for chunk in rows::chunks(&rows, bytes) {
        let replace = OnConflict::column(Column::Id)
            .update_columns([
                Column::Name,
                Column::Attributes,
                Column::Verified,
                Column::UpdatedAt,
                Column::Search,
                Column::SearchOf,
                Column::Known,
                Column::NameSource,
            ])
            .to_owned();
        Entity::insert_many(chunk.to_vec()).on_conflict(replace).exec_without_returning(db).await?;
    }
    Ok(())
}

fn to_text(data: &impl Serialize) -> String {
    serde_json::to_string(data).expect("a profile is plain data")
}

/// A person as organisers see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Their id.
    pub id: MemberId,
    /// Their e-mail address in its shown form.
    pub email: String,
    /// Member or admin.
    pub role: Role,
    /// Their profile.
    pub profile: Profile,
}

/// At most `limit` people, by id after `after`. If there is a `text`, only those who have it in
/// their name or e-mail address.
pub async fn list(
    db: &impl ConnectionTrait,
    text: Option<&str>,
    after: Option<MemberId>,
    limit: u64,
) -> Result<Vec<Listed>, DbErr> {
    let mut select =
        accounts::Entity::find().find_also_related_member().order_by_asc(accounts::Column::Id).limit(limit);
    if let Some(named) = text.and_then(named) {
        select = select.filter(named);
    }
    if let Some(after) = after {
        select = select.filter(accounts::Column::Id.gt(after.0));
    }
    select.all(db).await?.into_iter().map(listed).collect()
}

/// The columns by which people are searched for by their name.
const NAME: Searched<Column> =
    Searched { text: Column::Name, search: Column::Search, search_of: Column::SearchOf };

/// The condition for `text` in a name or e-mail address, regardless of case and accents. `None` if
/// nothing of it can be searched for.
fn named(text: &str) -> Option<Condition> {
    let pattern = Pattern::of(text)?;
    Some(Condition::any().add(pattern.is_in(NAME)).add(pattern.is_in(account::EMAIL)))
}

/// A subquery for the ids of all people with `text` in their name or e-mail address. `None` if
/// nothing of it can be searched for.
pub(crate) fn ids_of_named(text: &str) -> Option<SelectStatement> {
    let select = accounts::Entity::find()
        .select_only()
        .column(accounts::Column::Id)
        .join_rev(JoinType::LeftJoin, Relation::Account.def())
        .filter(named(text)?);
    Some(select.into_query())
}

/// Folds at most a thousand names whose folded form is missing or stale, by id after `after`.
/// Returns the last id, or `None` at the end.
pub(crate) async fn fill(db: &impl ConnectionTrait, after: Option<Uuid>) -> Result<Option<Uuid>, DbErr> {
    search::refill::<Entity>(db, Column::Id, NAME, folded, after).await
}

/// The people with these ids. Ids without a person are left out.
pub async fn by_ids(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = MemberId>,
) -> Result<HashMap<MemberId, Listed>, DbErr> {
    let ids = ids.into_iter().map(|id| id.0);
    let select = accounts::Entity::find().find_also_related_member().filter(accounts::Column::Id.is_in(ids));
    let all = select.all(db).await?.into_iter().map(listed);
    all.map(|listed| listed.map(|listed| (listed.id, listed))).collect()
}

/// Accounts joined with their profiles.
trait WithMember {
    /// The account and, if there is one, the profile.
    fn find_also_related_member(self) -> sea_orm::SelectTwo<accounts::Entity, Entity>;
}

impl WithMember for sea_orm::Select<accounts::Entity> {
    fn find_also_related_member(self) -> sea_orm::SelectTwo<accounts::Entity, Entity> {
        self.join_rev(JoinType::LeftJoin, Relation::Account.def()).select_also(Entity)
    }
}

fn listed((account, member): (accounts::Model, Option<Model>)) -> Result<Listed, DbErr> {
    let profile = member.map(profile).transpose()?.unwrap_or_default();
    let role = account.role.parse().map_err(|_| DbErr::Type(format!("role {:?}", account.role)))?;
    Ok(Listed { id: MemberId(account.id), email: shown_email(&account.email), role, profile })
}
