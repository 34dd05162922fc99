//! The database: PostgreSQL, MariaDB or SQLite, chosen by its URL alone.

#[cfg(unix)]
mod nodelay;
pub(crate) mod rows;

use std::path::Path;
use std::time::Duration;

use sea_orm::sqlx::pool::PoolConnectionMetadata;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel,
    RuntimeErr, SqlErr, SqliteTransactionMode, TransactionOptions, TransactionTrait, sqlx,
};

use crate::bus::{Failure, Reject};

/// Connections for reading, per process.
const READERS: u32 = 8;
/// How long to wait for a free connection, and for a new one.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a connection is used again without asking whether it is still there.
const TRUSTED: Duration = Duration::from_secs(1);
/// Two pools on one database. They differ only on SQLite, where a file has one writer at a time: writers queue fairly
/// for one connection instead of racing for the file's lock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Database {
    /// For reading.
    pub read: DatabaseConnection,
    write: DatabaseConnection,
}

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
        if !url.starts_with("sqlite:") {
            let mut both = options(READERS + writers);
            both.map_sqlx_postgres_pool_opts(|pool| {
                pool.after_connect(|_, _| Box::pin(connected()))
                    .test_before_acquire(false)
                    .before_acquire(|connection, known| Box::pin(is_alive(connection, known)))
            });
            both.map_sqlx_mysql_pool_opts(|pool| {
                pool.after_connect(|_, _| Box::pin(connected()))
                    .test_before_acquire(false)
                    .before_acquire(|connection, known| Box::pin(is_alive(connection, known)))
            });
            let both = sea_orm::Database::connect(both).await?;
            return Ok(Self { read: both.clone(), write: both });
        }
        if let Some(folder) = sqlite_file(url).as_deref().and_then(Path::parent) {
            std::fs::create_dir_all(folder).map_err(|error| {
                DbErr::Conn(RuntimeErr::Internal(format!("make the folder {}: {error}", folder.display())))
            })?;
        }
        let durable = |options: sqlx::sqlite::SqliteConnectOptions| {
            options
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(ACQUIRE)
        };
        let mut writer = options(1);
        // Connections to a file do not age, and the pool's pings cost a trip to its thread.
        writer.map_sqlx_sqlite_opts(durable).test_before_acquire(false);
        let write = sea_orm::Database::connect(writer).await?;
        let mut reader = options(READERS / 2);
        reader.map_sqlx_sqlite_opts(durable).test_before_acquire(false);
        let read = sea_orm::Database::connect(reader).await?;
        Ok(Self { read, write })
    }

    /// The connection for writing without a transaction: migrations, single statements.
    #[must_use]
    pub fn writer(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Begins a writing transaction. Each statement sees what was committed before it, on every database.
    pub async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        // What MariaDB would do by itself: read rows as they were once, and lock the gaps between those it looks at.
        let is_mariadb = matches!(self.write.get_database_backend(), sea_orm::DbBackend::MySql);
        self.write
            .begin_with_options(TransactionOptions {
                isolation_level: is_mariadb.then_some(IsolationLevel::ReadCommitted),
                // A deferred transaction that comes to write while another one writes fails at once.
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            })
            .await
    }

    /// Begins a transaction that sees the tables as they are now, however long it reads.
    pub async fn snapshot(&self) -> Result<DatabaseTransaction, DbErr> {
        let isolation_level = (!is_sqlite(&self.read)).then_some(IsolationLevel::RepeatableRead);
        self.read
            .begin_with_options(TransactionOptions { isolation_level, ..TransactionOptions::default() })
            .await
    }

    /// Whether it answers now.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.read.ping().await
    }

    /// Closes both pools.
    pub async fn close(&self) {
        // What cannot be closed is gone already.
        let _ = self.write.clone().close().await;
        let _ = self.read.clone().close().await;
    }
}

/// What a new connection to a server needs.
fn connected() -> std::future::Ready<Result<(), sqlx::Error>> {
    #[cfg(unix)]
    nodelay::set_on_all();
    std::future::ready(Ok(()))
}

/// Whether a connection can be used. One that was in use a moment ago is not asked: that would be a trip to the server
/// per transaction, and one that has broken since is an error like any other.
async fn is_alive(
    connection: &mut impl sqlx::Connection,
    known: PoolConnectionMetadata,
) -> Result<bool, sqlx::Error> {
    Ok(known.idle_for < TRUSTED || connection.ping().await.is_ok())
}

/// The file of an SQLite URL; none for one in memory.
fn sqlite_file(url: &str) -> Option<std::path::PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next()?;
    (!path.is_empty() && path != ":memory:").then(|| path.into())
}

/// Whether this is SQLite.
pub fn is_sqlite(connection: &impl ConnectionTrait) -> bool {
    matches!(connection.get_database_backend(), sea_orm::DbBackend::Sqlite)
}

/// What a database error means for the batch that met it.
impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        if let Some(SqlErr::UniqueConstraintViolation(detail)) = error.sql_err() {
            return Self::Contended(detail);
        }
        let permanent = match &error {
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
                error.as_database_error().is_some_and(is_permanent)
            }
            _ => false,
        };
        if permanent { Self::Reject(Reject::unstorable(error)) } else { Self::Retry(error.to_string()) }
    }
}

/// Whether the database will never take this, whoever asks and whenever. What is wrong with the database itself (away,
/// full, not migrated yet) passes; what is wrong with a value does not.
fn is_permanent(error: &dyn sqlx::error::DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // https://www.sqlite.org/rescode.html: TOOBIG, CONSTRAINT and its extended codes, MISMATCH
        return code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18..=20));
    }
    // SQLSTATE classes: data exception, integrity constraint violation
    code.starts_with("22") || code.starts_with("23")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_url_names_its_file() {
        for (url, file) in [
            ("sqlite:data/muster.db", Some("data/muster.db")),
            ("sqlite:///var/lib/muster.db?mode=rwc", Some("/var/lib/muster.db")),
            ("sqlite::memory:", None),
            ("postgres://127.0.0.1/muster", None),
        ] {
            assert_eq!(sqlite_file(url).as_deref(), file.map(std::path::Path::new), "{url}");
        }
    }
}
