//! Keeps the topology as it has to be, whatever an operator does to it while this process runs.
//!
//! A *doubt* is a sign that something may be missing: a consumer was cancelled, a message came back, the broker said "not found", or
//! came back with less than was there. Nothing is consumed until everything was made sure of since the last doubt.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::text::with_causes;
use lapin::Connection;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{CLOSE, Server, topology};
use crate::backoff::Backoff;
use crate::bus::broker::BrokerError;
use crate::bus::rabbit::topology::{Amiss, Doubts};
use crate::bus::topology::Topology;

/// How often it is looked at without a doubt.
const LOOK: Duration = Duration::from_secs(15);
/// A doubt is old when everything that it is about is known.
const OLD: Duration = Duration::from_secs(5);
/// How long after a doubt others are waited for: one deletion makes many.
const GATHER: Duration = Duration::from_millis(50);

/// Keeps the topology for one process.
#[derive(Debug)]
pub(super) struct Keeper {
    server: Server,
    topology: Topology,
    /// When somebody last began to make sure of everything, with success. One does at a time.
    sure: tokio::sync::Mutex<Option<Instant>>,
    doubted: Mutex<Instant>,
    doubt: Notify,
    /// Queues whose consumer was cancelled since then: they are about to be deleted, or were.
    cancelled: Mutex<BTreeSet<String>>,
    has_compared: AtomicBool,
    /// What is wrong, by the last attempt.
    amiss: Mutex<Option<BrokerError>>,
}

impl Keeper {
    pub(super) fn new(server: Server, topology: Topology) -> Self {
        let (sure, cancelled, amiss) = (tokio::sync::Mutex::default(), Mutex::default(), Mutex::default());
        let (doubted, doubt) = (Mutex::new(Instant::now()), Notify::new());
        let has_compared = AtomicBool::new(false);
        Self { server, topology, sure, doubted, doubt, cancelled, has_compared, amiss }
    }

    /// Something may be missing.
    pub(super) fn doubts(&self) {
        *lock(&self.doubted) = Instant::now();
        self.doubt.notify_one();
    }

    /// The consumer of this queue was cancelled.
    pub(super) fn doubts_about(&self, queue: &str) {
        lock(&self.cancelled).insert(queue.to_owned());
        self.doubts();
    }

    /// What is wrong now, as far as that is known.
    pub(super) fn amiss(&self) -> Option<BrokerError> {
        lock(&self.amiss).clone()
    }

    /// Makes sure that everything is there as it is needed, unless that was done since the last doubt.
    pub(super) async fn make_sure(&self) -> Result<(), BrokerError> {
        let mut sure = self.sure.lock().await;
        if sure.is_some_and(|begun| begun >= *lock(&self.doubted)) {
            return Ok(());
        }
        let (begun, cancelled) = (Instant::now(), lock(&self.cancelled).clone());
        // A connection of its own: the lock among processes goes by connections, and ends with it.
        // Without one nothing is known, and what was known still holds.
        let connection = self.server.connect("declaring").await?;
        let made = topology::ensure(&connection, self.topology, self).await;
        // It may be gone already; then there is nothing to close.
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

    /// Makes sure of everything after each doubt, and looks for what is missing from time to time, until `closed`.
    pub(super) async fn keep(&self, closed: &CancellationToken) {
        let mut backoff = Backoff::default();
        let keeping = async {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {
                        if !self.has_work().await {
                            continue;
                        }
                        // That is no new doubt.
                        *self.sure.lock().await = None;
                    }
                    () = self.doubt.notified() => tokio::time::sleep(GATHER).await,
                }
                while let Err(error) = self.make_sure().await {
                    tracing::debug!(error = %with_causes(&error), "could not make sure of RabbitMQ's queues; trying again");
                    backoff.wait().await;
                }
                backoff = Backoff::default();
            }
        };
        closed.run_until_cancelled(keeping).await;
    }

    /// Whether something is missing, or messages wait that had no queue. Only asks; what cannot be asked is no answer.
    async fn has_work(&self) -> bool {
        let Ok(connection) = self.server.connect("looking").await else { return false };
        let looked = self.look(&connection).await;
        let _ = tokio::time::timeout(CLOSE, connection.close(200, "looked".into())).await;
        looked
    }

    /// The same on a connection that is there.
    pub(super) async fn look(&self, connection: &Connection) -> bool {
        match topology::look(connection, self.topology).await {
            Ok(unrouted) => unrouted > 0,
            Err(Amiss::Missing(error)) => {
                tracing::warn!(error = %with_causes(&error), "something is missing in RabbitMQ; it is made anew");
                true
            }
            Err(Amiss::Other(error)) => {
                tracing::debug!(error = %with_causes(&error), "could not look at RabbitMQ's queues");
                false
            }
        }
    }

    /// Says what is wrong once, and once that it is right again.
    fn is_now(&self, amiss: Option<BrokerError>) {
        let mut last = lock(&self.amiss);
        match (&*last, &amiss) {
            (Some(before), Some(error)) if before == error => {}
            (_, Some(error)) => {
                tracing::error!(error = %with_causes(error), "RabbitMQ's queues are not as they should be");
            }
            (Some(_), None) => tracing::info!("RabbitMQ's queues are as they should be again"),
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
