//! A webhook may have several old secrets that are still valid.

use sea_orm_migration::prelude::*;

use crate::columns::{add, long_text};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        // The old secrets besides `old_secret`, which older versions still read.
        add(manager, "webhook_endpoints", "older_secrets", long_text(backend, "older_secrets")).await
    }
}
