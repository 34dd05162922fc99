//! The tables `mail_preferences` (the API writes it, like accounts) and `mail_templates`.

use std::collections::{BTreeSet, HashMap};

use domain::clock::Timestamp;
use domain::id::MemberId;
use sea_orm::sea_query::{ExprTrait as _, OnConflict};
use sea_orm::{ColumnTrait as _, ConnectionTrait, DbErr, EntityTrait as _, QueryFilter as _, Set};

use crate::database::rows::{self, ROWS_PER_INSERT};
use crate::mail::preferences::Preferences;
use crate::mail::template::Template;
use crate::mail::{Kind, Language, Topic};

/// `mail_preferences`.
pub mod preferences {
    #![allow(missing_docs, reason = "the columns are the fields of `Preferences`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "mail_preferences")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub member_id: Uuid,
        pub language: String,
        pub unwanted: String,
        pub quiet_hours: Option<String>,
        pub bounced_at: Option<ChronoDateTimeUtc>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `mail_templates`.
pub mod templates {
    #![allow(missing_docs, reason = "the columns are the fields of `Template`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "mail_templates")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub kind: String,
        #[sea_orm(primary_key, auto_increment = false)]
        pub language: String,
        #[sea_orm(column_type = "Text")]
        pub subject: String,
        #[sea_orm(column_type = "Text")]
        pub text: String,
        #[sea_orm(column_type = "Text", nullable)]
        pub html: Option<String>,
        pub updated_at: ChronoDateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// An unreadable preference (a removed time zone) counts as not set. Other members' mails must not
/// wait for it.
fn wanted(row: preferences::Model) -> Preferences {
    Preferences {
        language: row.language.parse().unwrap_or_default(),
        unwanted: topics(&row.unwanted),
        quiet_hours: row.quiet_hours.and_then(|text| serde_json::from_str(&text).ok()),
        bounced_at: row.bounced_at,
    }
}

fn topics(stored: &str) -> BTreeSet<Topic> {
    stored.split(',').filter_map(Topic::from_word).collect()
}

fn stored(topics: &BTreeSet<Topic>) -> String {
    topics.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(",")
}

/// The preferences of these members. Members without any are left out.
pub async fn of_members(
    db: &impl ConnectionTrait,
    members: &BTreeSet<MemberId>,
) -> Result<HashMap<MemberId, Preferences>, DbErr> {
    let ids: Vec<_> = members.iter().map(|id| id.0).collect();
    let mut found = HashMap::new();
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        let these = rows::is_one_of(db, preferences::Column::MemberId, chunk.iter().copied());
        for row in preferences::Entity::find().filter(these).all(db).await? {
            found.insert(MemberId(row.member_id), wanted(row));
        }
    }
    Ok(found)
}

/// The preferences of a member.
pub async fn of_member(db: &impl ConnectionTrait, member_id: MemberId) -> Result<Preferences, DbErr> {
    let row = preferences::Entity::find_by_id(member_id.0).one(db).await?;
    Ok(row.map(wanted).unwrap_or_default())
}

fn row(member_id: MemberId, wanted: &Preferences) -> preferences::ActiveModel {
    let quiet = wanted.quiet_hours.map(|quiet| serde_json::to_string(&quiet).expect("hours are plain data"));
    preferences::ActiveModel {
        member_id: Set(member_id.0),
        language: Set(wanted.language.as_str().to_owned()),
        unwanted: Set(stored(&wanted.unwanted)),
        quiet_hours: Set(quiet),
        bounced_at: Set(wanted.bounced_at),
    }
}

/// Writes a member's preferences.
pub async fn save(db: &impl ConnectionTrait, member_id: MemberId, wanted: &Preferences) -> Result<(), DbErr> {
    use preferences::Column;
    let columns = [Column::Language, Column::Unwanted, Column::QuietHours, Column::BouncedAt];
    put(db, row(member_id, wanted), &columns).await
}

/// Notes that a member's mailbox does not exist, so that Muster sends nothing more to it. The other
/// preferences stay.
pub async fn mailbox_is_gone(
    db: &impl ConnectionTrait,
    member_id: MemberId,
    now: Timestamp,
) -> Result<(), DbErr> {
    let gone = Preferences { bounced_at: Some(now), ..Preferences::default() };
    put(db, row(member_id, &gone), &[preferences::Column::BouncedAt]).await
}

/// Notes that a member does not want mails about this topic any more. The other preferences stay.
pub async fn unsubscribe(db: &impl ConnectionTrait, member_id: MemberId, topic: Topic) -> Result<(), DbErr> {
    use preferences::Column;
    let wanted = of_member(db, member_id).await?;
    let before = stored(&wanted.unwanted);
    let unwanted = wanted.unwanted.iter().copied().chain([topic]).collect();
    let after = preferences::ActiveModel { unwanted: Set(stored(&unwanted)), ..Default::default() };
    let mine = Column::MemberId.eq(member_id.0).and(Column::Unwanted.eq(before));
    let changed = preferences::Entity::update_many().set(after).filter(mine).exec(db).await?.rows_affected;
    if changed > 0 || wanted.unwanted.contains(&topic) {
        return Ok(());
    }
    // There was no row, or another writer has just changed it. Then the last writer wins.
    let first = Preferences { unwanted, ..Preferences::default() };
    put(db, row(member_id, &first), &[Column::Unwanted]).await
}

/// Inserts a row, or changes these columns of the existing row.
async fn put(
    db: &impl ConnectionTrait,
    row: preferences::ActiveModel,
    columns: &[preferences::Column],
) -> Result<(), DbErr> {
    let replace =
        OnConflict::column(preferences::Column::MemberId).update_columns(columns.iter().copied()).to_owned();
    preferences::Entity::insert(row).on_conflict(replace).exec_without_returning(db).await.map(drop)
}

/// A template that an organiser has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The kind of mail.
    pub kind: Kind,
    /// The language.
    pub language: Language,
    /// The template.
    pub template: Template,
    /// When it was written.
    pub updated_at: Timestamp,
}

