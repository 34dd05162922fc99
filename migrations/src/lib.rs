//! The migrations of the database. See the README beside this crate for the rules.

mod columns;
mod m20261121_followers;
mod m20261121_initial;
mod m20261121_mail;
mod m20261121_reminders;
mod m20261121_webhooks;
mod m20261130_addresses;
mod m20261130_filled;
mod m20261130_registrations_in_order;
mod m20261130_search;
mod m20261130_skipped_entries;
mod m20261130_webhook_secrets;
mod m20261201_check_in;
mod m20261202_streams;
mod m20261203_pending_profiles;
mod m20261204_known;

mod lock;

use std::collections::BTreeSet;
use std::time::Duration;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DatabaseConnection;
use shared::database::Database;
use tokio_util::sync::CancellationToken;

use self::lock::Lock;

/// How long the present step may take after the process was asked to stop.
const STEP_ENDS: Duration = Duration::from_secs(6);

struct Migrations;

#[async_trait::async_trait]
impl MigratorTrait for Migrations {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261121_initial::Migration),
            Box::new(m20261121_followers::Migration),
            Box::new(m20261121_webhooks::Migration),
            Box::new(m20261121_mail::Migration),
            Box::new(m20261121_reminders::Migration),
            Box::new(m20261130_search::Migration),
            Box::new(m20261130_addresses::Migration),
            Box::new(m20261130_filled::Migration),
            Box::new(m20261130_registrations_in_order::Migration),
            Box::new(m20261130_skipped_entries::Migration),
            Box::new(m20261130_webhook_secrets::Migration),
            Box::new(m20261201_check_in::Migration),
            Box::new(m20261202_streams::Migration),
            Box::new(m20261203_pending_profiles::Migration),
            Box::new(m20261204_known::Migration),
        ]
    }
}

/// Why a database is not up to date.
#[derive(Debug, thiserror::Error)]
pub enum NotMigrated {
    /// The process was asked to stop. Finished steps stay.
    #[error("asked to stop while migrating the database")]
    Stopped,
    /// The database answered with an error.
    #[error(transparent)]
    Database(#[from] DbErr),
    /// A newer version has migrated it.
    #[error(
        "the database was made by a newer Muster (its migration {0} is not known here); start that version, or \
         restore the backup that was made before the upgrade"
    )]
    Newer(String),
}

/// Brings the database up to date, step by step.
///
/// One process at a time holds the lock, and others wait for it. On PostgreSQL and SQLite a step
/// and its record are one transaction. MariaDB commits each statement by itself. So a partial step
/// runs again there, and skips what exists. `stop` ends the wait for the lock at once, and the work
/// after the present step.
pub async fn migrate(db: &Database, stop: &CancellationToken) -> Result<(), NotMigrated> {
    migrate_through(db, "", stop).await
}

/// The same, up to the migration `last`. This makes a database of an older version, for tests of
/// upgrades.
pub async fn migrate_through(db: &Database, last: &str, stop: &CancellationToken) -> Result<(), NotMigrated> {
    let mut is_waiting = false;
    while let Some(step) = next_step(db.writer(), last).await? {
        if stop.is_cancelled() {
            return Err(NotMigrated::Stopped);
        }
        if let Some(lock) = Lock::take(db, step.as_ref()).await? {
            is_waiting = false;
            let overdue = async {
                stop.cancelled().await;
                tokio::time::sleep(STEP_ENDS).await;
            };
            // A step that was given up is rolled back, or runs again later.
            tokio::select! {
                done = lock.do_next_step() => done?,
                () = overdue => return Err(NotMigrated::Stopped),
            }
            continue;
        }
        if !is_waiting {
            tracing::info!("another process is migrating the database; waiting for it");
            is_waiting = true;
        }
        stop.run_until_cancelled(tokio::time::sleep(lock::LOOK)).await;
    }
    Ok(())
}

/// The first migration that is not recorded. It only reads, because a database that is up to date
/// may be read-only.
async fn next_step(
    db: &DatabaseConnection,
    last: &str,
) -> Result<Option<Box<dyn MigrationTrait>>, NotMigrated> {
    let done = recorded(db).await?;
    if done.contains(last) {
        return Ok(None);
    }
    let known = Migrations::migrations();
    if let Some(unknown) = done.iter().find(|name| known.iter().all(|step| step.name() != name.as_str())) {
        return Err(NotMigrated::Newer(unknown.clone()));
    }
    Ok(known.into_iter().find(|step| !done.contains(step.name())))
}

/// The names of the migrations that are recorded.
async fn recorded(db: &DatabaseConnection) -> Result<BTreeSet<String>, DbErr> {
    const TABLE: &str = "seaql_migrations";
    if !SchemaManager::new(db).has_table(TABLE).await? {
        return Ok(BTreeSet::new());
    }
    let rows = db.query_all(&Query::select().column("version").from(TABLE).to_owned()).await?;
    rows.iter().map(|row| row.try_get("", "version")).collect()
}
