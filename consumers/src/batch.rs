//! One batch, one transaction: claim, load, decide, write, commit.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use domain::clock;
use domain::command::CommandSet;
use domain::hash::sha256;
use domain::id::CommandId;
use futures_util::FutureExt as _;
use sea_orm::DatabaseTransaction;
use shared::bus::{Envelope, Message, Outgoing};
use shared::database::Database;
use shared::failure::{Failure, Reject};
use shared::ledger::{self, Outcome, Row, Status};

/// A handler's access to the outside while it decides.
#[derive(Debug)]
pub struct Cx<'a> {
    /// The transaction of the batch. Everything that the handler writes is committed with it, or
    /// not at all.
    pub tx: &'a DatabaseTransaction,
    /// The instant of the decision.
    pub now: clock::Timestamp,
    /// Random bytes for salts and ids. Each attempt has new ones.
    pub seed: [u8; 32],
}

impl Cx<'_> {
    /// Random bytes for a command, derived from its id, `index` and this attempt's seed.
    #[must_use]
    pub fn random(&self, id: CommandId, index: u64) -> [u8; 32] {
        let mut input = [0; 56];
        input[..32].copy_from_slice(&self.seed);
        input[32..48].copy_from_slice(id.0.as_bytes());
        input[48..].copy_from_slice(&index.to_be_bytes());
        sha256(&input)
    }

    /// Random bytes for one of several things that the command makes. `name` is unique among them.
    #[must_use]
    pub fn random_for(&self, id: CommandId, name: &[u8]) -> [u8; 32] {
        sha256(&[&self.random(id, u64::MAX), name].concat())
    }
}

/// What a handler decided about one command.
#[derive(Debug)]
pub struct Decided {
    /// The outcome, for the ledger.
    pub outcome: Outcome,
    /// The events for subscribers, in order.
    pub events: Vec<Outgoing>,
}

/// Decides the commands of one queue.
///
/// A handler works in three steps. It reads once for the whole batch, decides with a pure function,
/// and writes many rows per statement. Apart from uploaded files, it reaches the outside only
/// through [`Cx`]. It never publishes, sleeps, calls another service or reads the clock.
pub trait Handler: Send + Sync + 'static {
    /// The commands of its queue.
    type Message: CommandSet;

    /// Decides a batch: one [`Decided`] per envelope, in the same order.
    fn handle(
        &self,
        cx: &Cx<'_>,
        batch: &[Envelope<Self::Message>],
    ) -> impl Future<Output = Result<Vec<Decided>, Failure>> + Send;

    /// The events of commands that were decided before, by command. They are the same events, with
    /// the same ids.
    fn events_again(
        &self,
        cx: &Cx<'_>,
        rows: &[Row],
    ) -> impl Future<Output = Result<HashMap<CommandId, Vec<Outgoing>>, Failure>> + Send;
}

/// A decided command: its row in the ledger, and the messages to publish.
#[derive(Debug)]
pub struct Settled {
    /// The row in the ledger.
    pub row: Row,
    /// The messages to publish, in order.
    pub events: Vec<Outgoing>,
}

/// The time and the randomness of a decision (see [`Cx::seed`]). Its other inputs are tables and
/// messages.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The instant of the decision.
    pub now: clock::Timestamp,
    /// Random bytes.
    pub seed: [u8; 32],
}

impl Moment {
    /// The present instant, with a new seed.
    #[must_use]
    pub fn present() -> Self {
        Self { now: clock::now(), seed: rand::random() }
    }
}

/// Decides messages in one transaction. A command that was decided before keeps its decision.
///
/// Returns one [`Settled`] per command, in the order of the messages. If it fails before the
/// commit, the database is unchanged.
pub(crate) async fn decide<'m, H: Handler>(
    handler: &H,
    db: &Database,
    messages: impl Iterator<Item = &'m Message>,
) -> Result<Vec<Settled>, Failure> {
    decide_at(handler, db, messages, Moment::present).await
}

