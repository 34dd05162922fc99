//! The table `pending_profiles`: first profiles whose command is not decided yet.
//!
//! The API writes the row together with the account, and publishes its command afterwards. If it
//! dies in between, the next login or the scheduler publishes the same command. The members' lane
//! deletes the row in the transaction that writes the profile.

use domain::actor::{Actor, Role};
use domain::clock::Timestamp;
use domain::hash::sha256;
use domain::id::{CommandId, MemberId};
use domain::member::UpdateProfile;
use sea_orm::entity::prelude::*;
use sea_orm::{ConnectionTrait, DbErr, QueryOrder as _, QuerySelect as _, Set};

use crate::bus::Envelope;
use crate::database::rows::{self, ROWS_PER_INSERT};

/// `pending_profiles`.
pub mod table {
    #![allow(missing_docs, reason = "the columns are the fields of `PendingProfile`")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "pending_profiles")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub member_id: Uuid,
        #[sea_orm(column_type = "Text")]
        pub command: String,
        pub created_at: ChronoDateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The first profile of a member, as a command to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingProfile {
    /// The member.
    pub member_id: MemberId,
    /// The command's JSON.
    command: String,
    /// When the member signed up.
    created_at: Timestamp,
}

impl PendingProfile {
    /// The profile that a member gave at sign-up.
    #[must_use]
    pub fn new(command: &UpdateProfile, created_at: Timestamp) -> Self {
        let text = serde_json::to_string(command).expect("a command is plain data");
        Self { member_id: command.member_id, command: text, created_at }
    }

    /// The command's id, which is a function of the member. The ledger recognises a repetition by
    /// it.
    #[must_use]
    pub fn id(&self) -> CommandId {
        UpdateProfile::first_id(self.member_id)
    }

    /// The command. It is the same each time.
    pub fn command(&self) -> Result<UpdateProfile, serde_json::Error> {
        serde_json::from_str(&self.command)
    }

    /// The command, ready to publish.
    pub fn envelope(&self) -> Result<Envelope<UpdateProfile>, serde_json::Error> {
        let actor = Actor { role: Role::Member, id: self.member_id.0 };
        // The hash is that of the stored text. A later version may write the command differently.
        let body_hash = sha256(self.command.as_bytes());
        Ok(Envelope::with_hash(self.id(), actor, self.created_at, body_hash, self.command()?))
    }
}

impl From<table::Model> for PendingProfile {
    fn from(row: table::Model) -> Self {
        Self { member_id: MemberId(row.member_id), command: row.command, created_at: row.created_at }
    }
}

/// Writes a pending profile.
pub async fn insert(db: &impl ConnectionTrait, pending: &PendingProfile) -> Result<(), DbErr> {
    let row = table::ActiveModel {
        member_id: Set(pending.member_id.0),
        command: Set(pending.command.clone()),
        created_at: Set(pending.created_at),
    };
    table::Entity::insert(row).exec_without_returning(db).await.map(drop)
}

/// The pending profile of a member, if there is one.
pub async fn find(db: &impl ConnectionTrait, id: MemberId) -> Result<Option<PendingProfile>, DbErr> {
    Ok(table::Entity::find_by_id(id.0).one(db).await?.map(PendingProfile::from))
}

/// At most `limit` of the profiles that are pending since `instant` or longer, without the first
/// `skip`. The oldest come first.
pub async fn since(
    db: &impl ConnectionTrait,
    instant: Timestamp,
    skip: u64,
    limit: u64,
) -> Result<Vec<PendingProfile>, DbErr> {
    let rows = table::Entity::find()
        .filter(table::Column::CreatedAt.lte(instant))
        .order_by_asc(table::Column::CreatedAt)
        .order_by_asc(table::Column::MemberId)
        .offset(skip)
        .limit(limit)
        .all(db)
        .await?;
    Ok(rows.into_iter().map(PendingProfile::from).collect())
}

/// Deletes the pending profiles of these members, because their commands are decided.
pub async fn delete(db: &impl ConnectionTrait, ids: &[MemberId]) -> Result<(), DbErr> {
    for chunk in ids.chunks(ROWS_PER_INSERT) {
        let these = rows::is_one_of(db, table::Column::MemberId, chunk.iter().map(|id| id.0));
        table::Entity::delete_many().filter(these).exec(db).await?;
    }
    Ok(())
}
