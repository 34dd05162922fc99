//! Checks whether the database accepts writes. A standby, a read-only server and a full disk answer
//! reads, but no process can work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::clock;
use sea_orm::sea_query::{ExprTrait as _, Query};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr};
use tokio::sync::Mutex;

use super::{Database, answers_now, is_passing, is_sqlite};

/// How long an answer is cached, because anyone may ask.
const HOLDS: Duration = Duration::from_secs(1);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_millis(1200);
/// Timeout for finding out why a write failed.
const LOOK: Duration = Duration::from_millis(600);
/// The row of the table `settings` that is written.
const ROW: &str = "written-at";

/// Whether the database accepts a write, or why not. Callers at the same time share an answer.
pub(super) type Answer = Result<(), Arc<DbErr>>;
/// The last answer, and when it was given.
pub(super) type Known = Arc<Mutex<Option<(Instant, Answer)>>>;

/// Checks, unless the last answer is recent.
pub(super) async fn ask(db: &Database) -> Answer {
    let mut known = db.writable.lock().await;
    if let Some((at, answer)) = known.as_ref()
        && at.elapsed() < HOLDS
    {
        return answer.clone();
    }
    let answer = look(db).await.map_err(Arc::new);
    *known = Some((Instant::now(), answer.clone()));
    answer
}

async fn look(db: &Database) -> Result<(), DbErr> {
    match tokio::time::timeout(PATIENCE, write(db.writer())).await {
        Ok(Ok(())) => Ok(()),
        // The one writer may be busy for long. This is no fault while others can read.
        Err(_) if is_sqlite(&db.read) => in_time(db.ping()).await,
        Ok(Err(error)) if is_passing(&error) => {
            server(db).await?;
            // The server is up. Only this connection was lost.
            in_time(write(db.writer())).await
        }
        Ok(Err(error)) => Err(error),
        // All pooled connections may be busy, or one may be dead. A new one shows the truth.
        Err(_) => {
            db.did_not_answer();
            tokio::time::timeout(PATIENCE, write_apart(db)).await.unwrap_or_else(late)
        }
    }
}

/// Writes on a connection of its own, with a timeout on the server. A timeout on the client alone
/// would leave the statement waiting there, with its connection.
async fn write_apart(db: &Database) -> Result<(), DbErr> {
    let own = db.apart().await?;
    let bound = match own.get_database_backend() {
        DbBackend::MySql => "set session innodb_lock_wait_timeout = 1, max_statement_time = 1",
        _ => "set statement_timeout = '1s'",
    };
    own.execute_unprepared(bound).await?;
    let written = write(&own).await;
    // An error on closing says nothing about the write.
    tokio::spawn(async move { own.close().await });
    written
}

/// Whether the database answers, or why not.
pub(super) async fn reach(db: &Database) -> Result<(), DbErr> {
    match tokio::time::timeout(PATIENCE, db.ping()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if is_sqlite(&db.read) => Err(error),
        // A lost connection does not mean a lost server.
        Ok(Err(_)) => server(db).await,
        Err(_) => {
            db.did_not_answer();
            server(db).await
        }
    }
}

/// The server's answer to a new connection. A pool would report only a timeout.
async fn server(db: &Database) -> Result<(), DbErr> {
    if is_sqlite(&db.read) {
        return Ok(());
    }
    in_time(answers_now(db.url.expose())).await
}

async fn in_time(answer: impl Future<Output = Result<(), DbErr>>) -> Result<(), DbErr> {
    tokio::time::timeout(LOOK, answer).await.unwrap_or_else(late)
}

fn late<T>(_: tokio::time::error::Elapsed) -> Result<T, DbErr> {
    Err(DbErr::Custom("no answer in time".to_owned()))
}

async fn write(db: &DatabaseConnection) -> Result<(), DbErr> {
    let now = clock::now().timestamp_millis().to_string();
    let update = Query::update()
        .table("settings")
        .value("value", now.clone())
        .and_where(sea_orm::sea_query::Expr::col("name").eq(ROW))
        .to_owned();
    if db.execute(&update).await?.rows_affected() > 0 {
        return Ok(());
    }
    let insert = Query::insert()
        .into_table("settings")
        .columns(["name", "value"])
        .values_panic([ROW.into(), now.into()])
        .to_owned();
    match db.execute(&insert).await {
        // MariaDB does not count unchanged rows, and another process may have written first.
        Err(error) if error.sql_err().is_some() => Ok(()),
        written => written.map(drop),
    }
}
