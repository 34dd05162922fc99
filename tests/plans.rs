//! On PostgreSQL, no statement that decides or that fills inboxes scans a whole table, or reads
//! more rows per item as the tables grow. This holds although the plans were made for empty tables
//! and without statistics. Keyed reads use indexes. Reports are planned freely.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domain::clock;
use domain::drive::registration::Withdraw;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr, QueryResult, Statement};
use serde_json::json;
use shared::config::Outlet;
use shared::database::{self, Database};
use shared::failure::Failure;
use shared::store::{accounts, drives, inbox, mails, members, registrations};
use shared::{ledger, log};

use crate::deployment::{Engine, eventually};
use crate::local::{Local, envelope, member, register};

on_every_database! {
    a_report_that_takes_too_long_ends_and_can_be_tried_again,
    reports_take_no_connection_until_there_is_one,
    a_report_cannot_write,
}

async fn ask(db: &Database, sql: &str) -> Vec<QueryResult> {
    rows(&db.read, sql).await
}

async fn rows(db: &DatabaseConnection, sql: &str) -> Vec<QueryResult> {
    db.query_all_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap()
}

/// The number of full scans of each table.
async fn scans(db: &Database) -> BTreeMap<String, i64> {
    // PostgreSQL counts a connection's reads when it ends at the latest.
    let others =
        "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    eventually("nobody else is connected", || async { ask(db, others).await.is_empty().then_some(()) }).await;
    let rows = ask(db, "select relname::text, seq_scan from pg_stat_user_tables").await;
    rows.iter().map(|row| (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap())).collect()
}

