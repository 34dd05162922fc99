//! The database: PostgreSQL, MariaDB or SQLite, chosen by its URL alone.

mod checkpoints;
mod errors;
mod pooler;
mod reports;
pub(crate) mod rows;
pub(crate) mod search;
#[cfg(unix)]
mod sockets;
mod writable;

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use domain::clock;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sea_orm::sqlx::pool::PoolConnectionMetadata;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, AssertSqlSafe, Connection as _, Executor as _};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel,
    RuntimeErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

use self::checkpoints::Checkpoints;
pub use self::errors::{is_busy, is_misconfigured, is_passing, is_timed_out};
pub use self::reports::{REPORT_TIMEOUT, REPORTS};
use crate::private;
use crate::secret::Secret;

/// Connections for keyed reads, per process. On a server they share a pool with those that write.
pub const READERS: u32 = 6;
/// Connections for keyed reads of a file.
const FILE_READERS: u32 = 4;
/// How long to wait for a free connection, and for a new one.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a writer of a SQLite file waits for earlier writers, and when the wait is logged. In a
/// rush it is normal that some lanes wait here.
const QUEUE: Duration = Duration::from_secs(20);
const LONG_QUEUE: Duration = Duration::from_secs(10);
/// How often a new connection may be cut before the server counts as away, and how soon it is tried
/// again.
const CUTS: u32 = 4;
const CUT: Duration = Duration::from_millis(200);
/// How long a connection is reused without a ping.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long a transaction may be idle, in seconds. A process that was stopped or cut off must not
/// hold rows that its lane's new consumer has to write.
const FORSAKEN: u32 = 15;
/// How long connections are suspect after one of them did not answer, and the timeout of a ping
/// meanwhile.
const SUSPECTED: Duration = Duration::from_secs(60);
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// PostgreSQL's settings for plans that a connection makes once, for tables of any size (decision
/// 22). The plans use indices, whatever the estimates of once empty tables say. Without an index
/// PostgreSQL still reads the table. JIT compilation goes by the same estimates. Neither it nor
/// parallel workers pay off for the small reads here.
const BY_INDICES: &str = "set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off; \
                          set max_parallel_workers_per_gather = 0";
/// The writer's page cache of a SQLite file: 16 MiB, eight times the default. Registrations touch
/// pages from all over the index of people, and each miss is a system call.
const SQLITE_CACHE: &str = "-16384";

/// One database, and two kinds of access to it. Cheap to clone.
///
/// **Keyed access** finds its rows by keys that the statement names, or walks an index up to a
/// limit: a drive by its id, a batch's registrations, the next page of a log. It takes as long on a
/// full table as on an empty one. Use [`read`](Self::read), and [`begin`](Self::begin) or
/// [`writer`](Self::writer) to write. On PostgreSQL these connections keep one plan for each
/// statement, and the plan uses indexes only. A join of two large tables runs row by row there.
///
/// **A report** scans, joins or counts, or must see several tables as of one moment: a search, a
/// list with its parts, a total, a verification. Use [`reports`](Self::reports) or
/// [`snapshot`](Self::snapshot). The server plans each report for its values. It ends a statement
/// after [`REPORT_TIMEOUT`], and the error is one to retry ([`is_timed_out`]). There are
/// [`REPORTS`] connections, so reports cannot take those of decisions. No command may wait for one.
#[derive(Debug, Clone)]
pub struct Database {
    /// For keyed reads.
    pub read: DatabaseConnection,
    /// For reports: few connections that only read. They are opened when they are needed, and
    /// closed when they are idle.
    pub reports: DatabaseConnection,
    /// Differs from `read` only on SQLite, where a file has one writer at a time: writers queue
    /// fairly for one connection instead of racing for the file's lock.
    write: DatabaseConnection,
    /// When a connection last did not answer.
    silent: Silence,
    /// Only on SQLite.
    checkpoints: Option<Checkpoints>,
    url: Secret,
    /// The last answer about writes.
    writable: writable::Known,
}

type Silence = Arc<Mutex<Option<Instant>>>;

