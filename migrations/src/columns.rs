//! Column types that mean the same on all three databases.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// A new table.
pub(crate) fn table(name: &'static str) -> TableCreateStatement {
    Table::create().table(name).to_owned()
}

/// An id.
pub(crate) fn uuid(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).uuid().to_owned()
}

/// A definition of its own, from one that was built in place.
pub(crate) fn column(definition: &mut ColumnDef) -> ColumnDef {
    definition.to_owned()
}

/// An instant with millisecond precision. (MariaDB's `timestamp` ends in 2038 and has no fractions by default.)
pub(crate) fn instant(backend: DbBackend, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        DbBackend::Postgres => column.custom("timestamptz(3)"),
        DbBackend::MySql => column.custom("datetime(3)"),
        _ => column.custom("timestamp_with_timezone_text"),
    };
    column
}

/// A text of any length. (MariaDB's `text` ends at 64 KiB.)
pub(crate) fn long_text(backend: DbBackend, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        DbBackend::MySql => column.custom("longtext"),
        _ => column.text(),
    };
    column
}

/// A word that is compared byte by byte. (MariaDB compares without case otherwise.)
pub(crate) fn word(backend: DbBackend, name: impl IntoIden, length: u32) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        DbBackend::MySql => column.custom(format!("varchar({length}) character set ascii collate ascii_bin")),
        _ => column.string_len(length),
    };
    column
}

/// A text of any script that is compared byte by byte. (To MariaDB, `é` is `e` otherwise.)
pub(crate) fn exact(backend: DbBackend, name: impl IntoIden, length: u32) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        DbBackend::MySql => {
            column.custom(format!("varchar({length}) character set utf8mb4 collate utf8mb4_bin"))
        }
        _ => column.string_len(length),
    };
    column
}

/// A text of any script and length that is compared byte by byte.
pub(crate) fn long_exact(backend: DbBackend, name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    match backend {
        DbBackend::MySql => column.custom("longtext character set utf8mb4 collate utf8mb4_bin"),
        _ => column.text(),
    };
    column
}

/// Adds a column that is not there yet. (On MariaDB a migration that died has done what it had come to.)
pub(crate) async fn add(
    manager: &SchemaManager<'_>,
    table: &'static str,
    name: &str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    if manager.has_column(table, name).await? {
        return Ok(());
    }
    manager.alter_table(Table::alter().table(table).add_column(column).to_owned()).await
}

/// A SHA-256 digest.
pub(crate) fn digest(name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.binary_len(32);
    column
}
