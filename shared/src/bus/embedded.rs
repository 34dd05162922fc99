//! The embedded broker: the lanes, order, redelivery and dead letters of RabbitMQ in one process,
//! on one SQLite file.
//!
//! A message is confirmed after its transaction is on the disk (`synchronous=FULL`). Publishers at
//! the same time share a transaction. It serves one process: [`Embedded::open`] refuses a second
//! one.

mod queue;
mod store;
mod subscribers;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::clock;
use tokio_util::sync::CancellationToken;

pub use self::queue::Consumer;
use self::queue::QueueState;
pub(super) use self::queue::Settler;
use self::store::{Row, Store};
use self::subscribers::Subscribers;
use crate::bus::broker::{BrokerError, Depth, PublishError, Source, Subscription};
use crate::bus::message::{Address, Outgoing};
use crate::bus::topology::{DEAD_LETTERS, Purpose, Topology, UNROUTED};
use crate::guard::caught;
use crate::private;

/// The most messages of one queue. If the queue is full, publishing fails.
const MAX_LENGTH: u64 = 1_000_000;
/// How often the broker looks for due messages on the delay ladder.
const DELAY_TICK: Duration = Duration::from_secs(1);

/// A handle on the embedded broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Embedded {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    topology: Topology,
    queues: HashMap<String, Arc<QueueState>>,
    store: Store,
    subscribers: Subscribers,
    closed: CancellationToken,
    /// The file lock, held while the broker is open. The operating system releases it even after a
    /// crash.
    lock: File,
}

impl Embedded {
    /// Opens the broker on `file`, creating it if need be.
    pub async fn open(file: &Path, topology: Topology) -> Result<Self, BrokerError> {
        let lock = lock(file)?;
        let made = private::make_file(file);
        made.map_err(|error| BrokerError::caused(format!("make {}", file.display()), error))?;
        let (store, held) = Store::open(file).await.map_err(|error| {
            BrokerError::caused(format!("open the embedded broker's file {}", file.display()), error)
        })?;
        let queues = topology
            .queues()
            .into_iter()
            .map(|spec| {
                let (length, last) = held.get(&spec.name).copied().unwrap_or_default();
                let state = QueueState::new(spec.name.clone(), spec.purpose == Purpose::Lane, length, last);
                (spec.name, Arc::new(state))
            })
            .collect::<HashMap<_, _>>();
        if let Some(lost) = held.keys().find(|name| !queues.contains_key(*name)) {
            return Err(BrokerError::new(format!(
                "the embedded broker's file holds messages for the queue {lost}, which does not exist with this \
                 number of lanes; start with the previous LANES"
            )));
        }
        let inner = Inner {
            topology,
            queues,
            store,
            subscribers: Subscribers::default(),
            closed: CancellationToken::new(),
            lock,
        };
        let embedded = Self { inner: Arc::new(inner) };
        tokio::spawn(embedded.clone().move_due());
        Ok(embedded)
    }

    pub(super) fn topology(&self) -> Topology {
        self.inner.topology
    }

    pub(super) async fn publish_all(&self, outgoing: Vec<Outgoing>) -> Result<(), PublishError> {
        if self.inner.closed.is_cancelled() {
            return Err(PublishError::unavailable("the embedded broker is closed"));
        }
        let mut rows = Vec::with_capacity(outgoing.len());
        for Outgoing { to, message } in outgoing {
            match to {
                Address::Events(key) => self.inner.subscribers.event(&key, &message),
                Address::Presence(queue) => self.inner.subscribers.presence(queue, &message),
                Address::Notices => self.inner.subscribers.notice(&message),
                Address::Reply(address) => self.inner.subscribers.reply(&address, message),
                Address::Commands(queue) => rows.push(Row { queue, message, due: None }),
                Address::DeadLetters => rows.push(Row { queue: DEAD_LETTERS.to_owned(), message, due: None }),
                Address::Later(delay, queue) => {
                    let due = clock::now() + delay.duration();
                    rows.push(Row {
                        queue,
                        message,
                        due: Some((delay.queue_name(), due.timestamp_millis())),
                    });
                }
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        for row in &mut rows {
            if !self.inner.queues.contains_key(&row.queue) {
                // An operator finds the message there. No confirmed message is lost.
                UNROUTED.clone_into(&mut row.queue);
            }
        }
        let states = rows.iter().map(|row| self.queue(&row.queue)).collect::<Result<Vec<_>, _>>()?;
        if states.iter().any(|state| state.length() >= MAX_LENGTH) {
            return Err(PublishError::Refused);
        }
        self.inner.store.insert(rows, states).await
    }

    pub(super) fn consume(&self, queue_name: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        let state = self
            .queue(queue_name)
            .map_err(|error| BrokerError::caused(format!("consume {queue_name}"), error))?;
        Ok(Consumer::new(state, self.inner.store.clone(), prefetch, self.inner.closed.clone()))
    }

    pub(super) fn subscribe(&self, source: Source) -> Subscription {
        self.inner.subscribers.add(source)
    }

    pub(super) fn depth(&self, queue_name: &str) -> Option<Depth> {
        self.inner.queues.get(queue_name).map(|state| state.depth())
    }

    pub(super) async fn ping(&self) -> Result<(), PublishError> {
        self.inner.store.ping().await
    }

    pub(super) async fn close(&self) {
        self.inner.closed.cancel();
        self.inner.subscribers.close();
        self.inner.store.close().await;
        // Release the lock now. Clones of this broker may live on, and the next process must not
        // have to wait for them.
        if let Err(error) = self.inner.lock.unlock() {
            tracing::warn!(%error, "could not release the lock on the embedded broker's file");
        }
    }

    fn queue(&self, name: &str) -> Result<Arc<QueueState>, PublishError> {
        self.inner.queues.get(name).cloned().ok_or(PublishError::Unroutable)
    }

    /// Moves due messages from the delay ladder back to their queue.
    async fn move_due(self) {
        let mut tick = tokio::time::interval(DELAY_TICK);
        while self.inner.closed.run_until_cancelled(tick.tick()).await.is_some() {
            // After an error or a panic the messages stay due.
            let due = caught(self.inner.store.take_due(clock::now().timestamp_millis())).await;
            let due = due.unwrap_or_default();
            for (name, count) in due {
                if let Some(state) = self.inner.queues.get(&name) {
                    state.added(count);
                }
            }
        }
    }
}

/// Takes the lock beside `file`, so that no second process serves the same messages.
fn lock(file: &Path) -> Result<File, BrokerError> {
    let path = file.with_extension("lock");
    let open = || {
        if let Some(folder) = path.parent() {
            private::make_folder(folder)?;
        }
        private::options().create(true).append(true).open(&path)
    };
    let lock = open().map_err(|error| BrokerError::caused(format!("open {}", path.display()), error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BrokerError::new(format!(
            "another Muster process uses {}; stop it first, or give this one a DATA_DIR of its own",
            file.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(BrokerError::caused(format!("lock {}", path.display()), error))
        }
    }
}
