//! One queue's consumers, and the messages that they hold.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sea_orm::sqlx;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::bus::broker::Depth;
use crate::bus::delivery::{Batch, Delivery, Settler as AnySettler, Unsettled};
use crate::bus::embedded::store::Store;

/// The state of one queue, shared by its publishers and consumers.
#[derive(Debug)]
pub(super) struct QueueState {
    pub(super) name: String,
    single_active: bool,
    /// Messages in the store, whether a consumer holds them or not.
    length: AtomicU64,
    wake: Notify,
    hands: Mutex<Hands>,
    next_consumer: AtomicU64,
}

/// The consumers, and the messages that were delivered to them.
#[derive(Debug, Default)]
struct Hands {
    /// All messages up to this number were delivered at least once.
    cursor: u64,
    /// Unsettled messages of closed consumers. They are delivered again.
    returned: BTreeSet<u64>,
    /// Messages up to this number are from before the start. An earlier process may have delivered
    /// them.
    opened_at: u64,
    /// How many unsettled messages the consumers hold.
    held: u64,
    /// The ids of the consumers, oldest first. On a lane only the first one gets messages.
    consumers: VecDeque<u64>,
}

impl QueueState {
    pub(super) fn new(name: String, single_active: bool, length: u64, last: u64) -> Self {
        Self {
            name,
            single_active,
            length: AtomicU64::new(length),
            wake: Notify::new(),
            hands: Mutex::new(Hands { opened_at: last, ..Hands::default() }),
            next_consumer: AtomicU64::new(0),
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    pub(super) fn depth(&self) -> Depth {
        let hands = self.hands();
        Depth { ready: self.length().saturating_sub(hands.held), consumers: hands.consumers.len() as u64 }
    }

    /// Counts `count` stored messages, and wakes the consumers.
    pub(super) fn added(&self, count: u64) {
        self.length.fetch_add(count, Ordering::Relaxed);
        self.wake.notify_waiters();
    }

    /// Counts `count` deleted messages.
    pub(super) fn removed(&self, count: u64) {
        self.length.fetch_sub(count, Ordering::Relaxed);
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        // The state is consistent after each statement, so a panic elsewhere does no harm.
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a consumer reads next.
enum Turn {
    /// These messages, which are delivered again.
    Again(Vec<u64>),
    /// Messages after this number.
    After(u64),
    /// Another consumer is active, or the prefetch is used up.
    Wait,
}

/// A consumer of one queue.
#[derive(Debug)]
pub struct Consumer {
    queue: Arc<QueueState>,
    store: Store,
    settler: Settler,
    id: u64,
    prefetch: usize,
    closed: CancellationToken,
    /// One consumer reads the store at a time, so that it can mark messages as delivered.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl Consumer {
    pub(super) fn new(
        queue: Arc<QueueState>,
        store: Store,
        prefetch: u16,
        closed: CancellationToken,
    ) -> Self {
        let id = queue.next_consumer.fetch_add(1, Ordering::Relaxed);
        queue.hands().consumers.push_back(id);
        let settler = Settler { queue: queue.clone(), store: store.clone(), outstanding: Arc::default() };
        let reading = store.reading(&queue.name);
        Self { queue, store, settler, id, prefetch: usize::from(prefetch), closed, reading }
    }

    pub(crate) async fn next(&mut self, max: usize) -> Option<Batch> {
        let mut backoff = Backoff::default();
        loop {
            let queue = self.queue.clone();
            // Register before reading, so that no message in between is missed.
            let woken = queue.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            match self.closed.run_until_cancelled(self.take(max)).await? {
                Ok(deliveries) if deliveries.is_empty() => self.closed.run_until_cancelled(woken).await?,
                Ok(deliveries) => {
                    return Some(Batch::new(deliveries, AnySettler::Embedded(self.settler.clone())));
                }
                Err(error) => {
                    tracing::error!(%error, queue = queue.name, "could not read the embedded broker's file");
                    self.closed.run_until_cancelled(backoff.wait()).await?;
                }
            }
        }
    }

    /// Adds messages that have arrived.
    pub(crate) async fn fill(&self, batch: &mut Batch, max: usize) {
        // After an error, the next batch reads them.
        if let Some(Ok(more)) =
            self.closed.run_until_cancelled(self.take(max.saturating_sub(batch.len()))).await
        {
            batch.extend(more);
        }
    }

    /// Takes up to `max` messages. Takes none if another consumer is active. After an error nothing
    /// has changed.
    async fn take(&self, max: usize) -> Result<Vec<Delivery>, sqlx::Error> {
        let reading = self.reading.clone();
        let _turn = reading.lock().await;
        let room = self.prefetch.saturating_sub(self.settler.outstanding().len()).min(max);
        let (rows, again) = match self.turn(room) {
            Turn::Wait => return Ok(Vec::new()),
            Turn::Again(tags) => (self.store.read(&tags).await?, tags),
            Turn::After(cursor) => (self.store.read_after(&self.queue.name, cursor, room).await?, Vec::new()),
        };
        let mut hands = self.queue.hands();
        let mut outstanding = self.settler.outstanding();
        // A message that is no longer in the store was acknowledged after all.
        for tag in &again {
            hands.returned.remove(tag);
        }
        let taken = rows.into_iter().map(|(tag, message)| {
            let redelivered = !again.is_empty() || tag <= hands.opened_at;
            hands.cursor = hands.cursor.max(tag);
            hands.held += 1;
            outstanding.insert(tag);
            Delivery { message, redelivered, tag, is_last: true }
        });
        Ok(taken.collect())
    }

    fn turn(&self, room: usize) -> Turn {
        let hands = self.queue.hands();
        let active = !self.queue.single_active || hands.consumers.front() == Some(&self.id);
        if !active || room == 0 {
            Turn::Wait
        } else if hands.returned.is_empty() {
            Turn::After(hands.cursor)
        } else {
            Turn::Again(hands.returned.iter().copied().take(room).collect())
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let mut hands = self.queue.hands();
        let unsettled = std::mem::take(&mut *self.settler.outstanding());
        hands.held -= unsettled.len() as u64;
        hands.returned.extend(unsettled);
        hands.consumers.retain(|id| *id != self.id);
        drop(hands);
        self.queue.wake.notify_waiters();
    }
}

/// Acknowledges the deliveries of one consumer.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    queue: Arc<QueueState>,
    store: Store,
    outstanding: Arc<Mutex<BTreeSet<u64>>>,
}

impl Settler {
    pub(crate) async fn ack(&self, deliveries: &[Delivery]) -> Result<(), Unsettled> {
        let mine: Vec<u64> = {
            let mut outstanding = self.outstanding();
            deliveries.iter().map(|delivery| delivery.tag).filter(|tag| outstanding.remove(tag)).collect()
        };
        if mine.len() < deliveries.len() {
            return Err(Unsettled::new("the consumer was closed"));
        }
        self.queue.hands().held -= mine.len() as u64;
        self.store.delete(mine, self.queue.clone()).await.map_err(Unsettled::new)?;
        // Wake consumers that wait at the prefetch limit.
        self.queue.wake.notify_waiters();
        Ok(())
    }

    fn outstanding(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
