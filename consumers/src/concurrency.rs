//! Limits how many lanes decide a batch at the same time.
//!
//! A batch costs nearly the same whatever its size. If all lanes decided at once, each of them
//! would decide many small batches. So only a few lanes decide at a time. Messages that arrive for
//! the other lanes meanwhile join their next batch.

use std::time::Duration;

use shared::database::{Database, is_sqlite};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most batches that a process decides at a time, per kind of queue.
const AT_A_TIME: usize = 4;
/// The longest turn, and the longest wait for a turn. A database may block as many batches as there
/// are turns, each at a lock of its own. The other lanes must not wait for them.
const LASTS: Duration = Duration::from_secs(1);

/// A permit to decide a batch now. Dropping it ends the turn.
pub(crate) type Turn<'a> = SemaphorePermit<'a>;

/// Does some work, and holds the turn until the work is done, but at most for [`LASTS`]. The work
/// then goes on without a turn.
pub(crate) async fn during<T>(turn: Option<Turn<'_>>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if turn.is_some() {
        if let Ok(done) = tokio::time::timeout(LASTS, &mut work).await {
            return done;
        }
        drop(turn);
    }
    work.await
}

/// The turns of a process, for one kind of queue.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Turns {
    /// On SQLite one turn is enough, because only one transaction writes at a time.
    pub(crate) fn new(db: &Database) -> Self {
        Self(Semaphore::new(if is_sqlite(&db.read) { 1 } else { AT_A_TIME }))
    }

    /// A turn, if one is free and no other lane waits for it.
    pub(crate) fn free(&self) -> Option<Turn<'_>> {
        self.0.try_acquire().ok()
    }

    /// Waits for a turn, first come, first served. `None` if there was none within [`LASTS`]. The
    /// lane then decides without a turn.
    pub(crate) async fn wait(&self) -> Option<Turn<'_>> {
        tokio::time::timeout(LASTS, self.0.acquire()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_its_turn_is_over() {
        let turns = Turns(Semaphore::new(1));
        let (done, end) = tokio::sync::oneshot::channel();
        let work = during(turns.free(), end);
        // Another lane gets the turn while the work is not done.
        let other = async {
            while turns.wait().await.is_none() {}
            done.send(()).unwrap();
        };
        tokio::join!(work, other).0.unwrap();
    }

    #[tokio::test]
    async fn whoever_waits_is_next_and_nobody_waits_for_ever() {
        let turns = Turns(Semaphore::new(2));
        let (one, two) = (turns.free().unwrap(), turns.free().unwrap());
        assert!(turns.free().is_none());
        assert!(turns.wait().await.is_none(), "both take longer than anybody waits");
        let waiting = turns.wait();
        tokio::pin!(waiting);
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("there is none"),
            () = std::future::ready(()) => {}
        }
        drop(one);
        assert!(turns.free().is_none(), "somebody waits for it");
        let three = waiting.await.unwrap();
        drop((two, three));
        assert!(turns.free().is_some());
    }
}
