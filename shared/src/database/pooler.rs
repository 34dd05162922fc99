//! Poolers between this process and PostgreSQL, such as `PgBouncer`.
//!
//! A pooler with a server connection per session works. With one per transaction, prepared
//! statements and session settings would go to the next client. Muster refuses such a pooler, and
//! says why.

use std::collections::BTreeSet;

use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::{self, Connection as _, Executor as _, PgConnection, Row as _};
use sea_orm::{DbErr, RuntimeErr};

use super::close;

/// The number of tries. Another client may come in between.
const TRIES: u32 = 5;

/// Refuses a pooler that gives each transaction any server connection. It checks on two connections
/// of its own, and closes them.
pub(super) async fn refuse(options: &PgConnectOptions) -> Result<(), DbErr> {
    let shares = async {
        let mut one = PgConnection::connect_with(options).await?;
        let mut other = PgConnection::connect_with(options).await?;
        // Both connections stay open. With a session each, each has a server process of its own.
        let (mut of_one, mut of_other) = (BTreeSet::new(), BTreeSet::new());
        for turn in 0..TRIES {
            of_one.insert(server_process(&mut one).await?);
            of_other.insert(server_process(&mut other).await?);
            if turn % 2 == 0 {
                // With round-robin, the same server must not meet the same connection each time.
                of_one.insert(server_process(&mut one).await?);
            }
        }
        close(one).await;
        close(other).await;
        Ok::<_, sqlx::Error>(of_one.len() > 1 || of_other.len() > 1 || of_one == of_other)
    };
    match shares.await {
        Ok(false) => Ok(()),
        Ok(true) => Err(DbErr::Conn(RuntimeErr::Internal(
            "the pooler in front of PostgreSQL gives each transaction another connection, and Muster prepares its \
             statements once for each connection; set pool_mode = session for this database (PgBouncer), or connect to \
             PostgreSQL directly"
                .to_owned(),
        ))),
        Err(error) => Err(DbErr::Conn(RuntimeErr::SqlxError(error.into()))),
    }
}

/// The id of the server process of this connection, without a prepared statement.
async fn server_process(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    connection.fetch_one(sqlx::raw_sql("select pg_backend_pid()")).await?.try_get(0)
}
