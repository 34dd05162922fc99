//! The schema that the migrations make. It must equal the committed dump of each database, and the
//! columns of the code.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, DatabaseConnection, EntityTrait, IdenStatic as _, Iterable as _,
};
use shared::database::Database;
use shared::store::{accounts, cursors, drives, inbox, mails, members, registrations, streams, webhooks};
use shared::{ledger, log, settings};
use tokio_util::sync::CancellationToken;

use crate::deployment::{Engine, Folder, TestDatabase, muster};

on_every_database! {
    the_schema_is_the_committed_one,
    entities_and_tables_have_the_same_columns,
    muster_migrate_brings_a_database_up_to_date,
}

async fn migrated(engine: Engine) -> (TestDatabase, Database) {
    let database = TestDatabase::new(engine).await;
    let db = Database::connect(&database.url, 1, "test").await.unwrap();
    migrations::migrate(&db, &CancellationToken::new()).await.unwrap();
    (database, db)
}

async fn rows(db: &DatabaseConnection, sql: &str) -> Vec<Vec<String>> {
    let rows =
        db.query_all_raw(sea_orm::Statement::from_string(db.get_database_backend(), sql)).await.unwrap();
    let texts = |row: &sea_orm::QueryResult| {
        let columns = row.column_names().len();
        (0..columns).map(|at| row.try_get_by_index::<String>(at).unwrap()).collect::<Vec<_>>()
    };
    // A database's sort order depends on its installation, so sort here.
    let mut rows: Vec<_> = rows.iter().map(texts).collect();
    rows.sort();
    rows
}

/// In this order: table, column, type, nullability, default.
fn columns(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => {
            "select m.name, c.name, lower(c.type), case when c.\"notnull\" = 0 and c.pk = 0 then 'null' else 'not null' end, \
             coalesce('default ' || c.dflt_value, '') from sqlite_master m join pragma_table_info(m.name) c where m.type = 'table'"
        }
        Engine::Postgres => {
            "select c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod), \
             case when a.attnotnull then 'not null' else 'null' end, \
             coalesce('default ' || pg_get_expr(d.adbin, d.adrelid), '') \
             from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
             where n.nspname = 'public' and c.relkind = 'r' and a.attnum > 0 and not a.attisdropped"
        }
        Engine::MariaDb => {
            "select cast(table_name as char), cast(column_name as char), \
             cast(concat(column_type, if(collation_name like '%bin', ' by bytes', '')) as char), \
             if(is_nullable = 'YES', 'null', 'not null'), \
             cast(if(column_default is null or column_default = 'NULL', '', concat('default ', column_default)) as char) from information_schema.columns \
             where table_schema = database()"
        }
    }
}

/// In this order: table, index, definition.
fn indexes(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => {
            "select tbl_name, name, coalesce(sql, 'of the table') from sqlite_master where type = 'index'"
        }
        Engine::Postgres => {
            "select tablename::text, indexname::text, indexdef from pg_indexes where schemaname = 'public'"
        }
        Engine::MariaDb => {
            "select cast(table_name as char), cast(index_name as char), \
             cast(concat(if(min(non_unique) = 0, 'unique ', ''), group_concat(column_name order by seq_in_index)) as char) \
             from information_schema.statistics where table_schema = database() group by 1, 2"
        }
    }
}

/// In this order: table, check.
fn checks(engine: Engine) -> &'static str {
    match engine {
        Engine::Sqlite => "select name, sql from sqlite_master where type = 'table'",
        Engine::Postgres => {
            "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint \
             where contype = 'c' and connamespace = 'public'::regnamespace"
        }
        Engine::MariaDb => {
            "select cast(table_name as char), cast(check_clause as char) from information_schema.check_constraints \
             where constraint_schema = database()"
        }
    }
}

/// Migrations that change the schema show in these files. `UPDATE_SCHEMA=1` writes them.
async fn the_schema_is_the_committed_one(engine: Engine) {
    let (_database, db) = migrated(engine).await;
    let mut dump = String::new();
    for (title, sql) in
        [("columns", columns(engine)), ("indexes", indexes(engine)), ("checks", checks(engine))]
    {
        writeln!(dump, "# {title}").unwrap();
        for row in rows(&db.read, sql).await {
            writeln!(dump, "{}", row.join("  ").replace('\n', " ").trim_end()).unwrap();
        }
    }
    db.close().await;
    let name = format!("migrations/schema/{}.txt", format!("{engine:?}").to_lowercase());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(&name);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &dump).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(dump, committed, "{name} is not what the migrations make; run this test with UPDATE_SCHEMA=1");
}

/// The columns in the code's entities, by table, with their nullability.
fn of_entities() -> BTreeMap<String, BTreeMap<String, bool>> {
    fn of<E: EntityTrait>() -> (String, BTreeMap<String, bool>) {
        let columns = E::Column::iter().map(|column| (column.as_str().to_owned(), column.def().is_null()));
        (E::default().table_name().to_owned(), columns.collect())
    }
    [
        of::<ledger::Entity>(),
        of::<log::Entity>(),
        of::<settings::table::Entity>(),
        of::<settings::watermarks::Entity>(),
        of::<accounts::table::Entity>(),
        of::<accounts::service_accounts::Entity>(),
        of::<accounts::pending::table::Entity>(),
        of::<cursors::Entity>(),
        of::<cursors::skipped::Entity>(),
        of::<streams::Entity>(),
        of::<drives::table::Entity>(),
        of::<drives::slots::Entity>(),
        of::<inbox::Entity>(),
        of::<inbox::reads::Entity>(),
        of::<mails::Entity>(),
        of::<mails::settings::preferences::Entity>(),
        of::<mails::settings::templates::Entity>(),
        of::<members::Entity>(),
        of::<registrations::Entity>(),
        of::<webhooks::endpoints::Entity>(),
        of::<webhooks::delivery::deliveries::Entity>(),
        of::<webhooks::delivery::attempts::Entity>(),
    ]
    .into_iter()
    .collect()
}

async fn entities_and_tables_have_the_same_columns(engine: Engine) {
    let (_database, db) = migrated(engine).await;
    let mut tables: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for row in rows(&db.read, columns(engine)).await {
        tables.entry(row[0].clone()).or_default().insert(row[1].clone(), row[3] == "null");
    }
    db.close().await;
    tables.retain(|table, _| table != "seaql_migrations" && !table.starts_with("sqlite_"));
    assert_eq!(of_entities(), tables);
}

async fn muster_migrate_brings_a_database_up_to_date(engine: Engine) {
    let (database, folder) = (TestDatabase::new(engine).await, Folder::new());
    let env = [("DATABASE_URL", database.url.clone()), ("DATA_DIR", folder.0.display().to_string())];
    for _ in 0..2 {
        let (done, said) = muster(&["migrate"], &env);
        assert!(done && said.contains("up to date"), "{said}");
    }
    let db = Database::connect(&database.url, 1, "test").await.unwrap();
    assert!(rows(&db.read, columns(engine)).await.iter().any(|row| row[0] == "registrations"));
    db.close().await;
}
