//! A database is restarted, is killed, or aborts transactions because of conflicts with others.

use std::time::Duration;

use domain::id::DriveId;
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement, TransactionTrait as _};
use serde_json::json;

use crate::cluster::{Cluster, Own, USUAL, Urls};
use crate::deployment::{Engine, eventually};
use crate::history::History;
use crate::report::size;
use crate::servers::{Kind, Server};

const LINES: usize = 24;

async fn number(db: &impl ConnectionTrait, sql: &str) -> i64 {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    db.query_one_raw(statement).await.unwrap().unwrap().try_get_by_index(0).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_is_restarted_and_killed() {
    restarted_and_killed(Engine::Postgres, Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_restarted_and_killed() {
    restarted_and_killed(Engine::MariaDb, Kind::MariaDb).await;
}

async fn restarted_and_killed(engine: Engine, kind: Kind) {
    let mut server = Server::start(kind).await;
    let own = Own { database: Some(&server), ..Own::default() };
    let cluster = Cluster::on(engine, &USUAL, own, Urls::clone).await;
    let drives = cluster.two_drives().await;
    let clicking = cluster.load.begin(&drives, LINES, usize::MAX);
    let times = size(2, 25);
    for _ in 0..times {
        cluster.load.more(300).await;
        server.kill().await;
        server.again().await;
        cluster.load.more(300).await;
        server.stop().await;
        // People click while the database is down.
        cluster.load.more(50).await;
        server.again().await;
    }
    cluster.load.more(300).await;
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("{times} SIGKILLs, {times} restarts");
    history.conclude(&format!("{kind:?}"), &scope, &cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlocks_and_serialization_failures_are_tried_again() {
    let cluster = Cluster::usual(Engine::Postgres).await;
    // Without a limit, every click takes a place, and so writes the slot's row.
    let drives = cluster.open_drives(1, json!({})).await;
    let db = sea_orm::Database::connect(&cluster.urls.database).await.unwrap();
    let clicking = cluster.load.begin(&drives, LINES, usize::MAX);
    let times = size(3, 50);
    for _ in 0..times {
        cluster.load.more(50).await;
        deadlock(&db, drives[0]).await;
    }
    let before = number(&db, "select count(*) from ledger").await;
    let fail = "create sequence failures;
        create function fail() returns trigger language plpgsql as $$ begin
            if random() < 0.7 then
                perform nextval('failures');
                raise exception 'could not serialize access' using errcode = '40001';
            end if; return null; end $$;
        create trigger fail before insert on ledger for each statement execute function fail()";
    db.execute_unprepared(fail).await.unwrap();
    let wanted = i64::try_from(size(5, 50)).unwrap();
    eventually("decisions go on, whatever fails", || async {
        let decided = number(&db, "select count(*) from ledger").await - before;
        let failed = number(&db, "select last_value from failures").await;
        (decided > 20 && failed >= wanted).then_some(())
    })
    .await;
    db.execute_unprepared("drop trigger fail on ledger").await.unwrap();
    let failures = number(&db, "select last_value from failures").await;
    let lines = clicking.end().await;
    let history = History { lines: &lines, drives: &drives, ordered: true };
    let scope = format!("{times} deadlocks, {failures} serialization failures");
    history.conclude("deadlock and serialization", &scope, &cluster).await;
    db.close().await.unwrap();
}

/// Makes a consumer the victim of a deadlock. It holds the drive's row and wants the slot's. This
/// transaction does the opposite.
async fn deadlock(db: &DatabaseConnection, drive: DriveId) {
    let count = "select deadlocks from pg_stat_database where datname = current_database()";
    let before = number(db, count).await;
    eventually("a deadlock", || async {
        let tx = db.begin().await.unwrap();
        // The consumer's `deadlock_timeout` is shorter, so the consumer is the one to detect the
        // deadlock, and PostgreSQL aborts its transaction.
        tx.execute_unprepared("set local deadlock_timeout = '20s'").await.unwrap();
        let slot = format!("update slots set waitlisted = waitlisted where drive_id = '{drive}'");
        tx.execute_unprepared(&slot).await.unwrap();
        let waiting =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%slots%'
                       and datname = current_database()";
        eventually("a consumer waits for the slot", || async {
            (number(db, waiting).await > 0).then_some(())
        })
        .await;
        let row = format!("update drives set updated_at = updated_at where id = '{drive}'");
        let held = tx.execute_unprepared(&row).await;
        let _ = tx.rollback().await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        (held.is_ok() && number(db, count).await > before).then_some(())
    })
    .await;
}