impl Database {
    /// Connects. `writers` bounds the transactions at a time (on SQLite it is always one).
    ///
    /// The URL is `sqlite:path`, `postgres://…` or `mysql://…`.
    pub async fn connect(url: &str, writers: u32, name: &str) -> Result<Self, DbErr> {
        Self::connect_with(url, writers, name, REPORT_TIMEOUT).await
    }

    /// Connects as [`connect`](Self::connect) does. A server ends a report's statement after
    /// `report_timeout`.
    pub async fn connect_with(
        url: &str,
        writers: u32,
        name: &str,
        report_timeout: Duration,
    ) -> Result<Self, DbErr> {
        let options = |most: u32| {
            let mut options = ConnectOptions::new(url);
            options
                .max_connections(most)
                .min_connections(1)
                .acquire_timeout(ACQUIRE)
                .connect_timeout(ACQUIRE)
                .set_application_name(name.to_owned())
                .sqlx_logging(false);
            options
        };
        if url.starts_with("mysql:") {
            clock::limit_years(2037);
        }
        if !url.starts_with("sqlite:") {
            let (silent, port) = (Silence::default(), port(url)?);
            let keyed = for_a_server(options(READERS + writers), port, &silent, keyed_session());
            // A network may cut a connection and work again a moment later. An error of the server
            // is final.
            let mut cut = 0;
            while let Err(error) = serves_sessions(url).await {
                cut += 1;
                if cut == CUTS || !is_cut(&error) {
                    return Err(error);
                }
                tokio::time::sleep(CUT).await;
            }
            let both = sea_orm::Database::connect(keyed).await?;
            let reports = reports::of_a_server(options(REPORTS), port, &silent, report_timeout).await?;
            let (read, url, writable) = (both.clone(), url.into(), writable::Known::default());
            return Ok(Self { read, reports, write: both, silent, checkpoints: None, url, writable });
        }
        let file = sqlx::sqlite::SqliteConnectOptions::from_str(url).map_err(not_connected)?;
        private::make_file(file.get_filename()).map_err(|error| {
            let file = file.get_filename().display();
            DbErr::Conn(RuntimeErr::Internal(format!("the file {file} cannot be made or written: {error}")))
        })?;
        let durable = |options: sqlx::sqlite::SqliteConnectOptions| {
            options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(ACQUIRE)
        };
        let mut writer = options(1);
        // Connections to a file do not age, and the pool's pings cost a trip to its thread.
        writer.map_sqlx_sqlite_opts(move |options| {
            durable(options)
                .pragma("cache_size", SQLITE_CACHE)
                .pragma("wal_autocheckpoint", checkpoints::BOUND)
                // Keep statement journals in memory; SQLite would write them to a file.
                .pragma("temp_store", "memory")
        });
        writer.test_before_acquire(false).acquire_timeout(QUEUE);
        writer.map_sqlx_sqlite_pool_opts(|options| options.acquire_slow_threshold(LONG_QUEUE));
        writer.map_sqlx_sqlite_before_acquire(can_begin);
        let write = sea_orm::Database::connect(writer).await?;
        let mut reader = options(FILE_READERS);
        reader.map_sqlx_sqlite_opts(durable).test_before_acquire(false);
        reader.map_sqlx_sqlite_before_acquire(can_begin);
        let read = sea_orm::Database::connect(reader).await?;
        let reports = reports::of_a_file(options(REPORTS), durable).await?;
        let checkpoints = Some(Checkpoints::begin(file));
        let (silent, url, writable) = (Silence::default(), url.into(), writable::Known::default());
        Ok(Self { read, reports, write, silent, checkpoints, url, writable })
    }

    /// A connection outside of the pools. It is closed when the value is dropped.
    pub async fn apart(&self) -> Result<DatabaseConnection, DbErr> {
        let mut options = ConnectOptions::new(self.url.expose());
        options.max_connections(1).connect_timeout(ACQUIRE).sqlx_logging(false);
        // As in `postgres`.
        options.map_sqlx_postgres_opts(|options| options.extra_float_digits(None));
        sea_orm::Database::connect(options).await
    }

