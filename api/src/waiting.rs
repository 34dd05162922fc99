//! Requests that wait for a decision (`Prefer: wait`). Consumers send decisions to this process, so
//! no request polls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::id::CommandId;
use process::parts::{Parts, supervise};
use shared::bus::broker::ReplyAddress;
use shared::database::Database;
use shared::ledger::{self, Row, Status};
use tokio::sync::{Notify, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The most requests that wait at a time. Further ones get their receipt at once.
const MOST: usize = 20_000;
/// How many decisions one statement looks up.
const TOGETHER: usize = 1000;
/// How often to look up decisions that went to an address where this process no longer listens.
const LOOK: Duration = Duration::from_secs(5);
/// Timeout for one such statement.
const ANSWER: Duration = Duration::from_secs(5);

/// The waiting requests, by the command whose decision they wait for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waiting {
    db: Database,
    address: ReplyAddress,
    /// None once the process is ending: no request waits then, and each gets its receipt.
    waiters: Arc<Mutex<Option<Waiters>>>,
    /// Signals that decisions may have been missed.
    missed: Arc<Notify>,
}

type Waiters = HashMap<CommandId, Waiter>;

#[derive(Debug)]
struct Waiter {
    /// The address to which the decision is sent; empty if it may have been missed.
    address: String,
    answers: Vec<oneshot::Sender<Row>>,
}

/// The wait of one request. Dropping it ends the wait.
#[derive(Debug)]
pub struct Wait {
    id: CommandId,
    answer: oneshot::Receiver<Row>,
    all: Waiting,
    /// For the command's `reply_to`.
    pub address: String,
}

impl Waiting {
    /// No request waits yet. `address` is where decisions reach the process.
    pub(crate) fn new(db: Database, address: ReplyAddress) -> Self {
        Self { db, address, waiters: Arc::new(Mutex::new(Some(Waiters::new()))), missed: Arc::default() }
    }

    /// Whether decisions reach this process now.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.address.current().is_some()
    }

    /// Starts a wait. None if decisions do not reach this process, or if too many requests wait.
    /// The client then gets its receipt at once.
    #[must_use]
    pub fn wait(&self, id: CommandId) -> Option<Wait> {
        let address = self.address.current()?;
        let mut waiters = self.waiters();
        let waiters = waiters.as_mut()?;
        if waiters.len() >= MOST {
            return None;
        }
        let (sender, answer) = oneshot::channel();
        let waiter =
            waiters.entry(id).or_insert_with(|| Waiter { address: address.clone(), answers: Vec::new() });
        waiter.answers.push(sender);
        metrics::gauge!("muster_waiting_requests").set(waiters.len() as f64);
        Some(Wait { id, answer, all: self.clone(), address })
    }

    /// Passes a decision to the requests that wait for it.
    pub(crate) fn decided(&self, row: &Row) {
        let waiter = self.waiters().as_mut().and_then(|waiters| waiters.remove(&row.id));
        for answer in waiter.into_iter().flat_map(|waiter| waiter.answers) {
            // The request may have stopped waiting.
            let _ = answer.send(row.clone());
        }
    }

    /// Notes that any decision may have been missed for which a request waits now.
    pub(crate) fn missed(&self) {
        for waiter in self.waiters().iter_mut().flat_map(HashMap::values_mut) {
            // No decision is sent to an empty address, so this one is looked up.
            waiter.address.clear();
        }
        self.missed.notify_one();
    }

    /// Looks up missed decisions, until shutdown. After that no request waits.
    pub(crate) fn keep_looking(self, parts: &Parts, shutdown: &CancellationToken) {
        let (parts, shutdown) = (parts.clone(), shutdown.clone());
        tokio::spawn(async move {
            supervise("waiting", &parts, &shutdown, || shutdown.run_until_cancelled(self.look())).await;
            *self.waiters() = None;
        });
    }

    async fn look(&self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = self.missed.notified() => {}
            }
            shared::failpoint::hit("waiting-looking");
            self.look_for_strays().await;
        }
    }

    /// Looks up the decisions that were sent to an address where this process no longer listens.
    async fn look_for_strays(&self) {
        let current = self.address.current();
        let strays: Vec<CommandId> = {
            let waiters = self.waiters();
            let strays =
                waiters.iter().flatten().filter(|(_, waiter)| current.as_ref() != Some(&waiter.address));
            strays.map(|(id, _)| *id).collect()
        };
        for some in strays.chunks(TOGETHER) {
            match tokio::time::timeout(ANSWER, ledger::find(&self.db.read, some.iter().copied())).await {
                // A failure may be an earlier one, and the command is about to be decided again.
                Ok(Ok(rows)) => {
                    rows.values()
                        .filter(|row| row.status != Status::Failed)
                        .for_each(|row| self.decided(row));
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "could not look for decisions; looking again");
                    return;
                }
                Err(_) => {
                    self.db.did_not_answer();
                    return;
                }
            }
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Option<Waiters>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Waits for the decision, for at most `patience`.
    pub async fn decision(mut self, patience: Duration) -> Option<Row> {
        tokio::time::timeout(patience, &mut self.answer).await.ok()?.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.answer.close();
        let mut waiters = self.all.waiters();
        let Some(waiters) = waiters.as_mut() else { return };
        if let Some(waiter) = waiters.get_mut(&self.id) {
            waiter.answers.retain(|sender| !sender.is_closed());
            if waiter.answers.is_empty() {
                waiters.remove(&self.id);
            }
        }
        metrics::gauge!("muster_waiting_requests").set(waiters.len() as f64);
    }
}
