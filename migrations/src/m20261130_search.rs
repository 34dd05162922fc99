//! The folded forms of searched texts, and the texts that they were made from.

use sea_orm_migration::prelude::*;

use crate::columns::{add, exact, long_exact};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        // `search_of` is as long as the text that was folded.
        for (table, length) in [("members", 200), ("drives", 200), ("accounts", 254)] {
            add(manager, table, "search", long_exact(backend, "search")).await?;
            add(manager, table, "search_of", exact(backend, "search_of", length)).await?;
        }
        Ok(())
    }
}