    /// The connection for writing without a transaction: migrations, single statements.
    #[must_use]
    pub fn writer(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Begins a writing transaction. Each statement sees what was committed before it, on every
    /// database.
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        // By default, MariaDB reads a snapshot and locks the gaps between the rows that it reads.
        let is_mariadb = matches!(self.write.get_database_backend(), sea_orm::DbBackend::MySql);
        self.write
            .begin_with_options(TransactionOptions {
                isolation_level: is_mariadb.then_some(IsolationLevel::ReadCommitted),
                // A deferred transaction that begins to write while another one writes fails at
                // once.
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            })
            .await
    }

    /// Notes that the database did not answer a statement in time. Its connection may be dead
    /// without an error, if the network drops all packets. The pool would wait for it for ever, and
    /// lose it. So for a minute, each connection that returns to the pool must answer a ping.
    pub fn did_not_answer(&self) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the database answers now.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.read.ping().await
    }

    /// Whether the database can be reached now, or why not, in the server's own words.
    pub async fn is_reachable(&self) -> Result<(), DbErr> {
        writable::reach(self).await
    }

    /// Whether the database accepts a write now, or why not. Callers within a second get the same
    /// answer.
    pub async fn is_writable(&self) -> Result<(), Arc<DbErr>> {
        writable::ask(self).await
    }

    /// Closes all pools.
    pub async fn close(&self) {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.end().await;
        }
        // A connection that cannot be closed is lost already.
        let _ = self.reports.clone().close().await;
        let _ = self.write.clone().close().await;
        let _ = self.read.clone().close().await;
    }
}

/// The settings of each connection of a pool, by server. They are statements, because poolers drop
/// startup options.
struct Session {
    postgres: String,
    mariadb: String,
    /// MariaDB has no setting for one transaction. This undoes what a transaction has set.
    mariadb_again: Option<String>,
}

/// For keyed access. The server ends transactions that a stopped or cut off process left open.
fn keyed_session() -> Session {
    Session {
        postgres: format!(
            "set idle_in_transaction_session_timeout = '{FORSAKEN}s'; \
             set plan_cache_mode = force_generic_plan; {BY_INDICES}"
        ),
        mariadb: format!("set session idle_transaction_timeout = {FORSAKEN}"),
        mariadb_again: None,
    }
}

/// A pool on a server whose connections begin with these settings.
fn for_a_server(
    mut options: ConnectOptions,
    port: u16,
    silent: &Silence,
    session: Session,
) -> ConnectOptions {
    let Session { postgres, mariadb, mariadb_again } = session;
    // As in `postgres`.
    options.map_sqlx_postgres_opts(|options| options.extra_float_digits(None));
    let silence = silent.clone();
    options.map_sqlx_postgres_pool_opts(move |options| {
        let (silent, set) = (silence.clone(), postgres.clone());
        let options = options.test_before_acquire(false).before_acquire(is_alive);
        let options = options.after_connect(move |connection, _| begins(connection, port, set.clone()));
        options.after_release(move |connection, _| shows_life(connection, &silent))
    });
    let silence = silent.clone();
    options.map_sqlx_mysql_pool_opts(move |options| {
        let (silent, set, again) = (silence.clone(), mariadb.clone(), mariadb_again.clone());
        let options = options.test_before_acquire(false).before_acquire(is_alive);
        let options = options.after_connect(move |connection, _| begins(connection, port, set.clone()));
        options.after_release(move |connection, _| {
            let (silent, again) = (silent.clone(), again.clone());
            async move {
                let is_alive = shows_life(&mut *connection, &silent).await?;
                if let Some(again) = again.filter(|_| is_alive) {
                    connection.execute(AssertSqlSafe(again)).await?;
                }
                Ok(is_alive)
            }
            .boxed()
        })
    });
    options
}

/// Sets up a new connection.
fn begins<C>(connection: &mut C, port: u16, set: String) -> BoxFuture<'_, Result<(), sqlx::Error>>
where
    C: sqlx::Connection,
    for<'c> &'c mut C: sqlx::Executor<'c>,
{
    connected(port);
    async move { connection.execute(AssertSqlSafe(set)).await.map(drop) }.boxed()
}

fn not_connected(error: sqlx::Error) -> DbErr {
    DbErr::Conn(RuntimeErr::SqlxError(error.into()))
}

