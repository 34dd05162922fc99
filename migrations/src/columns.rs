//! Column types that mean the same on all three databases.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::DbBackend;

/// A new table, unless it exists. (On MariaDB the finished statements of a failed step stay.)
pub(crate) fn table(name: &'static str) -> TableCreateStatement {
    Table::create().table(name).if_not_exists().to_owned()
}

/// Makes an index on these columns, unless it exists.
pub(crate) async fn index(
    manager: &SchemaManager<'_>,
    name: &'static str,
    table: &'static str,
    columns: &[&'static str],
) -> Result<(), DbErr> {
    make_index(manager, Index::create().name(name).table(table).to_owned(), (name, table, columns), "").await
}

/// Makes a unique index on these columns, unless it exists.
pub(crate) async fn unique_index(
    manager: &SchemaManager<'_>,
    name: &'static str,
    table: &'static str,
    columns: &[&'static str],
) -> Result<(), DbErr> {
    let statement = Index::create().name(name).table(table).unique().to_owned();
    make_index(manager, statement, (name, table, columns), "unique ").await
}

async fn make_index(
    manager: &SchemaManager<'_>,
    mut statement: IndexCreateStatement,
    (name, table, columns): (&str, &str, &[&'static str]),
    unique: &str,
) -> Result<(), DbErr> {
    if matches!(manager.get_database_backend(), DbBackend::MySql) {
        // sea-query has no "if not exists" here. A query before it is not enough, because a
        // statement may still run after its process has died.
        let columns = columns.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ");
        let statement = format!("create {unique}index if not exists `{name}` on `{table}` ({columns})");
        return manager.get_connection().execute_unprepared(&statement).await.map(drop);
    }
    for column in columns {
        statement.col(*column);
    }
    manager.create_index(statement.if_not_exists().to_owned()).await
}

/// An id.
pub(crate) fn uuid(name: &'static str) -> ColumnDef {
    ColumnDef::new(name).uuid().to_owned()
}

/// An owned definition, from one that was built in place.
pub(crate) fn column(definition: &mut ColumnDef) -> ColumnDef {
    definition.to_owned()
}

/// An instant with millisecond precision. (MariaDB's `timestamp` ends in 2038 and has no fractions
/// by default.)
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

/// Adds a column, unless it exists.
pub(crate) async fn add(
    manager: &SchemaManager<'_>,
    table: &'static str,
    name: &str,
    column: ColumnDef,
) -> Result<(), DbErr> {
    // SQLite has no "if not exists" for columns.
    if manager.has_column(table, name).await? {
        return Ok(());
    }
    manager.alter_table(Table::alter().table(table).add_column_if_not_exists(column).to_owned()).await
}

/// A SHA-256 digest.
pub(crate) fn digest(name: impl IntoIden) -> ColumnDef {
    let mut column = ColumnDef::new(name);
    column.binary_len(32);
    column
}
