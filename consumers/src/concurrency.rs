//! Whose batch is decided next, when many lanes have something.
//!
//! A batch costs nearly the same whatever is in it. If every lane decided what it has at once, all of them would have a little,
//! again and again; so a few are decided at a time, and what comes for the others meanwhile travels with them.

use std::time::Duration;

use shared::database::{Database, is_sqlite};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most batches of one kind of queue that a process decides at a time.
const AT_A_TIME: usize = 4;
/// How long a turn lasts at most, and the longest wait for one. A database may keep as many batches as there are turns for long, each
/// with a lock of its own, and the other lanes have nothing to do with those.
const LASTS: Duration = Duration::from_secs(1);

/// A turn. It ends when this goes away.
pub(crate) type Turn<'a> = SemaphorePermit<'a>;

/// Takes a turn for some work, until it is done or the turn is over.
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
    /// As many as there is use for: on SQLite one writes at a time anyway.
    pub(crate) fn new(db: &Database) -> Self {
        Self(Semaphore::new(if is_sqlite(&db.read) { 1 } else { AT_A_TIME }))
    }

    /// A turn that nobody waits for.
    pub(crate) fn free(&self) -> Option<Turn<'_>> {
        self.0.try_acquire().ok()
    }

    /// Waits for a turn, first come, first served. `None`: it was not worth waiting for any longer.
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
        // Somebody else's turn comes while it is not done.
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
