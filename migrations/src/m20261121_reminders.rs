//! When drives' next reminders fall due, and what people were reminded of.

use sea_orm_migration::prelude::*;

use crate::columns::{instant, long_text};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        // SQLite adds one column at a time.
        for column in [instant(backend, "remind_at"), long_text(backend, "reminded")] {
            manager.alter_table(Table::alter().table("drives").add_column(column).to_owned()).await?;
        }
        let by_reminder =
            Index::create().name("drives_by_reminder").table("drives").col("remind_at").to_owned();
        manager.create_index(by_reminder).await?;
        // Drives that are there already are looked at once, all of them; their lanes write when they are due.
        let looked_at = Query::update()
            .table("drives")
            .value("remind_at", Expr::col("created_at"))
            .and_where(Expr::col("status").is_in(["published", "open", "closed"]))
            .to_owned();
        manager.execute(looked_at).await
    }
}
