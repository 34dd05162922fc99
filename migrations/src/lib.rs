//! The database's changes. See the README beside this crate for the rules.

mod columns;
mod m20261121_followers;
mod m20261121_initial;
mod m20261121_mail;
mod m20261121_reminders;
mod m20261121_webhooks;
mod m20261130_skipped_entries;
mod m20261130_webhook_secrets;

use std::time::Duration;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{DatabaseConnection, SqlErr};

/// How often a process that lost the race to migrate looks again.
const ATTEMPTS: u32 = 60;

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
            Box::new(m20261130_skipped_entries::Migration),
            Box::new(m20261130_webhook_secrets::Migration),
        ]
    }
}

/// Brings the database up to date. Processes that start at the same moment may race for it: one wins, the others wait
/// for what it does.
pub async fn migrate(db: &DatabaseConnection) -> Result<(), DbErr> {
    let mut attempt = 0;
    loop {
        match Migrations::up(db, None).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt < ATTEMPTS && is_race(&error) => {
                attempt += 1;
                tracing::info!(%error, "another process is migrating the database; waiting for it");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether an error looks as if another process has just made the same table, or is about to.
fn is_race(error: &DbErr) -> bool {
    let text = error.to_string().to_lowercase();
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
        || ["already exists", "duplicate", "locked", "deadlock"].iter().any(|sign| text.contains(sign))
}
