//! Members have logs, too. `drive_log` has the kind of an entry's stream, and `ledger` can name a
//! stream that is no drive. Existing rows are about drives.

use sea_orm_migration::prelude::*;

use crate::columns::{add, column, digest, index, table, uuid, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        // Decisions lock these tables in this order, too. So the two never deadlock.
        add(manager, "ledger", "stream_kind", word(backend, "stream_kind", 16)).await?;
        add(manager, "ledger", "stream_id", uuid("stream_id")).await?;
        let kind = column(word(backend, "stream_kind", 16).not_null().default("drive"));
        add(manager, "drive_log", "stream_kind", kind).await?;
        let streams = table("streams")
            .col(column(uuid("id").not_null().primary_key()))
            .col(column(word(backend, "kind", 16).not_null()))
            .col(column(ColumnDef::new("sequence").big_integer().not_null()))
            .col(column(digest("head").not_null()))
            .to_owned();
        manager.create_table(streams).await?;
        // `muster verify` looks at all logs of a kind.
        index(manager, "streams_by_kind", "streams", &["kind", "id"]).await
    }
}
