//! The topology on a real broker: declares what is missing and compares what exists.

mod channels;
mod definitions;
mod mend;

use std::time::Duration;

use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ErrorKind, ExchangeKind, options};
use serde_json::{Value, json};

use self::channels::Channels;
pub use self::definitions::definitions;
use super::in_time;
use crate::bus::broker::BrokerError;
use crate::bus::topology::{Delay, Purpose, QueueSpec, Topology, UNROUTED, exchange};

/// AMQP's reply codes: no permission, no such queue or exchange, exclusive to another connection,
/// different arguments.
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const LOCKED: u16 = 405;
const INEQUIVALENT: u16 = 406;
/// How long a process waits for the lock while another one declares, and how often it tries.
const LOCK_WAIT: Duration = Duration::from_secs(60);
const LOCK_LOOK: Duration = Duration::from_millis(300);

/// How long consumers have to notice that their queue was deleted or recreated.
const HEARD: Duration = Duration::from_millis(300);

/// One exchange. Its alternate exchange gets its unroutable messages.
struct ExchangeSpec {
    name: &'static str,
    kind: ExchangeKind,
    durable: bool,
    alternate: Option<&'static str>,
}

fn exchanges() -> Vec<ExchangeSpec> {
    let spec = |name, kind, durable, alternate| ExchangeSpec { name, kind, durable, alternate };
    let mut all = vec![
        spec(exchange::UNROUTED, ExchangeKind::Fanout, true, None),
        spec(exchange::COMMANDS, ExchangeKind::Direct, true, Some(exchange::UNROUTED)),
        spec(exchange::EVENTS, ExchangeKind::Topic, true, None),
        spec(exchange::PRESENCE, ExchangeKind::Direct, false, None),
        spec(exchange::NOTICES, ExchangeKind::Fanout, false, None),
        spec(exchange::DEAD_LETTERS, ExchangeKind::Fanout, true, Some(exchange::UNROUTED)),
    ];
    all.extend(
        Delay::LADDER
            .map(|delay| spec(delay.exchange(), ExchangeKind::Fanout, true, Some(exchange::UNROUTED))),
    );
    all
}

/// The exchange and routing key that lead to a queue.
fn binding(queue: &QueueSpec) -> (&'static str, &str) {
    match queue.purpose {
        Purpose::Lane | Purpose::Work => (exchange::COMMANDS, &queue.name),
        Purpose::Delay(delay) => (delay.exchange(), ""),
        Purpose::Parking if queue.name == crate::bus::topology::UNROUTED => (exchange::UNROUTED, ""),
        Purpose::Parking => (exchange::DEAD_LETTERS, ""),
    }
}

/// The arguments of a queue that never change. Everything that may change is a policy.
fn arguments(queue: &QueueSpec) -> Vec<(&'static str, Value)> {
    let mut arguments = vec![("x-queue-type", json!("quorum"))];
    match queue.purpose {
        Purpose::Lane => arguments.push(("x-single-active-consumer", json!(true))),
        Purpose::Delay(delay) => arguments.extend([
            ("x-message-ttl", json!(delay.duration().as_millis())),
            // The routing key stays the same: the name of the queue to return to.
            ("x-dead-letter-exchange", json!(exchange::COMMANDS)),
            ("x-dead-letter-strategy", json!("at-least-once")),
            ("x-overflow", json!("reject-publish")),
        ]),
        Purpose::Work | Purpose::Parking => {}
    }
    arguments
}

/// Declares what is missing, and compares the rest. One process does so at a time. It needs a
/// connection of its own, because the lock belongs to a connection.
///
/// An error about one queue does not stop the work on the others.
pub(super) async fn ensure(
    connection: &Connection,
    topology: Topology,
    doubts: &impl Doubts,
) -> Result<(), BrokerError> {
    // An operator may declare everything and forbid processes to declare. Then the process can
    // neither compare queues nor put messages back.
    let Some(lock) = Lock::take(connection).await? else {
        return look(connection, topology).await.map(drop).map_err(Amiss::error);
    };
    let ensured = ensure_all(connection, topology, doubts).await;
    lock.release().await;
    ensured
}

