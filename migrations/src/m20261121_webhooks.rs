//! Webhooks, their deliveries, and the results of attempts.

use sea_orm_migration::prelude::*;

use crate::columns::{column, index, instant, long_text, table, uuid, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        endpoints(manager).await?;
        deliveries(manager).await?;
        attempts(manager).await
    }
}

async fn endpoints(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let endpoints = table("webhook_endpoints")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(long_text(backend, "url").not_null()))
        .col(column(ColumnDef::new("description").string_len(200).not_null()))
        .col(column(long_text(backend, "filter").not_null()))
        .col(column(ColumnDef::new("ordered").boolean().not_null()))
        .col(column(word(backend, "secret", 128).not_null()))
        .col(word(backend, "old_secret", 128))
        .col(instant(backend, "old_secret_until"))
        .col(column(uuid("owner").not_null()))
        .col(column(instant(backend, "created_at").not_null()))
        .col(instant(backend, "failing_since"))
        .col(instant(backend, "disabled_at"))
        .col(word(backend, "disabled_reason", 32))
        .to_owned();
    manager.create_table(endpoints).await
}

async fn deliveries(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let deliveries = table("webhook_deliveries")
        // A function of endpoint and event, so each event makes one delivery.
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(uuid("endpoint_id").not_null()))
        .col(column(uuid("event_id").not_null()))
        .col(column(word(backend, "event_type", 64).not_null()))
        .col(column(instant(backend, "event_time").not_null()))
        .col(column(uuid("drive_id").not_null()))
        .col(column(ColumnDef::new("sequence").big_integer().not_null()))
        .col(column(word(backend, "state", 16).not_null()))
        .col(column(ColumnDef::new("attempts").integer().not_null()))
        .col(column(instant(backend, "due_at").not_null()))
        .col(uuid("lease"))
        .to_owned();
    manager.create_table(deliveries).await?;
    let indexes: [(&str, &[&'static str]); 3] = [
        // The next due deliveries.
        ("webhook_deliveries_by_due", &["endpoint_id", "state", "due_at"]),
        // The first deliveries of each drive.
        ("webhook_deliveries_in_order", &["endpoint_id", "state", "drive_id", "sequence"]),
        // The delivery log.
        ("webhook_deliveries_by_state", &["endpoint_id", "state", "id"]),
    ];
    for (name, columns) in indexes {
        index(manager, name, "webhook_deliveries", columns).await?;
    }
    Ok(())
}

async fn attempts(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let attempts = table("webhook_attempts")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(uuid("delivery_id").not_null()))
        .col(column(instant(backend, "at").not_null()))
        .col(column(ColumnDef::new("took_ms").integer().not_null()))
        .col(column(long_text(backend, "request_headers").not_null()))
        .col(ColumnDef::new("status").integer())
        .col(column(long_text(backend, "answer").not_null()))
        .col(long_text(backend, "error"))
        .to_owned();
    manager.create_table(attempts).await?;
    index(manager, "webhook_attempts_by_delivery", "webhook_attempts", &["delivery_id", "id"]).await
}
