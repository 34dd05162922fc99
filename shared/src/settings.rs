//! The tables `settings` (values of the deployment by name, such as its number of lanes) and
//! `watermarks` (how far timed work has come).

use domain::clock::Timestamp;
use sea_orm::entity::prelude::*;
use sea_orm::sea_query::{Expr, ExprTrait as _};
use sea_orm::{ConnectionTrait, DbErr, Set};

use crate::bus::Topology;
use crate::database::Database;

/// The table `settings`.
pub mod table {
    #![allow(missing_docs, reason = "a name and its value")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "settings")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub value: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// `watermarks`.
pub mod watermarks {
    #![allow(missing_docs, reason = "a name and the instant it has reached")]
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "watermarks")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub reached: ChronoDateTimeUtc,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

const LANES: &str = "lanes";

/// Why a process must not work with this database.
#[derive(Debug, thiserror::Error)]
pub enum WrongDeployment {
    /// The deployment was made with another number of lanes. With both numbers in use, the commands
    /// of one drive would go to two lanes, and have no order.
    #[error("this deployment has {stored} lanes, but this process is set to {told}; set LANES={stored}")]
    Lanes {
        /// The number of lanes in the database.
        stored: u16,
        /// The number of lanes in this process's configuration.
        told: u16,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Makes sure that all processes of a deployment have the same number of lanes. The first process
/// sets it.
pub async fn agree_on_lanes(db: &impl ConnectionTrait, topology: Topology) -> Result<(), WrongDeployment> {
    let row = table::ActiveModel { name: Set(LANES.to_owned()), value: Set(topology.lanes().to_string()) };
    let stored = table::Entity::find_by_id(LANES).one(db).await?;
    let stored = match stored {
        Some(row) => row.value,
        None => match table::Entity::insert(row).exec_without_returning(db).await {
            Ok(_) => return Ok(()),
            // Another process has just inserted it.
            Err(error) if error.sql_err().is_some() => {
                let row = table::Entity::find_by_id(LANES).one(db).await?;
                row.map(|row| row.value).unwrap_or_default()
            }
            Err(error) => return Err(error.into()),
        },
    };
    match stored.parse() {
        Ok(stored) if stored == topology.lanes() => Ok(()),
        Ok(stored) => Err(WrongDeployment::Lanes { stored, told: topology.lanes() }),
        Err(_) => Err(DbErr::Type(format!("settings.lanes {stored:?}")).into()),
    }
}

/// How far the timed work of this name has come. `None` if it never began.
pub async fn watermark(db: &impl ConnectionTrait, name: &str) -> Result<Option<Timestamp>, DbErr> {
    Ok(watermarks::Entity::find_by_id(name).one(db).await?.map(|row| row.reached))
}

/// Begins timed work at `now`, unless a process has begun it before. Returns how far it has come.
pub async fn begin_watermark(
    db: &impl ConnectionTrait,
    name: &str,
    now: Timestamp,
) -> Result<Timestamp, DbErr> {
    let row = watermarks::ActiveModel { name: Set(name.to_owned()), reached: Set(now) };
    match watermarks::Entity::insert(row).exec_without_returning(db).await {
        Ok(_) => Ok(now),
        // Another scheduler has just inserted it.
        Err(error) if error.sql_err().is_some() => watermark(db, name).await?.ok_or(error),
        Err(error) => Err(error),
    }
}

/// Resets a watermark from `seen` to `to`, because a clock that ran ahead has moved it. Returns the
/// number of resets so far. `None` if another process was first.
pub async fn take_watermark_back(
    db: &Database,
    name: &str,
    seen: Timestamp,
    to: Timestamp,
) -> Result<Option<u64>, DbErr> {
    let tx = db.begin().await?;
    let moved = watermarks::Entity::update_many()
        .col_expr(watermarks::Column::Reached, Expr::value(to))
        .filter(watermarks::Column::Name.eq(name).and(watermarks::Column::Reached.eq(seen)))
        .exec(&tx)
        .await?;
    if moved.rows_affected == 0 {
        return Ok(None);
    }
    let times = taken_back(&tx, name).await? + 1;
    let row = table::ActiveModel { name: Set(taken_back_key(name)), value: Set(times.to_string()) };
    if times == 1 {
        table::Entity::insert(row).exec_without_returning(&tx).await?;
    } else {
        table::Entity::update(row).exec(&tx).await?;
    }
    tx.commit().await?;
    Ok(Some(times))
}

/// How often a watermark was reset. After a reset the same instants fall due again. Their commands
/// need new ids, which include this number.
pub async fn taken_back(db: &impl ConnectionTrait, name: &str) -> Result<u64, DbErr> {
    let row = table::Entity::find_by_id(taken_back_key(name)).one(db).await?;
    Ok(row.and_then(|row| row.value.parse().ok()).unwrap_or(0))
}

fn taken_back_key(name: &str) -> String {
    format!("{name}-taken-back")
}

/// Advances a watermark. It never moves back, even if several schedulers advance it.
pub async fn move_watermark(db: &impl ConnectionTrait, name: &str, to: Timestamp) -> Result<(), DbErr> {
    watermarks::Entity::update_many()
        .col_expr(watermarks::Column::Reached, Expr::value(to))
        .filter(watermarks::Column::Name.eq(name).and(watermarks::Column::Reached.lt(to)))
        .exec(db)
        .await?;
    Ok(())
}