async fn ensure_all(
    connection: &Connection,
    topology: Topology,
    doubts: &impl Doubts,
) -> Result<(), BrokerError> {
    let mut channels = Channels { connection, channel: None };
    let (mut amiss, mut has_lost_bindings, mut is_first) = (None, false, true);
    for spec in exchanges() {
        let made = match channels.exchange(&spec, doubts.are_first()).await {
            Ok(made) => made,
            Err(error) => {
                amiss.get_or_insert(in_the_way("exchange", spec.name, error));
                continue;
            }
        };
        if made && spec.name == exchange::COMMANDS {
            has_lost_bindings = true;
        }
        if made && spec.name == exchange::EVENTS && !is_first {
            tracing::warn!(
                exchange = spec.name,
                "declared a missing exchange again; bind subscribers' queues to it again"
            );
        }
        is_first &= made;
    }
    // Let RabbitMQ cancel the consumers of a deleted queue before the queue is declared again.
    if !is_first && channels.miss_one(topology, doubts).await {
        tokio::time::sleep(HEARD).await;
    }
    let (mut declared, mut anew) = (Vec::new(), Vec::new());
    for queue in topology.queues() {
        let compares = doubts.are_first() || doubts.is_cancelled(&queue.name);
        match channels.queue(&queue, compares).await {
            Ok(found) => {
                if found.lost_consumers {
                    anew.push(queue.name.clone());
                }
                declared.push((queue, found));
            }
            Err(error) => drop(amiss.get_or_insert(in_the_way("queue", &queue.name, error))),
        }
    }
    let mut unbound = Vec::new();
    for (queue, found) in declared {
        // By now this process knows which consumers were cancelled.
        let is_new = found.made || found.waiting == 0 && doubts.is_cancelled(&queue.name);
        if (is_new || has_lost_bindings) && matches!(queue.purpose, Purpose::Lane | Purpose::Work) {
            unbound.push(queue);
        } else if let Err(error) = channels.bind(&queue).await {
            amiss.get_or_insert(in_the_way("queue", &queue.name, error));
        }
    }
    let put_back = async {
        announce(&mut channels, &anew).await?;
        if !is_first && !anew.is_empty() {
            // Let consumers start again before the queues have messages.
            tokio::time::sleep(HEARD).await;
        }
        // An operator may have just deleted a queue, and this process may not know yet. Messages in
        // `unrouted` can wait until it knows.
        if unbound.is_empty() && !doubts.are_old() {
            return Ok(());
        }
        let mut bound = Vec::new();
        let mended = mend::mend(&mut channels, topology, &unbound, &mut bound).await;
        // Another process or an operator may have recreated the queues that had lost their binding.
        announce(&mut channels, &bound).await?;
        mended
    };
    if let Err(error) = put_back.await {
        amiss.get_or_insert(BrokerError::caused(
            "put back messages that were accepted while their queue was missing",
            error,
        ));
    }
    amiss.map_or(Ok(()), Err)
}

/// The exchange and routing key of announcements. Their text is the name of a queue.
pub(super) fn announcements() -> (&'static str, String) {
    (exchange::PRESENCE, "queue-made-anew".to_owned())
}

/// Tells all processes that these queues were recreated.
async fn announce(channels: &mut Channels<'_>, queues: &[String]) -> lapin::Result<()> {
    let (exchange, key) = announcements();
    for queue in queues {
        let channel = channels.get().await?;
        let (exchange, key, options) =
            (exchange.into(), key.as_str().into(), options::BasicPublishOptions::default());
        in_time(channel.basic_publish(exchange, key, options, queue.as_bytes(), BasicProperties::default()))
            .await?;
    }
    Ok(())
}

/// What this process knows about queues from earlier signs, besides the broker's present answers.
pub(super) trait Doubts {
    /// Whether the broker has just cancelled this queue's consumer. The broker cancels consumers
    /// before it deletes their queue. So the queue may still seem to exist, and a comparison then
    /// creates it.
    fn is_cancelled(&self, queue: &str) -> bool;

