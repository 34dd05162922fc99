//! Checkpoints: moves commits from SQLite's write-ahead log into the file, concurrently with the
//! writer.
//!
//! By default, SQLite makes the committing writer do it once the log has 1,000 pages. In a rush
//! that is every batch, and writing pages all over the file takes longer than deciding the batch.
//! Here a connection of its own does it now and then. So a page that many batches changed is
//! written once. <https://www.sqlite.org/wal.html#ckpt>

use std::sync::Arc;
use std::time::Duration;

use domain::text::with_causes;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::guard::caught_or_failed;

/// From this number of pages (of 4 KiB: 256 MiB), the writer does it too. The log can restart only
/// when all of it has been moved. Under constant writes only the writer itself meets such a moment.
pub(super) const BOUND: &str = "65536";
/// The pause between checkpoints. One with nothing to move costs next to nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// Timeout for the file's locks. The next checkpoint will do as well.
const PATIENCE: Duration = Duration::from_millis(100);

/// The task that makes checkpoints. It ends when asked to, or when this value is dropped.
#[derive(Debug, Clone)]
pub(super) struct Checkpoints {
    end: CancellationToken,
    task: TaskTracker,
    _guard: Arc<DropGuard>,
}

impl Checkpoints {
    /// Begins, for the file of these options.
    pub(super) fn begin(options: SqliteConnectOptions) -> Self {
        let options = options.synchronous(SqliteSynchronous::Full).busy_timeout(PATIENCE);
        let (end, task) = (CancellationToken::new(), TaskTracker::new());
        task.spawn(repeat(options, end.clone()));
        task.close();
        let guard = Arc::new(end.clone().drop_guard());
        Self { end, task, _guard: guard }
    }

    /// Ends the task, and waits until it has closed the file.
    pub(super) async fn end(&self) {
        self.end.cancel();
        self.task.wait().await;
    }
}

async fn repeat(options: SqliteConnectOptions, end: CancellationToken) {
    let mut connection = None;
    while end.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        if let Err(error) = caught_or_failed(once(&mut connection, &options)).await {
            tracing::warn!(error = %with_causes(&error), "could not make a checkpoint of SQLite's file; trying again");
            connection = None;
        }
    }
    if let Some(connection) = connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "could not close SQLite's file");
    }
}

/// Moves the pages that it can without waiting for readers or the writer.
async fn once(
    connection: &mut Option<SqliteConnection>,
    options: &SqliteConnectOptions,
) -> Result<(), sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(SqliteConnection::connect_with(options).await?),
    };
    sqlx::query("pragma wal_checkpoint(passive)").execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sea_orm::{ConnectionTrait as _, DbBackend, Statement};

    use crate::database::Database;

    fn length(file: &Path) -> u64 {
        std::fs::metadata(file).map_or(0, |file| file.len())
    }

    #[tokio::test]
    async fn what_is_written_comes_into_the_file_though_no_writer_moves_it() {
        let folder = std::env::temp_dir().join(format!("muster_checkpoints_{}", uuid::Uuid::new_v4()));
        let (file, journal) = (folder.join("muster.db"), folder.join("muster.db-wal"));
        let db = Database::connect(&format!("sqlite:{}", file.display()), 1, "test").await.unwrap();
        db.writer().execute_unprepared("create table blobs (bytes blob not null)").await.unwrap();
        let asked = Statement::from_string(DbBackend::Sqlite, "pragma wal_autocheckpoint");
        let bound: i64 =
            db.writer().query_one_raw(asked).await.unwrap().unwrap().try_get_by_index(0).unwrap();
        assert_eq!(bound.to_string(), super::BOUND, "what the writer waits for");
        // 32 MiB, an eighth of the bound.
        for _ in 0..32 {
            db.writer().execute_unprepared("insert into blobs values (zeroblob(1048576))").await.unwrap();
        }
        let moved = async {
            while length(&file) < 32 << 20 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), moved).await.expect("it is moved");
        db.close().await;
        assert!(!journal.exists(), "somebody holds the file still");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
