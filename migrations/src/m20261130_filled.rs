//! Fills in the folded forms and the addresses of existing rows.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    /// A running older version must not wait until a million rows are written. Finished rows stay
    /// if this process dies.
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        shared::derived::fill(manager.get_connection()).await
    }
}
