//! The loop of every queue: take the messages that are there, decide them in one transaction,
//! publish the events, acknowledge.
//!
//! The unacknowledged command is the outbox. If the process dies after its commit, the broker
//! delivers the command again. The ledger then says that it is decided, and the consumer publishes
//! the same events once more. A lane never puts a message back, because prefetched messages would
//! overtake it. It holds the batch and retries instead.

mod adaptive;
mod dead_letter;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use domain::command::CommandSet;
use domain::text::with_causes;
use process::parts::{Parts, supervise};
use process::watch::Liveness;
use shared::backoff::{Backoff, Outage};
use shared::bus::cloud_event::batch::Form;
use shared::bus::message::header;
use shared::bus::{Batch, Broker, Consumer, Message, Outgoing};
use shared::database::Database;
use shared::failure::{Failure, Reject};
use shared::telemetry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug_span};

use self::adaptive::{gather, in_a_rush};
use crate::balance::Balance;
use crate::batch::{self, Handler, Settled};
use crate::concurrency::{self, Turn, Turns};
use crate::follow::grown_logs;
use crate::messages::reply;
use crate::observed::{age, continued, observe, trace_on};

/// Messages per batch. A bundle is never split, so a batch may have a few more.
const BATCH: usize = 500;
/// Prefetch of a consumer, in messages or bundles: one batch is being published, one is being
/// decided. In a rush messages arrive as bundles, so more are ready behind these two.
const PREFETCH: u16 = 1000;
/// Messages per publish call. One decision may have many events. A retry publishes only those that
/// are not confirmed.
const PUBLISH: usize = 2000;
/// Retries of a batch that conflicts with another writer. After that the batch is bisected to find
/// the message at fault.
const CONTENDED: u32 = 10;
/// How long a consumer retries a batch before it closes its channel and the broker delivers the
/// batch again. RabbitMQ closes a consumer's channel after 30 minutes.
const HOLD: Duration = Duration::from_secs(10 * 60);
/// Timeout of the first attempt to write a batch. It doubles with each retry. Without it, a dead
/// connection would block its lane for ever.
const ANSWER: Duration = Duration::from_secs(30);
/// A consumer that worked this long resets the back-off.
const STEADY: Duration = Duration::from_secs(30);

/// What a consumer needs to decide the commands of a queue.
#[derive(Debug)]
pub struct Runtime<H> {
    /// Decides the commands.
    pub handler: H,
    /// Holds ledger, logs and tables.
    pub db: Database,
    /// Delivers commands and takes events.
    pub broker: Broker,
    /// The form of published events about registrations.
    pub events: Form,
    /// Stops the consumers. They finish the batch in hand first.
    pub shutdown: CancellationToken,
    /// The queues that this process consumes, for health and metrics.
    pub liveness: Liveness,
    /// The state of its lanes, for the health report.
    pub parts: Parts,
}

/// Why a consumer stopped consuming.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The process ends.
    Shutdown,
    /// Another process takes this lane. This process stands by.
    Released,
    /// The channel was lost, or this process gave it up.
    Lost,
}

/// A batch was not settled. The broker delivers its messages again after the consumer is closed.
struct GivenUp;

/// A decided batch, with the messages to publish before it is acknowledged.
struct Told {
    batch: Batch,
    outgoing: Vec<Outgoing>,
}

impl<H: Handler> Runtime<H> {
    /// Consumes all queues of the handler until shutdown.
    pub async fn run(self) {
        let runtime = Arc::new(self);
        let names = runtime.broker.topology().queue_names(H::Message::QUEUE);
        let (parts, shutdown) = (&runtime.parts, &runtime.shutdown);
        let balance = Balance::start(H::Message::QUEUE, runtime.broker.clone(), &names, parts, shutdown);
        let turns = Arc::new(Turns::new(&runtime.db));
        let mut lanes = JoinSet::new();
        for name in names {
            let (runtime, balance, turns) = (runtime.clone(), balance.clone(), turns.clone());
            lanes.spawn(async move {
                let (part, lane) =
                    (H::Message::QUEUE.as_str(), || runtime.supervise(&name, &balance, &turns));
                // The runtime catches panics of handlers where they happen. No other panic may end
                // a lane either.
                supervise(part, &runtime.parts, &runtime.shutdown, lane).await;
            });
        }
        while lanes.join_next().await.is_some() {}
    }

