//! The normal forms of accounts' e-mail addresses.

use sea_orm_migration::prelude::*;

use crate::columns::{add, exact, unique_index};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        add(manager, "accounts", "address", exact(backend, "address", 254)).await?;
        unique_index(manager, "accounts_by_address", "accounts", &["address"]).await
    }
}
