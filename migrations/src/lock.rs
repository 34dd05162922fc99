//! The lock that a process holds while it migrates. It ends with its connection, so a crash leaves
//! nothing to clean up.
//!
//! PostgreSQL: an advisory lock of a transaction, which also works behind a pooler. MariaDB: a
//! named lock of a connection that does nothing else. SQLite: the write lock of the file.

use std::time::Duration;

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode, Statement, TransactionOptions,
    TransactionTrait as _,
};
use shared::database::{Database, is_busy};

use crate::Migrations;

/// How often a process that waits for the lock tries to take it.
pub(crate) const LOOK: Duration = Duration::from_millis(200);
/// PostgreSQL's number for the lock: "muster" in ASCII.
const NUMBER: i64 = 0x6d75_7374_6572;

/// A held lock.
pub(crate) struct Lock<'a> {
    db: &'a Database,
    /// Holds the lock until it ends.
    holder: DatabaseTransaction,
    /// Whether the step runs in the holder's own transaction.
    is_atomic: bool,
    /// MariaDB's connection for the holder. Dropping it closes the connection.
    own: Option<DatabaseConnection>,
}

impl<'a> Lock<'a> {
    /// Takes the lock for this step; `None` while another process holds it.
    pub(crate) async fn take(db: &'a Database, step: &dyn MigrationTrait) -> Result<Option<Self>, DbErr> {
        match db.writer().get_database_backend() {
            DbBackend::Sqlite => {
                let options = TransactionOptions {
                    sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                    ..TransactionOptions::default()
                };
                match db.writer().begin_with_options(options).await {
                    Ok(holder) => Ok(Some(Self { db, holder, is_atomic: true, own: None })),
                    Err(error) if is_busy(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            }
            DbBackend::Postgres => {
                let holder = db.writer().begin().await?;
                // A long step must not look like an abandoned transaction.
                holder.execute_unprepared("set local idle_in_transaction_session_timeout = 0").await?;
                let is_taken =
                    ask(&holder, format!("select pg_try_advisory_xact_lock({NUMBER}) as taken")).await?;
                // A step without a transaction writes many rows. Other writers must not wait for
                // them.
                let is_atomic = step.use_transaction() != Some(false);
                Ok(is_taken.then_some(Self { db, holder, is_atomic, own: None }))
            }
            _ => {
                let own = db.apart().await?;
                let holder = own.begin().await?;
                holder
                    .execute_unprepared("set session idle_transaction_timeout = 0, wait_timeout = 86400")
                    .await?;
                // Named locks are the server's, not the database's.
                let taken = "select get_lock(concat('muster-', md5(database())), 0) = 1 as taken";
                let is_taken = ask(&holder, taken.to_owned()).await?;
                Ok(is_taken.then_some(Self { db, holder, is_atomic: false, own: Some(own) }))
            }
        }
    }

    /// Runs the first step that is not recorded, and records it.
    pub(crate) async fn do_next_step(self) -> Result<(), DbErr> {
        if self.is_atomic {
            Migrations::up(&self.holder, Some(1)).await?;
        } else {
            Migrations::up(self.db.writer(), Some(1)).await?;
        }
        if self.own.is_some() {
            // Release the lock now, and not when the server notices the closed connection.
            self.holder.execute_unprepared("do release_all_locks()").await?;
        }
        self.holder.commit().await?;
        match self.own {
            Some(own) => own.close().await,
            None => Ok(()),
        }
    }
}

/// The answer to a yes-or-no query.
async fn ask(holder: &DatabaseTransaction, question: String) -> Result<bool, DbErr> {
    let row = holder.query_one_raw(Statement::from_string(holder.get_database_backend(), question)).await?;
    row.map_or(Ok(false), |row| row.try_get("", "taken"))
}
