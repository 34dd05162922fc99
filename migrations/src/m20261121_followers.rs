//! Followers of the drives' logs: their cursors, and the members' inboxes that they fill.

use sea_orm_migration::prelude::*;

use crate::columns::{column, instant, table, uuid, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        let cursors = table("cursors")
            .col(column(word(backend, "follower", 32).not_null()))
            .col(column(uuid("drive_id").not_null()))
            .col(column(ColumnDef::new("sequence").big_integer().not_null()))
            .primary_key(Index::create().col("follower").col("drive_id"))
            .to_owned();
        manager.create_table(cursors).await?;
        let inbox = table("inbox")
            .col(column(uuid("member_id").not_null()))
            .col(column(ColumnDef::new("number").big_integer().not_null()))
            .col(column(uuid("drive_id").not_null()))
            .col(column(ColumnDef::new("sequence").big_integer().not_null()))
            .col(column(instant(backend, "at").not_null()))
            .primary_key(Index::create().col("member_id").col("number"))
            .to_owned();
        manager.create_table(inbox).await?;
        let read = table("inbox_reads")
            .col(column(uuid("member_id").not_null().primary_key()))
            .col(column(ColumnDef::new("number").big_integer().not_null()))
            .to_owned();
        manager.create_table(read).await
    }
}
