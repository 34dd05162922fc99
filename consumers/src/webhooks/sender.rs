//! Sends due deliveries. Several senders may run, in one process or many.
//!
//! A sender claims a delivery by an update that makes it due again only after the lease. So no
//! other sender takes it meanwhile. If the sender dies, the delivery is sent again with the same
//! `webhook-id`. The sender writes the result only while the lease holds.
//!
//! Ordered webhooks: a sender claims the oldest pending deliveries of one drive as a *run* and
//! sends them in sequence until one fails. Only the sender that holds the first delivery may send,
//! and only up to the first gap. So at most one sender is active per drive.

mod record;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use domain::clock::{self, Timestamp};
use domain::id::{DeliveryId, WebhookId};
use domain::text::with_causes;
use process::parts::Parts;
use sea_orm::DbErr;
use shared::backoff::Backoff;
use shared::database::Database;
use shared::failure::Failure;
use shared::guard::caught;
use shared::store::webhooks::{self, delivery};
use shared::webhook::{Attempt, Delivery, Webhook};
use shared::{failpoint, log};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::post::Post;

/// Its name among the parts of a process.
pub(super) const PART: &str = "webhooks-sender";
/// Attempts at a time, of a process.
const AT_A_TIME: usize = 256;
/// Attempts at a time to one webhook. One that hangs must not block the others.
const AT_A_TIME_EACH: usize = 8;
/// The most deliveries of a claim. A statement names each of them.
const TOGETHER: usize = 2 * AT_A_TIME;
/// The most deliveries of a run.
const RUN: usize = 64;
/// How long after its claim a run may begin another attempt.
const RUN_LASTS: Duration = Duration::from_secs(15);
/// The lease: longer than a run, its last attempt, and two rounds can take (the present one, and
/// the one that writes the results).
const LEASE: chrono::Duration = chrono::Duration::seconds(90);
/// The longest time between two looks. Other processes make deliveries due without a notice (a
/// ping, a redelivery).
const LONGEST_SLEEP: Duration = Duration::from_secs(2);
/// Timeout of a round on the database.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait at shutdown for attempts on their way.
const FAREWELL: Duration = Duration::from_secs(5);

/// The result of an attempt.
#[derive(Debug)]
struct Sent {
    /// The claim under which it was sent.
    lease: Uuid,
    ordered: bool,
    delivery: Delivery,
    attempt: Attempt,
}

/// Sends due deliveries.
#[derive(Debug)]
pub struct Sender {
    db: Database,
    post: Post,
    wake: Arc<Notify>,
    /// Whether mails tell owners that a webhook was switched off.
    mails: bool,
    room: Arc<Semaphore>,
    rooms: HashMap<WebhookId, Arc<Semaphore>>,
    /// Runs. Each returns its claim and the deliveries that it did not try.
    under_way: JoinSet<(Uuid, Vec<DeliveryId>)>,
    /// Results since the last write.
    done: Arc<Mutex<Vec<Sent>>>,
    /// The results being written. They stay the same until the write is known to have succeeded.
    sent: Vec<Sent>,
    /// By claim, deliveries that it may have taken and must release.
    left: BTreeMap<Uuid, BTreeSet<DeliveryId>>,
    /// Webhooks that are switched on, as of the last read.
    enabled: Arc<Mutex<Enabled>>,
    /// Stops all runs.
    ending: CancellationToken,
    clock: clock::SetBack,
    /// The clock was set back, and waiting deliveries still have due times of the old clock.
    is_back: bool,
}

type Enabled = HashMap<WebhookId, Arc<Webhook>>;

impl Sender {
    /// A sender that looks whenever it is woken. With `mails`, mails tell owners that a webhook was
    /// switched off.
    #[must_use]
    pub fn new(db: Database, post: Post, wake: Arc<Notify>, mails: bool) -> Self {
        Self {
            db,
            post,
            wake,
            mails,
            room: Arc::new(Semaphore::new(AT_A_TIME)),
            rooms: HashMap::new(),
            under_way: JoinSet::new(),
            done: Arc::default(),
            sent: Vec::new(),
            left: BTreeMap::new(),
            enabled: Arc::default(),
            ending: CancellationToken::new(),
            clock: clock::SetBack::watch(clock::now()),
            is_back: false,
        }
    }

