//! The embedded broker's file: one table of messages, and one writer that commits for all waiting
//! callers (group commit).

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use domain::text::with_causes;
use sea_orm::sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sea_orm::sqlx::{self, AssertSqlSafe, Connection as _, Row as _};
use tokio::sync::{mpsc, oneshot};

use crate::backoff::Outage;
use crate::bus::broker::{BrokerError, PublishError};
use crate::bus::embedded::queue::QueueState;
use crate::bus::message::Message;
use crate::cause::Cause;
use crate::guard::caught_or_failed;

/// The most writes that share one transaction.
const GROUP: usize = 512;
/// The most writes in the writer's channel. If it is full, callers wait.
const WAITING: usize = 4096;
/// How long the result of a test write is cached. Any client may ask for the health.
const HOLDS: Duration = Duration::from_secs(1);
/// More than the longest delay of a message (the last step of the ladder).
const LONGEST: Duration = Duration::from_hours(7);
/// Rows per insert statement, largest first. A few fixed sizes keep the prepared statements few.
const CHUNKS: [usize; 4] = [128, 32, 8, 1];

const SCHEMA: &str = "
    create table if not exists messages (
        seq integer primary key autoincrement,
        queue text not null,
        id blob not null,
        kind text not null,
        content_type text not null,
        headers text not null,
        reply_to text,
        payload blob not null,
        due integer,
        return_to text
    );
    create index if not exists messages_by_queue on messages (queue, seq);
    create index if not exists messages_by_due on messages (due) where due is not null;";

/// A message to store. With `due`, it waits in that delay queue until that instant (ms since 1970).
#[derive(Debug)]
pub(super) struct Row {
    pub(super) queue: String,
    pub(super) message: Message,
    pub(super) due: Option<(&'static str, i64)>,
}

#[derive(Debug)]
enum Write {
    Insert {
        rows: Vec<Row>,
        queues: Vec<Arc<QueueState>>,
        done: oneshot::Sender<Result<(), PublishError>>,
    },
    Delete {
        tags: Vec<u64>,
        queue: Arc<QueueState>,
    },
    TakeDue {
        now_ms: i64,
        done: oneshot::Sender<Vec<(String, u64)>>,
    },
    /// Waits for earlier writes. With `probes` it also writes a constant into the file, as a test.
    Barrier {
        probes: bool,
        done: oneshot::Sender<Result<(), PublishError>>,
    },
}

/// The time of the last test write, and its result.
type Probed = (Instant, Result<(), PublishError>);

/// A handle on the file. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Store {
    writes: mpsc::Sender<Write>,
    readers: SqlitePool,
    reading: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    /// The time of the last test write, and its result.
    probed: Arc<Mutex<Option<Probed>>>,
}

