//! An index of a drive's registrations by age, for pages of them.

use sea_orm_migration::prelude::*;

use crate::columns::index;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let columns = &["drive_id", "registered_at", "member_id"];
        index(manager, "registrations_in_order", "registrations", columns).await
    }
}
