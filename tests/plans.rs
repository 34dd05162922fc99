//! On PostgreSQL none of the statements that decide, and that fill inboxes, reads a table from end to end, or more rows for each the
//! more there are, though their plans were made when the tables were empty and there are no statistics.

use std::collections::BTreeMap;

use domain::drive::registration::Withdraw;
use sea_orm::{ConnectionTrait as _, QueryResult, Statement};
use serde_json::json;
use shared::config::Outlet;
use shared::database::Database;

use crate::deployment::{Engine, eventually};
use crate::local::{Local, envelope, member, register};

async fn ask(db: &Database, sql: &str) -> Vec<QueryResult> {
    db.read.query_all_raw(Statement::from_string(db.read.get_database_backend(), sql)).await.unwrap()
}

/// What was read while so many people signed up, and some of them went again: how often each table from end to end, and how many
/// entries of the indices of those tables that grow with the people.
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
    // What a connection has done is counted when it ends, if not before.
    let others =
        "select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()";
    eventually("nobody else is connected", || async { ask(&looking, others).await.is_empty().then_some(()) })
        .await;
    let rows = ask(&looking, "select relname::text, seq_scan from pg_stat_user_tables").await;
    let scans = rows.iter().map(|row| (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap()));
    let scans = scans.collect();
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
    // Migrations read tables.
    assert_eq!(few, many);
    assert!(few.contains_key("ledger"));
    assert!(more < some * 6, "{more} after {some}: four times the people, and not four times the reading");
}
