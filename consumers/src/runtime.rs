//! The loop that all queues share: take what is there, decide it in one transaction, publish what happened, acknowledge.
//!
//! The unacknowledged command is the outbox: if the process dies after its commit, the command comes again, the ledger
//! says that it is decided, and the same events are published once more. In a lane nothing is ever put back: "not now"
//! is waited out with the batch in hand, because whatever is put back is overtaken by what was prefetched behind it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use process::watch::Liveness;
use shared::backoff::Backoff;
use shared::bus::message::header;
use shared::bus::{Batch, Broker, CommandSet, Consumer, Failure, Message, Outgoing, Reject};
use shared::clock;
use shared::database::Database;
use shared::id::CommandId;
use shared::ledger::{self, Row};
use shared::telemetry;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info_span};

use crate::balance::Balance;
use crate::batch::{self, Handler, Settled};
use crate::messages::{dead_letter, failed_row, later, reply};

/// The most messages that are decided together.
const BATCH: usize = 500;
/// The most messages a consumer holds: one batch in work, one ready behind it.
const PREFETCH: u16 = 1000;
/// The most messages that are published together: one decision may have many events, and what was confirmed of them
/// needs no repetition.
const PUBLISH: usize = 2000;
/// How often a batch that meets another writer is tried before it is searched for the message to blame.
const CONTENDED: u32 = 10;
/// How long a batch is held in hand. The broker gives up on a consumer after 30 minutes.
const HOLD: Duration = Duration::from_secs(10 * 60);
/// How long the database may take for a batch. A connection may be dead without anybody having been told, and a lane that
/// waits for it would wait for ever.
const ANSWER: Duration = Duration::from_secs(30);
/// A consumer that worked this long is not held against the next one.
const STEADY: Duration = Duration::from_secs(30);

/// Everything that deciding needs.
#[derive(Debug)]
pub struct Runtime<H> {
    /// What the commands mean.
    pub handler: H,
    /// Where decisions are kept.
    pub db: Database,
    /// Where commands come from and events go.
    pub broker: Broker,
    /// Ends it: what is in hand is finished first.
    pub shutdown: CancellationToken,
    /// Who consumes what, for those who watch.
    pub liveness: Liveness,
}

/// Why a consumer stopped consuming.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The process ends.
    Shutdown,
    /// This lane goes to another process; this one stands by.
    Released,
    /// The channel went away, or was given up.
    Lost,
}

/// A batch was not settled: its messages come again after its consumer is closed.
struct GivenUp;

impl<H: Handler> Runtime<H> {
    /// Consumes all queues of the handler until shutdown.
    pub async fn run(self) {
        let runtime = Arc::new(self);
        let names = runtime.broker.topology().queue_names(H::Message::QUEUE);
        let balance =
            Balance::start(H::Message::QUEUE, runtime.broker.clone(), &names, runtime.shutdown.clone());
        let mut lanes = JoinSet::new();
        for name in names {
            let (runtime, balance) = (runtime.clone(), balance.clone());
            lanes.spawn(async move {
                // Handlers' panics are caught where they happen; whatever else panics must not end a lane either.
                while AssertUnwindSafe(runtime.supervise(&name, &balance)).catch_unwind().await.is_err() {
                    metrics::counter!("muster_panics_total").increment(1);
                    tracing::error!(queue = name, "a lane's supervisor panicked; this is a bug");
                    Backoff::default().wait().await;
                }
            });
        }
        while lanes.join_next().await.is_some() {}
    }

    /// Keeps one queue consumed: whatever ends a consumer, another one begins.
    async fn supervise(&self, queue: &str, balance: &Balance) {
        let mut backoff = Backoff::default();
        while !self.shutdown.is_cancelled() {
            let since = Instant::now();
            match self.broker.consume(queue, PREFETCH).await {
                Ok(consumer) => {
                    let up = self.liveness.up(queue);
                    let end = self.serve(queue, consumer, balance).await;
                    drop(up);
                    tracing::debug!(queue, ?end, "stopped consuming");
                    if end != End::Lost || since.elapsed() > STEADY {
                        backoff = Backoff::default();
                    }
                    if end != End::Lost {
                        continue;
                    }
                }
                Err(error) => tracing::warn!(queue, %error, "could not consume; trying again"),
            }
            self.shutdown.run_until_cancelled(backoff.wait()).await;
        }
    }