    /// Sends until shutdown.
    pub async fn run(mut self, parts: Parts, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        while !shutdown.is_cancelled() {
            failpoint::hit("webhooks-looking");
            // Attempts on their way go on when a round panics.
            let round = caught(self.round()).await.unwrap_or_else(|panic| {
                parts.stumbled(PART, panic.to_string());
                Err(Failure::retry(panic))
            });
            let sleep = match round {
                Ok(sleep) => {
                    backoff = Backoff::default();
                    sleep
                }
                Err(failure) => {
                    if backoff.failures() == 0 {
                        let failure = with_causes(&failure);
                        tracing::warn!(failure, "could not claim or write deliveries; trying again");
                    }
                    shutdown.run_until_cancelled(backoff.wait()).await;
                    continue;
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                Some(done) = self.under_way.join_next() => self.came_back(done),
            }
            while let Some(done) = self.under_way.try_join_next() {
                self.came_back(done);
            }
        }
        self.ending.cancel();
        let farewell = async {
            while let Some(done) = self.under_way.join_next().await {
                self.came_back(done);
            }
        };
        // The next sender repeats attempts that do not end in time.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        // Results that could not be written before are written first, by themselves.
        for _ in 0..2 {
            if let Err(failure) = self.record().await {
                let failure = with_causes(&failure);
                tracing::warn!(failure, "could not write the results of deliveries; they will be sent again");
            }
        }
    }

    fn came_back(&mut self, done: Result<(Uuid, Vec<DeliveryId>), tokio::task::JoinError>) {
        match done {
            Ok((lease, left)) if !left.is_empty() => self.left.entry(lease).or_default().extend(left),
            Ok(_) => {}
            // The lease ends, and the delivery is sent again.
            Err(error) => tracing::error!(%error, "sending to a webhook panicked; this is a bug"),
        }
    }

    /// Writes results, and sends due deliveries. Returns how long the sender may sleep.
    async fn round(&mut self) -> Result<Duration, Failure> {
        let db = self.db.clone();
        let round = async {
            self.record().await?;
            Ok::<_, Failure>(self.begin().await?)
        };
        let Ok(done) = tokio::time::timeout(PATIENCE, round).await else {
            db.did_not_answer();
            return Err(Failure::retry("the database did not answer in time"));
        };
        done
    }

    /// Claims due deliveries, as far as there is capacity, and begins to send them. Returns how
    /// long the sender may sleep.
    async fn begin(&mut self) -> Result<Duration, DbErr> {
        let (now, until) = (clock::now(), tokio::time::Instant::now() + RUN_LASTS);
        self.is_back |= self.clock.is_noticed(now);
        if self.is_back {
            let deliveries = delivery::bring_forward(self.db.writer(), now, now, now + LEASE).await?;
            self.is_back = false;
            tracing::warn!(deliveries, "the clock was set back; deliveries are due by the new time");
        }
        let waiting = webhooks::waiting(&self.db.read).await?;
        let behind = waiting.first().map_or(0, |(_, due_at)| (now - *due_at).num_milliseconds().max(0));
        metrics::gauge!("muster_webhooks_behind_seconds").set(behind as f64 / 1000.0);
        self.rooms.retain(|id, room| {
            room.available_permits() < AT_A_TIME_EACH || waiting.iter().any(|(waiting, _)| waiting == id)
        });
        let mut next_due = waiting.iter().map(|(_, due_at)| *due_at).find(|due_at| *due_at > now);
        let due: Vec<_> = waiting.iter().filter(|(_, due_at)| *due_at <= now).map(|(id, _)| *id).collect();
        if !due.is_empty() || !self.under_way.is_empty() {
            let enabled = webhooks::enabled(&self.db.read).await?;
            let enabled = enabled.into_iter().map(|webhook| (webhook.id, Arc::new(webhook))).collect();
            *self.enabled() = enabled;
        }
        let runs = self.choose(&due, now, &mut next_due).await?;
        if !runs.is_empty() {
            let lease = Uuid::now_v7();
            // Always in the same order, so that two senders never wait for each other.
            let ids: BTreeSet<_> = runs.iter().flat_map(|(_, run)| run).copied().collect();
            // Whether or not the claim succeeds, release the deliveries that are not sent.
            self.left.insert(lease, ids.clone());
            let ids: Vec<_> = ids.into_iter().collect();
            let claimed = delivery::claim(self.db.writer(), &ids, lease, now, now + LEASE).await?;
            self.send(lease, runs, claimed, until).await?;
        }
        if !self.left.is_empty() {
            return Ok(Duration::ZERO);
        }
        let sleep = next_due.and_then(|due_at| (due_at - now).to_std().ok());
        Ok(sleep.unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP))
    }