impl Store {
    /// Opens or creates the file. Also returns, per queue, how many messages it holds and the last
    /// one's number.
    pub(super) async fn open(file: &Path) -> Result<(Self, HashMap<String, (u64, u64)>), sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut writer = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql(SCHEMA).execute(&mut writer).await?;
        let held = sqlx::query("select queue, count(*), max(seq) from messages group by queue")
            .fetch_all(&mut writer)
            .await?
            .into_iter()
            .map(|row| (row.get::<String, _>(0), (row.get::<u64, _>(1), row.get::<u64, _>(2))))
            .collect();
        let writable = options.clone();
        let readers =
            SqlitePoolOptions::new().max_connections(2).connect_with(options.read_only(true)).await?;
        let (writes, inbox) = mpsc::channel(WAITING);
        tokio::spawn(serve(writer, writable, inbox));
        Ok((Self { writes, readers, reading: Arc::default(), probed: Arc::default() }, held))
    }

    /// The lock that the consumers of one queue take while they read.
    pub(super) fn reading(&self, queue: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.entry(queue.to_owned()).or_default().clone()
    }

    /// Stores `rows`, and returns when they are on the disk. `queues` are the rows' queues, in the
    /// same order.
    pub(super) async fn insert(
        &self,
        rows: Vec<Row>,
        queues: Vec<Arc<QueueState>>,
    ) -> Result<(), PublishError> {
        self.ask(|done| Write::Insert { rows, queues, done }).await?
    }

    /// Deletes messages with the next transaction, without waiting. A message that survives a crash
    /// is delivered again.
    pub(super) async fn delete(&self, tags: Vec<u64>, queue: Arc<QueueState>) -> Result<(), PublishError> {
        self.writes.send(Write::Delete { tags, queue }).await.map_err(|_| closed())
    }

    /// Moves due messages to the end of their queues. Returns the queues and the number for each.
    pub(super) async fn take_due(&self, now_ms: i64) -> Vec<(String, u64)> {
        self.ask(|done| Write::TakeDue { now_ms, done }).await.unwrap_or_default()
    }

    /// Waits for earlier writes, and returns whether the file can be written now. It writes a test
    /// at most once a second, because any client may ask for the health.
    pub(super) async fn ping(&self) -> Result<(), PublishError> {
        let known = || self.probed.lock().unwrap_or_else(PoisonError::into_inner);
        let probes = known().as_ref().is_none_or(|(at, _)| at.elapsed() >= HOLDS);
        let answer = self.ask(|done| Write::Barrier { probes, done }).await?;
        if probes {
            *known() = Some((Instant::now(), answer.clone()));
            return answer;
        }
        let last = known().as_ref().map_or(Ok(()), |(_, last)| last.clone());
        answer.and(last)
    }

    /// Waits for earlier writes, then closes the file's readers.
    pub(super) async fn close(&self) {
        // The callers of failed writes got the error already. Closing goes on.
        let _ = self.ask(|done| Write::Barrier { probes: false, done }).await;
        self.readers.close().await;
    }

    /// The messages with these numbers that still exist, in order.
    pub(super) async fn read(&self, tags: &[u64]) -> Result<Vec<(u64, Message)>, sqlx::Error> {
        let query = sqlx::query(
            "select seq, id, kind, content_type, headers, reply_to, payload from messages
             where seq in (select value from json_each(?)) order by seq",
        );
        self.fetch(query.bind(json_array(tags))).await
    }

    /// The first `limit` messages of `queue` after the number `cursor`.
    pub(super) async fn read_after(
        &self,
        queue: &str,
        cursor: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Message)>, sqlx::Error> {
        let query = sqlx::query(
            "select seq, id, kind, content_type, headers, reply_to, payload from messages
             where queue = ? and seq > ? order by seq limit ?",
        );
        self.fetch(query.bind(queue.to_owned()).bind(signed(cursor)).bind(signed(limit as u64))).await
    }

    async fn fetch(
        &self,
        query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    ) -> Result<Vec<(u64, Message)>, sqlx::Error> {
        let rows = query.fetch_all(&self.readers).await?;
        Ok(rows.iter().map(|row| (row.get(0), message(row))).collect())
    }

    async fn ask<T>(&self, write: impl FnOnce(oneshot::Sender<T>) -> Write) -> Result<T, PublishError> {
        let (done, answer) = oneshot::channel();
        self.writes.send(write(done)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }
}