/// Measures reads while this many people sign up and some of them withdraw. Returns the full scans
/// of each table, and the index entries read in the tables that grow with the people.
async fn reads(people: usize) -> (BTreeMap<String, i64>, i64) {
    let mut local = Local::start(Engine::Postgres).await;
    local.fill_inboxes(Outlet::Nowhere);
    let mut drives = Vec::new();
    for _ in 0..3 {
        drives.push(local.open_drive(json!({ "capacity": 5, "waitlist_capacity": 5 })).await);
    }
    let mut ids = Vec::new();
    for number in 0..people {
        let (drive_id, member_id) = (drives[number % drives.len()], local.member(json!({})).await);
        ids.push(local.send(envelope(member(member_id), register(drive_id, member_id))).await);
        if number % 7 == 0 {
            ids.push(local.send(envelope(member(member_id), Withdraw { drive_id, member_id })).await);
        }
    }
    for id in ids {
        local.decision(id).await;
    }
    local.end().await;
    local.db.close().await;

    let looking = local.second_handle().await;
    let scans = scans(&looking).await;
    let read = ask(
        &looking,
        "select sum(idx_tup_read)::bigint from pg_stat_user_indexes \
         where relname in ('ledger', 'drive_log', 'registrations', 'inbox', 'members')",
    )
    .await;
    let read = read[0].try_get_by_index(0).unwrap();
    looking.close().await;
    (scans, read)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_of_a_rush_reads_more_the_more_there_is() {
    let (few, some) = reads(100).await;
    let (many, more) = reads(400).await;
    // The remaining scans are those of the migrations.
    assert_eq!(few, many);
    assert!(few.contains_key("ledger"));
    assert!(more < some * 6, "{more} after {some}: four times the people, and not four times the reading");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_reads_use_indexes() {
    let mut local = Local::start(Engine::Postgres).await;
    let drive_id = local.open_drive(json!({ "capacity": 1, "waitlist_capacity": 5 })).await;
    let (first, second) = (local.member(json!({ "age": 20 })).await, local.member(json!({})).await);
    local.register(drive_id, first).await;
    let click = local.register(drive_id, second).await;
    local.end().await;
    local.db.close().await;
    let looking = local.second_handle().await;
    let before = scans(&looking).await;
    looking.close().await;

    let db = local.second_handle().await;
    let (read, now) = (&db.read, clock::now());
    let query = drives::Query { limit: 10, ..drives::Query::default() };
    assert_eq!(drives::list(read, &query).await.unwrap().len(), 1);
    assert!(drives::find(read, drive_id).await.unwrap().is_some());
    assert_eq!(drives::by_ids(read, [drive_id]).await.unwrap().len(), 1);
    assert_eq!(drives::ends(read, [drive_id]).await.unwrap().len(), 1);
    drives::due(read, now, 0, 10).await.unwrap();
    drives::reminders(read, now, 0, 10).await.unwrap();
    assert!(!log::read(read, drive_id.into(), 0, 10).await.unwrap().is_empty());
    assert!(!log::ranges(read, [(drive_id.into(), 1, 2)].into_iter()).await.unwrap().is_empty());
    assert_eq!(ledger::find(read, [click.id]).await.unwrap().len(), 1);
    assert_eq!(registrations::of_member(read, second, None, 10).await.unwrap().len(), 1);
    assert_eq!(registrations::waitlist_positions(read, second, [drive_id]).await.unwrap().len(), 1);
    assert!(accounts::by_id(read, first).await.unwrap().is_some());
    assert!(accounts::by_email(read, &format!("{first}@x.org")).await.unwrap().is_some());
    assert_eq!(members::profiles(read, [first]).await.unwrap().len(), 1);
    assert_eq!(members::list(read, None, None, 10).await.unwrap().len(), 2);
    inbox::ends(read, &BTreeSet::from([first])).await.unwrap();
    inbox::newest(read, first, 0, None, 10).await.unwrap();
    inbox::read_up_to(read, first).await.unwrap();
    mails::due(read, now, 10).await.unwrap();
    db.close().await;

    let looking = local.second_handle().await;
    assert_eq!(scans(&looking).await, before);
    looking.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_plans_reports_freely() {
    let local = Local::idle(Engine::Postgres).await;
    let join = "explain select * from registrations r join members m on m.id = r.member_id";
    let plan = async |db: &DatabaseConnection| -> String {
        rows(db, join).await.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect()
    };
    let (keyed, report) = (plan(&local.db.read).await, plan(&local.db.reports).await);
    let reads_tables = |plan: &str| plan.contains("Hash Join") || plan.contains("Merge Join");
    assert!(!reads_tables(&keyed), "{keyed}");
    assert!(reads_tables(&report), "{report}");
}

/// A statement that takes ten minutes unless it is aborted.
fn long(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => "select pg_sleep(600)",
        _ => "select sleep(600)",
    }
}

async fn a_report_that_takes_too_long_ends_and_can_be_tried_again(engine: Engine) {
    if engine == Engine::Sqlite {
        return;
    }
    let local = Local::idle(engine).await;
    let limit = Duration::from_millis(50);
    let db = Database::connect_with(local.database_url(), 1, "test", limit).await.unwrap();
    let backend = db.reports.get_database_backend();
    let sleep = async |connection: &DatabaseConnection| {
        connection.query_all_raw(Statement::from_string(backend, long(backend))).await
    };
    let is_ended = |ended: Result<Vec<QueryResult>, DbErr>| {
        let error = ended.unwrap_err();
        assert!(database::is_timed_out(&error) && database::is_passing(&error), "{error:?}");
        assert!(matches!(Failure::from(error), Failure::Retry(_)));
    };
    is_ended(sleep(&db.reports).await);
    // A verification has no timeout. It must leave the timeout of later reports as it is.
    for _ in 0..database::REPORTS {
        let tx = db.unlimited_snapshot().await.unwrap();
        let limit = match backend {
            DbBackend::Postgres => "select current_setting('statement_timeout')",
            _ => "select cast(@@max_statement_time as char)",
        };
        let row = tx.query_one_raw(Statement::from_string(backend, limit)).await.unwrap().unwrap();
        let limit: String = row.try_get_by_index(0).unwrap();
        assert_eq!(limit.trim_end_matches(['0', '.']), "", "{limit}");
        tx.commit().await.unwrap();
    }
    is_ended(sleep(&db.reports).await);
    db.close().await;
}

/// The number of connections in the pool for reports.
fn connections(db: &Database) -> u32 {
    match db.reports.get_database_backend() {
        DbBackend::Postgres => db.reports.get_postgres_connection_pool().size(),
        DbBackend::MySql => db.reports.get_mysql_connection_pool().size(),
        _ => db.reports.get_sqlite_connection_pool().size(),
    }
}

async fn reports_take_no_connection_until_there_is_one(engine: Engine) {
    let local = Local::start(engine).await;
    local.open_drive(json!({ "capacity": 5 })).await;
    // SeaORM reads SQLite's version at once, which opens a connection. A connection to a file takes
    // none away from other processes.
    assert!(connections(&local.db) == 0 || engine == Engine::Sqlite);
    for _ in 0..10 {
        assert!(drives::entries(&local.db.reports).await.unwrap() > 0);
    }
    assert!((1..=database::REPORTS).contains(&connections(&local.db)));
}

async fn a_report_cannot_write(engine: Engine) {
    let local = Local::idle(engine).await;
    let write = "delete from settings";
    assert!(local.db.reports.execute_unprepared(write).await.is_err());
    let tx = local.db.snapshot().await.unwrap();
    assert!(tx.execute_unprepared(write).await.is_err());
    drop(tx);
    local.db.writer().execute_unprepared(write).await.unwrap();
}
