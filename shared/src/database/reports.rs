//! Connections for reports: statements that scan, join or count for people and operators.

use std::time::Duration;

use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    IsolationLevel, TransactionOptions, TransactionTrait as _,
};

use super::{Database, FORSAKEN, Session, Silence, can_begin, for_a_server, is_sqlite};

/// Connections for reports, per process.
pub const REPORTS: u32 = 2;
/// A server ends a report's statement after this time. SQLite has no such limit: a report reads the
/// file in this process and delays nobody else.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection that was idle for this long is closed.
const IDLE: Duration = Duration::from_secs(10);

/// The pool on a server. It connects when the first report comes.
pub(super) async fn of_a_server(
    options: ConnectOptions,
    port: u16,
    silent: &Silence,
    timeout: Duration,
) -> Result<DatabaseConnection, DbErr> {
    sea_orm::Database::connect(for_a_server(lazy(options), port, silent, session(timeout))).await
}

/// The pool on a file.
pub(super) async fn of_a_file(
    options: ConnectOptions,
    durable: impl Fn(SqliteConnectOptions) -> SqliteConnectOptions + Send + Sync + 'static,
) -> Result<DatabaseConnection, DbErr> {
    let mut options = lazy(options);
    options.map_sqlx_sqlite_opts(move |options| durable(options).pragma("query_only", "on"));
    options.test_before_acquire(false);
    options.map_sqlx_sqlite_before_acquire(can_begin);
    sea_orm::Database::connect(options).await
}

/// A pool that keeps no idle connection.
fn lazy(mut options: ConnectOptions) -> ConnectOptions {
    options.min_connections(0).idle_timeout(IDLE).connect_lazy(true);
    options
}

/// PostgreSQL plans each statement for its values. It uses one process per statement, because
/// decisions need the other processors.
fn session(timeout: Duration) -> Session {
    Session {
        postgres: format!(
            "set idle_in_transaction_session_timeout = '{FORSAKEN}s'; \
             set statement_timeout = {}; set default_transaction_read_only = on; \
             set plan_cache_mode = force_custom_plan; set max_parallel_workers_per_gather = 0",
            timeout.as_millis()
        ),
        mariadb: format!(
            "set session idle_transaction_timeout = {FORSAKEN}; {}; set session transaction read only",
            limit(timeout)
        ),
        mariadb_again: Some(limit(timeout)),
    }
}

/// Sets MariaDB's timeout of statements.
fn limit(timeout: Duration) -> String {
    format!("set session max_statement_time = {}", timeout.as_secs_f64())
}

impl Database {
    /// Begins a report of several statements: a transaction that sees the tables as they are now,
    /// however long it reads. A server ends each statement after [`REPORT_TIMEOUT`].
    pub async fn snapshot(&self) -> Result<DatabaseTransaction, DbErr> {
        let isolation_level = (!is_sqlite(&self.reports)).then_some(IsolationLevel::RepeatableRead);
        let options = TransactionOptions { isolation_level, ..TransactionOptions::default() };
        self.reports.begin_with_options(options).await
    }

    /// Begins a [`snapshot`](Self::snapshot) whose statements have no timeout. It is for a
    /// verification, which reads everything while no client waits for it.
    pub async fn unlimited_snapshot(&self) -> Result<DatabaseTransaction, DbErr> {
        let tx = self.snapshot().await?;
        let set = match tx.get_database_backend() {
            DbBackend::Postgres => "set local statement_timeout = 0",
            DbBackend::MySql => "set session max_statement_time = 0",
            _ => return Ok(tx),
        };
        tx.execute_unprepared(set).await?;
        Ok(tx)
    }
}
