//! What an organisation says of a member, and what the member says, are two maps with sources.
//!
//! A row that has none yet is read by the columns of the older version. The next change of its
//! profile fills it. The older columns go on being written, because an older version may run beside
//! this one.

use sea_orm_migration::prelude::*;

use crate::columns::{add, long_text, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let backend = manager.get_database_backend();
        add(manager, "members", "known", long_text(backend, "known")).await?;
        add(manager, "members", "name_source", word(backend, "name_source", 16)).await
    }
}