    /// The deliveries to send now, the most overdue webhook first, each run in sequence. Also notes
    /// what is due later.
    async fn choose(
        &mut self,
        due: &[WebhookId],
        now: Timestamp,
        next_due: &mut Option<Timestamp>,
    ) -> Result<Vec<(Arc<Webhook>, Vec<DeliveryId>)>, DbErr> {
        let mut heads = Vec::new();
        for id in due {
            let room = self.rooms.entry(*id).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME_EACH)));
            let most = room.available_permits();
            let left = self.room.available_permits().saturating_sub(heads.len());
            let most = most.min(left);
            // Without capacity, the next result frees some. Without the webhook, an organiser has
            // just switched it off.
            let webhook = self.enabled().get(id).cloned();
            let (Some(webhook), true) = (webhook, most > 0) else { continue };
            let next = delivery::next(&self.db.read, *id, webhook.ordered, most as u64 + 1).await?;
            let due = next.iter().take(most).filter(|(_, _, due_at)| *due_at <= now);
            heads.extend(due.map(|(id, drive_id, _)| (webhook.clone(), *drive_id, *id)));
            if let Some((_, _, later)) = next.iter().find(|(_, _, due_at)| *due_at > now) {
                *next_due = Some(next_due.map_or(*later, |other| other.min(*later)));
            }
        }
        // No webhook waits for another one's long run.
        let length = RUN.min(TOGETHER / heads.len().max(1));
        let mut runs = Vec::with_capacity(heads.len());
        for (webhook, drive_id, head) in heads {
            let run = if webhook.ordered {
                delivery::run(&self.db.read, webhook.id, drive_id, now, length as u64).await?
            } else {
                vec![head]
            };
            runs.push((webhook, run));
        }
        Ok(runs)
    }

    /// Begins to send the claimed deliveries.
    async fn send(
        &mut self,
        lease: Uuid,
        runs: Vec<(Arc<Webhook>, Vec<DeliveryId>)>,
        claimed: Vec<Delivery>,
        until: tokio::time::Instant,
    ) -> Result<(), DbErr> {
        let places = claimed.iter().filter_map(|delivery| delivery.place);
        let entries =
            log::ranges(&self.db.read, places.map(|(drive_id, sequence)| (drive_id.into(), sequence, 1)))
                .await?;
        let body = |entry: log::Entry| Some(((entry.stream.drive()?, entry.head.sequence), entry.bytes));
        let bodies: HashMap<_, _> = entries.into_iter().filter_map(body).collect();
        let mut claimed: HashMap<_, _> =
            claimed.into_iter().map(|delivery| (delivery.id, delivery)).collect();
        for (webhook, run) in runs {
            // Another sender may be sending the delivery in the gap.
            let ours: Vec<_> = run.iter().map_while(|id| claimed.remove(id)).collect();
            let (false, Some(permits)) = (ours.is_empty(), self.enter(webhook.id)) else { continue };
            if let Some(left) = self.left.get_mut(&lease) {
                left.retain(|id| ours.iter().all(|delivery| delivery.id != *id));
            }
            let ours = ours.into_iter().map(|delivery| {
                let body = match delivery.place {
                    Some(place) => bodies.get(&place).cloned(),
                    None => Some(delivery.ping_body()),
                };
                (delivery, body)
            });
            let mut ours = ours.collect::<Vec<_>>().into_iter();
            let (post, ending) = (self.post.clone(), self.ending.clone());
            let (done, enabled) = (self.done.clone(), self.enabled.clone());
            self.under_way.spawn(async move {
                for (delivery, body) in ours.by_ref() {
                    let attempt = sent(&post, &webhook, &delivery, body).await;
                    let succeeded = attempt.succeeded();
                    lock(&done).push(Sent { lease, ordered: webhook.ordered, delivery, attempt });
                    // A webhook that was switched off, moved or given another secret meanwhile gets
                    // no more of this run.
                    let is_wanted = lock(&enabled).get(&webhook.id) == Some(&webhook);
                    let is_over = ending.is_cancelled() || tokio::time::Instant::now() > until;
                    if !succeeded || !is_wanted || is_over {
                        break;
                    }
                }
                drop(permits);
                (lease, ours.map(|(delivery, _)| delivery.id).collect())
            });
        }
        self.left.retain(|_, left| !left.is_empty());
        Ok(())
    }

    fn enabled(&self) -> MutexGuard<'_, Enabled> {
        lock(&self.enabled)
    }

    /// Takes a permit of the process and of the webhook. One is free, because claims never exceed
    /// the capacity.
    fn enter(&self, id: WebhookId) -> Option<[OwnedSemaphorePermit; 2]> {
        let room = self.rooms.get(&id)?.clone();
        Some([self.room.clone().try_acquire_owned().ok()?, room.try_acquire_owned().ok()?])
    }
}

/// Sends a delivery once and returns the result. A panic counts as a failed attempt.
async fn sent(post: &Post, webhook: &Webhook, delivery: &Delivery, body: Option<Bytes>) -> Attempt {
    let (at, since) = (clock::now(), std::time::Instant::now());
    let sending = async {
        failpoint::hit_about("webhook-sending", &delivery.event_type);
        post.send(webhook, delivery, body).await
    };
    caught(sending).await.unwrap_or_else(|panic| {
        let (delivery_id, error) = (delivery.id, panic.to_string());
        tracing::error!(%delivery_id, error, "could not send to a webhook");
        Attempt::unanswered(delivery_id, at, since.elapsed(), error)
    })
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
