//! Checks and repairs the topology while the process runs. Operators may delete queues at any time.
//!
//! A *doubt* is a sign that an exchange or queue may be missing. The broker cancelled a consumer,
//! returned a message, answered "not found", or restarted with fewer queues. After a doubt, no new
//! consumer starts until the whole topology is checked.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::text::with_causes;
use lapin::Connection;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{CLOSE, Server, topology};
use crate::backoff::Backoff;
use crate::bus::broker::BrokerError;
use crate::bus::rabbit::topology::{Amiss, Doubts};
use crate::bus::topology::Topology;

/// How often the topology is checked without a doubt.
const LOOK: Duration = Duration::from_secs(15);
/// The age at which a doubt is old. By then all signs of one deletion have arrived.
const OLD: Duration = Duration::from_secs(5);
/// How long to wait for further doubts after the first one. One deletion causes several.
const GATHER: Duration = Duration::from_millis(50);

/// Keeps the topology for one process.
#[derive(Debug)]
pub(super) struct Keeper {
    server: Server,
    topology: Topology,
    /// The start of the last successful check. The lock lets one task check at a time.
    sure: tokio::sync::Mutex<Option<Instant>>,
    doubted: Mutex<Instant>,
    doubt: Notify,
    /// Queues whose consumer was cancelled since the last successful check. The broker has deleted
    /// them, or is about to.
    cancelled: Mutex<BTreeSet<String>>,
    has_compared: AtomicBool,
    /// The error of the last check.
    amiss: Mutex<Option<BrokerError>>,
    /// How often each queue was recreated, as far as this process knows.
    anew: watch::Sender<Generations>,
}

/// How often each queue was recreated, and how often announcements may have been missed.
#[derive(Debug, Default)]
struct Generations {
    queues: HashMap<String, u64>,
    all: u64,
}

impl Generations {
    fn of(&self, queue: &str) -> u64 {
        self.all + self.queues.get(queue).copied().unwrap_or_default()
    }
}

/// Waits until a queue is recreated.
#[derive(Debug)]
pub(super) struct Anew {
    now: watch::Receiver<Generations>,
    queue: String,
    before: u64,
}

impl Anew {
    /// Whether the queue was recreated, or may have been.
    pub(super) fn has_happened(&self) -> bool {
        self.now.borrow().of(&self.queue) != self.before
    }

    /// Returns once the queue was recreated, or may have been.
    pub(super) async fn happens(&self) {
        if self.now.clone().wait_for(|now| now.of(&self.queue) != self.before).await.is_err() {
            // The keeper is gone, so no announcement will come.
            std::future::pending::<()>().await;
        }
    }
}

impl Keeper {
    pub(super) fn new(server: Server, topology: Topology) -> Self {
        let (sure, cancelled, amiss) = (tokio::sync::Mutex::default(), Mutex::default(), Mutex::default());
        let (doubted, doubt) = (Mutex::new(Instant::now()), Notify::new());
        let has_compared = AtomicBool::new(false);
        let anew = watch::Sender::default();
        Self { server, topology, sure, doubted, doubt, cancelled, has_compared, amiss, anew }
    }

    /// Records that an exchange or queue may be missing.
    pub(super) fn doubts(&self) {
        *lock(&self.doubted) = Instant::now();
        self.doubt.notify_one();
    }

    /// Records that the broker cancelled the consumer of this queue.
    pub(super) fn doubts_about(&self, queue: &str) {
        lock(&self.cancelled).insert(queue.to_owned());
        self.doubts();
    }

    /// Records the announcement that a process recreated this queue.
    pub(super) fn was_made_anew(&self, queue: &str) {
        if self.topology.queues().iter().any(|known| known.name == queue) {
            self.anew.send_modify(|now| *now.queues.entry(queue.to_owned()).or_default() += 1);
        }
    }

    /// Records that this process may have missed announcements.
    pub(super) fn may_be_made_anew(&self) {
        self.anew.send_modify(|now| now.all += 1);
    }

