//! First profiles whose command is not decided yet.

use sea_orm_migration::prelude::*;

use crate::columns::{column, index, instant, long_text, table, uuid};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let pending = table("pending_profiles")
            .col(column(uuid("member_id").not_null().primary_key()))
            .col(column(long_text(backend, "command").not_null()))
            .col(column(instant(backend, "created_at").not_null()))
            .to_owned();
        manager.create_table(pending).await?;
        index(manager, "pending_profiles_by_age", "pending_profiles", &["created_at"]).await
    }
}
