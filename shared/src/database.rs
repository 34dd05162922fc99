//! The database: PostgreSQL, MariaDB or SQLite, chosen by its URL alone.

mod checkpoints;
mod errors;
mod pooler;
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
pub use self::errors::{is_busy, is_misconfigured, is_passing};
use crate::private;
use crate::secret::Secret;

/// Connections for reading, per process.
pub const READERS: u32 = 8;
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
/// PostgreSQL's settings for a transaction that may read whole tables.
const FOR_READING_MUCH: &str = "set local plan_cache_mode = force_custom_plan; set local enable_seqscan = on; \
                                set local enable_hashjoin = on; set local enable_mergejoin = on";
/// The writer's page cache of a SQLite file: 16 MiB, eight times the default. Registrations touch
/// pages from all over the index of people, and each miss is a system call.
const SQLITE_CACHE: &str = "-16384";

/// Two pools on one database. They differ only on SQLite, where a file has one writer at a time.
/// There writers queue fairly for one connection instead of racing for the file's lock. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub struct Database {
    /// For reading.
    pub read: DatabaseConnection,
    write: DatabaseConnection,
    /// When a connection last did not answer.
    silent: Silence,
    /// On SQLite.
    checkpoints: Option<Checkpoints>,
    url: Secret,
    /// Whether it took a write a moment ago.
    writable: writable::Known,
}

type Silence = Arc<Mutex<Option<Instant>>>;

impl Database {
    /// Connects. `writers` bounds the transactions at a time (on SQLite it is always one).
    ///
    /// The URL is `sqlite:path`, `postgres://…` or `mysql://…`.
    pub async fn connect(url: &str, writers: u32, name: &str) -> Result<Self, DbErr> {
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
            let (silent, mut options) = (Silence::default(), options(READERS + writers));
            let port = port(url)?;
            // As in `postgres`.
            options.map_sqlx_postgres_opts(|options| options.extra_float_digits(None));
            let (postgres, mariadb) = (silent.clone(), silent.clone());
            options.map_sqlx_postgres_pool_opts(move |options| {
                let silent = postgres.clone();
                let options = options.test_before_acquire(false).before_acquire(is_alive);
                let options = options.after_connect(move |connection, _| {
                    connected(port);
                    async move { connection.execute(AssertSqlSafe(for_a_session())).await.map(drop) }.boxed()
                });
                options.after_release(move |connection, _| shows_life(connection, &silent))
            });
            options.map_sqlx_mysql_pool_opts(move |options| {
                let silent = mariadb.clone();
                let options = options.test_before_acquire(false).before_acquire(is_alive);
                let options = options.after_connect(move |connection, _| {
                    connected(port);
                    let set = AssertSqlSafe(format!("set session idle_transaction_timeout = {FORSAKEN}"));
                    async move { connection.execute(set).await.map(drop) }.boxed()
                });
                options.after_release(move |connection, _| shows_life(connection, &silent))
            });
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
            let both = sea_orm::Database::connect(options).await?;
            let (url, writable) = (url.into(), writable::Known::default());
            return Ok(Self { read: both.clone(), write: both, silent, checkpoints: None, url, writable });
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
        let mut reader = options(READERS / 2);
        reader.map_sqlx_sqlite_opts(durable).test_before_acquire(false);
        reader.map_sqlx_sqlite_before_acquire(can_begin);
        let read = sea_orm::Database::connect(reader).await?;
        let checkpoints = Some(Checkpoints::begin(file));
        let (silent, url, writable) = (Silence::default(), url.into(), writable::Known::default());
        Ok(Self { read, write, silent, checkpoints, url, writable })
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

    /// Begins a transaction that sees the tables as they are now, however long it reads.
    pub async fn snapshot(&self) -> Result<DatabaseTransaction, DbErr> {
        let isolation_level = (!is_sqlite(&self.read)).then_some(IsolationLevel::RepeatableRead);
        let options = TransactionOptions { isolation_level, ..TransactionOptions::default() };
        let tx = self.read.begin_with_options(options).await?;
        if matches!(tx.get_database_backend(), sea_orm::DbBackend::Postgres) {
            tx.execute_unprepared(FOR_READING_MUCH).await?;
        }
        Ok(tx)
    }

    /// Notes that the database did not answer a statement in time. Its connection may be dead
    /// without an error, if the network drops all packets. The pool would wait for it for ever, and
    /// lose it. So for a minute, each connection that returns to the pool must answer a ping.
    pub fn did_not_answer(&self) {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether it answers now.
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

    /// Closes both pools.
    pub async fn close(&self) {
        if let Some(checkpoints) = &self.checkpoints {
            checkpoints.end().await;
        }
        // A connection that cannot be closed is lost already.
        let _ = self.write.clone().close().await;
        let _ = self.read.clone().close().await;
    }
}

/// The settings of each connection to PostgreSQL. They are statements, because poolers drop startup
/// options.
fn for_a_session() -> String {
    format!(
        // Ends transactions that a stopped or cut off process left open.
        "set idle_in_transaction_session_timeout = '{FORSAKEN}s'; \
         set plan_cache_mode = force_generic_plan; {BY_INDICES}"
    )
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