    /// Keeps one queue consumed: starts another consumer whenever one ends.
    async fn supervise(&self, queue: &str, balance: &Balance, turns: &Turns) {
        let (mut backoff, mut outage) = (Backoff::default(), Outage::default());
        while !self.shutdown.is_cancelled() {
            let since = Instant::now();
            shared::failpoint::hit_about("lane-consuming", &queue);
            match self.broker.consume(queue, PREFETCH).await {
                Ok(consumer) => {
                    outage.ends();
                    let up = self.liveness.up(queue);
                    let end = self.serve(queue, consumer, balance, turns).await;
                    drop(up);
                    tracing::debug!(queue, ?end, "stopped consuming");
                    if end != End::Lost || since.elapsed() > STEADY {
                        backoff = Backoff::default();
                    }
                    if end != End::Lost {
                        continue;
                    }
                }
                Err(error) => {
                    let error = with_causes(&error);
                    if outage.begins_with(&error) {
                        tracing::warn!(queue, error, "could not consume; trying again after a back-off");
                    }
                }
            }
            self.shutdown.run_until_cancelled(backoff.wait()).await;
        }
    }

    /// Consumes until the end. It publishes one batch while it decides the next. Both steps keep
    /// the order, so batches are decided, published and acknowledged in the order of their arrival.
    async fn serve(&self, queue: &str, mut consumer: Consumer, balance: &Balance, turns: &Turns) -> End {
        let (decided, inbox) = mpsc::channel(1);
        let deciding = async {
            let decided = decided;
            let mut last = 0;
            loop {
                let asked = Instant::now();
                tokio::select! {
                    biased;
                    () = self.shutdown.cancelled() => break End::Shutdown,
                    () = balance.release(queue) => break End::Released,
                    // The publishing step has ended.
                    () = decided.closed() => break End::Lost,
                    batch = consumer.next(BATCH) => {
                        let Some(mut batch) = batch else { break End::Lost };
                        balance.busy(queue);
                        if in_a_rush(last, asked.elapsed()) {
                            gather(&mut consumer, &mut batch).await;
                        }
                        let mut turn = turns.free();
                        if turn.is_none() {
                            turn = turns.wait().await;
                            consumer.fill(&mut batch, BATCH).await;
                        }
                        last = batch.len();
                        if self.settle(queue, batch, turn, &decided).await.is_err() {
                            break End::Lost;
                        }
                    }
                }
            }
        };
        let (end, told) = tokio::join!(deciding, self.tell_all(queue, inbox));
        consumer.close().await;
        if told.is_err() { End::Lost } else { end }
    }

    /// Decides a batch and hands it to the publishing step, or releases the undecided rest.
    async fn settle(
        &self,
        queue: &str,
        batch: Batch,
        turn: Option<Turn<'_>>,
        decided: &mpsc::Sender<Told>,
    ) -> Result<(), GivenUp> {
        observe(queue, &batch);
        shared::failpoint::hit("consumer-delivered");
        let mut left = vec![batch];
        let settled = self.settle_all(queue, &mut left, turn, decided).await;
        left.into_iter().for_each(Batch::release);
        settled
    }

    /// Decides the batches in `left`, last one first. If one message makes a batch fail, the batch
    /// is bisected until that message stands alone. The halves are decided in order.
    async fn settle_all(
        &self,
        queue: &str,
        left: &mut Vec<Batch>,
        mut turn: Option<Turn<'_>>,
        decided: &mpsc::Sender<Told>,
    ) -> Result<(), GivenUp> {
        while let Some(batch) = left.pop() {
            let outgoing = match self.decide_in_place(queue, &batch, turn.take()).await {
                Ok(settled) => Ok(self.events.of(settled.into_iter().flat_map(|each| each.events).collect())),
                Err(Failure::Reject(_)) if batch.len() > 1 => {
                    let (first, rest) = batch.split();
                    left.extend([rest, first]);
                    continue;
                }
                Err(failure) => self.set_aside(queue, &batch, failure).await,
            };
            let told = match outgoing {
                Ok(outgoing) => decided.send(Told { batch, outgoing }).await.map_err(|unsent| unsent.0.batch),
                Err(GivenUp) => Err(batch),
            };
            if let Err(batch) = told {
                left.push(batch);
                return Err(GivenUp);
            }
        }
        Ok(())
    }

    /// Publishes and acknowledges batches in order, until no more come or one cannot be published.
    async fn tell_all(&self, queue: &str, mut inbox: mpsc::Receiver<Told>) -> Result<(), GivenUp> {
        let mut result = Ok(());
        while let Some(Told { batch, outgoing }) = inbox.recv().await {
            if result.is_err() {
                batch.release();
                continue;
            }
            result = self.tell(queue, batch, outgoing).await;
            if result.is_err() {
                inbox.close();
            }
        }
        result
    }

    async fn tell(&self, queue: &str, batch: Batch, outgoing: Vec<Outgoing>) -> Result<(), GivenUp> {
        if let Err(given_up) = self.publish_in_place(queue, outgoing).await {
            batch.release();
            return Err(given_up);
        }
        shared::failpoint::hit("consumer-confirmed");
        batch.ack().await.map_err(|error| {
            tracing::warn!(queue, error = %with_causes(&error), "could not acknowledge a decided batch; it will be delivered again");
            GivenUp
        })?;
        shared::failpoint::hit("consumer-acked");
        Ok(())
    }

