//! Moving what was committed from SQLite's journal into the file: beside the writer, not in its way.
//!
//! By itself SQLite lets whoever commits do it, as soon as the journal has 1,000 pages. In a rush that is every batch, and
//! pages from all over the file take longer to write than the batch takes to decide. Here a connection of its own does it
//! now and then, so that a page which many batches have changed is written once. <https://www.sqlite.org/wal.html#ckpt>

use std::sync::Arc;
use std::time::Duration;

use domain::text::with_causes;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteSynchronous};
use sea_orm::sqlx::{self, Connection as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::guard::caught_or_failed;

/// The journal's pages (of 4 KiB: 256 MiB) from which on the writer does it too. The journal can begin anew only at a moment
/// when all of it has been moved, and while writes keep coming only the writer itself meets such a moment.
pub(super) const BOUND: &str = "65536";
/// How long to leave between one time and the next. Nothing to move costs next to nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// How long to wait for the file's locks; the next time will do as well.
const PATIENCE: Duration = Duration::from_millis(100);

/// The task that does it, until it is told to end or nobody has this any more.
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

    /// Ends it, and waits until it has let go of the file.
    pub(super) async fn end(&self) {
        self.end.cancel();
        self.task.wait().await;
    }
}

async fn repeat(options: SqliteConnectOptions, end: CancellationToken) {
    let mut connection = None;
    while end.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        if let Err(error) = caught_or_failed(once(&mut connection, &options)).await {
            tracing::warn!(error = %with_causes(&error), "could not move SQLite's journal into the file");
            connection = None;
        }
    }
    if let Some(connection) = connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "could not close SQLite's file");
    }
}

/// Moves what can be moved without waiting for anybody.
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
        // An eighth of that.
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