    async fn serve(&self, queue: &str, mut consumer: Consumer, balance: &Balance) -> End {
        let end = loop {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break End::Shutdown,
                () = balance.release(queue) => break End::Released,
                batch = consumer.next(BATCH) => {
                    let Some(batch) = batch else { break End::Lost };
                    balance.busy(queue);
                    if self.settle(queue, batch).await.is_err() {
                        break End::Lost;
                    }
                }
            }
        };
        consumer.close().await;
        end
    }

    /// Decides a batch and acknowledges it, or lets go of what is left of it.
    async fn settle(&self, queue: &str, batch: Batch) -> Result<(), GivenUp> {
        observe(queue, &batch);
        shared::failpoint::hit("consumer-delivered");
        let mut left = vec![batch];
        let settled = self.settle_all(queue, &mut left).await;
        left.into_iter().for_each(Batch::release);
        settled
    }

    /// Settles the batches in `left`, last one first. When one fails for a bad message, it is split in halves until that
    /// message stands alone; the halves are settled in order.
    async fn settle_all(&self, queue: &str, left: &mut Vec<Batch>) -> Result<(), GivenUp> {
        while let Some(batch) = left.pop() {
            let outgoing = match self.decide_in_place(queue, &batch).await {
                Ok(settled) => Ok(settled.into_iter().flat_map(|each| each.events).collect()),
                Err(Failure::Reject(_)) if batch.len() > 1 => {
                    let (first, rest) = batch.split();
                    left.extend([rest, first]);
                    continue;
                }
                Err(failure) => self.set_aside(queue, &batch, failure).await,
            };
            let published = match outgoing {
                Ok(outgoing) => self.publish_in_place(queue, outgoing).await,
                Err(given_up) => Err(given_up),
            };
            if published.is_err() {
                left.push(batch);
                return published;
            }
            shared::failpoint::hit("consumer-confirmed");
            batch.ack().await.map_err(|error| {
                tracing::warn!(queue, %error, "a decided batch will come again");
                GivenUp
            })?;
            shared::failpoint::hit("consumer-acked");
        }
        Ok(())
    }

    /// Tries a batch until it is decided or found undecidable. In a lane, "not now" is waited out here; elsewhere it is
    /// for the delay ladder.
    async fn decide_in_place(&self, queue: &str, batch: &Batch) -> Result<Vec<Settled>, Failure> {
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let failure = match self.decide_once(queue, batch).await {
                Ok(settled) => return Ok(settled),
                Err(failure) => failure,
            };
            match failure {
                Failure::Reject(_) => return Err(failure),
                Failure::Contended(why) if backoff.failures() >= CONTENDED => {
                    return Err(Reject::unstorable(why).into());
                }
                Failure::Retry(_) if !H::Message::QUEUE.has_lanes() => return Err(failure),
                Failure::Retry(_) | Failure::Contended(_) => {
                    age(queue, batch);
                    metrics::counter!("muster_retries_total", "queue" => queue.to_owned()).increment(1);
                    if backoff.failures() == 0 {
                        tracing::warn!(queue, %failure, messages = batch.len(), "holding a batch");
                    }
                    self.shutdown.run_until_cancelled(backoff.wait()).await;
                    if self.shutdown.is_cancelled() || since.elapsed() > HOLD {
                        return Err(failure);
                    }
                }
            }
        }
    }

    async fn decide_once(&self, queue: &str, batch: &Batch) -> Result<Vec<Settled>, Failure> {
        let span = info_span!(
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
        let decided = tokio::time::timeout(ANSWER, decided).await.unwrap_or_else(|_| {
            self.db.did_not_answer();
            Err(Failure::Retry("the database did not answer in time".to_owned()))
        });
        metrics::histogram!("muster_decide_seconds", "queue" => queue.to_owned()).record(since.elapsed());
        let mut settled = decided?;
        let waiting: HashMap<_, _> =
            batch.messages().filter_map(|message| Some((message.id, message.reply_to.as_deref()?))).collect();
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
        Ok(settled)
    }

    /// Publishes until the broker has everything. What was committed must be told, so there is no other way out than
    /// to let the batch come again.
    async fn publish_in_place(&self, queue: &str, outgoing: Vec<Outgoing>) -> Result<(), GivenUp> {
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        let mut left = outgoing.as_slice();
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(left.len().min(PUBLISH));
            match self.broker.publish_all(chunk.to_vec()).await {
                Ok(()) => left = rest,
                Err(error) => {
                    tracing::warn!(queue, %error, messages = left.len(), "could not publish; holding the batch");
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

    /// What to publish so that a batch which cannot be decided here and now comes where it belongs: on the delay ladder,
    /// or (a single message) among the dead letters.
    async fn set_aside(
        &self,
        queue: &str,
        batch: &Batch,
        failure: Failure,
    ) -> Result<Vec<Outgoing>, GivenUp> {
        match failure {
            Failure::Reject(reject) => {
                let mut outgoing = Vec::new();
                for message in batch.messages() {
                    tracing::error!(queue, id = %message.id, kind = message.kind, %reject, "gave a message up");
                    let row = self.record_failure(queue, message, &reject).await?;
                    let waits = message.reply_to.as_deref().zip(row.as_ref());
                    outgoing.extend(waits.map(|(address, row)| reply(address, row)));
                    outgoing.push(dead_letter(queue, message, &reject));
                }
                Ok(outgoing)
            }
            Failure::Retry(why) | Failure::Contended(why) => {
                if self.shutdown.is_cancelled() || H::Message::QUEUE.has_lanes() {
                    // Held long enough: the channel is closed, and the messages come again in order.
                    tracing::warn!(queue, why, "gave a batch back");
                    return Err(GivenUp);
                }
                Ok(batch.messages().map(|message| later(queue, message, &why)).collect())
            }
        }
    }

    /// Writes into the ledger that a message could not be decided, unless something was decided about it before.
    async fn record_failure(
        &self,
        queue: &str,
        message: &Message,
        reject: &Reject,
    ) -> Result<Option<Row>, GivenUp> {
        let (since, mut backoff) = (Instant::now(), Backoff::default());
        loop {
            let recorded = async {
                let tx = self.db.begin().await?;
                let id = CommandId(message.id);
                if message.id.is_nil() || ledger::find(&tx, [id]).await?.contains_key(&id) {
                    return Ok(None);
                }
                let row = failed_row(message, reject);
                ledger::insert(&tx, std::slice::from_ref(&row)).await?;
                tx.commit().await?;
                Ok(Some(row))
            };
            let recorded = tokio::time::timeout(ANSWER, recorded).await.unwrap_or_else(|_| {
                self.db.did_not_answer();
                Err(sea_orm::DbErr::Custom("the database did not answer in time".to_owned()))
            });
            match recorded.map_err(Failure::from) {
                Ok(row) => {
                    let kind = message.kind.clone();
                    metrics::counter!("muster_commands_total", "kind" => kind, "outcome" => "failed")
                        .increment(1);
                    return Ok(row);
                }
                // Not even the failure can be stored; the dead letter still says it.
                Err(Failure::Reject(reject)) => {
                    tracing::error!(queue, id = %message.id, %reject, "could not record a failure");
                    return Ok(None);
                }
                Err(failure) => {
                    tracing::warn!(queue, %failure, "could not record a failure; trying again");
                    self.shutdown.run_until_cancelled(backoff.wait()).await;
                    if self.shutdown.is_cancelled() || since.elapsed() > HOLD {
                        return Err(GivenUp);
                    }
                }
            }
        }
    }
}

/// Measures a batch as it comes.
fn observe(queue: &str, batch: &Batch) {
    let redelivered = batch.deliveries().iter().filter(|delivery| delivery.redelivered).count() as u64;
    metrics::histogram!("muster_batch_size", "queue" => queue.to_owned()).record(batch.len() as f64);
    metrics::counter!("muster_redeliveries_total", "queue" => queue.to_owned()).increment(redelivered);
    age(queue, batch);
}

/// Measures how long the oldest message has waited; again as long as it is held.
fn age(queue: &str, batch: &Batch) {
    let first = batch.messages().next().and_then(|first| first.header(header::ACCEPTED_AT));
    if let Some(accepted_at) = first.and_then(|text| text.parse::<clock::Instant>().ok()) {
        let age = (clock::now() - accepted_at).as_seconds_f64().max(0.0);
        metrics::gauge!("muster_oldest_message_seconds", "queue" => queue.to_owned()).set(age);
    }
}

/// A span for one message in the trace that it came with, if it came with one.
fn continued(message: &Message) -> Option<Span> {
    let trace = message.header(header::TRACEPARENT)?;
    let name = format!("decide {}", message.kind);
    let span = info_span!("decision", otel.name = name, otel.kind = "consumer", id = %message.id);
    telemetry::continue_trace(&span, trace);
    Some(span)
}

/// Carries the trace on to an event's subscribers.
fn trace_on(decision: &Span, event: &mut Message) {
    let name = format!("publish {}", event.kind);
    let span =
        info_span!(parent: decision, "publish", otel.name = name, otel.kind = "producer", id = %event.id);
    if let Some(trace) = telemetry::traceparent(&span) {
        event.set_header(header::TRACEPARENT, trace);
    }
}