/// The same at a given moment, for simulations that control time and randomness.
pub async fn decide_at<'m, H: Handler>(
    handler: &H,
    db: &Database,
    messages: impl Iterator<Item = &'m Message>,
    moment: impl FnOnce() -> Moment,
) -> Result<Vec<Settled>, Failure> {
    let envelopes = messages.map(Envelope::<H::Message>::open).collect::<Result<Vec<_>, _>>()?;
    let tx = db.begin().await?;
    let known = ledger::find(&tx, envelopes.iter().map(|envelope| envelope.id)).await?;
    shared::failpoint::hit("consumer-looked");
    let ids: Vec<_> = envelopes.iter().map(|envelope| (envelope.id, envelope.body_hash)).collect();
    let (fresh, repeated) = sort(envelopes, &known)?;
    let Moment { now, seed } = moment();
    let cx = Cx { tx: &tx, now, seed };
    let mut settled: HashMap<CommandId, Settled> = HashMap::with_capacity(ids.len());
    if !repeated.is_empty() {
        let mut events = caught(handler.events_again(&cx, &repeated)).await?;
        metrics::counter!("muster_repeated_commands_total").increment(repeated.len() as u64);
        settled.extend(repeated.into_iter().map(|row| {
            let events = events.remove(&row.id).unwrap_or_default();
            (row.id, Settled { row, events })
        }));
    }
    if !fresh.is_empty() {
        let decided = caught(handler.handle(&cx, &fresh)).await?;
        let rows: Vec<_> =
            fresh.iter().zip(&decided).map(|(envelope, decided)| row(envelope, decided, cx.now)).collect();
        let failed_before: Vec<_> =
            fresh.iter().map(|envelope| envelope.id).filter(|id| known.contains_key(id)).collect();
        ledger::forget_failures(&tx, &failed_before).await?;
        ledger::insert(&tx, &rows).await?;
        shared::failpoint::hit("consumer-claimed");
        settled.extend(
            rows.into_iter()
                .zip(decided)
                .map(|(row, decided)| (row.id, Settled { row, events: decided.events })),
        );
    }
    let since = Instant::now();
    tx.commit().await?;
    shared::failpoint::hit("consumer-committed");
    metrics::histogram!("muster_commit_seconds", "queue" => H::Message::QUEUE.as_str())
        .record(since.elapsed());
    in_order(ids, settled)
}

/// Splits a batch into commands to decide, each once, and rows of commands that were decided
/// before. A failed command is decided anew. It arrives again only if an operator replays it, or if
/// a process died before the command became a dead letter.
fn sort<M: CommandSet>(
    envelopes: Vec<Envelope<M>>,
    known: &HashMap<CommandId, Row>,
) -> Result<(Vec<Envelope<M>>, Vec<Row>), Failure> {
    let mut fresh: Vec<Envelope<M>> = Vec::with_capacity(envelopes.len());
    let mut seen = HashMap::with_capacity(envelopes.len());
    let mut repeated = Vec::new();
    for envelope in envelopes {
        let decided = known.get(&envelope.id).filter(|row| row.status != Status::Failed);
        let first_hash = decided.map(|row| row.body_hash).or_else(|| seen.get(&envelope.id).copied());
        if first_hash.is_some_and(|hash| hash != envelope.body_hash) {
            return Err(Reject::key_reused().into());
        }
        if seen.insert(envelope.id, envelope.body_hash).is_some() {
            continue;
        }
        match decided {
            Some(row) => repeated.push(row.clone()),
            None => fresh.push(envelope),
        }
    }
    Ok((fresh, repeated))
}

/// Runs a handler. A panic rejects the messages, and does not end the lane.
async fn caught<T>(handled: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    AssertUnwindSafe(handled).catch_unwind().await.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        metrics::counter!("muster_panics_total").increment(1);
        Err(Reject::panicked(text).into())
    })
}

fn row<M: CommandSet>(envelope: &Envelope<M>, decided: &Decided, now: clock::Timestamp) -> Row {
    let outcome = &decided.outcome;
    Row {
        id: envelope.id,
        kind: envelope.body.kind().to_owned(),
        actor: envelope.actor,
        stream: outcome.stream,
        accepted_at: envelope.accepted_at,
        decided_at: now,
        status: outcome.status(),
        sequence: outcome.sequence,
        events: outcome.events,
        body_hash: envelope.body_hash,
        result: Some(outcome.to_json()),
        facts: outcome.facts.clone(),
    }
}

/// One per command, in order. A command that is in the batch twice is published once.
fn in_order(
    ids: Vec<(CommandId, [u8; 32])>,
    mut settled: HashMap<CommandId, Settled>,
) -> Result<Vec<Settled>, Failure> {
    let mut all = Vec::with_capacity(ids.len());
    for (id, _) in ids {
        match settled.remove(&id) {
            Some(each) => all.push(each),
            None if all.iter().any(|each: &Settled| each.row.id == id) => {}
            None => return Err(Reject::broken("a handler left a command undecided").into()),
        }
    }
    Ok(all)
}
