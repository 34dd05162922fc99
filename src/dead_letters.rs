//! `muster dead-letters`: shows and replays messages that could not be decided.
//!
//! A replay copies the message to its queue, waits for the broker's confirm, and only then removes
//! it. So an interruption loses nothing. A message that was copied twice is decided once: a failed
//! command gets a decision, and a decided command keeps the one that it has.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use domain::command::CommandSet;
use domain::drive::DriveCommand;
use domain::eligibility::EligibilityCommand;
use domain::member::MemberCommand;
use domain::upkeep::UpkeepCommand;
use indicatif::ProgressBar;
use process::broker;
use shared::bus::message::header;
use shared::bus::topology::{DEAD_LETTERS, UNROUTED};
use shared::bus::{Address, Broker, Consumer, Message, Outgoing, PublishError, Topology};
use shared::config::Deployment;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The code of a dead letter whose queue was missing.
const CODE: &str = "unrouted";
/// The most messages that are read without removing any.
const LOOK: u16 = 1000;
/// A queue that delivers nothing for this long is empty.
const QUIET: Duration = Duration::from_secs(2);

/// Flags of `muster dead-letters`.
#[derive(Debug, Clone, Args)]
pub struct DeadLetterArguments {
    #[command(flatten)]
    deployment: Deployment,

    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Subcommand)]
enum Action {
    /// Lists the messages, the oldest first
    List {
        #[command(flatten)]
        from: From,
    },
    /// Shows a whole message
    Show {
        /// The message's id.
        id: Uuid,
        #[command(flatten)]
        from: From,
    },
    /// Puts messages back into their queues; safe to repeat
    Replay {
        /// The messages' ids.
        #[arg(required_unless_present = "all")]
        ids: Vec<Uuid>,
        /// Replay all messages.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        from: From,
    },
}

#[derive(Debug, Clone, Args)]
struct From {
    /// Messages that no queue was bound for, instead of messages that could not be decided.
    #[arg(long)]
    unrouted: bool,
}

impl From {
    /// The queues to read. On RabbitMQ, Muster moves messages without a queue to the dead letters,
    /// with their reason.
    fn queues(&self) -> &'static [&'static str] {
        if self.unrouted { &[UNROUTED, DEAD_LETTERS] } else { &[DEAD_LETTERS] }
    }

    /// Whether a message of these queues is selected.
    fn means(&self, queue: &str, message: &Message) -> bool {
        !self.unrouted || queue == UNROUTED || message.header(header::DEAD_CODE) == Some(CODE)
    }

    /// The selected messages.
    async fn look(&self, broker: &Broker) -> anyhow::Result<Vec<Message>> {
        let mut found = Vec::new();
        for queue in self.queues() {
            found.extend(look(broker, queue).await?.into_iter().filter(|message| self.means(queue, message)));
        }
        Ok(found)
    }
}

/// Runs the command.
pub async fn run(arguments: DeadLetterArguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let broker = broker(&arguments.deployment, "dead-letters").await?;
    let done = shutdown.run_until_cancelled(act(&broker, &arguments.action)).await;
    broker.close().await;
    done.context("stopped; messages that were not replayed are still in the queue")?
}

async fn act(broker: &Broker, action: &Action) -> anyhow::Result<()> {
    match action {
        Action::List { from } => {
            let messages = from.look(broker).await?;
            print_list(&messages);
            if messages.len() >= usize::from(LOOK) {
                println!("the first {}; there may be more", messages.len());
            }
            Ok(())
        }
        Action::Show { id, from } => {
            let messages = from.look(broker).await?;
            let found = messages.iter().find(|message| message.id == *id);
            print_whole(found.with_context(|| format!("{id} is not among the first {LOOK} messages"))?);
            Ok(())
        }
        Action::Replay { ids, all, from } => {
            let wanted = |message: &Message| *all || ids.contains(&message.id);
            let mut replayed = HashSet::new();
            for queue in from.queues() {
                replayed.extend(
                    replay(broker, queue, |message| wanted(message) && from.means(queue, message)).await?,
                );
            }
            println!("replayed {} messages", replayed.len());
            let found = ids.iter().filter(|id| replayed.contains(id)).count();
            if !all && replayed.len() > found {
                println!(
                    "{} of them were replayed because they are in the same bundle",
                    replayed.len() - found
                );
            }
            anyhow::ensure!(*all || found == ids.len(), "{found} of {} were found", ids.len());
            Ok(())
        }
    }
}

