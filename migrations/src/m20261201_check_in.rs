//! When a registration's member checked in.

use sea_orm_migration::prelude::*;

use crate::columns::{add, instant};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let at = instant(manager.get_database_backend(), "checked_in_at");
        add(manager, "registrations", "checked_in_at", at).await
    }
}
