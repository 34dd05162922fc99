//! Mails on their way, members' preferences, and organisers' templates.

use sea_orm_migration::prelude::*;

use crate::columns::{column, index, instant, long_text, table, uuid, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        mails(manager).await?;
        let backend = manager.get_database_backend();
        let preferences = table("mail_preferences")
            .col(column(uuid("member_id").not_null().primary_key()))
            .col(column(word(backend, "language", 8).not_null()))
            .col(column(word(backend, "unwanted", 100).not_null()))
            .col(word(backend, "quiet_hours", 200))
            .col(instant(backend, "bounced_at"))
            .to_owned();
        manager.create_table(preferences).await?;
        let templates = table("mail_templates")
            .col(column(word(backend, "kind", 32).not_null()))
            .col(column(word(backend, "language", 8).not_null()))
            .col(column(long_text(backend, "subject").not_null()))
            .col(column(long_text(backend, "text").not_null()))
            .col(long_text(backend, "html"))
            .col(column(instant(backend, "updated_at").not_null()))
            .primary_key(Index::create().col("kind").col("language"))
            .to_owned();
        manager.create_table(templates).await
    }
}

async fn mails(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let mails = table("mails")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(uuid("member_id").not_null()))
        .col(uuid("drive_id"))
        .col(ColumnDef::new("sequence").big_integer())
        .col(uuid("webhook_id"))
        .col(column(word(backend, "kind", 32).not_null()))
        .col(column(word(backend, "state", 16).not_null()))
        .col(column(ColumnDef::new("attempts").integer().not_null()))
        .col(column(instant(backend, "due_at").not_null()))
        .col(column(instant(backend, "created_at").not_null()))
        .col(uuid("lease"))
        .col(long_text(backend, "error"))
        .to_owned();
    manager.create_table(mails).await?;
    let indexes: [(&str, &[&'static str]); 2] =
        [("mails_by_due", &["state", "due_at"]), ("mails_by_state", &["state", "id"])];
    for (name, columns) in indexes {
        index(manager, name, "mails", columns).await?;
    }
    Ok(())
}
