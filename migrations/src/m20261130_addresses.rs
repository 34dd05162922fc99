//! The normal forms of accounts' e-mail addresses.

use sea_orm_migration::prelude::*;

use crate::columns::{add, exact};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        add(manager, "accounts", "address", exact(backend, "address", 254)).await?;
        let name = "accounts_by_address";
        if manager.has_index("accounts", name).await? {
            return Ok(());
        }
        let by_address = Index::create().name(name).table("accounts").col("address").unique().to_owned();
        manager.create_index(by_address).await
    }
}