    /// Retries a batch until it is decided or found undecidable. A lane waits out its back-off
    /// here, after it has given its turn up. Other queues use the delay ladder.
    async fn decide_in_place(
        &self,
        queue: &str,
        batch: &Batch,
        mut turn: Option<Turn<'_>>,
    ) -> Result<Vec<Settled>, Failure> {
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let waited = batch.messages().map(Message::attempt).max().unwrap_or(0);
            let attempts = u32::try_from(waited).unwrap_or(u32::MAX).saturating_add(backoff.failures());
            let deciding = self.decide_once(queue, batch, ANSWER * 2_u32.pow(attempts.min(4)));
            let decided = concurrency::during(turn.take(), deciding).await;
            let failure = match decided {
                Ok(settled) => return Ok(settled),
                Err(failure) => failure,
            };
            match failure {
                Failure::Reject(_) => return Err(failure),
                Failure::Contended(why) if backoff.failures() >= CONTENDED => {
                    return Err(Reject::unstorable(with_causes(&why)).into());
                }
                Failure::Retry(_) if !H::Message::QUEUE.has_lanes() => return Err(failure),
                Failure::Retry(_) | Failure::Contended(_) => {
                    age(queue, batch);
                    metrics::counter!("muster_retries_total", "queue" => queue.to_owned()).increment(1);
                    if backoff.failures() == 0 {
                        let failure = with_causes(&failure);
                        tracing::warn!(
                            queue,
                            failure,
                            messages = batch.len(),
                            "could not decide a batch; holding it and trying again"
                        );
                    }
                    self.shutdown.run_until_cancelled(backoff.wait()).await;
                    if self.shutdown.is_cancelled() || since.elapsed() > HOLD {
                        return Err(failure);
                    }
                }
            }
        }
    }

    async fn decide_once(
        &self,
        queue: &str,
        batch: &Batch,
        patience: Duration,
    ) -> Result<Vec<Settled>, Failure> {
        let span = debug_span!(
            "batch",
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.destination.name = queue,
            messaging.batch.message_count = batch.len(),
        );
        let traced: HashMap<_, _> =
            batch.messages().filter_map(|message| Some((message.id, continued(message)?))).collect();
        for message in batch.messages() {
            if let Some(trace) = message.header(header::TRACEPARENT) {
                telemetry::link(&span, trace);
            }
        }
        let since = Instant::now();
        let decided = batch::decide(&self.handler, &self.db, batch.messages()).instrument(span);
        let decided = tokio::time::timeout(patience, decided).await.unwrap_or_else(|_| {
            self.db.did_not_answer();
            tracing::warn!(
                queue,
                messages = batch.len(),
                ?patience,
                "the database did not decide a batch in time; trying again"
            );
            Err(Failure::retry("the database did not answer in time"))
        });
        metrics::histogram!("muster_decide_seconds", "queue" => queue.to_owned()).record(since.elapsed());
        let mut settled = decided?;
        let waiting: HashMap<_, _> =
            batch.messages().filter_map(|message| Some((message.id, message.reply_to.as_deref()?))).collect();
        let ends = settled.iter().filter_map(|Settled { row, .. }| {
            let last = row.sequence? + u64::from(row.events).checked_sub(1)?;
            Some((row.stream?, last))
        });
        let notice = grown_logs(ends).message();
        for each in &mut settled {
            if let Some(decision) = traced.get(&each.row.id.0) {
                each.events.iter_mut().for_each(|event| trace_on(decision, &mut event.message));
            }
            let outcome = each.row.status.as_str();
            metrics::counter!("muster_commands_total", "kind" => each.row.kind.clone(), "outcome" => outcome)
                .increment(1);
            if let Some(address) = waiting.get(&each.row.id.0) {
                each.events.push(reply(address, &each.row));
            }
        }
        if let Some(last) = settled.last_mut() {
            last.events.extend(notice);
        }
        Ok(settled)
    }

    /// Publishes until the broker has confirmed everything. Committed events must be published. If
    /// this process gives up, the broker delivers the batch again.
    async fn publish_in_place(&self, queue: &str, outgoing: Vec<Outgoing>) -> Result<(), GivenUp> {
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        let mut left = outgoing.as_slice();
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(left.len().min(PUBLISH));
            match self.broker.publish_all(chunk.to_vec()).await {
                Ok(()) => left = rest,
                Err(error) => {
                    if backoff.failures() == 0 {
                        let error = with_causes(&error);
                        tracing::warn!(
                            queue,
                            error,
                            messages = left.len(),
                            "could not publish; holding the batch and trying again"
                        );
                    }
                    self.shutdown.run_until_cancelled(backoff.wait()).await;
                    if self.shutdown.is_cancelled() || since.elapsed() > HOLD {
                        return Err(GivenUp);
                    }
                }
            }
        }
        metrics::histogram!("muster_publish_seconds", "queue" => queue.to_owned()).record(since.elapsed());
        Ok(())
    }
}