fn closed() -> PublishError {
    PublishError::unavailable("the embedded broker is closed")
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn json_array(tags: &[u64]) -> String {
    serde_json::to_string(tags).expect("numbers are JSON")
}

fn message(row: &SqliteRow) -> Message {
    let headers: String = row.get(4);
    Message {
        id: row.get(1),
        kind: row.get(2),
        content_type: row.get(3),
        headers: serde_json::from_str(&headers).unwrap_or_default(),
        reply_to: row.get(5),
        payload: Bytes::from(row.get::<Vec<u8>, _>(6)),
    }
}

/// The writer: takes waiting writes, commits them in one transaction, and answers.
async fn serve(
    mut connection: SqliteConnection,
    options: SqliteConnectOptions,
    mut inbox: mpsc::Receiver<Write>,
) {
    let (mut group, mut outage) = (Vec::with_capacity(GROUP), Outage::default());
    while inbox.recv_many(&mut group, GROUP).await > 0 {
        // A panic must not end the writer.
        match caught_or_failed(write(&mut connection, &group)).await {
            Ok(moved) => {
                if wrote(&group, &moved)
                    && let Some(seconds) = outage.ends()
                {
                    tracing::info!(part = "broker", seconds, "a part is back");
                }
                group.drain(..).for_each(|write| succeeded(write, &moved));
            }
            Err(error) => {
                if outage.begins() {
                    tracing::warn!(part = "broker", error = %with_causes(&error), "a part is lost; trying again");
                }
                group = group.drain(..).filter_map(|write| failed(write, &error)).collect();
                // Only deletions are left. They wait until the file can be written again.
                tokio::time::sleep(Duration::from_millis(100)).await;
                if let Err(error) = mend(&mut connection, &options).await {
                    tracing::error!(%error, "could not open the embedded broker's file again");
                }
            }
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "could not close the embedded broker's file");
    }
}

/// Whether these writes changed the file.
fn wrote(group: &[Write], moved: &[(String, u64)]) -> bool {
    group.iter().any(|write| match write {
        Write::Insert { .. } | Write::Delete { .. } => true,
        Write::Barrier { probes, .. } => *probes,
        Write::TakeDue { .. } => !moved.is_empty(),
    })
}

/// Replaces a connection on which no transaction can begin. SQLite ends a transaction by itself
/// when the disk is full. sqlx does not notice, and fails to roll it back.
async fn mend(connection: &mut SqliteConnection, options: &SqliteConnectOptions) -> Result<(), sqlx::Error> {
    // sqlx queues the roll-back. This statement runs after it.
    connection.ping().await?;
    if connection.is_in_transaction() {
        *connection = SqliteConnection::connect_with(options).await?;
    }
    Ok(())
}

fn succeeded(write: Write, moved: &[(String, u64)]) {
    // The caller may have stopped waiting. The write stays.
    match write {
        Write::Insert { rows, queues, done } => {
            for (row, queue) in rows.iter().zip(queues) {
                if row.due.is_none() {
                    queue.added(1);
                }
            }
            let _ = done.send(Ok(()));
        }
        Write::Delete { tags, queue } => queue.removed(tags.len() as u64),
        Write::TakeDue { done, .. } => drop(done.send(moved.to_vec())),
        Write::Barrier { done, .. } => drop(done.send(Ok(()))),
    }
}

/// Answers a failed write. Returns it if it must be retried.
fn failed(write: Write, error: &Cause) -> Option<Write> {
    let error = BrokerError::caused("the embedded broker's file cannot be written", error.clone());
    let why = || Err(PublishError::unavailable(error.clone()));
    match write {
        Write::Insert { done, .. } | Write::Barrier { done, .. } => drop(done.send(why())),
        Write::TakeDue { done, .. } => drop(done.send(Vec::new())),
        Write::Delete { .. } => return Some(write),
    }
    None
}

async fn write(
    connection: &mut SqliteConnection,
    group: &[Write],
) -> Result<Vec<(String, u64)>, sqlx::Error> {
    let mut transaction = connection.begin_with("begin immediate").await?;
    let mut inserts = Vec::new();
    let mut deletes = Vec::new();
    let (mut moved, mut probed) = (Vec::new(), false);
    for write in group {
        match write {
            Write::Insert { rows, .. } => inserts.extend(rows),
            Write::Delete { tags, .. } => deletes.extend(tags),
            Write::TakeDue { now_ms, .. } => moved = move_due(&mut transaction, *now_ms).await?,
            Write::Barrier { probes, .. } => probed |= probes,
        }
    }
    if probed {
        sqlx::raw_sql("pragma user_version = 1").execute(&mut *transaction).await?;
    }
    insert(&mut transaction, &inserts).await?;
    if !deletes.is_empty() {
        sqlx::query("delete from messages where seq in (select value from json_each(?))")
            .bind(json_array(&deletes))
            .execute(&mut *transaction)
            .await?;
    }
    crate::failpoint::hit(if inserts.is_empty() { "" } else { "store-writing" });
    crate::failpoint::hit(if inserts.is_empty() { "" } else { "store-written" });
    transaction.commit().await?;
    crate::failpoint::hit(if inserts.is_empty() { "" } else { "store-committed" });
    Ok(moved)
}

async fn insert(connection: &mut SqliteConnection, mut rows: &[&Row]) -> Result<(), sqlx::Error> {
    for size in CHUNKS {
        while rows.len() >= size {
            let (chunk, rest) = rows.split_at(size);
            rows = rest;
            let values = vec!["(?,?,?,?,?,?,?,?,?)"; size].join(",");
            let sql = format!(
                "insert into messages (queue, id, kind, content_type, headers, reply_to, payload, due, return_to) values {values}"
            );
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for Row { queue, message, due } in chunk {
                let headers = serde_json::to_string(&message.headers).expect("headers are text");
                query = query
                    .bind(due.map_or(queue.as_str(), |(waiting, _)| waiting))
                    .bind(message.id)
                    .bind(&message.kind)
                    .bind(&message.content_type)
                    .bind(headers)
                    .bind(&message.reply_to)
                    .bind(message.payload.as_ref())
                    .bind(due.map(|(_, at)| at))
                    .bind(due.map(|_| queue.as_str()));
            }
            query.execute(&mut *connection).await?;
        }
    }
    Ok(())
}

/// Gives due messages new numbers at the end of their queue, so that its consumers read them.
async fn move_due(connection: &mut SqliteConnection, now_ms: i64) -> Result<Vec<(String, u64)>, sqlx::Error> {
    // A message that is due after the longest delay was stored while the clock ran ahead. It is
    // due now.
    let ahead_ms = now_ms + i64::try_from(LONGEST.as_millis()).unwrap_or(i64::MAX / 2);
    let due =
        sqlx::query("select return_to, count(*) from messages where due <= ? or due > ? group by return_to")
            .bind(now_ms)
            .bind(ahead_ms)
            .fetch_all(&mut *connection)
            .await?;
    if due.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query(
        "insert into messages (queue, id, kind, content_type, headers, reply_to, payload)
         select return_to, id, kind, content_type, headers, reply_to, payload from messages where due <= ? or due > ? order by seq",
    )
    .bind(now_ms)
    .bind(ahead_ms)
    .execute(&mut *connection)
    .await?;
    let moved = sqlx::query("delete from messages where due <= ? or due > ?").bind(now_ms).bind(ahead_ms);
    moved.execute(&mut *connection).await?;
    Ok(due.iter().map(|row| (row.get(0), row.get(1))).collect())
}
