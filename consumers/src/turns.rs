//! Whose batch is decided next, when many lanes have something.
//!
//! A batch costs nearly the same whatever is in it. If every lane decided what it has at once, all of them would have a little,
//! again and again; so a few are decided at a time, and what comes for the others meanwhile travels with them.

use std::time::Duration;

use shared::database::{Database, is_sqlite};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most batches of a process that are decided at a time.
const AT_A_TIME: usize = 4;
/// The longest wait for a turn. A database may keep as many batches as there are turns for long, each with a lock of its own, and the
/// other lanes have nothing to do with those.
const PATIENCE: Duration = Duration::from_secs(1);

/// A turn. It ends when this goes away.
pub(crate) type Turn<'a> = SemaphorePermit<'a>;

/// The turns of a process.
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
        tokio::time::timeout(PATIENCE, self.0.acquire()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
