//! A drive's registrations in the order in which they were made: what pages of them follow.

use sea_orm_migration::prelude::*;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // On MariaDB a migration that died has done what it had come to.
        if manager.has_index("registrations", "registrations_in_order").await? {
            return Ok(());
        }
        let in_order = Index::create()
            .name("registrations_in_order")
            .table("registrations")
            .col("drive_id")
            .col("registered_at")
            .col("member_id")
            .to_owned();
        manager.create_index(in_order).await
    }
}