    /// A handle that waits until this queue is recreated.
    pub(super) fn anew(&self, queue: &str) -> Anew {
        let now = self.anew.subscribe();
        let before = now.borrow().of(queue);
        Anew { now, queue: queue.to_owned(), before }
    }

    /// What is wrong with the topology, according to the last check.
    pub(super) fn amiss(&self) -> Option<BrokerError> {
        lock(&self.amiss).clone()
    }

    /// Checks and repairs the topology, unless that was done since the last doubt.
    pub(super) async fn make_sure(&self) -> Result<(), BrokerError> {
        let mut sure = self.sure.lock().await;
        if sure.is_some_and(|begun| begun >= *lock(&self.doubted)) {
            return Ok(());
        }
        let (begun, cancelled) = (Instant::now(), lock(&self.cancelled).clone());
        // Use a new connection, because the lock between processes belongs to a connection and ends
        // with it. If the connection fails, the last result still holds.
        let connection = self.server.connect("declaring").await?;
        let made = topology::ensure(&connection, self.topology, self).await;
        // The connection may be lost already. Then there is nothing to close.
        let _ = tokio::time::timeout(CLOSE, connection.close(200, "declared".into())).await;
        self.is_now(made.as_ref().err().cloned());
        made?;
        *sure = Some(begun);
        self.has_compared.store(true, Ordering::Relaxed);
        if *lock(&self.doubted) <= begun {
            lock(&self.cancelled).retain(|queue| !cancelled.contains(queue));
        }
        Ok(())
    }

    /// Checks and repairs the topology after each doubt and from time to time, until `closed`.
    pub(super) async fn keep(&self, closed: &CancellationToken) {
        let mut backoff = Backoff::default();
        let keeping = async {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {
                        if !self.has_work().await {
                            continue;
                        }
                        // Force a check, without a new doubt.
                        *self.sure.lock().await = None;
                    }
                    () = self.doubt.notified() => tokio::time::sleep(GATHER).await,
                }
                while let Err(error) = self.make_sure().await {
                    tracing::debug!(error = %with_causes(&error), "could not check RabbitMQ's queues; trying again");
                    backoff.wait().await;
                }
                backoff = Backoff::default();
            }
        };
        closed.run_until_cancelled(keeping).await;
    }

    /// Whether an exchange or queue is missing, or messages wait in `unrouted`. It changes nothing.
    /// Without an answer from the broker it returns false.
    async fn has_work(&self) -> bool {
        let Ok(connection) = self.server.connect("looking").await else { return false };
        let looked = self.look(&connection).await;
        let _ = tokio::time::timeout(CLOSE, connection.close(200, "looked".into())).await;
        looked
    }

    /// The same check, on an open connection.
    pub(super) async fn look(&self, connection: &Connection) -> bool {
        match topology::look(connection, self.topology).await {
            Ok(unrouted) => unrouted > 0,
            Err(Amiss::Missing(error)) => {
                tracing::warn!(error = %with_causes(&error), "an exchange or queue is missing in RabbitMQ; declaring it again");
                true
            }
            Err(Amiss::Other(error)) => {
                tracing::debug!(error = %with_causes(&error), "could not check RabbitMQ's queues; the next check is due soon");
                false
            }
        }
    }

    /// Logs a new error once, and its end once.
    fn is_now(&self, amiss: Option<BrokerError>) {
        let mut last = lock(&self.amiss);
        match (&*last, &amiss) {
            (Some(before), Some(error)) if before == error => {}
            (_, Some(error)) => {
                tracing::error!(error = %with_causes(error), "RabbitMQ's queues differ from what Muster needs; trying to repair them");
            }
            (Some(_), None) => tracing::info!("RabbitMQ's queues match what Muster needs again"),
            (None, None) => {}
        }
        *last = amiss;
    }
}

impl Doubts for Keeper {
    fn is_cancelled(&self, queue: &str) -> bool {
        lock(&self.cancelled).contains(queue)
    }

    fn are_first(&self) -> bool {
        !self.has_compared.load(Ordering::Relaxed)
    }

    fn are_old(&self) -> bool {
        lock(&self.doubted).elapsed() >= OLD
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