    /// Whether the last doubt is old.
    fn are_old(&self) -> bool;

    /// Whether there was no successful check yet. Later checks compare a queue only if its consumer
    /// was cancelled. A comparison during a deletion would create the queue without reporting it.
    fn are_first(&self) -> bool;
}

/// Asks whether all exchanges and queues exist. It compares and changes nothing. Returns how many
/// messages wait in `unrouted`.
pub(super) async fn look(connection: &Connection, topology: Topology) -> Result<u32, Amiss> {
    let mut channels = Channels { connection, channel: None };
    for spec in exchanges() {
        let looked = channels.declare_exchange(&spec, true).await;
        looked.map_err(|error| Amiss::of("exchange", spec.name, error))?;
    }
    let mut unrouted = 0;
    for queue in topology.queues() {
        let looked = channels.declare_queue(&queue, true).await;
        let looked = looked.map_err(|error| Amiss::of("queue", &queue.name, error))?;
        if queue.name == UNROUTED {
            unrouted = looked.message_count();
        }
    }
    if let Some(channel) = channels.channel.take() {
        super::close_channel(&channel).await;
    }
    Ok(unrouted)
}

/// What is wrong with a topology.
pub(super) enum Amiss {
    /// An exchange or queue is missing.
    Missing(BrokerError),
    /// Another error, such as no answer from the broker.
    Other(BrokerError),
}

impl Amiss {
    fn of(what: &str, name: &str, error: lapin::Error) -> Self {
        let is_missing = is_not_found(&error);
        let said = in_the_way(what, name, error);
        if is_missing { Self::Missing(said) } else { Self::Other(said) }
    }

    fn error(self) -> BrokerError {
        match self {
            Self::Missing(error) | Self::Other(error) => error,
        }
    }
}

/// The queue of unroutable messages.
fn unrouted() -> QueueSpec {
    QueueSpec { name: UNROUTED.to_owned(), purpose: Purpose::Parking }
}

/// The error for an operator, with what to do about it.
fn in_the_way(what: &str, name: &str, error: lapin::Error) -> BrokerError {
    let said = match code_of(&error) {
        Some(INEQUIVALENT) => format!(
            "the {what} {name} exists with other settings than Muster needs. Stop Muster, move any messages to a safe \
             place, and delete the {what} (`rabbitmqctl delete_queue {name}` for a queue). Then start Muster again, which \
             declares it"
        ),
        _ => format!("{what} {name}"),
    };
    BrokerError::caused(said, error)
}

/// Whether the broker said that a queue or exchange is missing.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    code_of(error) == Some(NOT_FOUND)
}

fn code_of(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// The lock that one process holds while it declares: an exclusive queue. It ends with its
/// connection.
struct Lock {
    channel: Channel,
}

impl Lock {
    const NAME: &'static str = "muster.declaring";

    /// Waits for the lock. `None` if this process may not declare.
    async fn take(connection: &Connection) -> Result<Option<Self>, BrokerError> {
        let mut channels = Channels { connection, channel: None };
        let failed = |error: lapin::Error| BrokerError::caused(format!("queue {}", Self::NAME), error);
        let since = tokio::time::Instant::now();
        loop {
            let channel = channels.get().await.map_err(failed)?;
            let options =
                options::QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
            match in_time(channel.queue_declare(Self::NAME.into(), options, FieldTable::default())).await {
                Ok(_) => return Ok(Some(Self { channel })),
                Err(error) if code_of(&error) == Some(FORBIDDEN) => return Ok(None),
                Err(error) if code_of(&error) == Some(LOCKED) && since.elapsed() < LOCK_WAIT => {
                    // Jitter, so that processes do not try all at once.
                    tokio::time::sleep(LOCK_LOOK.mul_f64(rand::random_range(0.5..1.5))).await;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    /// Releases the lock.
    async fn release(self) {
        let deleted = self.channel.queue_delete(Self::NAME.into(), options::QueueDeleteOptions::default());
        // The queue ends with the connection.
        let _ = in_time(deleted).await;
    }
}
