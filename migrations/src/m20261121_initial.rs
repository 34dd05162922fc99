//! The first tables.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

use crate::columns::{column, digest, exact, index, instant, long_text, table, unique_index, uuid, word};

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        people(manager).await?;
        drives(manager).await?;
        registrations(manager).await?;
        decisions(manager).await?;
        deployment(manager).await
    }
}

async fn people(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let accounts = table("accounts")
        .col(column(uuid("id").not_null().primary_key()))
        // Addresses are stored in lower case.
        .col(column(exact(backend, "email", 254).not_null().unique_key()))
        .col(column(word(backend, "role", 16).not_null()))
        .col(word(backend, "password_hash", 255))
        .col(column(instant(backend, "created_at").not_null()))
        .to_owned();
    manager.create_table(accounts).await?;
    index(manager, "accounts_by_role", "accounts", &["role", "created_at"]).await?;
    let members = table("members")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(ColumnDef::new("name").string_len(200).not_null()))
        .col(column(long_text(backend, "attributes").not_null()))
        .col(column(long_text(backend, "verified").not_null()))
        .col(column(instant(backend, "updated_at").not_null()))
        .to_owned();
    manager.create_table(members).await?;
    let services = table("service_accounts")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(ColumnDef::new("name").string_len(200).not_null()))
        .col(column(uuid("created_by").not_null()))
        .col(column(instant(backend, "created_at").not_null()))
        .col(instant(backend, "revoked_at"))
        .to_owned();
    manager.create_table(services).await
}

async fn drives(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let drives = table("drives")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(ColumnDef::new("title").string_len(200).not_null()))
        .col(column(word(backend, "kind", 32).not_null()))
        .col(column(word(backend, "status", 16).not_null()))
        .col(word(backend, "closed_by", 16))
        .col(long_text(backend, "cancel_reason"))
        .col(column(long_text(backend, "definition").not_null()))
        .col(column(ColumnDef::new("rules_version").integer().not_null()))
        .col(column(instant(backend, "opens_at").not_null()))
        .col(column(instant(backend, "closes_at").not_null()))
        .col(column(ColumnDef::new("sequence").big_integer().not_null()))
        .col(column(digest("head").not_null()))
        .col(column(instant(backend, "created_at").not_null()))
        .col(column(instant(backend, "updated_at").not_null()))
        .to_owned();
    manager.create_table(drives).await?;
    // The scheduler reads due drives every second.
    for (name, at) in [("drives_by_opening", "opens_at"), ("drives_by_closing", "closes_at")] {
        index(manager, name, "drives", &["status", at]).await?;
    }
    index(manager, "drives_by_creation", "drives", &["created_at", "id"]).await?;
    let slots = table("slots")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(uuid("drive_id").not_null()))
        .col(ColumnDef::new("capacity").integer())
        .col(column(ColumnDef::new("confirmed").integer().not_null()))
        .col(column(ColumnDef::new("waitlisted").integer().not_null()))
        // The last line of defence: whatever a program does, a slot never has more people than
        // places.
        .check(Expr::cust(
            "confirmed >= 0 and waitlisted >= 0 and (capacity is null or confirmed <= capacity)",
        ))
        .to_owned();
    manager.create_table(slots).await?;
    index(manager, "slots_by_drive", "slots", &["drive_id"]).await
}

async fn registrations(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let registrations = table("registrations")
        .col(column(uuid("member_id").not_null()))
        .col(column(uuid("drive_id").not_null()))
        .col(column(uuid("id").not_null()))
        .col(column(uuid("slot_id").not_null()))
        .col(column(word(backend, "state", 16).not_null()))
        .col(column(ColumnDef::new("rank").big_integer().not_null()))
        .col(ColumnDef::new("place").integer())
        .col(column(instant(backend, "registered_at").not_null()))
        // By member first, because batches and members look rows up by member.
        .primary_key(Index::create().col("member_id").col("drive_id"))
        .to_owned();
    manager.create_table(registrations).await?;
    unique_index(manager, "registrations_by_id", "registrations", &["drive_id", "id"]).await?;
    index(manager, "registrations_by_state", "registrations", &["drive_id", "state", "rank"]).await
}

async fn decisions(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let ledger = table("ledger")
        .col(column(uuid("id").not_null().primary_key()))
        .col(column(word(backend, "kind", 32).not_null()))
        .col(column(word(backend, "actor_role", 16).not_null()))
        .col(column(uuid("actor_id").not_null()))
        .col(uuid("drive_id"))
        .col(column(instant(backend, "accepted_at").not_null()))
        .col(column(instant(backend, "decided_at").not_null()))
        .col(column(word(backend, "status", 16).not_null()))
        .col(ColumnDef::new("sequence").big_integer())
        .col(column(ColumnDef::new("events").integer().not_null()))
        .col(column(digest("body_hash").not_null()))
        .col(long_text(backend, "result"))
        .col(long_text(backend, "facts"))
        .col(instant(backend, "expires_at"))
        .to_owned();
    manager.create_table(ledger).await?;
    if backend == DbBackend::MySql {
        index(manager, "ledger_by_expiry", "ledger", &["expires_at"]).await?;
    } else {
        // Few rows expire. The others cost nothing. (MariaDB has no partial indexes.)
        let by_expiry = Index::create()
            .name("ledger_by_expiry")
            .table("ledger")
            .col("expires_at")
            .and_where(Expr::col("expires_at").is_not_null())
            .if_not_exists()
            .to_owned();
        manager.create_index(by_expiry).await?;
    }
    let log = table("drive_log")
        .col(column(uuid("drive_id").not_null()))
        .col(column(ColumnDef::new("sequence").big_integer().not_null()))
        .col(column(digest("hash").not_null()))
        .col(column(long_text(backend, "event").not_null()))
        .primary_key(Index::create().col("drive_id").col("sequence"))
        .to_owned();
    manager.create_table(log).await
}

async fn deployment(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let backend = manager.get_database_backend();
    let settings = table("settings")
        .col(column(word(backend, "name", 64).not_null().primary_key()))
        .col(column(word(backend, "value", 255).not_null()))
        .to_owned();
    manager.create_table(settings).await?;
    let watermarks = table("watermarks")
        .col(column(word(backend, "name", 64).not_null().primary_key()))
        .col(column(instant(backend, "reached").not_null()))
        .to_owned();
    manager.create_table(watermarks).await
}
