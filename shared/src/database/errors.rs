//! Classifies errors of databases, for a process that connects and for a batch.

use domain::text::with_causes;
use sea_orm::{DbErr, RuntimeErr, SqlErr, sqlx};

use crate::failure::{Failure, Reject};

/// Whether an error says that the URL, or what it leads to, cannot be used.
#[must_use]
pub fn is_misconfigured(error: &DbErr) -> bool {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(error)) => matches!(**error, sqlx::Error::Configuration(_)),
        DbErr::Conn(RuntimeErr::Internal(_)) => true,
        _ => false,
    }
}

/// Whether an error says that another connection holds SQLite's file
/// ([BUSY and LOCKED](https://www.sqlite.org/rescode.html)).
#[must_use]
pub fn is_busy(error: &DbErr) -> bool {
    let (DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) = error else { return false };
    let RuntimeErr::SqlxError(error) = error else { return false };
    let sqlite = error
        .as_database_error()
        .filter(|error| error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some());
    let code = sqlite.and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 5 | 6))
}

/// Whether a later attempt may succeed. The server is unreachable or refuses connections for now
/// (it starts, stops, is full, fails over). Or another connection is in the way (a lock, a
/// deadlock).
#[must_use]
pub fn is_passing(error: &DbErr) -> bool {
    if is_busy(error) || is_timed_out(error) {
        return true;
    }
    let error = match error {
        DbErr::ConnectionAcquire(_) => return true,
        DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error) => error,
        _ => return false,
    };
    let RuntimeErr::SqlxError(error) = error else { return false };
    let Some(answered) = error.as_database_error() else {
        use sqlx::Error;
        return matches!(
            **error,
            Error::Io(_)
                | Error::Tls(_)
                | Error::Protocol(_)
                | Error::PoolTimedOut
                | Error::PoolClosed
                | Error::WorkerCrashed
        );
    };
    if let Some(answered) = answered.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        // Too many connections (of the server, of the user), shutting down, lost, read-only, a lock
        // that another one holds, a deadlock.
        return matches!(
            answered.number(),
            1040 | 1053 | 1158..=1161 | 1203 | 1205 | 1213 | 1226 | 1290 | 1792 | 1836 | 1927 | 2006 | 2013
        );
    }
    let code = answered.code().unwrap_or_default();
    // SQLSTATE classes: connection exception, transaction rollback (a deadlock), insufficient
    // resources, operator intervention (it starts or stops). Codes: a transaction on a standby, an
    // object in use, a lock that another one holds.
    ["08", "40", "53", "57", "25006", "55006", "55P03"].iter().any(|class| code.starts_with(class))
}

/// Whether the server ended a statement because it took longer than the timeout of its connection.
/// A later attempt, or one that reads less, may succeed.
#[must_use]
pub fn is_timed_out(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return false;
    };
    let Some(answered) = error.as_database_error() else { return false };
    if let Some(answered) = answered.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
        return answered.number() == 1969;
    }
    // `query_canceled`
    answered.code().is_some_and(|code| code == "57014")
}

/// The class of a database error for a batch.
impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        if let Some(SqlErr::UniqueConstraintViolation(_)) = error.sql_err() {
            return Self::contended(error);
        }
        let permanent = match &error {
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
                error.as_database_error().is_some_and(is_permanent)
            }
            _ => false,
        };
        if permanent { Reject::unstorable(with_causes(&error)).into() } else { Self::retry(error) }
    }
}

/// Whether the database will never accept this statement. A fault of the database (away, full, not
/// migrated yet) passes. A fault of a value does not.
fn is_permanent(error: &dyn sqlx::error::DatabaseError) -> bool {
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        // https://www.sqlite.org/rescode.html: TOOBIG, CONSTRAINT and its extended codes, MISMATCH
        return code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18..=20));
    }
    // SQLSTATE classes: data exception, integrity constraint violation
    code.starts_with("22") || code.starts_with("23")
}
