//! Requests that wait for a decision (`Prefer: wait`): one reply queue per process, no polling.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::bus::broker::{ReplyAddress, Source};
use shared::bus::{Broker, Received};
use shared::id::CommandId;
use shared::ledger::Row;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// The most requests that wait at a time; others get their receipt at once.
const MOST: usize = 20_000;

/// Who waits for which decision. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Waiting {
    address: ReplyAddress,
    /// None once the process is ending: then nobody waits any more, and everyone has their receipt.
    waiters: Arc<Mutex<Option<Waiters>>>,
}

type Waiters = HashMap<CommandId, Vec<oneshot::Sender<Row>>>;

/// One request's place among those who wait. It ends with this value.
#[derive(Debug)]
pub struct Wait {
    id: CommandId,
    answer: oneshot::Receiver<Row>,
    all: Waiting,
    /// For the command's `reply_to`.
    pub address: String,
}

impl Waiting {
    /// Begins listening for decisions, until shutdown.
    #[must_use]
    pub fn start(broker: &Broker, shutdown: CancellationToken) -> Self {
        let mut replies = broker.subscribe(Source::Replies);
        let all = Self { address: replies.address(), waiters: Arc::new(Mutex::new(Some(Waiters::new()))) };
        let waiting = all.clone();
        tokio::spawn(async move {
            while let Some(Some(received)) = shutdown.run_until_cancelled(replies.next()).await {
                let Received::Message(message) = received else { continue };
                match serde_json::from_slice::<Row>(&message.payload) {
                    Ok(row) => waiting.decided(&row),
                    Err(error) => tracing::warn!(%error, "a reply cannot be read"),
                }
            }
            *waiting.waiters() = None;
        });
        all
    }

    /// Whether decisions reach this process now.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.address.current().is_some()
    }

    /// Takes a place; none when the reply queue is away or too many wait, and then nobody needs to.
    #[must_use]
    pub fn wait(&self, id: CommandId) -> Option<Wait> {
        let address = self.address.current()?;
        let mut waiters = self.waiters();
        let waiters = waiters.as_mut()?;
        if waiters.len() >= MOST {
            return None;
        }
        let (sender, answer) = oneshot::channel();
        waiters.entry(id).or_default().push(sender);
        metrics::gauge!("muster_waiting_requests").set(waiters.len() as f64);
        Some(Wait { id, answer, all: self.clone(), address })
    }

    fn decided(&self, row: &Row) {
        let waiting = self.waiters().as_mut().and_then(|waiters| waiters.remove(&row.id));
        for waiter in waiting.unwrap_or_default() {
            // It may have stopped waiting.
            let _ = waiter.send(row.clone());
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Option<Waiters>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Waits for the decision, at most so long.
    pub async fn decision(mut self, patience: Duration) -> Option<Row> {
        tokio::time::timeout(patience, &mut self.answer).await.ok()?.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.answer.close();
        let mut waiters = self.all.waiters();
        let Some(waiters) = waiters.as_mut() else { return };
        if let Some(waiting) = waiters.get_mut(&self.id) {
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                waiters.remove(&self.id);
            }
        }
        metrics::gauge!("muster_waiting_requests").set(waiters.len() as f64);
    }
}
