//! Whether the database takes a write now: a standby, a read-only server and a full disk answer questions, and do no work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::clock;
use sea_orm::sea_query::{ExprTrait as _, Query};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr};
use tokio::sync::Mutex;

use super::{Database, answers_now, is_passing, is_sqlite};

/// How long an answer holds: anybody may ask.
const HOLDS: Duration = Duration::from_secs(1);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_millis(1200);
/// How long it may take to find out why none was done.
const LOOK: Duration = Duration::from_millis(600);
/// The row of the table `settings` that is written.
const ROW: &str = "written-at";

/// Whether it takes a write; why not otherwise. Several callers get the same answer.
pub(super) type Answer = Result<(), Arc<DbErr>>;
/// The last answer, and when it was given.
pub(super) type Known = Arc<Mutex<Option<(Instant, Answer)>>>;

/// Asks, unless it was asked a moment ago.
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
        // Its one writer may be at a long piece of work. That is no fault as long as others can read.
        Err(_) if is_sqlite(&db.read) => in_time(db.ping()).await,
        Ok(Err(error)) if is_passing(&error) => {
            server(db).await?;
            // The server is there; only this connection was not.
            in_time(write(db.writer())).await
        }
        Ok(Err(error)) => Err(error),
        // All its connections may be busy, or one may be dead: another one tells.
        Err(_) => {
            db.did_not_answer();
            tokio::time::timeout(PATIENCE, write_apart(db)).await.unwrap_or_else(late)
        }
    }
}

/// Writes on a connection of its own. The server ends the statement: one that was only given up would wait there, and keep its
/// connection, for as long as whatever it waits for.
async fn write_apart(db: &Database) -> Result<(), DbErr> {
    let own = db.apart().await?;
    let bound = match own.get_database_backend() {
        DbBackend::MySql => "set session innodb_lock_wait_timeout = 1, max_statement_time = 1",
        _ => "set statement_timeout = '1s'",
    };
    own.execute_unprepared(bound).await?;
    let written = write(&own).await;
    // Whether it can be closed says nothing about the write.
    tokio::spawn(async move { own.close().await });
    written
}

/// Whether the database answers; why not otherwise.
pub(super) async fn reach(db: &Database) -> Result<(), DbErr> {
    match tokio::time::timeout(PATIENCE, db.ping()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if is_sqlite(&db.read) => Err(error),
        // One connection that is gone is no server that is gone.
        Ok(Err(_)) => server(db).await,
        Err(_) => {
            db.did_not_answer();
            server(db).await
        }
    }
}

/// What the server says to a new connection. A pool that waits for one only knows that its time was over.
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
        // MariaDB counts no row that stays as it is, and another process may have been first.
        Err(error) if error.sql_err().is_some() => Ok(()),
        written => written.map(drop),
    }
}
