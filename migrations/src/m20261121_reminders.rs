//! The due times of drives' next reminders, and the reminders that were sent.

use sea_orm_migration::prelude::*;

use crate::columns::{add, index, instant, long_text};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        add(manager, "drives", "remind_at", instant(backend, "remind_at")).await?;
        add(manager, "drives", "reminded", long_text(backend, "reminded")).await?;
        index(manager, "drives_by_reminder", "drives", &["remind_at"]).await?;
        // Existing drives are all due once. Their lanes then write the real due time.
        let looked_at = Query::update()
            .table("drives")
            .value("remind_at", Expr::col("created_at"))
            .and_where(Expr::col("status").is_in(["published", "open", "closed"]))
            .to_owned();
        manager.execute(looked_at).await
    }
}