/// All templates that organisers have written. There are few: kinds times languages.
pub async fn templates(db: &impl ConnectionTrait) -> Result<Vec<Written>, DbErr> {
    let rows = templates::Entity::find().all(db).await?;
    let written = rows.into_iter().filter_map(|row| {
        // Skip kinds and languages that no longer exist.
        let (kind, language) = (Kind::from_word(&row.kind)?, row.language.parse().ok()?);
        let template = Template { subject: row.subject, text: row.text, html: row.html };
        Some(Written { kind, language, template, updated_at: row.updated_at })
    });
    Ok(written.collect())
}

/// Writes a template in place of the previous one.
pub async fn put_template(db: &impl ConnectionTrait, written: &Written) -> Result<(), DbErr> {
    use templates::Column;
    let Written { kind, language, template, updated_at } = written;
    let row = templates::ActiveModel {
        kind: Set(kind.as_str().to_owned()),
        language: Set(language.as_str().to_owned()),
        subject: Set(template.subject.clone()),
        text: Set(template.text.clone()),
        html: Set(template.html.clone()),
        updated_at: Set(*updated_at),
    };
    let replace = OnConflict::columns([Column::Kind, Column::Language])
        .update_columns([Column::Subject, Column::Text, Column::Html, Column::UpdatedAt])
        .to_owned();
    templates::Entity::insert(row).on_conflict(replace).exec_without_returning(db).await.map(drop)
}

/// Deletes a template, so that the built-in one is used again. Returns whether there was one.
pub async fn delete_template(
    db: &impl ConnectionTrait,
    kind: Kind,
    language: &Language,
) -> Result<bool, DbErr> {
    let gone = templates::Entity::delete_by_id((kind.as_str().to_owned(), language.as_str().to_owned()));
    Ok(gone.exec(db).await?.rows_affected > 0)
}
