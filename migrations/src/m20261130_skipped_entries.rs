//! Log entries that a follower skipped. It tries them again when it starts.

use sea_orm_migration::prelude::*;

use crate::columns::{column, instant, long_text, table, uuid, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let skipped = table("skipped_entries")
            .col(column(word(backend, "follower", 32).not_null()))
            .col(column(uuid("drive_id").not_null()))
            .col(column(ColumnDef::new("sequence").big_integer().not_null()))
            .col(column(instant(backend, "at").not_null()))
            .col(column(long_text(backend, "reason").not_null()))
            .primary_key(Index::create().col("follower").col("drive_id").col("sequence"))
            .to_owned();
        manager.create_table(skipped).await
    }
}