/// The messages of a queue, about 1,000 at most. All of them stay in the queue.
pub async fn look(broker: &Broker, queue: &str) -> anyhow::Result<Vec<Message>> {
    let mut consumer = broker.consume(queue, LOOK).await?;
    let mut messages = Vec::new();
    while messages.len() < usize::from(LOOK)
        && let Some(batch) = next(&mut consumer, usize::from(LOOK)).await
    {
        messages.extend(batch.messages().cloned());
        batch.release();
    }
    consumer.close().await;
    Ok(messages)
}

async fn next(consumer: &mut Consumer, max: usize) -> Option<shared::bus::Batch> {
    tokio::time::timeout(QUIET, consumer.next(max)).await.ok().flatten()
}

/// Puts the selected messages of a parking queue back into their queues, together with the rest of
/// their bundles. Returns their ids.
pub async fn replay(
    broker: &Broker,
    queue: &str,
    wanted: impl Fn(&Message) -> bool,
) -> anyhow::Result<HashSet<Uuid>> {
    let bar = ProgressBar::new(broker.depth(queue).await?.unwrap_or_default().ready);
    let mut consumer = broker.consume(queue, LOOK).await?;
    let mut replayed = HashSet::new();
    // The queue's depth does not show the end: messages that an operator has just read may still be
    // on their way back.
    while let Some(batch) = next(&mut consumer, 1).await {
        bar.inc(1);
        // Replay each message once, even if it becomes a dead letter again meanwhile. Messages of a
        // bundle are replayed together.
        let is_due = |message: &Message| wanted(message) && !replayed.contains(&message.id);
        if !batch.messages().any(is_due) {
            batch.release();
            continue;
        }
        let ids: Vec<_> = batch.messages().map(|message| message.id).collect();
        // A bundle belongs to one lane.
        let origin_of = |message| origin(message, broker.topology());
        let lane = batch.messages().find_map(origin_of);
        let alive = batch
            .messages()
            .map(|message| Some(alive(message, origin_of(message).or_else(|| lane.clone())?)));
        let Some(alive) = alive.collect() else {
            tracing::warn!(?ids, "could not replay messages; they name neither their queue nor their kind");
            batch.release();
            continue;
        };
        match broker.publish_all(alive).await {
            Ok(()) => {}
            Err(error @ PublishError::TooLarge(_)) => {
                tracing::warn!(?ids, %error, "could not replay messages; they are larger than any command");
                batch.release();
                continue;
            }
            Err(error) => {
                batch.release();
                consumer.close().await;
                let replayed = replayed.len();
                return Err(error)
                    .context(format!("replayed {replayed}; the other messages are still in the queue"));
            }
        }
        shared::failpoint::hit("replay-copied");
        batch.ack_alone().await?;
        replayed.extend(ids);
    }
    bar.finish_and_clear();
    consumer.close().await;
    Ok(replayed)
}

/// The queue that a message belongs to: the one in its headers, or the one that its kind and body
/// lead to.
fn origin(message: &Message, topology: Topology) -> Option<String> {
    fn of<S: CommandSet>(message: &Message, topology: Topology) -> Option<String> {
        let command = S::decode(&message.kind, &message.payload).ok()?;
        Some(topology.queue_name(S::QUEUE, command.lane_key()))
    }
    let told = message.header(header::DEAD_FROM).or_else(|| message.header("x-first-death-queue"));
    told.map(ToOwned::to_owned)
        .or_else(|| of::<DriveCommand>(message, topology))
        .or_else(|| of::<MemberCommand>(message, topology))
        .or_else(|| of::<EligibilityCommand>(message, topology))
        .or_else(|| of::<UpkeepCommand>(message, topology))
}

/// The message as it was before it became a dead letter.
fn alive(message: &Message, origin: String) -> Outgoing {
    let mut message = message.clone();
    let ours = [header::ACTOR, header::ACCEPTED_AT, header::BODY_HASH, header::TRACEPARENT];
    message.headers.retain(|(name, _)| ours.contains(&name.as_str()));
    // The client that waited for the answer has long gone.
    message.reply_to = None;
    Outgoing { to: Address::Commands(origin), message }
}

fn print_list(messages: &[Message]) {
    if messages.is_empty() {
        println!("there are no messages");
        return;
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(["id", "kind", "from", "since", "reason"]);
    for message in messages {
        let header = |name| message.header(name).unwrap_or("-").to_owned();
        let id = message.id.to_string();
        let kind = message.kind.clone();
        table.add_row([
            id,
            kind,
            header(header::DEAD_FROM),
            header(header::DEAD_AT),
            header(header::DEAD_CODE),
        ]);
    }
    println!("{table}");
}

fn print_whole(message: &Message) {
    println!("id            {}", message.id);
    println!("kind          {}", message.kind);
    println!("content type  {}", message.content_type);
    for (name, value) in &message.headers {
        println!("{name}: {value}");
    }
    println!();
    println!("{}", String::from_utf8_lossy(&message.payload));
}