/// Whether a server accepts a connection now, or why not. A pool would retry until its timeout, and
/// then report only the timeout.
async fn answers_now(url: &str) -> Result<(), DbErr> {
    let connected = async {
        if url.starts_with("postgres") {
            close(sqlx::PgConnection::connect_with(&postgres(url)?).await?).await;
        } else {
            let options = sqlx::mysql::MySqlConnectOptions::from_str(url)?;
            close(sqlx::MySqlConnection::connect_with(&options).await?).await;
        }
        Ok::<_, sqlx::Error>(())
    };
    in_time(ACQUIRE, async { connected.await.map_err(not_connected) }).await
}

/// Whether a server accepts connections now, and keeps the settings of each.
async fn serves_sessions(url: &str) -> Result<(), DbErr> {
    if !url.starts_with("postgres") {
        return answers_now(url).await;
    }
    let options = postgres(url).map_err(not_connected)?;
    // Two connections, and some queries on each.
    in_time(ACQUIRE * 3, pooler::refuse(&options)).await
}

async fn in_time(most: Duration, answer: impl Future<Output = Result<(), DbErr>>) -> Result<(), DbErr> {
    let answer = tokio::time::timeout(most, answer).await;
    answer.unwrap_or_else(|_| Err(not_connected(sqlx::Error::PoolTimedOut)))
}

/// Closes a connection. The server, or a relay before it, may close first. Then there is an error
/// to ignore.
async fn close(connection: impl sqlx::Connection) {
    let _ = connection.close().await;
}

/// The options of a connection to PostgreSQL. `PgBouncer` refuses startup parameters that it does
/// not know. The default of this one loses no digits since PostgreSQL 12.
fn postgres(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(url)?.extra_float_digits(None))
}

/// Whether a connection broke before the server answered.
fn is_cut(error: &DbErr) -> bool {
    matches!(error, DbErr::Conn(RuntimeErr::SqlxError(error)) if matches!(**error, sqlx::Error::Io(_)))
}

/// The port of a server.
fn port(url: &str) -> Result<u16, DbErr> {
    let port = if url.starts_with("postgres") {
        postgres(url).map(|options| options.get_port())
    } else {
        sqlx::mysql::MySqlConnectOptions::from_str(url).map(|options| options.get_port())
    };
    port.map_err(not_connected)
}

/// Prepares a new connection to a server.
fn connected(port: u16) {
    #[cfg(unix)]
    sockets::set_on_connections_to(port);
    #[cfg(not(unix))]
    let _ = port;
}

/// Whether a connection can be used. It pings only connections that were idle for a while, because
/// a ping is a round trip per transaction. A connection that broke since then fails like any other.
fn is_alive<C: sqlx::Connection>(
    connection: &mut C,
    known: PoolConnectionMetadata,
) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    if known.idle_for < TRUSTED { std::future::ready(Ok(true)).boxed() } else { answers(connection) }
}

/// Whether a transaction can begin on this connection. SQLite ends a transaction by itself when the
/// disk is full. sqlx does not notice, fails to roll it back, and treats it as open ever after.
fn can_begin(
    connection: &mut sqlx::SqliteConnection,
    _: PoolConnectionMetadata,
) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    std::future::ready(Ok(!connection.is_in_transaction())).boxed()
}

/// Whether a connection that returns to the pool can be used again. It is pinged only after one did
/// not answer lately, because a ping is a round trip.
fn shows_life<'c, C: sqlx::Connection>(
    connection: &'c mut C,
    silent: &Silence,
) -> BoxFuture<'c, Result<bool, sqlx::Error>> {
    let last = *silent.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() > SUSPECTED) {
        return std::future::ready(Ok(true)).boxed();
    }
    answers(connection)
}

/// Pings the server. An error closes the connection at once.
fn answers<C: sqlx::Connection>(connection: &mut C) -> BoxFuture<'_, Result<bool, sqlx::Error>> {
    let asked = tokio::time::timeout(SIGN_OF_LIFE, connection.ping());
    asked.map(|alive| alive.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map(|()| true)).boxed()
}

/// Whether this is SQLite.
pub fn is_sqlite(connection: &impl ConnectionTrait) -> bool {
    matches!(connection.get_database_backend(), sea_orm::DbBackend::Sqlite)
}
